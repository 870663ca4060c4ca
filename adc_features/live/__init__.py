"""Features that follow events within a second. Reads: events, declared aggregates. Writes: rows of
the online store, their history, the accepted events.
"""
