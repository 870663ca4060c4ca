"""Semantic IDs of the items of a user's own Feast repository."""
