"""What is wrong with a user's tables, in plain words. Reads: Arrow tables. Writes: findings.

An `error` stops the pipeline before any work;
a `warning` is worth knowing; a `fact` describes the data.
"""

from adc_features.data.findings import Finding
from adc_features.data.interaction_checks import examine_interactions
from adc_features.data.item_checks import examine_items

__all__ = ["Finding", "examine_interactions", "examine_items"]
