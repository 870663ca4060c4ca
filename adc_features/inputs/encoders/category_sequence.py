"""An ordered list of categories: the newest, weighted by recency. Reads: one list column. Writes: a
Bag, its size.

Legend: n rows, T elements of all rows' lists.
"""

import numpy as np

from adc_features.inputs.declaration import CategorySequence
from adc_features.inputs.encoders.bags import BagEncoder, source_lists
from adc_features.inputs.lists import Lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts


class CategorySequenceEncoder(BagEncoder):
    """The mean of the embeddings of a list's newest values; weights halve every `half_life`
    places.

    Repeats count. What lies beyond the newest `last` is neither read nor part of the vocabulary.
    """

    @classmethod
    def read(cls, spec: ResolvedInput, parts: Parts) -> Lists:
        kind = _kind(spec)
        return source_lists(spec, parts).newest(kind.last, kind.order)

    def weights(self, lists: Lists) -> np.ndarray:
        kind = _kind(self.spec)
        return recency_weights(lists.offsets, last=kind.last, half_life=kind.half_life)


def recency_weights(offsets: np.ndarray, *, last: int, half_life: float) -> np.ndarray:
    """Weights that halve every `half_life` places from the last element of a row backwards, and sum
    to 1 within it: float32 [T]. last: the most elements that a row may have.
    """
    sizes = np.diff(offsets)
    fall = 2.0 ** (-np.arange(last) / half_life)
    total = np.concatenate([[1.0], np.cumsum(fall)])[sizes]
    back = np.repeat(offsets[1:] - 1, sizes) - np.arange(offsets[-1])
    return (fall[back] / np.repeat(total, sizes)).astype(np.float32)


def _kind(spec: ResolvedInput) -> CategorySequence:
    assert isinstance(spec.kind, CategorySequence)
    return spec.kind
