"""Which feature row each entity row sees. Reads: Arrow key and time columns. Writes: int64 row numbers, gathered columns; no feast here.

Row numbers first, payload later: key code and time of a feature row become one integer, sorted once; a batch of entity rows finds its
places by one binary search of sorted questions (eight times cheaper than of unsorted ones). Columns are then gathered by row
number, lists of one length as a matrix.

Legend: F feature rows, Q entity rows.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError

NO_ROW = -1
"""The row number of an entity row that sees no feature row."""

_BITS = 62
_STEPS = (1, 1_000, 1_000_000, 86_400_000_000)
"""Resolutions that times may have, in microseconds; a coarser one needs fewer bits."""

Column: TypeAlias = pa.ChunkedArray | pa.Array


def microseconds(times: Column, *, name: str = "event_timestamp") -> np.ndarray:
    """A time column without nulls as int64 [N] microseconds since 1970 UTC; without a zone it means UTC, finer is cut off, never rounded up.

    Raises InputError for columns that are not timestamps or dates, and for nulls.
    """
    if not (pa.types.is_timestamp(times.type) or pa.types.is_date(times.type)):
        raise InputError(f"{name} is of type {times.type}; expected timestamps or dates, cast the column")
    if times.null_count:
        raise InputError(f"{name}: {times.null_count} values are null; drop these rows")
    if pa.types.is_date(times.type):
        # through numpy: pyarrow 26.0.1 converts day resolution to wrong times without a word
        return times.to_numpy(**({} if isinstance(times, pa.ChunkedArray) else {"zero_copy_only": False})).astype("datetime64[us]").astype(np.int64)
    whole = np.asarray(times.cast(pa.int64()))
    unit = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": -1_000}[times.type.unit]
    return whole * unit if unit > 0 else np.floor_divide(whole, -unit)


class KeyCodes:
    """Equal (composite) keys as equal integers. columns: the key columns of the feature side, F rows each, of any comparable types.

    of_features: int64 [F]; a key with a null in it matches nothing, -1. size: an upper bound (exclusive) of the codes.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._values = [pc.unique(_plain(column)).drop_null() for column in columns]
        self._known: list[np.ndarray] = []
        self.of_features, self.size = np.zeros(len(columns[0]) if columns else 0, np.int64), 1
        for place, (column, values) in enumerate(zip(columns, self._values, strict=True)):
            codes = _pair(self.of_features, _code_of(_plain(column), values), len(values))
            if place:  # two dense codes paired are sparse: number the pairs that occur
                self._known.append(np.unique(codes[codes >= 0]))
                codes = _place_in(self._known[-1], codes)
            self.of_features, self.size = codes, len(self._known[-1]) if place else len(values)

    def of(self, columns: Sequence[Column], *, names: Sequence[str]) -> np.ndarray:
        """int64 [Q] codes of other keys, -1 for those that the feature side lacks. Raises InputError for types that can never match."""
        codes = np.zeros(len(columns[0]) if columns else 0, np.int64)
        for place, (column, values, name) in enumerate(zip(columns, self._values, names, strict=True)):
            codes = _pair(codes, _code_of(_comparable(_plain(column), values.type, name), values), len(values))
            codes = _place_in(self._known[place - 1], codes) if place else codes
        return codes


