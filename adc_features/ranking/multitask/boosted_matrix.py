"""Encoded inputs as the columns of boosted trees. Reads: Encoded, Layout, counts of table rows,
mean labels. Writes: BoostedMatrix.

Trees need no scales, so dense numbers enter as they are, NaN where they are absent. Tables have no
embeddings here: a small one enters as a category, a large one as how often its row occurred and as
the mean label of its row, one for each task.

Legend: N rows, F columns, T tasks, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.encoded import (
    Bag,
    Block,
    Encoded,
    InputLayout,
    Layout,
    Lookup,
    Projected,
)
from adc_features.inputs.encoders.base import State

CATEGORIES = 1_000
"""Rows of a table that enters as a category."""
TOKENS = 50
"""Values of a set or sequence that have a column of their own: the most frequent."""
_ABSENT = np.float32(np.nan)
_MEANS = "label_mean/"


class LargeLookup(NamedTuple):
    """A category of a large table. key: of its means; input, place: its slot,
    `Encoded.blocks[input].slots[place]`; size: rows of the table at the fit; own: the first row
    that belongs to one value alone."""

    key: str
    input: str
    place: int
    table: str
    size: int
    own: int


class BoostedMatrix(NamedTuple):
    """What XGBoost reads. values: float32 [N, F], NaN = absent; names: F, unique; types: "q" or
    "c"."""

    values: np.ndarray
    names: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True)
class BoostedColumns:
    """Which columns the trees were grown on; later rows give the same, however vocabularies grow.

    Parameters
    ----------
    inputs : mapping of str to InputLayout
        The inputs.
    sizes : mapping of str to int
        Table of a lookup -> its rows at the fit; a later row is as unknown to the trees.
    counts : mapping of str to ndarray
        Table of more than `CATEGORIES` rows -> float32 [rows], log1p of how often each row occurred
        in training rows; 0 for rows that no value has alone.
    tokens : mapping of str to tuple of int
        Table of lists -> its rows that have a column.
    vectors : bool
        Raw vectors enter; otherwise they are left out.
    means : mapping of str to ndarray
        Key of a large lookup -> float32 [T, R], the mean label of each row for each task, which
        training fits; none for columns that no trees were grown on.
    """

    inputs: Mapping[str, InputLayout]
    sizes: Mapping[str, int]
    counts: Mapping[str, np.ndarray]
    tokens: Mapping[str, tuple[int, ...]]
    vectors: bool = False
    means: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, counts: Mapping[str, np.ndarray], *, vectors: bool = False) -> Self:
        """The columns for a layout.

        Parameters
        ----------
        layout : Layout
            Of the encoder that was fitted on the training rows.
        counts : mapping of str to ndarray
            Table of a vocabulary -> int64 [rows], how often each row occurred in training rows
            (`Vocabulary.counts`). A table without them enters as a category.
        vectors : bool
            Take the raw numbers of vectors too.

        Raises
        ------
        InputError
            Without the counts of a list's table.
        """
        slots = [slot for one in layout.inputs.values() for slot in one.slots]
        own = {s.tables[0]: s.own for s in slots if s.tables}
        sizes = {s.tables[0]: layout.tables[s.tables[0]] for s in slots if s.kind == "lookup"}
        # codes have no counts: they are categories, however many there are
        large = sorted(t for t, rows in sizes.items() if rows > CATEGORIES and t in counts)
        lists = sorted({s.tables[0] for s in slots if s.kind == "bag"})
        if missing := sorted(set(lists) - set(counts)):
            raise InputError(
                f"counts are given for the tables {sorted(counts)}; expected those of {missing}"
                " too: pass the counts of the encoder's vocabularies"
            )
        return cls(
            layout.inputs,
            sizes,
            {table: _log_counts(counts[table], own[table]) for table in large},
            {table: _most_frequent(counts[table], own[table]) for table in lists},
            vectors,
        )

    @classmethod
    def restore(cls, layout: Layout, state: State) -> Self:
        """From `state()` and the layout of the encoder, grown since or not."""
        facts = state.facts
        tokens = {table: tuple(rows) for table, rows in facts["tokens"].items()}
        # trees that were grown before there were means have none
        arrays = dict(state.arrays)
        means = {key: arrays.pop(_MEANS + key) for key in facts.get("means", [])}
        return cls(layout.inputs, facts["sizes"], arrays, tokens, facts["vectors"], means)

    def state(self) -> State:
        """What was chosen at the fit."""
        tokens = {table: list(rows) for table, rows in self.tokens.items()}
        facts = {"sizes": dict(self.sizes), "tokens": tokens, "vectors": self.vectors}
        means = {_MEANS + key: values for key, values in self.means.items()}
        return State({**facts, "means": list(self.means)}, {**self.counts, **means})

    def __post_init__(self) -> None:
        for lookup in self.large:
            means = self.means.get(lookup.key)
            if means is not None and means.shape[1:] != (lookup.size,):
                raise InputError(
                    f"mean labels of {lookup.key!r} are {means.shape}; expected {lookup.size} for"
                    " each task, one for each row of its table"
                )

    @property
    def large(self) -> list[LargeLookup]:
        """Lookups that enter as numbers."""
        return [
            LargeLookup(f"{name}/{place}", name, place, table, self.sizes[table], slot.own)
            for name, layout in self.inputs.items()
            for place, slot in enumerate(layout.slots)
            if slot.kind == "lookup" and (table := slot.tables[0]) in self.counts
        ]

    def table_rows(self, encoded: Encoded, lookup: LargeLookup) -> np.ndarray:
        """The row of the table at the fit that each row of a large lookup has: int64 [N] or [1]; 0
        absent, 1 unknown."""
        slot = encoded.blocks[lookup.input].slots[lookup.place]
        assert isinstance(slot, Lookup)
        return self._known(slot, lookup.table)

    def matrix(
        self, encoded: Encoded, *, earlier: Mapping[str, np.ndarray] | None = None
    ) -> BoostedMatrix:
        """The columns of N rows; blocks of one row are repeated.

        earlier: key of a large lookup -> float32 [T, N], mean labels that stand in for `means`: a
        training row is shown those of earlier rows alone.
        """
        columns = [
            column
            for name, layout in self.inputs.items()
            for column in self._columns(name, layout, encoded.blocks[name], earlier or {})
        ]
        # trees read row by row, numpy writes column by column faster
        values = np.empty((len(columns), len(encoded)), np.float32)
        for place, column in enumerate(columns):
            values[place] = column.values
        return BoostedMatrix(
            np.ascontiguousarray(values.T),
            tuple(column.name for column in columns),
            tuple(column.type for column in columns),
        )

    def _columns(
        self, name: str, layout: InputLayout, block: Block, earlier: Mapping[str, np.ndarray]
    ) -> Iterator[_Column]:
        hidden = layout.indicators or {}
        for place, label in enumerate(layout.dense):
            values = block.dense[:, place]
            if place in hidden:
                values = np.where(block.dense[:, hidden[place]] > 0, _ABSENT, values)
            yield _Column(f"{name}:{label}", "q", values)
        for place, (slot, shape) in enumerate(zip(block.slots, layout.slots, strict=True)):
            if isinstance(slot, Lookup):
                large = shape.tables[0] in self.counts
                values = self._looked_up(slot, shape.tables[0])
                yield _Column(f"{name}:row/{place}", "q" if large else "c", values)
                yield from self._mean_columns(name, place, slot, shape.tables[0], earlier)
            elif shape.kind == "bag" and isinstance(slot, Bag):
                absent = block.dense[:, hidden[0]] > 0
                tokens = self.tokens[shape.tables[0]]
                for row, held in zip(tokens, _holds(slot, tokens), strict=True):
                    yield _Column(f"{name}:has/{row}", "q", np.where(absent, _ABSENT, held))
            elif shape.kind == "projected" and isinstance(slot, Projected) and self.vectors:
                for at in range(slot.values.shape[1]):
                    yield _Column(f"{name}:value/{at}", "q", slot.values[:, at])

    def _looked_up(self, slot: Lookup, table: str) -> np.ndarray:
        """Row numbers or log counts, NaN for row 0."""
        rows = self._known(slot, table)
        values = self.counts[table][rows] if table in self.counts else rows.astype(np.float32)
        return np.where(rows == 0, _ABSENT, values)

    def _known(self, slot: Lookup, table: str) -> np.ndarray:
        """Rows of the table at the fit, 1 for those that it has got since."""
        return np.where(slot.rows < self.sizes[table], slot.rows, 1)

    def _mean_columns(
        self, name: str, place: int, slot: Lookup, table: str, earlier: Mapping[str, np.ndarray]
    ) -> Iterator[_Column]:
        """The mean label of each task, NaN for row 0."""
        if (key := f"{name}/{place}") not in self.means and key not in earlier:
            return
        rows = self._known(slot, table)
        for task, means in enumerate(earlier[key] if key in earlier else self.means[key][:, rows]):
            values = np.where(rows == 0, _ABSENT, means)
            yield _Column(f"{name}:mean_label/{place}/{task}", "q", values)


class _Column(NamedTuple):
    """values: float32 [N] or [1]."""

    name: str
    type: str
    values: np.ndarray


def _log_counts(counts: np.ndarray, own: int) -> np.ndarray:
    """float32 [rows]; what shares a row was seen too rarely to be counted."""
    logs = np.log1p(counts).astype(np.float32)
    logs[:own] = 0
    return logs


def _most_frequent(counts: np.ndarray, own: int) -> tuple[int, ...]:
    """Rows of single values, the most frequent first; equal ones in the order of admission."""
    order = np.argsort(-counts[own:], kind="stable")[:TOKENS] + own
    return tuple(int(row) for row in order if counts[row] > 0)


def _holds(bag: Bag, tokens: Sequence[int]) -> np.ndarray:
    """Whether each list holds each row of the table: float32 [tokens, n]."""
    count = len(bag.offsets) - 1
    out = np.zeros((len(tokens), count), np.float32)
    if not (len(bag.rows) and tokens):
        return out
    place = np.full(max(int(bag.rows.max()), *tokens) + 1, -1)
    place[list(tokens)] = np.arange(len(tokens))
    column = place[bag.rows]
    row = np.repeat(np.arange(count), np.diff(bag.offsets))
    out[column[column >= 0], row[column >= 0]] = 1
    return out
