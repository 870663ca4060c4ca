"""ADC-SID: from item vectors to codes and weights.
Reads: EmbeddingTable. Writes: Generation, SidTable.
"""

from adc_features.extras import require

require("torch")
