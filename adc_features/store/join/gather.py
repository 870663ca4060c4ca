"""Values by row number. Reads: Arrow columns, row numbers. Writes: Arrow arrays; no feast here.

Numbers, times and lists of one length are copied as integers of the same bits. Kept features stand
row by row in one array, so that all columns of a row cost one miss of the cache; files that are
read once are gathered piece by piece, column by column, as they are decoded.

Legend: F feature rows, Q asked rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.store.join.space import Space, arrow_space

_AT_ONCE = 1 << 13
"""Rows copied at once from a row store: they stay in a cache while they are taken apart."""
NO_ROW = -1
"""The row number of an entity row that sees no feature row."""


@dataclass(frozen=True)
class Picked:
    """What is asked of one piece.

    place: where in the answer, None for everywhere in order. rows: numbers inside the piece.
    """

    piece: int
    place: np.ndarray | None
    rows: np.ndarray


class RowPicks:
    """Row numbers int64 [Q], NO_ROW for none; the same for every column of a table."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.missing = rows, rows < 0
        self.any_missing = bool(self.missing.any())

    def by_piece(self, start: np.ndarray) -> list[Picked]:
        """The row numbers sorted out by the pieces that hold them.

        start: the first row of each piece and the end, [pieces + 1].
        """
        pieces = len(start) - 1
        safe = np.maximum(self.rows, 0) if self.any_missing else self.rows
        if pieces <= 1 or not len(safe):
            return [Picked(0, None, safe)] if pieces and len(safe) else []
        which = (np.searchsorted(start, safe, side="right") - 1).astype(
            np.int16 if pieces < 2**15 else np.int64
        )
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which, minlength=pieces))
        return [
            Picked(piece, order[low:high], safe[order[low:high]] - start[piece])
            for piece, (low, high) in enumerate(zip(np.append(0, ends), ends, strict=False))
            if low < high
        ]

    @cached_property
    def validity(self) -> pa.Buffer | None:
        """The bitmap of rows that are there; None when all are."""
        if not self.any_missing:
            return None
        return pa.py_buffer(np.packbits(~self.missing, bitorder="little"))

    @cached_property
    def null_count(self) -> int:
        return int(self.missing.sum())


class Gathering:
    """The picked values of one column, filled piece by piece.

    Each piece may be forgotten once it was added.
    """

    def __init__(self, picks: RowPicks, kind: pa.DataType) -> None:
        self._picks, self._type = picks, kind
        self._out: np.ndarray | None = None
        self._added: list[Picked] = []
        self._taken: list[pa.Array] = []

    def add(self, part: Picked, piece: pa.Array, numbers: np.ndarray | None) -> None:
        """What is asked of one piece. numbers: `numbers_of(piece)`."""
        if not self._added and numbers is not None:
            shape = (len(self._picks.rows), *numbers.shape[1:])
            self._out = arrow_space(math.prod(shape), numbers.dtype).reshape(shape)
        # nulls after all: Arrow copies from here on
        if self._out is not None and (numbers is None or numbers.shape[1:] != self._out.shape[1:]):
            self._taken = [
                array_of(self._type, self._out if p.place is None else self._out[p.place])
                for p in self._added
            ]
            self._out = None
        self._added.append(part)
        if self._out is None or numbers is None:
            self._taken.append(piece.take(pa.array(part.rows)))
        elif part.place is None:
            np.take(_whole(numbers), part.rows, out=_whole(self._out), mode="clip")
        else:
            _whole(self._out)[part.place] = np.take(_whole(numbers), part.rows, mode="clip")

    def result(self) -> pa.Array:
        """The values [Q] in the column's type; null where NO_ROW."""
        picks = self._picks
        if not self._added:
            return pa.nulls(len(picks.rows), self._type)
        if self._out is not None:
            return array_of(self._type, self._out, picks)
        answer = pa.concat_arrays(self._taken) if len(self._taken) > 1 else self._taken[0]
        place = np.arange(len(picks.rows))
        if self._added[0].place is not None:
            place[np.concatenate([part.place for part in self._added])] = np.arange(len(place))
        elif not picks.any_missing:
            return answer
        return answer.take(
            pa.array(place, mask=picks.missing) if picks.any_missing else pa.array(place)
        )


