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
        if pieces <= 1:
            self.parts = [Picked(0, None, safe)] if pieces else []
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


class Gatherer:
    """One column, ready to be gathered as often as asked."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.type = column.type
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self.start = np.cumsum([0, *map(len, self._chunks)])
        values = [_numbers(chunk) for chunk in self._chunks]
        shapes = {None if v is None else v.shape[1:] for v in values}
        self._values = [v for v in values if v is not None] if len(shapes) == 1 and None not in shapes else None

    def __call__(self, picks: RowPicks) -> pa.Array:
        """The values of the picked rows [Q], in the column's type; null where NO_ROW."""
        count = len(picks.rows)
        if not self._chunks or not count:
            return pa.nulls(count, self.type)
        if self._values is None:
            return self._taken(picks)
        out = np.empty((count, *self._values[0].shape[1:]), self._values[0].dtype)
        for part in picks.parts:
            values = self._values[part.piece]
            if part.place is None:
                np.take(values, part.rows, axis=0, out=out, mode="clip")
            else:
                out[part.place] = values[part.rows]
        if out.ndim == 1:
            return pa.Array.from_buffers(self.type, count, [picks.validity, pa.py_buffer(out)], picks.null_count)
        offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * out.shape[1])
        items = pa.Array.from_buffers(self.type.value_type, out.size, [None, pa.py_buffer(out)], 0)
        return pa.Array.from_buffers(self.type, count, [picks.validity, offsets], picks.null_count, children=[items])

    def _taken(self, picks: RowPicks) -> pa.Array:
        """Texts, columns with nulls, lists of several lengths: Arrow copies them."""
        taken = [self._chunks[part.piece].take(pa.array(part.rows)) for part in picks.parts]
        place = np.arange(len(picks.rows))
        if picks.parts[0].place is not None:
            place[np.concatenate([part.place for part in picks.parts])] = np.arange(len(place))
        answer = pa.concat_arrays(taken) if len(taken) > 1 else taken[0]
        if picks.parts[0].place is None and not picks.any_missing:
            return answer
        return answer.take(pa.array(place, mask=picks.missing) if picks.any_missing else pa.array(place))


def _numbers(array: pa.Array) -> np.ndarray | None:
    """A column of numbers or times without nulls as integers of the same bits, [N]; lists of them, all of one length, as [N, length].

    None for everything else.
    """
    kind = array.type
    if array.null_count:
        return None
    if pa.types.is_list(kind):
        offsets, items = np.asarray(array.offsets), array.flatten()
        length = int(offsets[1] - offsets[0])
        flat = _numbers(items) if length and not (np.diff(offsets) != length).any() else None
        return None if flat is None or flat.ndim > 1 else flat.reshape(-1, length)
    if not pa.types.is_primitive(kind) or kind.bit_width not in (8, 16, 32, 64):
        return None
    bits = np.frombuffer(array.buffers()[1], dtype=f"i{kind.bit_width // 8}")
    return bits[array.offset : array.offset + len(array)]
