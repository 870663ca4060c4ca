"""Which feature row each entity row sees. Reads: Arrow key and time columns. Writes: int64 row numbers; no feast here.

Row numbers first, payload later: key code and time of a feature row become one integer, sorted once; a batch of entity rows finds its
places by one binary search of sorted questions (eight times cheaper than of unsorted ones).

Legend: F feature rows, Q entity rows.
"""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store.gather import NO_ROW
from adc_features.store.key_codes import Column, KeyCodes

_BITS = 63


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
    if times.type.unit == "ns":
        return np.floor_divide(whole, 1_000)
    return whole if times.type.unit == "us" else whole * {"s": 1_000_000, "ms": 1_000}[times.type.unit]


class AsofIndex:
    """The feature side of a join, sorted once. keys, times [F]; created [F], or None when rows carry no created time.

    Of rows with one key and time the last by created time, then by position, is seen; without a created time a row comes first among them and
    was never known. asked: key columns of all entity rows to come, when
    known; rows of other keys are left out before the sort. Raises InputError for null times.
    """

    def __init__(
        self, keys: Sequence[Column], times: Column, *, created: Column | None = None, asked: Sequence[Column] | None = None, names: Sequence[str] = ()
    ) -> None:
        self.keys = KeyCodes(keys)
        at = microseconds(times)
        self.created = None if created is None else _created(created)
        codes = self.keys.of_features if keys else np.zeros(len(at), np.int64)
        rows = np.flatnonzero(codes >= 0) if (codes < 0).any() else None
        if asked and keys:
            wanted = np.zeros(self.keys.size + 1, bool)
            wanted[self.keys.of(asked, names=names)] = True  # -1, the unknown, is the last
            wanted[-1] = False
            if wanted.sum() < 0.9 * self.keys.size:
                rows = np.flatnonzero(wanted[codes])
        # the time gets the bits that the key leaves; what is cut off is put in order among the few rows that share a place
        self._start = int(at.min()) if len(at) else 0
        span = int(at.max()) - self._start if len(at) else 0
        key_bits = max(self.keys.size - 1, 0).bit_length()
        self._shift = max(0, key_bits + span.bit_length() - _BITS)
        self._last = span >> self._shift
        self._time_bits = self._last.bit_length()
        since, born = at - self._start, self.created
        if rows is not None:
            codes, since, born = codes[rows], since[rows], None if born is None else born[rows]
        order = _order(codes, since, born, bits=(key_bits, span.bit_length()))
        self.rows = order if rows is None else rows[order]
        self._places = ((codes << self._time_bits) | (since >> self._shift))[order]
        self._at = at
        self.created = None if born is None else np.where(born[order] == _NEVER, -_NEVER - 1, born[order])
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
        late = np.flatnonzero(there & (self._at[self.rows[found]] > times)) if self._shift else ()
        while len(late):  # a later row of the same 2 ** shift microseconds
            found[late] -= 1
            there[late] = (found[late] >= 0) & ((self._places[found[late]] >> self._time_bits) == codes[late])
            found[late[~there[late]]] = 0
            late = late[there[late]]
            late = late[self._at[self.rows[found[late]]] > times[late]]
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

    def _tick(self, times: np.ndarray) -> np.ndarray:
        """Times since the first feature row, in units of 2 ** shift microseconds, none after the last."""
        return np.minimum((times - self._start) >> self._shift, self._last)

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


_NEVER = int(np.iinfo(np.int64).min)


def _created(column: Column) -> np.ndarray:
    """Created times, microseconds; _NEVER where there is none."""
    if not column.null_count:
        return microseconds(column, name="created_timestamp")
    missing = np.asarray(column.is_null())
    times = np.full(len(column), _NEVER, np.int64)
    times[~missing] = microseconds(column.drop_null(), name="created_timestamp")
    return times


def _order(codes: np.ndarray, since: np.ndarray, created: np.ndarray | None, *, bits: tuple[int, int]) -> np.ndarray:
    """Rows by code, time, created time, position. bits: of the largest code and time.

    Code, the high bits of the time and the row number in one integer: sorting values is twice as fast as sorting places of values.
    The few rows whose high bits agree are sorted again by everything.
    """
    row_bits = max(len(codes) - 1, 0).bit_length()
    cut = max(0, bits[0] + bits[1] + row_bits - _BITS)
    packed = (((codes << (bits[1] - cut)) | (since >> cut)) << row_bits) | np.arange(len(codes))
    packed.sort()
    order = packed & ((1 << row_bits) - 1)
    packed >>= row_bits
    same = np.zeros(len(codes) + 1, bool)
    same[1:-1] = packed[1:] == packed[:-1]
    among = np.flatnonzero(same[1:] | same[:-1])
    rows = order[among]
    keys = [part[rows] for part in (created, since) if part is not None]
    order[among] = rows[np.lexsort((rows, *keys, packed[among]))]
    return order
