"""A user's own feature services: what they offer, their rows joined and their rows online.

Reads: applied Feast repositories of any entities, stores and names. Writes: nothing.
"""
