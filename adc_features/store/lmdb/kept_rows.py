"""Rows that were read before, kept decoded. Reads: a table of the LMDB store. Writes: their values
as arrays.

Nothing that is kept can be stale. Of one opened directory a transaction id names one state, so what
was read under it stands under it; under any other id each record is read again, and what was
decoded of it is taken only where its bytes are the same. What is kept is bounded in bytes.

Legend: n keys, F features that are numbers, C that are texts.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from adc_features.store.lmdb.columns import Column
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.records import Joined, Records, Schema, decode
from adc_features.store.lmdb.row_table import Answer, Part, schema_of
from adc_features.store.lmdb.slices import Texts

MOST_BYTES = 64 << 20
"""Of one view in one process."""
_OVERHEAD = 400
"""Bytes of a row beside its record and its values: its key and its places."""
_FIRST = 1024
_REST = 100
"""Reads for which nothing is tried after rows could not be kept."""
NUMBERS = ("int32_val", "int64_val", "float_val", "double_val")
TEXT_KINDS = ("string_val", "bytes_val")


class Dictionary:
    """The distinct texts of a feature, as they were met. values: their bytes, the first None."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = [None]
        self.codes: dict[bytes | None, int] = {None: 0}
        self.rows: dict[int, tuple[Any, np.ndarray]] = {}
        """What readers made of the values: id of the reader -> itself and an array."""

    def coded(self, texts: Sequence[bytes | None]) -> list[int]:
        """The place of each among the values."""
        codes, values = self.codes, self.values
        for text in texts:
            if text not in codes:
                codes[text] = len(values)
                values.append(text)
        return [codes[text] for text in texts]


@dataclass(frozen=True)
class Kept:
    """What was found for n keys, decoded.

    found: bool [n]; numbers: float64 [n, F], NaN where absent; codes: int32 [n, C], 0 where absent;
    lists: feature -> its numbers [n, width] and where they are, for lists of one length. columns:
    feature -> its kind and its place among those of its sort. held: records by place, None where
    absent; at: int64 [n], the place of each key.
    """

    found: np.ndarray
    event: np.ndarray
    schema: Schema
    numbers: np.ndarray
    codes: np.ndarray
    dictionaries: Sequence[Dictionary]
    lists: Mapping[str, tuple[np.ndarray, np.ndarray]]
    columns: Mapping[str, tuple[str, int]]
    held: Sequence[bytes | None]
    at: np.ndarray
    wanted: Sequence[str]

    def answer(self) -> Answer:
        """The same as `row_table.read` gives it."""
        expired = np.zeros(len(self.found), bool)
        records = [r for place in self.at.tolist() if (r := self.held[place]) is not None]
        if not records:
            return Answer(self.found, expired, self.event, ())
        part = Part(np.flatnonzero(self.found), decode(self.schema, records, self.wanted))
        return Answer(self.found, expired, self.event, (part,))


class _Arrays(NamedTuple):
    """Values by place. The first place is that of an absent row."""

    seen: np.ndarray
    event: np.ndarray
    found: np.ndarray
    numbers: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, count: int, numbers: int, texts: int) -> _Arrays:
        return cls(
            np.full(count, -1, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, bool),
            np.full((count, numbers), np.nan),
            np.zeros((count, texts), np.int32),
        )


