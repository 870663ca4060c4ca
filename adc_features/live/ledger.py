"""Accepted events and what follows from them, changed together. Reads, writes: one LMDB directory.

A commit decides of each event whether it is accepted (once, whatever is sent twice), folds the
accepted ones into the states of their keys, serves the rows of these keys, and remembers all of it
for the history, in one transaction. An event is acknowledged after that, so that none that was
acknowledged is lost or counted twice.

Legend: W watermark: events before it are late; P publish time: when the rows of a commit became
visible, strictly rising. Both in microseconds since 1970 UTC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import TIMESTAMP
from adc_features.aggregates.declaration import AggregateView, EventStream, microseconds_of, to_json
from adc_features.aggregates.events import EVENT_ID, Events, event_schema, together
from adc_features.aggregates.incremental import Incremental
from adc_features.clock import instant, moment
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import UTC_US
from adc_features.live.incoming import Fault, Incoming, letter
from adc_features.live.outbox import time_key
from adc_features.live.settings import LiveSettings
from adc_features.store.lmdb.entity_keys import LONGEST
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.incoming import rows_of
from adc_features.store.lmdb.row_table import put_rows

META, LETTERS = "meta", "letters"
_MINUTE = 60_000_000
_PUBLISHED = b"published"
_FORGET_AT_ONCE = 16
"""Minutes of ids that one commit forgets at most, so that none takes long."""


class Decision(IntEnum):
    """What became of an event."""

    ACCEPTED = 0
    HELD = 1
    DUPLICATE = 2
    CONFLICT = 3
    LATE = 4
    FUTURE = 5


REASONS = {
    Decision.CONFLICT: "another event of the same id was accepted before; the first one holds",
    Decision.LATE: "it is older than the watermark, {watermark}: what was served and computed"
    " before would change",
    Decision.FUTURE: "its time is more than {tolerance} ahead of our clock, {now}",
}


class Receipt(NamedTuple):
    """What became of the events of one request.

    accepted: counted, durable and visible; held: durable, counted when their time has come;
    duplicates: were accepted before; faults: those that were refused, with the reason; published:
    as of when rows that contain the accepted ones are served.
    """

    accepted: int
    held: int
    duplicates: int
    faults: tuple[Fault, ...]
    published: datetime


class Position(NamedTuple):
    """A place in a source of events: `after` follows `before` in `partition`."""

    source: str
    partition: str
    before: str | None
    after: str


@dataclass(frozen=True)
class ServedView:
    """A declared view, the Feast view of its rows and the table in which they are served."""

    declared: AggregateView
    view: Any
    table: str

    @property
    def history(self) -> str:
        """The table of rows that are not yet in the view's history."""
        return f"history/{self.declared.name}"


def _declaration(one: ServedView) -> bytes:
    return f"declaration/{one.declared.name}".encode()


def accepted_table(stream: str) -> str:
    """The table of accepted events, a batch for each publish time, that are in no segment yet."""
    return f"accepted/{stream}"


def _ids(stream: str) -> str:
    return f"ids/{stream}"


def _held(stream: str) -> str:
    return f"held/{stream}"


def _minutes(stream: str) -> str:
    return f"minutes/{stream}"


def states_table(stream: str) -> str:
    """The table of the states of every view of a stream."""
    return f"states/{stream}"


_OF_STREAM = (accepted_table, states_table, _ids, _minutes, _held)


