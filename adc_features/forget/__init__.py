"""What a repository knows of a user, deleted; and what has grown too old, by kind."""
