"""Values by row number. Reads: Arrow columns, row numbers. Writes: Arrow arrays; no feast here.

Columns stay in the pieces they were read in, which may be mapped from a file. Numbers, times and lists of one length are copied as
integers of the same bits from each piece straight to their places: the pieces fit a cache, a whole column does not.

Legend: Q asked rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

NO_ROW = -1
"""The row number of an entity row that sees no feature row."""


class RowPicks:
    """Row numbers int64 [Q], NO_ROW for none, sorted out by the pieces that hold them; the same for every column of a table.

    start: the first row of each piece and the end, [pieces + 1].
    """

    def __init__(self, rows: np.ndarray, start: np.ndarray) -> None:
        self.rows, self.missing = rows, rows < 0
        self.any_missing = bool(self.missing.any())
        safe = np.where(self.missing, 0, rows) if self.any_missing else rows
        pieces = len(start) - 1
        if pieces <= 1 or not len(rows):
            self.parts = [Picked(0, None, safe)] if pieces and len(rows) else []
            return
        which = (np.searchsorted(start, safe, side="right") - 1).astype(np.int16 if pieces < 2**15 else np.int64)
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which, minlength=pieces))
        self.parts = [
            Picked(piece, order[low:high], safe[order[low:high]] - start[piece])
            for piece, (low, high) in enumerate(zip(np.append(0, ends), ends, strict=False))
            if low < high
        ]

    @cached_property
    def validity(self) -> pa.Buffer | None:
        """The bitmap of rows that are there; None when all are."""
        return pa.py_buffer(np.packbits(~self.missing, bitorder="little")) if self.any_missing else None

    @cached_property
    def null_count(self) -> int:
        return int(self.missing.sum())


@dataclass(frozen=True)
class Picked:
    """What is asked of one piece. place: where in the answer, None for everywhere in order. rows: numbers inside the piece."""

    piece: int
    place: np.ndarray | None
    rows: np.ndarray


class Gathering:
    """The picked values of one column, filled piece by piece; each piece may be forgotten once it was added."""

    def __init__(self, picks: RowPicks, kind: pa.DataType) -> None:
        self._picks, self._type = picks, kind
        self._out: np.ndarray | None = None
        self._added: list[Picked] = []
        self._taken: list[pa.Array] = []

    def add(self, part: Picked, piece: pa.Array, numbers: np.ndarray | None) -> None:
        """What is asked of one piece. numbers: `numbers_of(piece)`."""
        if not self._added and numbers is not None:
            self._out = np.empty((len(self._picks.rows), *numbers.shape[1:]), numbers.dtype)
        if self._out is not None and (numbers is None or numbers.shape[1:] != self._out.shape[1:]):  # nulls after all: Arrow copies from here on
            self._taken = [self._array(self._out if p.place is None else self._out[p.place], None, 0) for p in self._added]
            self._out = None
        self._added.append(part)
        if self._out is None or numbers is None:
            self._taken.append(piece.take(pa.array(part.rows)))
        elif part.place is None:
            np.take(numbers, part.rows, axis=0, out=self._out, mode="clip")
        else:
            self._out[part.place] = numbers[part.rows]

    def result(self) -> pa.Array:
        """The values [Q] in the column's type; null where NO_ROW."""
        picks = self._picks
        if not self._added:
            return pa.nulls(len(picks.rows), self._type)
        if self._out is not None:
            return self._array(self._out, picks.validity, picks.null_count)
        answer = pa.concat_arrays(self._taken) if len(self._taken) > 1 else self._taken[0]
        place = np.arange(len(picks.rows))
        if self._added[0].place is not None:
            place[np.concatenate([part.place for part in self._added])] = np.arange(len(place))
        elif not picks.any_missing:
            return answer
        return answer.take(pa.array(place, mask=picks.missing) if picks.any_missing else pa.array(place))

    def _array(self, numbers: np.ndarray, validity: pa.Buffer | None, null_count: int) -> pa.Array:
        count = len(numbers)
        if numbers.ndim == 1:
            return pa.Array.from_buffers(self._type, count, [validity, pa.py_buffer(numbers)], null_count)
        offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * numbers.shape[1])
        items = pa.Array.from_buffers(self._type.value_type, numbers.size, [None, pa.py_buffer(numbers)], 0)
        return pa.Array.from_buffers(self._type, count, [validity, offsets], null_count, children=[items])


class Gatherer:
    """One column held in memory, or mapped, ready to be gathered as often as asked."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.type = column.type
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._numbers = [numbers_of(chunk) for chunk in self._chunks]
        self.start = np.cumsum([0, *map(len, self._chunks)])

    def __call__(self, picks: RowPicks) -> pa.Array:
        gathering = Gathering(picks, self.type)
        for part in picks.parts:
            gathering.add(part, self._chunks[part.piece], self._numbers[part.piece])
        return gathering.result()


def numbers_of(array: pa.Array) -> np.ndarray | None:
    """A column of numbers or times without nulls as integers of the same bits, [N]; lists of them, all of one length, as [N, length].

    None for everything else.
    """
    kind = array.type
    if array.null_count:
        return None
    if pa.types.is_list(kind):
        offsets, items = np.asarray(array.offsets), array.flatten()
        length = int(offsets[1] - offsets[0])
        flat = numbers_of(items) if length and not (np.diff(offsets) != length).any() else None
        return None if flat is None or flat.ndim > 1 else flat.reshape(-1, length)
    if not pa.types.is_primitive(kind) or kind.bit_width not in (8, 16, 32, 64):
        return None
    bits = np.frombuffer(array.buffers()[1], dtype=f"i{kind.bit_width // 8}")
    return bits[array.offset : array.offset + len(array)]
