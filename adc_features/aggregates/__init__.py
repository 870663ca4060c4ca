"""Aggregates of events, declared once and computed two ways: over history and over a stream."""
