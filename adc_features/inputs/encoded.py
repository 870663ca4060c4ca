"""The arrays that models read. Writes: Encoded, one Block for each input.

A block holds dense numbers and slots. A slot becomes one embedding a row (two for a history). Every
block has N rows, or one row that stands for all N: a request's user is encoded once.

Legend: N rows, n = N or 1, T elements of all rows' lists, P positions, D widths.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Lookup:
    """One row of a table for each row. rows: int64 [n]; weights: float32 [n], None for 1."""

    rows: np.ndarray
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Bag:
    """A weighted sum of rows of a table. rows: int64 [T], offsets: int64 [n + 1], weights: float32
    [T]: a mean has them sum to 1 within a row."""

    rows: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Projected:
    """Raw numbers that a matrix takes to the embedding width. values: float32 [n, D]."""

    values: np.ndarray


@dataclass(frozen=True)
class History:
    """Recent items and the candidate, in the same tables: pooled, and attended to.

    An element's embedding is the sum over P positions of weight * table_p[row]; so is the
    candidate's. Two embeddings come out: the mean over a row's elements, and their mean weighted by
    softmax(<candidate, element> / sqrt(E)). No elements give zeros.

    rows: int64 [T, P], weights: float32 [T, P], offsets: int64 [n + 1]; query: int64 [N, P],
    query_weights: float32 [N, P].
    """

    rows: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    query: np.ndarray
    query_weights: np.ndarray


Slot = Lookup | Bag | Projected | History


@dataclass(frozen=True)
class Block:
    """What one input shows: dense float32 [n, D], and its slots."""

    dense: np.ndarray
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class SlotLayout:
    """What a model must know of a slot.

    Parameters
    ----------
    kind : str
        "lookup", "bag", "projected", "history", "mixture", "similarity" or "gate". A mixture is a
        `Bag`: the sum of its elements' weighted rows, each times its share of softmax(<row, u> /
        sqrt(E)) with a vector u of its own; no elements give zeros. A similarity is a `History` and
        gives no embedding but P numbers: the sum over a row's elements of weight * cosine of
        element and candidate in table p, times the candidate's weight. A gate is one number,
        `Projected`: the lookups of its input are multiplied by 2 - g and those of `beside` by g,
        where g = 2 sigmoid(a + b * number) with a and b of its own.
    tables : tuple of str
        Names of its tables: one, or one for each position of a history; none for "projected".
    width : int
        Of "projected" and "gate": D.
    dropout : float
        Share of rows (of a lookup) that see row 1, "unknown", in training in place of a row of
        their own (>= `own`).
    own : int
        First row of a table that belongs to one value alone; 2 + buckets.
    beside : str
        Of a gate: the input of the id.
    """

    kind: Literal["lookup", "bag", "projected", "history", "mixture", "similarity", "gate"]
    tables: tuple[str, ...] = ()
    width: int = 0
    dropout: float = 0.0
    own: int = 2
    beside: str = ""


@dataclass(frozen=True)
class InputLayout:
    """The shape of one input's block.

    Parameters
    ----------
    dense : tuple of str
        Names of the dense columns.
    indicators : mapping of int to int
        Dense column -> the dense column that is 1 where it is absent.
    slots : tuple of SlotLayout
        In the order of `Block.slots`.
    """

    dense: tuple[str, ...] = ()
    indicators: Mapping[int, int] | None = None
    slots: tuple[SlotLayout, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The shape of all inputs of a ranker, in order. tables: name -> number of rows."""

    inputs: Mapping[str, InputLayout]
    tables: Mapping[str, int]


class Packed(NamedTuple):
    """The dense numbers of all inputs as a model reads them.

    names: the inputs that have some, in order; singles: which of them have one row that stands for
    all; one, many: float32 [1, D1] and [N, DN], the columns of these and of the others.
    """

    names: tuple[str, ...]
    singles: tuple[bool, ...]
    one: np.ndarray
    many: np.ndarray


class PackedBlocks(dict[str, Block]):
    """Blocks whose dense numbers stand side by side too. What is made of them in another way, such
    as with another block, is a plain mapping."""

    def __init__(self, blocks: Mapping[str, Block], packed: Packed) -> None:
        super().__init__(blocks)
        self.packed = packed


@dataclass(frozen=True)
class Encoded:
    """All inputs of N rows: name -> Block, in the order of the layout."""

    blocks: Mapping[str, Block]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def take(self, rows: np.ndarray) -> "Encoded":
        """These rows (int64 [M]), in this order; blocks of one row stay as they are."""
        return Encoded({k: _taken(b, rows, self.rows) for k, b in self.blocks.items()}, len(rows))


def _taken(block: Block, rows: np.ndarray, count: int) -> Block:
    slots = tuple(_taken_slot(slot, rows, count) for slot in block.slots)
    single = len(block.dense) == 1 != count
    return Block(block.dense if single else block.dense[rows], slots)


def _taken_slot(slot: Slot, rows: np.ndarray, count: int) -> Slot:
    if isinstance(slot, Lookup):
        if len(slot.rows) == 1 != count:
            return slot
        return Lookup(slot.rows[rows], None if slot.weights is None else slot.weights[rows])
    if isinstance(slot, Projected):
        return slot if len(slot.values) == 1 != count else Projected(slot.values[rows])
    if isinstance(slot, History):
        slot = replace(slot, query=slot.query[rows], query_weights=slot.query_weights[rows])
    if len(slot.offsets) == 2 != count + 1:
        return slot
    element, offsets = picked_elements(slot.offsets, rows)
    return replace(slot, rows=slot.rows[element], weights=slot.weights[element], offsets=offsets)


def picked_elements(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elements of these rows in order, int64 [T'], and their offsets, int64 [M + 1]."""
    sizes = np.diff(offsets)[rows]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return np.arange(ends[-1]) + np.repeat(offsets[rows] - ends[:-1], sizes), ends