class RowStore:
    """Columns of numbers, times and lists of one length of F rows, row by row.

    fields: name -> (Arrow type, list length or 0).

    Filled column by column, in parts; gathered as often as asked.
    """

    def __init__(
        self,
        rows: int,
        fields: Mapping[str, tuple[pa.DataType, int]],
        *,
        space: Space = arrow_space,
    ) -> None:
        self.fields = dict(fields)
        kinds = [
            (name, numbers_type(kind.value_type if length else kind), (length,) if length else ())
            for name, (kind, length) in fields.items()
        ]
        self._rows = space(rows, np.dtype(kinds))

    def fill(self, name: str, start: int, column: pa.Array) -> None:
        """Fill in one column from row `start` on.

        A column that turns out to hold other values than its field is dropped.
        """
        if row_field(column) == self.fields[name]:
            self._rows[name][start : start + len(column)] = numbers_of(column)
        else:
            del self.fields[name]

    def gathered(self, picks: RowPicks) -> dict[str, pa.Array]:
        """The columns [Q] at these rows, null where NO_ROW."""
        count = len(picks.rows)
        if not len(self._rows):
            return {name: pa.nulls(count, kind) for name, (kind, _) in self.fields.items()}
        out = {
            name: arrow_space(count * max(1, length), self._rows.dtype[name].base)
            for name, (_, length) in self.fields.items()
        }
        shaped = {
            name: out[name].reshape(-1, length) if length else out[name]
            for name, (_, length) in self.fields.items()
        }
        some = np.empty(min(_AT_ONCE, count), self._rows.dtype)
        for start in range(0, count, _AT_ONCE):
            rows = picks.rows[start : start + _AT_ONCE]
            # NO_ROW reads the first row
            np.take(self._rows, rows, out=some[: len(rows)], mode="clip")
            for name, column in shaped.items():
                column[start : start + len(rows)] = some[name][: len(rows)]
        return {
            name: array_of(self.fields[name][0], numbers, picks) for name, numbers in shaped.items()
        }


class Gatherer:
    """One column of any kind held in memory, or mapped, ready to be gathered as often as asked."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._type = column.type
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._numbers = [numbers_of(chunk) for chunk in self._chunks]
        self._start = np.cumsum([0, *map(len, self._chunks)])

    def __call__(self, picks: RowPicks) -> pa.Array:
        gathering = Gathering(picks, self._type)
        for part in picks.by_piece(self._start):
            gathering.add(part, self._chunks[part.piece], self._numbers[part.piece])
        return gathering.result()


def row_field(array: pa.Array) -> tuple[pa.DataType, int] | None:
    """How a `RowStore` keeps columns that are like this one; None when it cannot.

    The type, and the length of lists, 0 where there are none.
    """
    numbers = numbers_of(array) if len(array) else None
    return None if numbers is None else (array.type, numbers.shape[1] if numbers.ndim > 1 else 0)


def numbers_of(array: pa.Array) -> np.ndarray | None:
    """A column of numbers or times without nulls as integers of the same bits, [N].

    Lists of them, all of one length, are [N, length]. None for everything else.
    """
    kind = array.type
    if array.null_count:
        return None
    if pa.types.is_list(kind):
        offsets, items = np.asarray(array.offsets), array.flatten()
        length = int(offsets[1] - offsets[0])
        flat = numbers_of(items) if length and not (np.diff(offsets) != length).any() else None
        return None if flat is None or flat.ndim > 1 else flat.reshape(-1, length)
    if not fixed_width(kind):
        return None
    bits = np.frombuffer(array.buffers()[1], dtype=numbers_type(kind))
    return bits[array.offset : array.offset + len(array)]


def fixed_width(kind: pa.DataType) -> bool:
    """Whether its values are numbers or times of whole bytes."""
    return pa.types.is_primitive(kind) and kind.bit_width in (8, 16, 32, 64)


def numbers_type(kind: pa.DataType) -> np.dtype[Any]:
    """Integers of as many bits."""
    return np.dtype(f"i{kind.bit_width // 8}")


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Lists as single values of so many bytes.

    Numpy copies them five times faster than rows of a matrix.
    """
    if numbers.ndim == 1:
        return numbers
    return numbers.view(f"V{numbers.itemsize * numbers.shape[1]}").reshape(-1)


def _closed_up(numbers: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The rows that are there, in order, at the front of the same memory."""
    whole, end = _whole(numbers), 0
    for start in range(0, len(whole), _AT_ONCE):
        kept = whole[start : start + _AT_ONCE][there[start : start + _AT_ONCE]]
        whole[end : end + len(kept)] = kept
        end += len(kept)
    return numbers[:end]


def array_of(kind: pa.DataType, numbers: np.ndarray, picks: RowPicks | None = None) -> pa.Array:
    """Numbers [N] or lists [N, length] in their type; null where picks have no row.

    Null lists are empty, as Parquet's writer would have to make them; the others close up in their
    own memory.
    """
    validity, null_count = (picks.validity, picks.null_count) if picks else (None, 0)
    if numbers.ndim == 1:
        return pa.Array.from_buffers(
            kind, len(numbers), [validity, pa.py_buffer(numbers)], null_count
        )
    count, length = numbers.shape
    offsets = np.arange(count + 1, dtype=np.int32)
    if picks and null_count:
        there = ~picks.missing
        np.cumsum(there, out=offsets[1:])
        numbers = _closed_up(numbers, there)
    offsets *= length
    items = pa.Array.from_buffers(kind.value_type, numbers.size, [None, pa.py_buffer(numbers)], 0)
    return pa.Array.from_buffers(
        kind, count, [validity, pa.py_buffer(offsets)], null_count, children=[items]
    )
