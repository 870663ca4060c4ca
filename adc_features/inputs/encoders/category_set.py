"""A set of categories: distinct values, averaged. Reads: one list column. Writes: a Bag, its size.

Legend: n rows, T elements of all rows' lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

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
class CategorySetEncoder:
    """The mean of the embeddings of a list's distinct values.

    A null list is absent, an empty one is a set of no values. Unknown values are averaged as the
    row "unknown" and count in the size.
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
        """What a vocabulary is fitted on: each value once a row."""
        return _read(spec, parts).columns["source"]

    @property
    def layout(self) -> InputLayout:
        return bag_layout(self.spec, own=self.vocabulary.own)

    def encode(self, parts: Parts) -> Block:
        lists = _read(self.spec, parts)
        rows = table_rows(self.vocabulary, lists.columns["source"], self.spec)
        weights = (1 / np.maximum(lists.sizes, 1)).astype(np.float32)[lists.row]
        return bag_block(lists, rows, weights, own=self.vocabulary.own)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block; a row is unknown where one of its elements is."""
        return counted_bag(block, own=self.vocabulary.own)

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "null_elements": how many were dropped."""
        return self.counted(self.encode(parts)) | {"null_elements": _read(self.spec, parts).dropped}

    def state(self) -> State:
        return State({}, {})


def _read(spec: ResolvedInput, parts: Parts) -> Lists:
    column = spec.columns["source"]
    lists = read_lists({"source": parts[column.side].column(column.name)}, name=described(spec))
    return once_a_row(lists.encoded("source"))
