"""Item vectors from text and from behaviour. Reads: items, interactions. Writes: vectors with
presence masks.
"""
