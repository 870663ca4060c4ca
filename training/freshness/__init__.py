"""How good a ranker is when its features are as old as they will be online."""
