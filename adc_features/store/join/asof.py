"""Which feature row each entity row sees. Reads: Arrow key and time columns. Writes: int64 row
numbers; no feast here.

Row numbers first, payload later: key code and time of a feature row become one integer, sorted
once; a batch of entity rows finds its places by one binary search of sorted questions (eight times
cheaper than of unsorted ones).

Legend: F feature rows, Q entity rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.store.join.gather import NO_ROW
from adc_features.store.join.key_codes import Column, KeyCodes
from adc_features.store.join.radix import radix_sorted
from adc_features.store.join.space import Space, arrow_space

NEVER = int(np.iinfo(np.int64).min)
"""The created time of a row that has none."""
_LONGEST_TTL = 1 << 62
"""Microseconds: longer ones are this long, which is longer than there are years."""
_FACTS = ("start", "span", "row_bits", "tick_bits", "cut")
"""The numbers of an index that its parts name."""
_BITS = 63
_SORTED_BITS = 40
"""Of key code and tick: `radix_sorted` deals 8 and orders by 32 in two passes; a finer tick would
cost all rows a third pass, and a coarser one only those that share it a comparison.
"""
_BLOCK = 1 << 16
"""Rows and questions treated at once: what they need besides stays in a cache."""
_QUESTIONS = 1 << 20
"""Entity rows sorted at once: many find their places side by side."""


class AsofIndex:
    """The feature side of a join, sorted once.

    codes: int64 [F] of `keys`, -1 for rows to leave out; their memory becomes the index.

    at: event times int64 [F], microseconds. created: gives the created times int64 [n] of rows
    int64 [n], NEVER where there is none, and is asked for tied rows only (with known_only for all);
    None when rows carry no created time. asked: int64 codes of all entity rows to come, in pieces,
    when known; rows of other keys are left out before the sort. known_only: only feature rows with
    created time <= the entity row's time will be seen; raises InputError without created times.

    Of rows with one key and time the last by created time, then by position, is seen; without a
    created time a row comes first among them and was never known. A place in the index is one
    integer: key code, tick (the high bits of the time, as many as there is room for), row number.
    Rows of one key and tick stand in full order behind each other; only they are told apart by
    their times.
    """

    def __init__(
        self,
        keys: KeyCodes,
        codes: np.ndarray,
        at: np.ndarray,
        *,
        created: Callable[[np.ndarray], np.ndarray] | None = None,
        asked: Iterable[np.ndarray] | None = None,
        known_only: bool = False,
        space: Space = arrow_space,
    ) -> None:
        if known_only and created is None:
            raise InputError(
                "created-time filtering was asked for, the source declares no created timestamp;"
                " name its created_timestamp_column"
            )
        self.keys, self._at = keys, at
        self._start = int(at.min()) if len(at) else 0
        self._span = int(at.max()) - self._start if len(at) else 0
        self._row_bits = (max(_QUESTIONS, len(codes)) - 1).bit_length()
        key_bits = (keys.size - 1).bit_length()
        self._tick_bits = min(
            self._span.bit_length(),
            _BITS - key_bits - self._row_bits,
            max(_SORTED_BITS - key_bits, 0),
        )
        if self._tick_bits < 0:
            raise InputError(
                f"{len(codes)} feature rows with {keys.size} keys are more than one index holds"
                f" (2**{_BITS}); split the view"
            )
        self._cut = self._span.bit_length() - self._tick_bits
        self._row_mask = (1 << self._row_bits) - 1
        self._places = radix_sorted(self._packed(codes, asked), below=self._row_bits, space=space)
        if self._cut or created is not None:
            self._order_ticks(created)
        self._earliest_created = (
            _block_minima(_known_from(created(self._places & self._row_mask)))
            if created is not None and known_only
            else None
        )

    @classmethod
    def of_columns(
        cls,
        keys: Sequence[Column],
        times: Column,
        *,
        created: Column | None = None,
        asked: Sequence[Column] | None = None,
        names: Sequence[str] = (),
        known_only: bool = False,
    ) -> Self:
        """The index of Arrow columns [F]. asked, names: the key columns of all entity rows to come.

        Raises InputError for null times.
        """
        numbered, codes = KeyCodes.of_features(keys, rows=len(times))
        wanted = [numbered.of(asked, names=names)] if asked else None
        born = None if created is None else created_microseconds(created).__getitem__
        return cls(
            numbered, codes, microseconds(times), created=born, asked=wanted, known_only=known_only
        )

    def parts(self) -> tuple[dict[str, Any], dict[str, pa.Array]]:
        """What `of_parts` makes the same index of: facts as JSON knows them, and arrays."""
        facts, arrays = self.keys.parts()
        facts |= {name: getattr(self, f"_{name}") for name in _FACTS}
        arrays |= {"places": pa.array(self._places), "at": pa.array(self._at)}
        if self._earliest_created is not None:
            arrays["created"] = pa.array(self._earliest_created[0])
        return facts, arrays

    @classmethod
    def of_parts(cls, facts: Mapping[str, Any], arrays: Mapping[str, pa.Array]) -> Self:
        """The index that gave these parts; arrays are used as they lie, mapped or in memory."""
        self = cls.__new__(cls)
        self.keys = KeyCodes.of_parts(facts, arrays)
        for name in _FACTS:
            setattr(self, f"_{name}", facts[name])
        self._row_mask = (1 << self._row_bits) - 1
        self._places, self._at = np.asarray(arrays["places"]), np.asarray(arrays["at"])
        created = arrays.get("created")
        self._earliest_created = None if created is None else _block_minima(np.asarray(created))
        return self

    def __len__(self) -> int:
        return len(self._places)

    def _packed(self, codes: np.ndarray, asked: Iterable[np.ndarray] | None) -> np.ndarray:
        """The places, unordered, in the memory of the codes.

        Rows of null keys and of keys that are not asked for are left out.
        """
        wanted = None
        if asked is not None:
            wanted = np.zeros(self.keys.size + 1, bool)
            for some in asked:
                wanted[some] = True  # -1, the unknown, is the last
            wanted[-1] = False
        kept = 0
        for start in range(0, len(codes), _BLOCK):
            part = codes[start : start + _BLOCK]
            rows = np.flatnonzero(part >= 0 if wanted is None else wanted[part])
            whole = len(rows) == len(part)
            place = part << self._tick_bits if whole else part[rows] << self._tick_bits
            at = self._at[start : start + _BLOCK]
            place |= (at if whole else at[rows]) - self._start >> self._cut
            place <<= self._row_bits
            rows += start
            place |= rows
            codes[kept : kept + len(place)] = place
            kept += len(place)
        return codes[:kept]

    def _order_ticks(self, created: Callable[[np.ndarray], np.ndarray] | None) -> None:
        """Put rows of one key and tick in order of time, created time and position.

        The sort left them in order of position.
        """
        among = [np.zeros(0, np.int64)]
        for start in range(0, len(self) - 1, _BLOCK):
            tick = self._places[start : start + _BLOCK + 1] >> self._row_bits
            among.append(np.flatnonzero(tick[1:] == tick[:-1]) + start)
        pairs = np.concatenate(among).repeat(2)
        pairs[1::2] += 1
        if not len(pairs):
            return
        shared = pairs[np.append(True, pairs[1:] != pairs[:-1])]
        places = self._places[shared]
        rows = places & self._row_mask
        born = [] if created is None else [created(rows)]
        self._places[shared] = places[
            np.lexsort((rows, *born, self._at[rows], places >> self._row_bits))
        ]

    def match(
        self,
        keys: Sequence[Column],
        times: np.ndarray,
        *,
        names: Sequence[str],
        ttl: timedelta | None = None,
    ) -> np.ndarray:
        """int64 [Q]: the feature row that each entity row sees at times int64 [Q] microseconds,
        NO_ROW for none.

        A row sees the newest feature row of its key with event time <= its own, unless that is more
        than ttl older (None or 0: any age).
        """
        answer = arrow_space(len(times))
        codes = self.keys.of(keys, names=names, rows=len(times))
        for start in range(0, len(times), _QUESTIONS):
            part = slice(start, start + _QUESTIONS)
            self._match(codes[part], times[part], answer[part], ttl)
        return answer

    def _match(
        self, codes: np.ndarray, times: np.ndarray, answer: np.ndarray, ttl: timedelta | None
    ) -> None:
        if not len(self):
            answer[:] = NO_ROW
            return
        # a question is a place too, its own number for the row's: sorted, questions find their rows
        # eight times cheaper
        asked = arrow_space(len(codes))
        for start in range(0, len(asked), _BLOCK):
            block = slice(start, start + _BLOCK)
            place = np.clip(times[block] - self._start, 0, self._span)
            place >>= self._cut
            place |= codes[block] << self._tick_bits
            place <<= self._row_bits
            place |= np.arange(start, start + len(place))
            asked[block] = place
        asked = radix_sorted(asked, below=self._row_bits)
        for start in range(0, len(asked), _BLOCK):
            self._answer(asked[start : start + _BLOCK], times, answer, ttl)

    def _answer(
        self, asked: np.ndarray, times: np.ndarray, answer: np.ndarray, ttl: timedelta | None
    ) -> None:
        """Answer the questions: each one names its place in `times` and `answer`.

        The questions are overwritten.
        """
        number = asked & self._row_mask
        asked |= self._row_mask  # behind all rows of its tick
        found = np.searchsorted(self._places, asked, side="right")
        found -= 1
        place = self._places[found]
        apart = place ^ asked
        there = (apart >> (self._row_bits + self._tick_bits) == 0) & (found >= 0)
        same = np.flatnonzero(apart >> self._row_bits == 0)
        place &= self._row_mask
        late = same[self._at[place[same]] > times[number[same]]]
        if len(late) or self._earliest_created is not None:
            at = times[number]
            found[late] = self._before(found[late], asked[late], at[late])
            if self._earliest_created is not None:
                found = self._newest_known(np.where(there, found, NO_ROW), at)
            place = self._places[found]
            there &= ((place ^ asked) >> (self._row_bits + self._tick_bits) == 0) & (found >= 0)
            place &= self._row_mask
        if ttl:
            there &= self._at[place] >= oldest_read(times[number], ttl)
        place[~there] = NO_ROW
        answer[number] = place

    def newest(self) -> np.ndarray:
        """int64: the last row of each key."""
        codes = self._places >> (self._row_bits + self._tick_bits)
        return self._places[np.append(codes[1:] != codes[:-1], True)[: len(self)]] & self._row_mask

    def times_of(self, rows: np.ndarray) -> np.ndarray:
        """int64 [Q]: event times of feature rows, microseconds; those of NO_ROW mean nothing."""
        return self._at[rows] if len(self._at) else np.zeros(len(rows), np.int64)

    def _before(self, found: np.ndarray, asked: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The last place not after times, of questions whose tick holds later rows.

        The places from the first of the tick up to `found` are searched.
        """
        low, high = np.searchsorted(self._places, asked & ~self._row_mask), found
        while (low < high).any():
            middle = (low + high) >> 1
            seen = self._at[self._places[middle] & self._row_mask] <= times
            low, high = (
                np.where((low < high) & seen, middle + 1, low),
                np.where((low < high) & ~seen, middle, high),
            )
        return low - 1

    def _newest_known(self, found: np.ndarray, times: np.ndarray) -> np.ndarray:
        """For each place the last one at or before it that was created by then; NO_ROW for none."""
        levels = self._earliest_created
        assert levels is not None
        answer = found.copy()
        asking = np.flatnonzero(found >= 0)
        asking = asking[levels[0][found[asking]] > times[asking]]
        node, limit = found[asking], times[asking]
        height = np.zeros(len(asking), np.int64)
        rising = np.ones(len(asking), bool)
        while rising.any():  # climb until the left neighbour's block holds something known
            for level in np.unique(height[rising]):
                here = np.flatnonzero(rising & (height == level))
                left = (node[here] % 2 == 1) & (
                    levels[level][np.maximum(node[here] - 1, 0)] <= limit[here]
                )
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


def oldest_read(times: np.ndarray, ttl: timedelta) -> np.ndarray:
    """int64 [Q]: the oldest event times that requests at these times still read, microseconds."""
    return times - min(ttl // timedelta(microseconds=1), _LONGEST_TTL)


def created_microseconds(column: Column, *, space: Space = arrow_space) -> np.ndarray:
    """Created times int64 [N], microseconds; NEVER where there is none."""
    if not column.null_count:
        return microseconds(column, name="created_timestamp", space=space)
    missing = np.asarray(column.is_null())
    times = space(len(column))
    times[missing] = NEVER
    times[~missing] = microseconds(column.drop_null(), name="created_timestamp")
    return times


def _known_from(created: np.ndarray) -> np.ndarray:
    """What has no created time was never known: it counts as the end of time."""
    return np.where(created == NEVER, -NEVER - 1, created)


def _block_minima(known: np.ndarray) -> list[np.ndarray]:
    """The numbers, and the minima of their blocks of 2, 4, 8..."""
    levels = [known]
    while len(levels[-1]) > 1:
        lower = np.append(levels[-1], np.iinfo(np.int64).max) if len(levels[-1]) % 2 else levels[-1]
        levels.append(lower.reshape(-1, 2).min(axis=1))
    return levels
