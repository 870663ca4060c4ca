"""An ordered list of categories: the newest, weighted by recency. Reads: one list column. Writes: a
Bag, its size.

Legend: n rows, T elements of all rows' lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from adc_features.inputs.declaration import CategorySequence
from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.encoders.bags import (
    bag_block,
    bag_layout,
    counted_bag,
    once_a_row,
    table_rows,
)
from adc_features.inputs.encoders.base import Fitting, State, table_of
from adc_features.inputs.encoders.category import described, fitted_vocabulary
from adc_features.inputs.lists import Lists, read_lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.inputs.vocabulary import Vocabulary


@dataclass(frozen=True)
class CategorySequenceEncoder:
    """The mean of the embeddings of a list's newest values; weights halve every `half_life`
    places.

    Repeats count. What lies beyond the newest `last` is neither read nor part of the vocabulary.
    """

    spec: ResolvedInput
    vocabulary: Vocabulary

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        return cls(spec, fitted_vocabulary(cls.values(spec, parts), spec, fitting))

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        return cls(spec, vocabularies[table_of(spec)])

    @classmethod
    def values(cls, spec: ResolvedInput, parts: Parts) -> pa.Array:
        """What a vocabulary is fitted on: each value once a row, as its minimum counts rows."""
        return once_a_row(_read(spec, parts)).columns["source"]

    @property
    def layout(self) -> InputLayout:
        return bag_layout(self.spec, own=self.vocabulary.own)

    def encode(self, parts: Parts) -> Block:
        lists, kind = _read(self.spec, parts), _kind(self.spec)
        rows = table_rows(self.vocabulary, lists.columns["source"], self.spec)
        weights = recency_weights(lists.offsets, last=kind.last, half_life=kind.half_life)
        return bag_block(lists, rows, weights, own=self.vocabulary.own)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block; a row is unknown where one of its elements is."""
        return counted_bag(block, own=self.vocabulary.own)

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "null_elements": how many were dropped."""
        return self.counted(self.encode(parts)) | {"null_elements": _read(self.spec, parts).dropped}

    def state(self) -> State:
        return State({}, {})


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


def _read(spec: ResolvedInput, parts: Parts) -> Lists:
    column, kind = spec.columns["source"], _kind(spec)
    lists = read_lists({"source": parts[column.side].column(column.name)}, name=described(spec))
    return lists.newest(kind.last, kind.order)