class States:
    """States of keys in a table of a transaction."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def states(self, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The state of each key under a name; None of a key without one."""
        get = self._table.get
        found = [get(state_key(name, key)) for key in keys]
        return [None if state is None else bytes(state) for state in found]

    def put(self, states: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Keep states, by name and key."""
        pairs = sorted(
            (state_key(name, key), state)
            for name, of_keys in states.items()
            for key, state in of_keys.items()
        )
        self._table.cursor().putmulti(pairs)


def state_key(name: str, key: bytes) -> bytes:
    """Where a state lies in its table."""
    whole = name.encode() + b"\0" + key
    if len(whole) <= LONGEST:
        return whole
    return b"#" + hashlib.blake2b(whole, digest_size=32).digest()


@dataclass
class Ledger:
    """The live directory of a repository.

    Parameters
    ----------
    environment : Environment
    views : sequence of ServedView
    settings : LiveSettings
    clock : callable
        The time, aware.
    """

    environment: Environment
    views: Sequence[ServedView]
    settings: LiveSettings
    clock: Callable[[], datetime]
    streams: Mapping[str, EventStream] = field(init=False)
    engines: Mapping[str, Incremental] = field(init=False)

    def __post_init__(self) -> None:
        self.streams = {one.declared.stream.name: one.declared.stream for one in self.views}
        self.engines = {
            name: Incremental(one.declared for one in self.views if one.declared.stream == stream)
            for name, stream in self.streams.items()
        }

    # ---- reading

    def facts(self) -> dict[str, Any]:
        """What is known of the directory as of now: watermarks, counts, positions, publish time."""
        with self.environment.reading(META) as txn:
            pairs = {} if txn is None else {bytes(k): bytes(v) for k, v in txn.cursor()}
        return {
            "published": int(pairs[_PUBLISHED]) if _PUBLISHED in pairs else None,
            "watermarks": _named(pairs, b"watermark/"),
            "positions": _named(pairs, b"position/"),
            "counts": json.loads(pairs.get(b"counts", b"{}")),
        }

    def check_declarations(self) -> None:
        """Raise InputError for a view whose states were made by another declaration."""
        with self.environment.reading(META) as txn:
            for one in self.views:
                stored = None if txn is None else txn.get(_declaration(one))
                if stored is not None and bytes(stored) != to_json(one.declared).encode():
                    raise InputError(
                        f"the live view {one.declared.name!r} holds states of another declaration;"
                        " give the changed view a name of its own, or rebuild it from its events,"
                        " `adc ingest --rebuild`"
                    )

    # ---- writing

    def tables(self) -> list[str]:
        """The tables that a commit changes."""
        return [
            META,
            LETTERS,
            *(table(name) for name in self.streams for table in _OF_STREAM),
            *(name for one in self.views for name in (one.table, one.history)),
        ]

    def commit(
        self, requests: Sequence[Incoming], *, position: Position | None = None
    ) -> list[Receipt]:
        """Decide of the events of several requests, in their order, and fold what is accepted.

        Parameters
        ----------
        requests : sequence of Incoming
        position : Position, optional
            Where their source stands before and after them.

        Returns
        -------
        list of Receipt
            One for each request. What they say is durable and visible.

        Raises
        ------
        ArtifactError
            The directory cannot be written, or another process has read the source further;
            nothing was changed.
        """
        return self.environment.write_tables(
            self.tables(), lambda tables: _Commit(self, tables).run(requests, position)
        )


class _Commit:
    """One transaction."""

    def __init__(self, ledger: Ledger, tables: Mapping[str, Any]) -> None:
        self.ledger, self.tables, self.meta = ledger, tables, tables[META]
        self.now = int(instant(ledger.clock()).astype(np.int64))
        # never twice, also when the clock is set back
        self.published = max(self.now, int(self.meta.get(_PUBLISHED) or -1) + 1)
        self.counts = json.loads(self.meta.get(b"counts") or b"{}")
        self.letters: list[bytes] = []

    def run(self, requests: Sequence[Incoming], position: Position | None) -> list[Receipt]:
        if position is not None:
            self._move(position)
        decided = [np.full(len(request), Decision.ACCEPTED, np.int8) for request in requests]
        watermarks = {name: self._watermark(name) for name in self.ledger.streams}
        for name in self.ledger.streams:
            mine = [i for i, request in enumerate(requests) if request.stream == name]
            self._stream(name, [requests[i] for i in mine], [decided[i] for i in mine])
        receipts = [
            self._receipt(request, decision, watermarks)
            for request, decision in zip(requests, decided, strict=True)
        ]
        if self.letters:
            self.tables[LETTERS].put(time_key(self.published), b"\n".join(self.letters) + b"\n")
        for one in self.ledger.views:
            if self.meta.get(_declaration(one)) is None:
                self.meta.put(_declaration(one), to_json(one.declared).encode())
        self.meta.put(_PUBLISHED, str(self.published).encode())
        self.meta.put(b"counts", json.dumps(self.counts).encode())
        return receipts

    def _move(self, position: Position) -> None:
        key = f"position/{position.source}/{position.partition}".encode()
        stored = self.meta.get(key)
        if (None if stored is None else bytes(stored).decode()) != position.before:
            raise ArtifactError(
                f"{position.source}, partition {position.partition}: another process has read it"
                f" to {bytes(stored or b'nowhere').decode()}, this one started from"
                f" {position.before}; nothing was written, stop one of them"
            )
        self.meta.put(key, position.after.encode())

    def _watermark(self, stream: str) -> int | None:
        stored = self.meta.get(f"watermark/{stream}".encode())
        return None if stored is None else int(bytes(stored))

    def _stream(
        self, name: str, requests: Sequence[Incoming], decided: Sequence[np.ndarray]
    ) -> None:
        """Decide of the events of one stream, and fold those that are accepted."""
        stream, watermark = self.ledger.streams[name], self._watermark(name)
        self._decide(name, requests, decided, watermark)
        self._remember(name, requests, decided)
        held = _chosen(stream, requests, decided, Decision.HELD)
        for row, time in enumerate(held.times.tolist()):
            event = held.table.slice(row, 1)
            key = time_key(time + _SHIFT) + event[EVENT_ID][0].as_py()
            self.tables[_held(name)].put(key, serialized(event))
        accepted = _chosen(stream, requests, decided, Decision.ACCEPTED)
        accepted = together(accepted, *self._due(stream))
        if not len(accepted):
            return
        self.tables[accepted_table(name)].put(time_key(self.published), serialized(accepted.table))
        self._fold(stream, accepted)
        newest = int(accepted.times[-1]) - microseconds_of(stream.lateness)
        moved = newest if watermark is None else max(watermark, newest)
        self.meta.put(f"watermark/{name}".encode(), str(moved).encode())
        self._forget_ids(name, moved)

    def _decide(
        self,
        name: str,
        requests: Sequence[Incoming],
        decided: Sequence[np.ndarray],
        watermark: int | None,
    ) -> None:
        """Set the decision of each event: known ids first, then times."""
        hashes = [h for request in requests for h in request.hashes]
        known = dict(self.tables[_ids(name)].cursor().getmulti(hashes))
        latest = self.now + microseconds_of(self.ledger.settings.tolerance)
        for request, decision in zip(requests, decided, strict=True):
            times = request.times
            if watermark is not None:
                decision[times < watermark] = Decision.LATE
            decision[times > self.now] = Decision.HELD
            decision[times > latest] = Decision.FUTURE
            for i, (key, digest) in enumerate(zip(request.hashes, request.digests, strict=True)):
                before = known.get(key)
                if before is not None:
                    same = before == digest
                    decision[i] = Decision.DUPLICATE if same else Decision.CONFLICT
                elif decision[i] <= Decision.HELD:
                    known[key] = digest

    def _due(self, stream: EventStream) -> list[Events]:
        """Held events whose time has come; they are held no longer."""
        held, due = self.tables[_held(stream.name)], []
        for key, value in list(held.cursor()):
            if int.from_bytes(bytes(key)[:8], "big") - _SHIFT > self.now:
                break
            due.append(Events.accepted(stream, parsed(value)))
            held.delete(key)
        return due

    def _remember(
        self, name: str, requests: Sequence[Incoming], decided: Sequence[np.ndarray]
    ) -> None:
        """Keep the ids of what was accepted or is held, and by minute, to be forgotten."""
        pairs, minutes = [], dict[int, list[bytes]]()
        for request, decision in zip(requests, decided, strict=True):
            kept = np.flatnonzero(decision <= Decision.HELD)
            at = (request.times[kept] // _MINUTE).tolist()
            for i, minute in zip(kept.tolist(), at, strict=True):
                pairs.append((request.hashes[i], request.digests[i]))
                minutes.setdefault(minute, []).append(request.hashes[i])
        self.tables[_ids(name)].cursor().putmulti(sorted(pairs))
        table = self.tables[_minutes(name)]
        for minute, hashes in minutes.items():
            table.put(time_key(minute + _SHIFT) + time_key(self.published), b"".join(hashes))

    def _forget_ids(self, name: str, watermark: int) -> None:
        """Forget ids of events that would be late by now, whatever they were."""
        minutes, ids = self.tables[_minutes(name)], self.tables[_ids(name)]
        old = []
        for key, hashes in minutes.cursor():
            minute = int.from_bytes(bytes(key)[:8], "big") - _SHIFT
            if (minute + 1) * _MINUTE > watermark or len(old) == _FORGET_AT_ONCE:
                break
            old.append((bytes(key), bytes(hashes)))
        for key, hashes in old:
            for start in range(0, len(hashes), 16):
                ids.delete(hashes[start : start + 16])
            minutes.delete(key)

    def _fold(self, stream: EventStream, events: Events) -> None:
        """States and rows of the keys of accepted events."""
        states = States(self.tables[states_table(stream.name)])
        advanced = self.ledger.engines[stream.name].advance(states, events)
        states.put(advanced.states)
        stamp = pa.scalar(self.published, UTC_US)
        for one in self.ledger.views:
            rows = advanced.rows.get(one.declared.name)
            if rows is None:
                continue
            place = rows.column_names.index(TIMESTAMP)
            rows = rows.set_column(place, TIMESTAMP, pa.repeat(stamp, len(rows)))
            put_rows(
                self.tables[one.table],
                rows_of(one.view, rows, event=TIMESTAMP, created=None),
                self.ledger.environment,
            )
            self.tables[one.history].put(time_key(self.published), serialized(rows))

    def _receipt(
        self, request: Incoming, decision: np.ndarray, watermarks: Mapping[str, int | None]
    ) -> Receipt:
        faults = list(request.faults)
        for kind, text in REASONS.items():
            for i in np.flatnonzero(decision == kind).tolist():
                reason = text.format(
                    watermark=_shown(watermarks[request.stream]),
                    tolerance=self.ledger.settings.tolerance,
                    now=_shown(self.now),
                )
                place = int(request.places[i])
                faults.append(Fault(place, reason, request.sent[place]))
        arrived = moment(np.datetime64(self.now, "us"))
        self.letters += [letter(f, stream=request.stream, arrived=arrived) for f in faults]
        number = {kind: int((decision == kind).sum()) for kind in Decision}
        mine = self.counts.setdefault(request.stream, {})
        for kind, n in (*number.items(), (None, len(request.faults))):
            told = "unreadable" if kind is None else kind.name.lower()
            mine[told] = mine.get(told, 0) + n
        return Receipt(
            number[Decision.ACCEPTED],
            number[Decision.HELD],
            number[Decision.DUPLICATE],
            tuple(sorted(faults, key=lambda fault: fault.place)),
            moment(np.datetime64(self.published, "us")),
        )


_SHIFT = 1 << 62
"""Added to times that may lie before 1970, so that their keys sort."""


def _chosen(
    stream: EventStream,
    requests: Sequence[Incoming],
    decided: Sequence[np.ndarray],
    decision: Decision,
) -> Events:
    """The events of which this was decided."""
    tables = [
        request.table.filter(pa.array(of == decision))
        for request, of in zip(requests, decided, strict=True)
    ]
    if not any(len(table) for table in tables):
        return Events(stream, event_schema(stream).empty_table())
    return Events.of(stream, pa.concat_tables(tables))


def serialized(table: pa.Table) -> bytes:
    """A table as bytes, its schema included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def parsed(data: bytes) -> pa.Table:
    """The table of `serialized`."""
    with pa.ipc.open_stream(pa.py_buffer(bytes(data))) as stream:
        return stream.read_all()


def _named(pairs: Mapping[bytes, bytes], prefix: bytes) -> dict[str, str]:
    return {
        key[len(prefix) :].decode(): value.decode()
        for key, value in pairs.items()
        if key.startswith(prefix)
    }


def _shown(time: int | None) -> str:
    return "none" if time is None else moment(np.datetime64(time, "us")).isoformat()