class KeptRows:
    """The rows of one table, of these features.

    Parameters
    ----------
    environment : Environment
    table : str
    wanted : sequence of str
        Features.
    most_bytes : int
        What is kept is thrown away before it takes more.
    """

    def __init__(
        self,
        environment: Environment,
        table: str,
        wanted: Sequence[str],
        *,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._environment, self._table, self._wanted = environment, table, list(wanted)
        self._most = most_bytes
        self._lock = threading.Lock()
        self._opened: Any = None
        self._rest = 0
        self._clear(None)

    def _clear(self, schema: Schema | None) -> None:
        """Keep nothing; rows of this schema come next."""
        self._schema = schema
        shown = () if schema is None else schema.only(self._wanted).features
        self._bytes = 0
        self._places: dict[bytes, int] = {}
        self._held: list[bytes | None] = [None]
        of: dict[str, list[str]] = {"number": [], "text": [], "list": []}
        self._columns: dict[str, tuple[str, int]] = {}
        for name, kind in shown:
            sort = _sort(kind)
            if sort is not None:
                self._columns[name] = kind, len(of[sort])
                of[sort].append(name)
        self._numbers, self._texts = of["number"], of["text"]
        self._dictionaries = [Dictionary() for _ in self._texts]
        self._lists: dict[str, tuple[np.ndarray, np.ndarray] | None] = dict.fromkeys(of["list"])
        self._irregular: set[str] = set()
        self._arrays = _Arrays.of(_FIRST, len(self._numbers), len(self._texts))

    def read(self, keys: Sequence[bytes], *, oldest: int | None = None) -> Kept | None:
        """The rows of n keys as of one moment; those with an event time before `oldest` are absent.

        None where they cannot be kept: there is no table, its rows have several schemas, or another
        thread reads. Raises ArtifactError for records that are damaged or of a newer format.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._rest:
                self._rest -= 1
                return None
            with self._environment.reading(self._table) as txn:
                if txn is None or not hasattr(txn, "id"):
                    return None
                places = self._current(txn, keys)
            if places is None:
                self._rest = _REST
                return None
            return self._kept(places, oldest)
        except BaseException:
            self._clear(None)  # half a row may have been put in its place
            raise
        finally:
            self._lock.release()

    def _current(self, txn: Any, keys: Sequence[bytes]) -> np.ndarray | None:
        """The place of each key, whose values are those of this transaction."""
        if self._environment.opened is not self._opened:
            self._opened = self._environment.opened
            self._arrays.seen[:] = -1
        now = txn.id()
        for _ in range(3):  # the second time where all was thrown away to make room
            places = list(map(self._places.get, keys))
            if None not in places:
                break
            new = {key: None for key, place in zip(keys, places, strict=True) if place is None}
            if not self._add(txn, list(new), now):
                return None
        else:
            return None
        at = np.array(places, np.int64)
        old = self._arrays.seen[at] != now
        if old.any():
            changed = []
            for place, key in {at[i]: keys[i] for i in np.flatnonzero(old).tolist()}.items():
                record = txn.get(key)
                if record != self._held[place]:
                    changed.append(key)
            if changed:
                for key in changed:
                    del self._places[key]  # its place stays empty until all is thrown away
                return self._current(txn, keys)
            self._arrays.seen[at] = now
        return at

    def _add(self, txn: Any, keys: list[bytes], now: int) -> bool:
        """Decode and keep the rows of new keys; False where they cannot be."""
        records = list(map(txn.get, keys))
        held = [record for record in records if record is not None]
        joined = Joined.of(held)
        ids = set(joined.fronts()["schema"].tolist())
        if len(ids) > 1:
            return False
        size = int(joined.lengths.sum()) + len(keys) * (
            _OVERHEAD + 8 * len(self._numbers) + 4 * len(self._texts)
        )
        if size > self._most:
            return False
        if ids:
            schema = schema_of(txn, ids.pop(), self._environment)
            if schema is not self._schema:
                self._clear(schema)
        if self._bytes + size > self._most:
            self._clear(self._schema)
        self._bytes += size
        first = len(self._held)
        self._room(first + len(keys))
        at = np.arange(first, first + len(keys))
        self._held.extend(records)
        self._arrays.seen[at] = now
        if held:
            there = at[[record is not None for record in records]]
            assert self._schema is not None
            self._put(there, decode(self._schema, joined, self._wanted))
        self._places.update(zip(keys, at.tolist(), strict=True))
        return True

    def _put(self, at: np.ndarray, records: Records) -> None:
        arrays = self._arrays
        arrays.event[at], arrays.found[at] = records.event, True
        for name, (_, place) in self._columns.items():
            column = records.columns[records.schema.place[name]]
            if isinstance(column, Texts):
                texts: list[bytes | None] = list(column.checked())
                for row in np.flatnonzero(~column.valid).tolist():
                    texts[row] = None
                dictionary = self._dictionaries[place]
                before = len(dictionary.values)
                arrays.codes[at, place] = dictionary.coded(texts)
                self._bytes += sum(
                    _OVERHEAD // 2 + len(v or b"") for v in dictionary.values[before:]
                )
            elif column.offsets is None:
                arrays.numbers[at, place] = column.numbers()
            elif name not in self._irregular:
                self._put_lists(name, at, column)

    def _put_lists(self, name: str, at: np.ndarray, column: Column) -> None:
        """Lists of one length side by side; of a feature whose lists differ, none are kept."""
        sizes: np.ndarray = np.diff(cast(np.ndarray, column.offsets))
        known = self._lists[name]
        width = known[0].shape[1] if known is not None else int(sizes.max(initial=0))
        if not width and not column.valid.any():
            return
        if not width or np.any(sizes != width * column.valid):
            self._irregular.add(name)
            self._lists[name] = None
            return
        if known is None:
            count = len(self._arrays.seen)
            known = np.zeros((count, width), column.values.dtype), np.zeros(count, bool)
            self._lists[name] = known
        values, valid = known
        values[at[column.valid]] = column.values.reshape(-1, width)
        valid[at] = column.valid
        self._bytes += int(column.values.nbytes)

    def _room(self, count: int) -> None:
        """Let the arrays have as many places."""
        size = len(self._arrays.seen)
        if count <= size:
            return
        while size < count:
            size *= 2
        wider = _Arrays.of(size, len(self._numbers), len(self._texts))
        for new, old in zip(wider, self._arrays, strict=True):
            new[: len(old)] = old
        self._arrays = wider
        for name, known in self._lists.items():
            if known is not None:
                values, valid = known
                grown = np.zeros((size, values.shape[1]), values.dtype), np.zeros(size, bool)
                grown[0][: len(values)], grown[1][: len(valid)] = values, valid
                self._lists[name] = grown

    def _kept(self, at: np.ndarray, oldest: int | None) -> Kept | None:
        if self._schema is None:  # no key was found
            return None
        arrays = self._arrays
        if oldest is not None:
            at = np.where(arrays.event[at] < oldest, 0, at)
        found = arrays.found[at]
        lists = {
            name: (known[0][at], known[1][at])
            for name, known in self._lists.items()
            if known is not None
        }
        return Kept(
            found,
            arrays.event[at],
            self._schema,
            arrays.numbers[at],
            arrays.codes[at],
            self._dictionaries,
            lists,
            self._columns,
            self._held,
            at,
            self._wanted,
        )


def _sort(kind: str) -> str | None:
    """Of what sort values of a kind are kept; None: only in their record."""
    if kind in NUMBERS:
        return "number"
    if kind in TEXT_KINDS:
        return "text"
    if kind.replace("_list", "") in NUMBERS:
        return "list"
    return None
