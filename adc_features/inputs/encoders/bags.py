"""Lists of categories as weighted sums of a table's rows. Reads: Lists, vocabularies. Writes: Bags.

Legend: n rows, T elements of all rows' lists.
"""

from abc import abstractmethod

import numpy as np
import pyarrow as pa

from adc_features.inputs.encoded import Bag, Block, InputLayout, SlotLayout
from adc_features.inputs.encoders.base import table_of
from adc_features.inputs.encoders.category import VocabularyEncoder, described
from adc_features.inputs.lists import Lists, coded, first_in_row, read_lists
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.inputs.vocabulary import FEW, Vocabulary


class BagEncoder(VocabularyEncoder):
    """What the encoders of lists share: one vocabulary, one Bag, the counts of its rows. They say
    which elements are read, and what each weighs.
    """

    @classmethod
    @abstractmethod
    def read(cls, spec: ResolvedInput, parts: Parts) -> Lists:
        """The elements that are encoded."""

    @abstractmethod
    def weights(self, lists: Lists) -> np.ndarray:
        """Weight of each element, float32 [T], 1 in all for a row with some."""

    @classmethod
    def values(cls, spec: ResolvedInput, parts: Parts) -> pa.Array:
        """What a vocabulary is fitted on: each value once a row, as its minimum counts rows."""
        return once_a_row(cls.read(spec, parts)).columns["source"]

    @property
    def layout(self) -> InputLayout:
        return bag_layout(self.spec, own=self.vocabulary.own)

    def encode(self, parts: Parts) -> Block:
        lists = self.read(self.spec, parts)
        rows = table_rows(self.vocabulary, lists.columns["source"], self.spec)
        return bag_block(lists, rows, self.weights(lists), own=self.vocabulary.own)

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block; a row is unknown where one of its elements is."""
        return counted_bag(block, own=self.vocabulary.own)

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "null_elements": how many were dropped."""
        dropped = self.read(self.spec, parts).dropped
        return self.counted(self.encode(parts)) | {"null_elements": dropped}


def source_lists(spec: ResolvedInput, parts: Parts) -> Lists:
    """The lists of an input's one column."""
    column = spec.columns["source"]
    return read_lists({"source": parts[column.side].column(column.name)}, name=described(spec))


def once_a_row(lists: Lists, role: str = "source") -> Lists:
    """Each value once in its row, where it stands first."""
    code, _ = coded(lists.columns[role])
    first = first_in_row(code, lists)
    return lists if first is None else lists.where(first)


def table_rows(vocabulary: Vocabulary, values: pa.Array, spec: ResolvedInput) -> np.ndarray:
    """Rows of the table, int64 [T]: of many, distinct values alone are looked up."""
    if len(values) <= FEW:
        return vocabulary.rows(values, of=described(spec))
    code, distinct = coded(values)
    return vocabulary.rows(distinct, of=described(spec))[code]


def bag_block(lists: Lists, rows: np.ndarray, weights: np.ndarray, *, own: int) -> Block:
    """log1p of a list's size, the share of its elements outside the vocabulary, whether there is no
    list; and one Bag. own: the first row of a table that one value has.
    """
    size = lists.sizes
    unknown = np.bincount(lists.row[rows < own], minlength=len(lists))
    dense = np.stack(
        [np.log1p(size), unknown / np.maximum(size, 1), lists.absent.astype(np.float64)], axis=1
    )
    return Block(dense.astype(np.float32), (Bag(rows, lists.offsets, weights),))


def bag_layout(spec: ResolvedInput, *, own: int) -> InputLayout:
    """The shape of `bag_block`."""
    dense = tuple(f"{spec.name}_{part}" for part in ("log_size", "share_unknown", "absent"))
    return InputLayout(dense, {0: 2, 1: 2}, (SlotLayout("bag", (table_of(spec),), own=own),))


def counted_bag(block: Block, *, own: int) -> dict[str, int]:
    """The counts of `bag_block`."""
    (bag,) = block.slots
    assert isinstance(bag, Bag)
    return list_counts(block.dense[:, 2] > 0, bag.rows < own, bag.offsets)


def list_counts(absent: np.ndarray, unknown: np.ndarray, offsets: np.ndarray) -> dict[str, int]:
    """Rows without a list, rows with an unknown element, and the others.

    absent: bool [N]; unknown: bool [T]; offsets: int64 [n + 1], n = N or 1.
    """
    ends = np.concatenate([[0], np.cumsum(unknown)])[offsets]
    some = np.broadcast_to(np.diff(ends) > 0, absent.shape)
    gone, strange = int(absent.sum()), int(some.sum())
    return {"absent": gone, "unknown": strange, "present": len(absent) - gone - strange}
