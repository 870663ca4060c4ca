"""Rows of one feature view in LMDB. Reads, writes: records under keys, and beside them the schemas
they were written with; no feast.

Newest event time wins; at equal event times the later created time, and a row without one comes
before all that have one; at equal created times the row that is written last. So the answer is the
same in however many batches rows come. A write is one transaction, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import ArtifactError
from adc_features.store.lmdb.columns import KINDS
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.files import values_of
from adc_features.store.lmdb.records import (
    Column,
    Joined,
    Records,
    Schema,
    decode,
    encode,
    refuse_newer_records,
    schema_id,
    times,
)

ROWS_AT_ONCE = 100_000
"""Rows encoded and written at a time: bounds the memory of a write beside its input."""

_SCHEMA = b"!"
"""What the keys of schemas begin with; no key of a row does."""

_schemas: dict[bytes, Schema] = {}
"""Schemas by their text, which was compared with the id: this holds for every table."""


@dataclass(frozen=True)
class Rows:
    """What to write.

    keys: large_binary [n]; event, created: int64 [n], microseconds (NO_CREATED: unknown); columns:
    as `encode` takes them.
    """

    schema: Schema
    keys: pa.LargeBinaryArray
    event: np.ndarray
    created: np.ndarray
    columns: Mapping[str, pa.Array | pa.ChunkedArray]

    def take(self, places: np.ndarray) -> Rows:
        """Some rows, in another order."""
        at = pa.array(places)
        columns = {name: _whole(column.take(at)) for name, column in self.columns.items()}
        return replace(
            self,
            keys=self.keys.take(at),
            event=self.event[places],
            created=self.created[places],
            columns=columns,
        )

    def newest_by_key(self) -> np.ndarray:
        """The places of the newest row of every key, in the order of the keys: int64."""
        order = pc.sort_indices(self.keys).to_numpy().astype(np.int64)
        keys = self.keys.take(pa.array(order))
        if len(keys) > 1 and pc.any(pc.equal(keys[1:], keys[:-1])).as_py():
            rank = pc.rank(self.keys, tiebreaker="dense").to_numpy()
            # NO_CREATED is the least
            order = np.lexsort((np.arange(len(rank)), self.created, self.event, rank))
            order = order[np.append(rank[order][1:] != rank[order][:-1], True)]
        return order


class Part(NamedTuple):
    """Rows of an answer that share a schema.

    places: int64, which rows of the answer; records: in the same order.
    """

    places: np.ndarray
    records: Records


@dataclass(frozen=True)
class Answer:
    """What was found for n keys.

    found, expired: bool [n], never both; event: int64 [n], microseconds, 0 where neither.
    """

    found: np.ndarray
    expired: np.ndarray
    event: np.ndarray
    parts: tuple[Part, ...]

    def held(self, name: str) -> np.ndarray:
        """Which rows were found and were written with this feature, null or not: bool [n]."""
        held = np.zeros(len(self.found), bool)
        for places, records in self.parts:
            held[places] = records.column(name) is not None
        return held

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A feature in the order of the keys, not valid where absent.

        Arrow stands in between only where the rows were written with several schemas.
        """
        if len(self.parts) == 1:
            places, records = self.parts[0]
            column = records.column(name)
            if column is not None and KINDS[column.kind].arrow == kind:
                n = len(self.found)
                return column if len(places) == n else column.scattered(places, n)
        return Column.from_arrow(self.to_arrow(name, kind))

    def to_arrow(self, name: str, kind: pa.DataType) -> pa.Array:
        """A feature in the order of the keys, null where absent."""
        if len(self.parts) == 1:
            return self._of_one_part(name, kind)
        place, arrays, start = np.full(len(self.found), -1), [], 0
        for places, records in self.parts:
            column = records.column(name)
            if column is not None:
                held = column.to_arrow()
                # even a cast that does nothing costs 15 us, a request reads 35 columns
                arrays.append(held if held.type == kind else held.cast(kind))
                place[places] = start + np.arange(len(places))
                start += len(places)
        if not arrays:
            return pa.nulls(len(place), kind)
        array = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
        return array.take(pa.array(place, mask=place < 0))

    def _of_one_part(self, name: str, kind: pa.DataType) -> pa.Array:
        """`to_arrow` where all rows were written with one schema."""
        places, records = self.parts[0]
        column = records.column(name)
        if column is None:
            return pa.nulls(len(self.found), kind)
        array = column.to_arrow()
        if array.type != kind:
            array = array.cast(kind)
        return array if len(places) == len(self.found) else array.take(self._only_part)

    @cached_property
    def _only_part(self) -> pa.Array:
        """The place of each key among the rows of the one part, null where it was not found."""
        place = np.full(len(self.found), -1)
        place[self.parts[0].places] = np.arange(len(self.parts[0].places))
        return pa.array(place, mask=place < 0)

    def to_python(self, name: str, convert: Mapping[str, Callable[[list], list]]) -> list:
        """The same as Python values.

        convert: kind -> what turns a column's values into those to show.
        """
        shown: list = [None] * len(self.found)
        for places, records in self.parts:
            column = records.column(name)
            if column is None:
                continue
            values = column.to_python()
            if column.kind in convert:
                values = convert[column.kind](values)
            if len(places) == len(shown):
                return values
            for place, value in zip(places.tolist(), values, strict=True):
                shown[place] = value
        return shown


