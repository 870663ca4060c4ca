"""Rankers of the user's own feature services while they are deployed: retraining, rollback, drift,
audits. Reads, writes: `<repo>/rankers/<name>/`.
"""
