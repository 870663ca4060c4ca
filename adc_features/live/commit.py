"""One transaction on the live directory: what becomes of events, and what follows. Reads, writes:
its tables.

The watermark of a stream: events before it are late. The publish time of a commit: when its rows
became visible, strictly rising. Both are in microseconds since 1970 UTC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import TIMESTAMP
from adc_features.aggregates.declaration import EventStream, microseconds_of
from adc_features.aggregates.events import EVENT_ID, Events, together
from adc_features.aggregates.incremental import Advance, Incremental
from adc_features.aggregates.record import to_json
from adc_features.clock import instant, moment
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import UTC_US
from adc_features.live import awaiting, freshness
from adc_features.live.awaiting import Looked
from adc_features.live.decisions import REASONS, Decision, Position, Receipt, chosen, shown_time
from adc_features.live.incoming import Fault, Incoming, incoming, letter
from adc_features.live.known_items import Known
from adc_features.live.settings import LiveSettings
from adc_features.live.tables import (
    LETTERS,
    META,
    ServedView,
    States,
    accepted_table,
    awaiting_table,
    held_table,
    ids_table,
    keep_format,
    minutes_table,
    published_at,
    signed_key,
    signed_time,
    states_table,
    time_key,
)
from adc_features.live.tombstones import TOMBSTONES, Tombstones
from adc_features.store.lmdb.arrow_values import table_bytes, table_of
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.incoming import rows_of
from adc_features.store.lmdb.row_table import put_rows

COUNTS, LAST_COMMIT = b"counts", b"published"
_MINUTE = 60_000_000
_FORGET_AT_ONCE = 16
"""Minutes of ids that one commit forgets at most, so that none takes long."""
_FOLDED_AT_ONCE = 100_000
"""Events of a history folded at once: bounds the memory beside it."""
_ANY_DIGEST = bytes(8)
"""Of an event that came with a history: whatever has its id is the same event."""


@dataclass
class LiveDirectory:
    """What a commit needs to know.

    Parameters
    ----------
    environment : Environment
    views : sequence of ServedView
    settings : LiveSettings
    clock : callable
        The time, aware.
    items : mapping of str to Known
        What tells known items, of the streams that do not take events of others.
    """

    environment: Environment
    views: Sequence[ServedView]
    settings: LiveSettings
    clock: Callable[[], datetime]
    items: Mapping[str, Known] = field(default_factory=dict)
    streams: Mapping[str, EventStream] = field(init=False)
    engines: Mapping[str, Incremental] = field(init=False)

    def __post_init__(self) -> None:
        self.streams = {one.declared.stream.name: one.declared.stream for one in self.views}
        self.engines = {
            name: Incremental(one.declared for one in self.views if one.declared.stream == stream)
            for name, stream in self.streams.items()
        }


class Commit:
    """One transaction."""

    def __init__(
        self, ledger: LiveDirectory, tables: Mapping[str, Any], looked: Mapping[str, Looked]
    ) -> None:
        """looked: which items are known, by stream; every one of a stream that is not there."""
        self.ledger, self.tables, self.meta = ledger, tables, tables[META]
        self.looked = {name: looked.get(name, Looked()) for name in ledger.streams}
        self.now = int(instant(ledger.clock()).astype(np.int64))
        # never twice, also when the clock is set back
        self.published = max(self.now, int(self.meta.get(LAST_COMMIT) or -1) + 1)
        self.counts = json.loads(self.meta.get(COUNTS) or b"{}")
        self.letters: list[bytes] = []
        self.forgotten = Tombstones(tables[TOMBSTONES])
        self._sent = 0

    def run(self, requests: Sequence[Incoming], position: Position | None) -> list[Receipt]:
        if position is not None:
            self._move(position)
        decided = [np.full(len(request), Decision.ACCEPTED, np.int8) for request in requests]
        watermarks = {name: self.watermark(name) for name in self.ledger.streams}
        for name in self.ledger.streams:
            mine = [i for i, request in enumerate(requests) if request.stream == name]
            self._stream(name, [requests[i] for i in mine], [decided[i] for i in mine])
        receipts = [
            self._receipt(request, decision, watermarks)
            for request, decision in zip(requests, decided, strict=True)
        ]
        self.close()
        return receipts

    def begin(
        self,
        name: str,
        events: Events,
        known_as: Mapping[bytes, bytes],
        *,
        files: Callable[[int], None],
    ) -> int:
        """See `Ledger.begin`."""
        stream = self.ledger.streams[name]
        if self.watermark(name) is not None:
            raise InputError(
                f"the stream {name!r} has accepted events already; a history is taken over before"
                " the first one, send further events as such"
            )
        if not len(events):
            raise InputError(f"the history of {name!r} has no event; send events as they come")
        newest = int(events.times[-1])
        if newest > self.now:
            raise InputError(
                f"the history of {name!r} ends in the future, at {shown_time(newest)}; correct the"
                " times, or drop these events"
            )
        files(self.published)
        for start in range(0, len(events), _FOLDED_AT_ONCE):
            piece = events.table.slice(start, _FOLDED_AT_ONCE)
            self._fold(stream, Events(stream, piece), keep_history=False)
        self._keep_watermark(stream, newest)
        again = np.flatnonzero(events.times >= newest - microseconds_of(stream.lateness))
        recent = events.where(again)
        ids = [known_as[one] for one in recent.table[EVENT_ID].to_pylist()]
        self._keep_ids(name, ids, [_ANY_DIGEST] * len(ids), recent.times)
        self.counts.setdefault(name, {})["history"] = len(events)
        self.close()
        return self.published

    def close(self) -> None:
        """Write what was counted and refused."""
        if self.letters:
            self.tables[LETTERS].put(time_key(self.published), b"\n".join(self.letters) + b"\n")
        for one in self.ledger.views:
            if self.meta.get(one.declaration) is None:
                self.meta.put(one.declaration, to_json(one.declared).encode())
        keep_format(self.meta)
        self.meta.put(LAST_COMMIT, str(self.published).encode())
        self.meta.put(COUNTS, json.dumps(self.counts).encode())

    def _move(self, position: Position) -> None:
        key = f"position/{position.source}/{position.partition}".encode()
        stored = self.meta.get(key)
        if (None if stored is None else stored.decode()) != position.before:
            raise ArtifactError(
                f"{position.source}, partition {position.partition}: another process has read it"
                f" to {(stored or b'nowhere').decode()}, this one started from"
                f" {position.before}; nothing was written, stop one of them"
            )
        self.meta.put(key, position.after.encode())

    def watermark(self, stream: str) -> int | None:
        """Of a stream; None before its first event."""
        stored = self.meta.get(f"watermark/{stream}".encode())
        return None if stored is None else int(stored)

    def _stream(
        self, name: str, requests: Sequence[Incoming], decided: Sequence[np.ndarray]
    ) -> None:
        """Decide of the events of one stream, and fold those that are accepted."""
        stream, watermark = self.ledger.streams[name], self.watermark(name)
        self._decide(name, requests, decided, watermark)
        self._remember(name, requests, decided)
        self._hold(chosen(stream, requests, decided, Decision.HELD))
        accepted = chosen(stream, requests, decided, Decision.ACCEPTED)
        accepted = together(accepted, *self._due(stream), *self._come(stream, watermark))
        for request, decision in zip(requests, decided, strict=True):
            awaiting.put(self.tables[awaiting_table(name)], request, decision == Decision.AWAITING)
        if not len(accepted):
            return
        self.log(accepted)
        freshness.count_events(self.meta, name, accepted.times, published=self.published)
        self._fold(stream, accepted)
        self._keep_watermark(stream, int(accepted.times[-1]))

    def _hold(self, events: Events) -> None:
        """Keep events until their time has come."""
        for row, time in enumerate(events.times.tolist()):
            event = events.table.slice(row, 1)
            key = signed_key(time, event[EVENT_ID][0].as_py())
            self.tables[held_table(events.stream.name)].put(key, table_bytes(event))

    def _come(self, stream: EventStream, watermark: int | None) -> list[Events]:
        """Events whose item has come; those that are late by now are put aside."""
        table = self.tables[awaiting_table(stream.name)]
        come, late = awaiting.take(table, stream, self.looked[stream.name], watermark)
        reason = f"its item had not come when the watermark passed it, {shown_time(watermark)}"
        self._refuse(stream.name, "late", [Fault(0, reason, event) for event in late])
        self.count(stream.name, "overdue", len(late))
        if not come:
            return []
        events = Events.of(stream, incoming(stream, come).table)
        self._hold(events.where(np.flatnonzero(events.times > self.now)))
        return [events.where(np.flatnonzero(events.times <= self.now))]

    def log(self, accepted: Events) -> None:
        """Keep accepted events."""
        kept = published_at(accepted.table, self.published)
        table = self.tables[accepted_table(accepted.stream.name)]
        table.put(time_key(self.published), table_bytes(kept))

    def _keep_watermark(self, stream: EventStream, newest: int) -> None:
        """Move the watermark after the newest accepted event; it never moves back."""
        watermark = self.watermark(stream.name)
        moved = newest - microseconds_of(stream.lateness)
        moved = moved if watermark is None else max(watermark, moved)
        self.meta.put(f"watermark/{stream.name}".encode(), str(moved).encode())
        self._forget_ids(stream.name, moved)

    def _decide(
        self,
        name: str,
        requests: Sequence[Incoming],
        decided: Sequence[np.ndarray],
        watermark: int | None,
    ) -> None:
        """Set the decision of each event: known ids first, then times."""
        stream, looked = self.ledger.streams[name], self.looked[name]
        unknown = Decision.AWAITING if stream.unknown_items == "hold" else Decision.UNKNOWN
        hashes = [h for request in requests for h in request.hashes]
        known = dict(self.tables[ids_table(name)].cursor().getmulti(hashes))
        latest = self.now + microseconds_of(self.ledger.settings.tolerance)
        for request, decision in zip(requests, decided, strict=True):
            times = request.times
            if watermark is not None:
                decision[times < watermark] = Decision.LATE
            decision[times > self.now] = Decision.HELD
            decision[times > latest] = Decision.FUTURE
            decision[(decision <= Decision.HELD) & looked.lacks(request, stream)] = unknown
            gone = self.forgotten.covered(stream.keys, request.table, times)
            decision[gone] = Decision.FORGOTTEN
            if not known and len(set(hashes)) == len(hashes):
                continue  # none comes again
            for i, (key, digest) in enumerate(zip(request.hashes, request.digests, strict=True)):
                before = None if gone[i] else known.get(key)
                if before is not None:
                    same = before in (digest, _ANY_DIGEST)
                    decision[i] = Decision.DUPLICATE if same else Decision.CONFLICT
                elif decision[i] <= Decision.AWAITING:
                    known[key] = digest

    def _due(self, stream: EventStream) -> list[Events]:
        """Held events whose time has come; they are held no longer."""
        held, due = self.tables[held_table(stream.name)], []
        for key, value in list(held.cursor()):
            if signed_time(key) > self.now:
                break
            due.append(Events.accepted(stream, table_of(value)))
            held.delete(key)
        return due

    def _remember(
        self, name: str, requests: Sequence[Incoming], decided: Sequence[np.ndarray]
    ) -> None:
        """Keep the ids of what was accepted or is held, and by minute, to be forgotten."""
        kept = [np.flatnonzero(decision <= Decision.AWAITING).tolist() for decision in decided]
        hashes, digests = (
            [of[i] for of, rows in zip(each, kept, strict=True) for i in rows]
            for each in ([r.hashes for r in requests], [r.digests for r in requests])
        )
        times = [r.times[rows] for r, rows in zip(requests, kept, strict=True)]
        self._keep_ids(name, hashes, digests, np.concatenate([np.empty(0, np.int64), *times]))

    def _keep_ids(
        self, name: str, hashes: Sequence[bytes], digests: Sequence[bytes], times: np.ndarray
    ) -> None:
        self.tables[ids_table(name)].cursor().putmulti(sorted(zip(hashes, digests, strict=True)))
        minutes = dict[int, list[bytes]]()
        for key, minute in zip(hashes, (times // _MINUTE).tolist(), strict=True):
            minutes.setdefault(minute, []).append(key)
        table = self.tables[minutes_table(name)]
        for minute, keys in minutes.items():
            table.put(signed_key(minute, time_key(self.published)), b"".join(keys))

    def _forget_ids(self, name: str, watermark: int) -> None:
        """Forget ids of events that would be late by now, whatever they were."""
        minutes, ids = self.tables[minutes_table(name)], self.tables[ids_table(name)]
        old = list[tuple[bytes, bytes]]()
        for key, hashes in minutes.cursor():
            if (signed_time(key) + 1) * _MINUTE > watermark or len(old) == _FORGET_AT_ONCE:
                break
            old.append((key, hashes))
        for key, hashes in old:
            for start in range(0, len(hashes), 16):
                ids.delete(hashes[start : start + 16])
            minutes.delete(key)

    def _fold(self, stream: EventStream, events: Events, *, keep_history: bool = True) -> None:
        """States and rows of the keys of accepted events."""
        states = States(self.tables[states_table(stream.name)])
        advanced = self.ledger.engines[stream.name].advance(states, events)
        self.serve(stream, advanced, keep_history=keep_history)

    def serve(self, stream: EventStream, advanced: Advance, *, keep_history: bool = True) -> None:
        """Keep states, and serve rows from now on."""
        States(self.tables[states_table(stream.name)]).put(advanced.states)
        stamp = pa.scalar(self.published, UTC_US)
        for one in self.ledger.views:
            rows = advanced.rows.get(one.declared.name)
            if rows is None:
                continue
            place = rows.column_names.index(TIMESTAMP)
            rows = rows.set_column(place, TIMESTAMP, pa.repeat(stamp, len(rows)))
            self._serve(one, rows)
            freshness.note_rows(self.meta, one.declared.name, published=self.published)
            if keep_history:
                self.tables[one.history].put(time_key(self.published), table_bytes(rows))

    def _serve(self, one: ServedView, rows: pa.Table) -> None:
        """Put rows where they are served, or where they wait to be taken to another store."""
        if one.elsewhere:
            key = time_key(self.published) + self._sent.to_bytes(4, "big")
            self.tables[one.outbox].put(key, table_bytes(rows))
            self._sent += 1
        else:
            made = rows_of(one.view, rows, event=TIMESTAMP, created=None)
            put_rows(self.tables[one.table], made, self.ledger.environment)

    def _receipt(
        self, request: Incoming, decision: np.ndarray, watermarks: Mapping[str, int | None]
    ) -> Receipt:
        faults = list(request.faults)
        self._refuse(request.stream, "unreadable", faults)
        for kind, text in REASONS.items():
            if not (places := request.places[decision == kind].tolist()):
                continue
            reason = text.format(
                watermark=shown_time(watermarks[request.stream]),
                tolerance=self.ledger.settings.tolerance,
                now=shown_time(self.now),
            )
            refused = [Fault(place, reason, request.sent[place]) for place in places]
            if kind != Decision.FORGOTTEN:
                self._refuse(request.stream, kind.name.lower(), refused)
            faults += refused
        number = {kind: int((decision == kind).sum()) for kind in Decision}
        self.count(request.stream, "unreadable", len(request.faults))
        for kind, n in number.items():
            self.count(request.stream, kind.name.lower(), n)
        return Receipt(
            number[Decision.ACCEPTED],
            number[Decision.HELD] + number[Decision.AWAITING],
            number[Decision.DUPLICATE],
            tuple(sorted(faults, key=lambda fault: fault.place)),
            moment(np.datetime64(self.published, "us")),
        )

    def count(self, stream: str, outcome: str, number: int) -> None:
        """Count events of an outcome."""
        mine = self.counts.setdefault(stream, {})
        mine[outcome] = mine.get(outcome, 0) + number

    def _refuse(self, stream: str, outcome: str, faults: Sequence[Fault]) -> None:
        """Put events aside, as what was decided of them and why; of somebody who was forgotten, the
        reason alone.
        """
        arrived = moment(np.datetime64(self.now, "us"))
        keys = self.ledger.streams[stream].keys
        kept = [self.forgotten.emptied(fault, keys) for fault in faults]
        self.letters += [
            letter(fault, stream=stream, outcome=outcome, arrived=arrived) for fault in kept
        ]
