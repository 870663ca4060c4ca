"""Lists of categories as weighted sums of a table's rows. Reads: Lists, vocabularies. Writes: Bags.

Legend: n rows, T elements of all rows' lists.
"""

import numpy as np
import pyarrow as pa

from adc_features.inputs.encoded import Bag, Block, InputLayout, SlotLayout
from adc_features.inputs.encoders.base import table_of
from adc_features.inputs.encoders.category import described
from adc_features.inputs.lists import Lists, coded, first_in_row
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.vocabulary import Vocabulary


def once_a_row(lists: Lists, role: str = "source") -> Lists:
    """Each value once in its row, where it stands first."""
    code, _ = coded(lists.columns[role])
    first = first_in_row(code, lists)
    return lists if first is None else lists.where(first)


def table_rows(vocabulary: Vocabulary, values: pa.Array, spec: ResolvedInput) -> np.ndarray:
    """Rows of the table, int64 [T]: distinct values alone are looked up."""
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
