"""Where events come from: files, Redis Streams, Kafka. Reads: them. Writes: commits of a ledger.

A source hands out deliveries in the order in which it keeps them, and is told when one is durable;
what was not acknowledged comes again, to this process or the next, and counts once.
"""
