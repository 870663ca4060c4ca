"""Alembic's scripts: `versions/` holds one file a revision, each of which takes a catalogue from
the one before to itself.
"""