class AsofIndex:
    """The feature side of a join, sorted once. keys, times [F]; created [F], or None when rows carry no created time.

    Of rows with one key and time the last by created time, then by position, is seen. Raises InputError for null times.
    """

    def __init__(self, keys: Sequence[Column], times: Column, *, created: Column | None = None) -> None:
        self.keys = KeyCodes(keys)
        at = microseconds(times)
        self.created = microseconds(created, name="created_timestamp") if created is not None else None
        codes = self.keys.of_features if keys else np.zeros(len(at), np.int64)
        self._ticks(at)
        place = (codes << self._time_bits) | self._tick(at)
        rows = np.flatnonzero(codes >= 0) if (codes < 0).any() else None
        order = _sorted(place if rows is None else place[rows], None if self.created is None else self.created if rows is None else self.created[rows])
        self.rows = order if rows is None else rows[order]
        self._places = place[self.rows]
        self._at = at
        if self.created is not None:
            self.created = self.created[self.rows]
        self._earliest_created: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def match(self, keys: Sequence[Column], times: np.ndarray, *, names: Sequence[str], ttl: timedelta | None = None, known_only: bool = False) -> np.ndarray:
        """int64 [Q]: the feature row that each entity row sees at times int64 [Q] microseconds, NO_ROW for none.

        A row sees the newest feature row of its key with event time <= its own, unless that is more than ttl older (None or 0: any age).
        known_only: only feature rows with created time <= the entity row's time count, which needs created times.
        """
        codes = self.keys.of(keys, names=names) if keys else np.zeros(len(times), np.int64)
        if not len(self):
            return np.full(len(times), NO_ROW, np.int64)
        asked = (codes << self._time_bits) | np.maximum(self._tick(times), 0)
        order = np.argsort(asked)
        found = np.empty(len(asked), np.int64)
        found[order] = np.searchsorted(self._places, asked[order], side="right") - 1
        there = (codes >= 0) & (found >= 0) & (times >= self._start)
        found[~there] = 0
        there &= (self._places[found] >> self._time_bits) == codes
        if known_only:
            if self.created is None:
                raise InputError("created-time filtering was asked for, the source declares no created timestamp; name its created_timestamp_column")
            found = self._newest_known(np.where(there, found, NO_ROW), times)
            there = found >= 0
            found[~there] = 0
            there &= (self._places[found] >> self._time_bits) == codes
        if ttl:
            there &= self._at[self.rows[found]] >= times - ttl // timedelta(microseconds=1)
        return np.where(there, self.rows[found], NO_ROW)

    def newest(self) -> np.ndarray:
        """int64: the last row of each key."""
        last = np.append(self._places[1:] >> self._time_bits != self._places[:-1] >> self._time_bits, True)[: len(self)]
        return self.rows[last]

    def times_of(self, rows: np.ndarray) -> np.ndarray:
        """int64 [Q]: event times of feature rows, microseconds; those of NO_ROW mean nothing."""
        return self._at[rows] if len(self._at) else np.zeros(len(rows), np.int64)

    def _ticks(self, at: np.ndarray) -> None:
        """Choose how a time becomes few enough bits: whole steps since the first, or its rank when even those are too many."""
        self._start, self._known_times = int(at.min(initial=0)) if len(at) else 0, None
        key_bits = max(self.keys.size - 1, 0).bit_length()
        for self._step in _STEPS:
            span = (int(at.max()) - self._start) // self._step + 1 if len(at) else 1
            self._time_bits = span.bit_length()
            if key_bits + self._time_bits <= _BITS and (self._step == 1 or not ((at - self._start) % self._step).any()):
                self._last = span
                return
        self._known_times = np.unique(at)
        self._last, self._time_bits = len(self._known_times), len(self._known_times).bit_length()

    def _tick(self, times: np.ndarray) -> np.ndarray:
        """The latest tick at or before each time; below 0 before the first."""
        if self._known_times is not None:
            return np.searchsorted(self._known_times, times, side="right") - 1
        ticks = times - self._start
        return np.minimum(ticks if self._step == 1 else ticks // self._step, self._last)

    def _newest_known(self, found: np.ndarray, times: np.ndarray) -> np.ndarray:
        """For each place the last place at or before it whose created time is <= times, NO_ROW for none; may leave the key: check it.

        A key's newest events may all be unknown yet, so stepping back one by one could read its whole history: minima of blocks of
        2, 4, 8... places let a question leap over what it cannot see. Places of one key are neighbours, so a leap out of it ends the search.
        """
        assert self.created is not None
        if self._earliest_created is None:
            self._earliest_created = [self.created]
            while len(self._earliest_created[-1]) > 1:
                lower = self._earliest_created[-1]
                lower = np.append(lower, np.iinfo(np.int64).max) if len(lower) % 2 else lower
                self._earliest_created.append(lower.reshape(-1, 2).min(axis=1))
        levels = self._earliest_created
        answer = found.copy()
        asking = np.flatnonzero(found >= 0)
        asking = asking[self.created[found[asking]] > times[asking]]
        node, limit = found[asking], times[asking]
        height = np.zeros(len(asking), np.int64)
        rising = np.ones(len(asking), bool)
        while rising.any():  # climb until the left neighbour's block holds something known
            for level in np.unique(height[rising]):
                here = np.flatnonzero(rising & (height == level))
                left = (node[here] % 2 == 1) & (levels[level][np.maximum(node[here] - 1, 0)] <= limit[here])
                node[here[left]] -= 1
                rising[here[left]] = False
                up = here[~left]
                node[up] //= 2
                height[up] += 1
                top = up[height[up] >= len(levels) - 1]
                node[top], rising[top] = NO_ROW, False
        for level in range(len(levels) - 1, 0, -1):  # descend to its last known place
            here = np.flatnonzero((height == level) & (node >= 0))
            right = np.minimum(2 * node[here] + 1, len(levels[level - 1]) - 1)
            known = (levels[level - 1][right] <= limit[here]) & (right == 2 * node[here] + 1)
            node[here] = np.where(known, right, 2 * node[here])
            height[here] -= 1
        answer[asking] = node
        return answer


class Gatherer:
    """One column, ready to be gathered by row number as often as asked. Chunks are kept as they are: they may be mapped from a file."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.type = column.type
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._matrices = [_matrix(chunk) for chunk in self._chunks]
        self._start = np.cumsum([0, *map(len, self._chunks)])

    def __call__(self, rows: np.ndarray) -> pa.Array:
        """The values at rows int64 [Q]; null where NO_ROW."""
        if not self._chunks:
            return pa.nulls(len(rows), self.type)
        if len(self._chunks) == 1:
            return _take(self._chunks[0], self._matrices[0], rows)
        which = np.searchsorted(self._start, np.maximum(rows, 0), side="right") - 1
        order = np.argsort(which, kind="stable")
        bounds = np.searchsorted(which[order], np.arange(len(self._chunks) + 1))
        pieces = []
        for chunk, matrix, first, low, high in zip(self._chunks, self._matrices, self._start, bounds, bounds[1:], strict=False):
            if low < high:
                asked = rows[order[low:high]]
                pieces.append(_take(chunk, matrix, np.where(asked < 0, NO_ROW, asked - first)))
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        return pa.concat_arrays(pieces).take(pa.array(place)) if pieces else pa.nulls(0, self.type)


def _take(array: pa.Array, matrix: np.ndarray | None, rows: np.ndarray) -> pa.Array:
    missing = rows < 0
    mask = pa.array(missing) if missing.any() else None
    if matrix is None:
        return array.take(pa.array(rows) if mask is None else pa.array(rows, mask=missing))
    values = matrix[rows if mask is None else np.where(missing, 0, rows)].reshape(-1)
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * matrix.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values, array.type.value_type), type=array.type, mask=mask)


def _matrix(array: pa.Array) -> np.ndarray | None:
    """A list column without nulls whose lists have one length above 0, of numbers, as [N, length]: rows of it are copied ten times
    cheaper than lists. None for any other column."""
    kind = array.type
    if not pa.types.is_list(kind) or array.null_count or not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        return None
    offsets, values = np.asarray(array.offsets), array.flatten()
    length = int(offsets[1] - offsets[0])
    if length == 0 or (np.diff(offsets) != length).any() or values.null_count:
        return None
    return np.asarray(values).reshape(-1, length)


def _sorted(places: np.ndarray, created: np.ndarray | None) -> np.ndarray:
    """The order of places, ties by created time and then position."""
    if created is None and (len(places) < 2 or (places[1:] >= places[:-1]).all()):
        return np.arange(len(places))
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    tied = np.zeros(len(places) + 1, bool)
    tied[1:-1] = ordered[1:] == ordered[:-1]
    if created is not None and tied.any():  # few are: order only those anew
        among = np.flatnonzero(tied[1:] | tied[:-1])
        order[among] = order[among][np.lexsort((created[order[among]], ordered[among]))]
    return order


def _pair(codes: np.ndarray, more: np.ndarray, size: int) -> np.ndarray:
    return np.where((codes >= 0) & (more >= 0), codes * max(size, 1) + more, -1)


def _place_in(known: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.full(len(codes), -1, np.int64)
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[place] == codes, place, -1)


def _plain(column: Column) -> Column:
    """Keys in one type for each kind: int64, string, bytes; others as they are."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    return column.cast(pa.binary()) if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind) else column


def _comparable(column: Column, wanted: pa.DataType, name: str) -> Column:
    if column.type == wanted or not len(column):
        return column.cast(wanted) if column.type != wanted else column
    if pa.types.is_null(column.type):
        return column.cast(wanted)
    if pa.types.is_null(wanted):
        return pa.nulls(len(column))
    raise InputError(f"{name} is {column.type} in the entity rows and {wanted} in the features: the two never match; convert one of them")


def _code_of(column: Column, values: pa.Array) -> np.ndarray:
    """The place of each key among the distinct values; -1 for nulls and for others."""
    if pa.types.is_integer(values.type) and len(values):
        low, high = (int(v.as_py()) for v in pc.min_max(values).values())
        if high - low < 8 * len(values) + 1024:  # ids in a range: a table of places, no hashing
            table = np.full(high - low + 2, -1, np.int64)
            table[np.asarray(values) - low] = np.arange(len(values))
            keys = np.asarray(pc.fill_null(column, high + 1 if high < np.iinfo(np.int64).max else low - 1))
            inside = (keys >= low) & (keys <= high)
            return table[np.where(inside, keys - low, high - low + 1)]
    return np.asarray(pc.index_in(column, value_set=values).fill_null(-1)).astype(np.int64)
