"""ADC-SID: from item vectors to codes and weights. Reads: EmbeddingTable. Writes: Generation,
SidTable.
"""