def read(
    environment: Environment,
    table: str,
    keys: Sequence[bytes],
    *,
    oldest: int | None = None,
    wanted: Sequence[str] | None = None,
) -> Answer:
    """The rows of n keys as of one moment; rows with an event time before `oldest` are expired.

    With `wanted`, only these features.

    Raises ArtifactError for records that are damaged or of a newer format.
    """
    with environment.reading(table) as txn:
        return read_rows(txn, keys, environment, oldest=oldest, wanted=wanted)


def read_rows(
    txn: Any,
    keys: Sequence[bytes],
    environment: Environment,
    *,
    oldest: int | None = None,
    wanted: Sequence[str] | None = None,
) -> Answer:
    """The same in a transaction on the table that is open; None: there is no such table."""
    got: list[Any] = [None] * len(keys) if txn is None else values_of(txn, keys)
    records = [record for record in got if record is not None]
    joined = Joined.of(records)
    fronts = joined.fronts()
    ids = fronts["schema"]
    schemas = {name: schema_of(txn, name, environment) for name in set(ids.tolist())}
    found, expired = np.ones(len(keys), bool), np.zeros(len(keys), bool)
    event = np.zeros(len(keys), np.int64)
    if len(records) < len(keys):
        found = np.zeros(len(keys), bool)
        found[[place for place, record in enumerate(got) if record is not None]] = True
    event[found] = fronts["event"]
    if oldest is not None and (expired := found & (event < oldest)).any():
        ids, found = ids[~expired[found]], found & ~expired
        records = [got[place] for place in np.flatnonzero(found).tolist()]
        joined = Joined.of(records)
    places, parts = np.flatnonzero(found), []
    for name, schema in schemas.items():
        if len(schemas) == 1:
            parts.append(Part(places, decode(schema, joined, wanted)))
            break
        mine = np.flatnonzero(ids == name)
        chosen = [records[i] for i in mine.tolist()]
        parts.append(Part(places[mine], decode(schema, chosen, wanted)))
    return Answer(found, expired, event, tuple(parts))


def write(environment: Environment, table: str, pieces: Callable[[], Iterable[Rows]]) -> int:
    """Write rows in any order, repeats of a key included, as one transaction.

    Returns how many were newer than what was there. Raises NewerFormatError, nothing written, when
    a row that is there is of a newer format.

    pieces: called again when the map had to grow; what it yields is in memory one piece at a time.
    """

    return environment.write(
        table, lambda txn: sum(put_rows(txn, rows, environment) for rows in pieces())
    )


def put_rows(txn: Any, rows: Rows, environment: Environment) -> int:
    """Write rows as `write` does, in a transaction on their table that is open."""
    _declare(txn, rows.schema, environment)
    order = rows.newest_by_key()
    return sum(
        _put(txn, rows.take(order[start : start + ROWS_AT_ONCE]))
        for start in range(0, len(order), ROWS_AT_ONCE)
    )


def glance(
    environment: Environment, table: str, *, samples: int
) -> tuple[int, list[tuple[int, bytes]]]:
    """The number of rows, and the newest `samples` of them: time (microseconds) and key.

    Newest first. Without samples it costs the same for any number of rows.
    """
    with environment.reading(table) as txn:
        if txn is None:
            return 0, []
        keys = txn.cursor().iternext(keys=True, values=False)
        schemas = sum(1 for _ in takewhile(lambda key: key.startswith(_SCHEMA), keys))
        rows, newest = txn.stat()["entries"] - schemas, list[tuple[int, bytes]]()
        cursor = (pair for pair in txn.cursor() if not pair[0].startswith(_SCHEMA))
        while samples and (piece := list(islice(cursor, ROWS_AT_ONCE))):
            event, _ = times(record for _, record in piece)
            top = np.argsort(-event, kind="stable")[:samples].tolist()
            newest = sorted(
                [*newest, *((int(event[i]), piece[i][0]) for i in top)],
                key=lambda row: (-row[0], row[1]),
            )[:samples]
        return rows, newest


