"""A set of categories: distinct values, averaged. Reads: one list column. Writes: a Bag, its size.

Legend: T elements of all rows' lists.
"""

import numpy as np

from adc_features.inputs.encoders.bags import BagEncoder, once_a_row, source_lists
from adc_features.inputs.lists import Lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts


class CategorySetEncoder(BagEncoder):
    """The mean of the embeddings of a list's distinct values.

    A null list is absent, an empty one is a set of no values. Unknown values are averaged as the
    row "unknown" and count in the size.
    """

    @classmethod
    def read(cls, spec: ResolvedInput, parts: Parts) -> Lists:
        return once_a_row(source_lists(spec, parts).encoded("source"))

    def weights(self, lists: Lists) -> np.ndarray:
        return (1 / np.maximum(lists.sizes, 1)).astype(np.float32)[lists.row]