def keyed_times(environment: Environment, table: str) -> Iterator[tuple[bytes, int]]:
    """The key of every row and the time of its event, microseconds."""
    with environment.reading(table) as txn:
        pairs = txn.cursor() if txn is not None else iter(())
        rows = (pair for pair in pairs if not pair[0].startswith(_SCHEMA))
        while piece := list(islice(rows, ROWS_AT_ONCE)):
            event, _ = times(record for _, record in piece)
            yield from zip((key for key, _ in piece), event.tolist(), strict=True)


def refuse_newer_rows(environment: Environment, table: str) -> None:
    """Raise NewerFormatError when the first row of a table is of a newer format. Each row is
    examined when it is read or replaced.
    """
    with environment.reading(table) as txn:
        pairs = txn.cursor() if txn is not None else ()
        rows = (record for key, record in pairs if not key.startswith(_SCHEMA))
        refuse_newer_records(islice(rows, 1))


def delete(environment: Environment, table: str, keys: Iterable[bytes]) -> int:
    """Remove the rows of keys, as one transaction. Returns how many there were."""
    return environment.write(table, lambda txn: sum(txn.delete(key) for key in keys))


def _put(txn: Any, rows: Rows) -> int:
    """Put sorted rows with distinct keys; returns how many were written.

    They are appended when they come after everything in the table, else put where they are newer.
    """
    keys = rows.keys.to_numpy(zero_copy_only=False).tolist()
    cursor = txn.cursor()
    if not cursor.last() or cursor.key() < keys[0]:
        records = encode(rows.schema, rows.columns, event=rows.event, created=rows.created)
        cursor.putmulti(
            zip(keys, records.to_numpy(zero_copy_only=False).tolist(), strict=True), append=True
        )
        return len(keys)
    old = values_of(txn, keys)
    refuse_newer_records(record for record in old if record is not None)
    there = np.fromiter((record is not None for record in old), bool, len(old))
    event, created = times(record for record in old if record is not None)
    older = np.zeros(len(keys), bool)
    same = rows.event[there] == event
    older[there] = (rows.event[there] < event) | (same & (rows.created[there] < created))
    if older.any():
        if older.all():
            return 0
        rows = rows.take(np.flatnonzero(~older))
        keys = rows.keys.to_numpy(zero_copy_only=False).tolist()
    records = encode(rows.schema, rows.columns, event=rows.event, created=rows.created)
    cursor.putmulti(zip(keys, records.to_numpy(zero_copy_only=False).tolist(), strict=True))
    return len(keys)


def _declare(txn: Any, schema: Schema, environment: Environment) -> None:
    key, text = _schema_key(schema.id), schema.to_json()
    there = txn.get(key)
    if there is None:
        txn.put(key, text)
    elif there != text:
        if _is_of(there, schema.id):
            raise ArtifactError(
                f"two schemas hash to {schema.id}: {there!r} and {text!r}; rename a feature"
            )
        raise _altered(schema.id, environment)


def schema_of(txn: Any, name: int, environment: Environment) -> Schema:
    """The schema of this id as the table has it.

    Raises ArtifactError when it is not there, or its text was altered.
    """
    text = txn.get(_schema_key(name))
    if text is None:
        raise ArtifactError(
            f"the online store {environment.path} holds a row of schema {name}, which it does not"
            " hold; it is damaged, materialize the view again"
        )
    if text not in _schemas or _schemas[text].id != name:
        if not _is_of(text, name):
            raise _altered(name, environment)
        _schemas[text] = Schema.from_json(text)
    return _schemas[text]


def _is_of(text: bytes, name: int) -> bool:
    """Whether a schema's text is that of this id, letter by letter: the id is its hash."""
    return schema_id(text) == name


def _altered(name: int, environment: Environment) -> ArtifactError:
    return ArtifactError(
        f"the online store {environment.path} holds schema {name} with another text than was"
        " written (its hash differs), so its rows cannot be read; the directory is damaged: move"
        " it away and materialize again"
    )


def _schema_key(name: int) -> bytes:
    return _SCHEMA + name.to_bytes(4, "little")


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
