"""Events, states, served rows and their files, without some users. Reads, writes: the live
directory of a repository.

What is keyed by the user goes: states, served rows, rows of history; so do refused events and
events that were held. An accepted event also counts in sums of other keys, of its item and of
everybody. It stays, so that these are what they were, and its user becomes a random id.

One transaction changes all that is served, and buries the ids (`adc_features.live.tombstones`);
the files follow. A process that dies between leaves files that hold the user still, and a secret
beside the tombstone that says so. Called again, it does what is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import TIMESTAMP, batch_rows
from adc_features.aggregates.declaration import TIME, EventStream
from adc_features.aggregates.events import EVENT_ID, Events, event_schema
from adc_features.aggregates.incremental import batch_states, newest_rows
from adc_features.aggregates.keys import keys_of
from adc_features.aggregates.plans import columns_of_states
from adc_features.artifact import sync_directory, write_atomically
from adc_features.clock import instant
from adc_features.event_times import UTC_US
from adc_features.forget.anonymous import Anonymous, reads_ids
from adc_features.forget.subject import Subject
from adc_features.live.commit import LAST_COMMIT
from adc_features.live.history import as_parquet
from adc_features.live.incoming import incoming, place_ids
from adc_features.live.outbox import Outbox
from adc_features.live.repository import Live
from adc_features.live.tables import (
    LETTERS,
    META,
    ServedView,
    accepted_table,
    awaiting_table,
    held_table,
    ids_table,
    minutes_table,
    signed_time,
    state_key,
    states_table,
    time_key,
)
from adc_features.live.tombstones import TOMBSTONES, Tombstone, Tombstones
from adc_features.parquet_files import read_parquet
from adc_features.store.lmdb.arrow_values import table_bytes, table_of
from adc_features.store.lmdb.entity_keys import key_array
from adc_features.store.lmdb.incoming import rows_of
from adc_features.store.lmdb.row_table import put_rows
from adc_features.store.packed.overlay import live_environment
from adc_features.store.parquet.segments import uncovered

_MINUTE = 60_000_000
KINDS = ("events", "held_events", "states", "rows", "history", "dead_letters")
"""What is counted."""
Counts = dict[str, int]


def forget_live(live: Live, subject: Subject, *, dry_run: bool = False) -> Counts:
    """Forget ids in a live directory and its files.

    Parameters
    ----------
    live : Live
    subject : Subject
    dry_run : bool
        Change nothing, only count.

    Returns
    -------
    dict of str to int
        Kind of data -> how much of it was deleted; of events, how many have a random id now.

    Raises
    ------
    ArtifactError
        The directory or a file cannot be read or written; call it again.
    """
    with live.histories.alone():
        return _Forgetting(live, subject, dry_run=dry_run).run()


def bury(repo: Path, subject: Subject, now: datetime) -> Counts:
    """Refuse, should the repository ever take events, those of these ids from before now."""
    until = int(instant(now).astype(np.int64))

    def change(tables: Any) -> None:
        tombstones = Tombstones(tables)
        for one in subject.ids:
            tombstones.put(subject.key, one, Tombstone(until, None))

    live_environment(repo).write(TOMBSTONES, change)
    return {}


class _Counted(Exception):
    """Ends a transaction without a change."""


class _Forgetting:
    """One call: the files stand still meanwhile, commits go on."""

    def __init__(self, live: Live, subject: Subject, *, dry_run: bool) -> None:
        self.ledger, self.histories = live
        self.subject, self.key, self.dry_run = subject, subject.key, dry_run
        streams = self.ledger.streams
        self.streams = {name: s for name, s in streams.items() if self.key in s.keys}
        self.counts: Counts = {}
        self.marks: dict[str, Tombstone] = {}
        self.anonymous: dict[str, Anonymous] = {}
        self.holders: dict[str, list[Path]] = {}
        self.published = 0

    def run(self) -> Counts:
        outboxes = {name: self.histories.events(name) for name in self.streams}
        self.holders = {n: self._holders(_files(outbox)) for n, outbox in outboxes.items()}
        filed = {
            name: self._theirs(stream, map(read_parquet, _read(outboxes[name], self.holders[name])))
            for name, stream in self.streams.items()
        }
        with suppress(_Counted):
            self.ledger.environment.write_tables(
                self.ledger.tables(), lambda tables: self._change(tables, filed)
            )
        self._change_files()
        if not self.dry_run:
            self.ledger.environment.write_tables([TOMBSTONES], self._close)
        return self.counts

    # ---- what is served

    def _change(self, tables: Mapping[str, Any], filed: Mapping[str, pa.Table]) -> None:
        self.counts = dict.fromkeys(KINDS, 0)  # called again when the map had to grow
        waiting = {n: _entries(tables[accepted_table(n)]) for n in self.streams}
        held = {n: _entries(tables[held_table(n)]) for n in self.streams}
        awaiting = {n: _awaiting(tables[awaiting_table(n)], s) for n, s in self.streams.items()}
        theirs = {
            name: self._theirs(stream, [filed[name], *(t for e in each for t in e[name].values())])
            for name, stream in self.streams.items()
            for each in [(waiting, held, awaiting)]
        }
        self._bury(tables, theirs)
        for name, stream in self.streams.items():
            self._change_events(tables, stream, waiting[name])
            self._delete_held(tables[held_table(name)], held[name])
            self._delete_held(tables[awaiting_table(name)], awaiting[name])
            self._delete_ids(tables, name, theirs[name])
            for one in self._views(name):
                self._change_view(tables, one, theirs[name])
        for key, lines in list(tables[LETTERS].cursor()):
            if (kept := self._without_letters(lines)) != lines:
                tables[LETTERS].put(key, kept)
        if self.dry_run:
            raise _Counted

    def _bury(self, tables: Mapping[str, Any], theirs: Mapping[str, pa.Table]) -> None:
        """Refuse, from now on, whatever they did until now; or until their newest event."""
        now = int(instant(self.ledger.clock()).astype(np.int64))
        self.published = max(now, int(tables[META].get(LAST_COMMIT) or -1) + 1)
        tables[META].put(LAST_COMMIT, str(self.published).encode())
        newest = [int(np.max(each[TIME].to_numpy())) for each in theirs.values() if len(each)]
        until = max([self.published, *(time + 1 for time in newest)])
        tombstones = Tombstones(tables[TOMBSTONES])
        for one in self.subject.ids:
            before = tombstones.of(self.key, one)
            secret = before.secret if before is not None else None  # of a call that did not end
            self.marks[one] = Tombstone(until, secret or os.urandom(16))
            tombstones.put(self.key, one, self.marks[one])
        for name, stream in self.streams.items():
            self.anonymous[name] = Anonymous(
                stream,
                self.key,
                {
                    one: self.marks[str(one)].secret or b""
                    for one in self.subject.values(stream.keys[self.key])
                },
                [one.declared for one in self._views(name)],
            )

    def _close(self, tables: Mapping[str, Any]) -> None:
        """Nothing is left that holds them: what replaced their ids is to be known to nobody."""
        tombstones = Tombstones(tables[TOMBSTONES])
        for one, mark in self.marks.items():
            tombstones.put(self.key, one, mark._replace(secret=None))

    def _change_events(
        self,
        tables: Mapping[str, Any],
        stream: EventStream,
        waiting: Mapping[bytes, pa.Table],
    ) -> None:
        for key, events in waiting.items():
            changed, number = self.anonymous[stream.name].events(events)
            if number:
                tables[accepted_table(stream.name)].put(key, table_bytes(changed))
                self.counts["events"] += number

    def _delete_held(self, table: Any, events: Mapping[bytes, pa.Table]) -> None:
        for key, event in events.items():
            if self.subject.among(event[self.key]).any():
                table.delete(key)
                self.counts["held_events"] += 1

    def _delete_ids(self, tables: Mapping[str, Any], name: str, theirs: pa.Table) -> None:
        """The ids, and hashes of contents, by which repetitions of their events are known."""
        minutes, ids = tables[minutes_table(name)], tables[ids_table(name)]
        events: dict[int, dict[bytes, int]] = {}
        for time, one in zip(theirs[TIME].to_pylist(), theirs[EVENT_ID].to_pylist(), strict=True):
            events.setdefault(time // _MINUTE, {})[one] = time
        for key, hashes in list(minutes.cursor()):
            mine = events.get(signed_time(key), {})
            each = [hashes[at : at + 16] for at in range(0, len(hashes) if mine else 0, 16)]
            gone = set[bytes]()
            for time in set(mine.values()):
                placed = place_ids(each, [time] * len(each)).to_pylist()
                gone |= {h for h, p in zip(each, placed, strict=True) if mine.get(p) == time}
            for one in gone:
                ids.delete(one)
            if gone:
                minutes.put(key, b"".join(h for h in each if h not in gone))

    def _change_view(self, tables: Mapping[str, Any], one: ServedView, theirs: pa.Table) -> None:
        view = one.declared
        for key, rows in _entries(tables[one.history]).items():
            changed, number = self._history(view, rows)
            if number:
                tables[one.history].put(key, table_bytes(changed))
                self.counts["history"] += number
        if self.key in view.key:
            self._delete_rows(tables, one, theirs)
        if reads_ids(view, self.key):
            self._fold_again(tables, one, theirs)
        elif self.key in view.key:
            states = tables[states_table(view.stream.name)]
            for key in self._keys(view.stream, view.key, theirs):
                self.counts["states"] += states.delete(state_key(view.name, key))

    def _delete_rows(self, tables: Mapping[str, Any], one: ServedView, theirs: pa.Table) -> None:
        """Their rows, where they are served or wait to be taken to another store."""
        if not one.elsewhere:
            for key in self._row_keys(one, theirs):
                self.counts["rows"] += tables[one.table].delete(key)
            return
        for key, rows in _entries(tables[one.outbox]).items():
            gone = self.subject.among(rows[self.key])
            if gone.any():
                tables[one.outbox].put(key, table_bytes(rows.filter(pa.array(~gone))))
                self.counts["rows"] += int(gone.sum())

    def _fold_again(self, tables: Mapping[str, Any], one: ServedView, theirs: pa.Table) -> None:
        """States that hold ids of users among their values, and the rows of these keys: what the
        events say now.
        """
        view, stream = one.declared, one.declared.stream
        anonymous = self.anonymous[stream.name]
        accepted = self.histories.accepted_rows(stream, tables[accepted_table(stream.name)])
        events = Events.accepted(stream, anonymous.events(accepted)[0])
        renamed, _ = anonymous.events(theirs)
        made = batch_states([view], events)
        states = tables[states_table(stream.name)]
        for name, columns in columns_of_states(view).items():
            before = self._keys(stream, columns, theirs)
            for key in before | set(keys_of(stream, renamed, columns)):
                if (state := made.get(name, {}).get(key)) is not None:
                    states.put(state_key(name, key), state)
                else:
                    self.counts["states"] += states.delete(state_key(name, key))
        if self.key in view.key or not len(theirs):
            return
        rows = newest_rows(view, batch_rows(view, events))
        touched = self._keys(stream, view.key, theirs)
        rows = rows.filter(pa.array([key in touched for key in keys_of(stream, rows, view.key)]))
        place = rows.column_names.index(TIMESTAMP)
        stamp = pa.repeat(pa.scalar(self.published, UTC_US), len(rows))
        rows = rows.set_column(place, TIMESTAMP, stamp)
        if one.elsewhere:
            tables[one.outbox].put(time_key(self.published) + bytes(4), table_bytes(rows))
        else:
            served = rows_of(one.view, rows, event=TIMESTAMP, created=None)
            put_rows(tables[one.table], served, self.ledger.environment)
        tables[one.history].put(time_key(self.published), table_bytes(rows))

    # ---- files

    def _change_files(self) -> None:
        """Event by event file, row by row file, letter by letter file; each at once or not."""
        for name in self.streams:
            self._rewrite(self.holders[name], "events", self.anonymous[name].events)
            for one in self._views(name):
                view = one.declared
                paths = sorted(self.histories.history(view.name).glob("[!.]*.parquet"))
                if self.key in view.key:
                    paths = self._holders(paths)
                elif not reads_ids(view, self.key):
                    paths = []
                self._rewrite(paths, "history", partial(self._history, view))
        for path in _files(self.histories.letters()):
            lines = path.read_bytes()
            if (kept := self._without_letters(lines)) != lines and not self.dry_run:
                write_atomically(path, kept)
                sync_directory(path.parent)

    def _rewrite(
        self, paths: Sequence[Path], kind: str, change: Callable[[pa.Table], tuple[pa.Table, int]]
    ) -> None:
        """Change files, each at once; rows of one that a merged file has replaced count once."""
        counted = set(uncovered([str(path) for path in paths]))
        for path in paths:
            changed, number = change(read_parquet(path))
            if number and not self.dry_run:
                write_atomically(path, as_parquet(changed))
                sync_directory(path.parent)
            self.counts[kind] += number if str(path) in counted else 0

    # ---- whose is what

    def _holders(self, paths: Sequence[Path]) -> list[Path]:
        """Those of Parquet files that hold one of the ids as a key."""
        return [p for p in paths if self.subject.among(read_parquet(p, [self.key])[self.key]).any()]

    def _views(self, stream: str) -> list[ServedView]:
        return [one for one in self.ledger.views if one.declared.stream.name == stream]

    def _theirs(self, stream: EventStream, tables: Iterable[pa.Table]) -> pa.Table:
        """Their events among these, with the columns of accepted events."""
        schema = event_schema(stream)
        found = [schema.empty_table()]
        for table in tables:
            held = self.subject.among(table[self.key])
            found.append(table.select(schema.names).filter(pa.array(held)).cast(schema))
        return pa.concat_tables(found).combine_chunks()

    def _keys(self, stream: EventStream, columns: Sequence[str], theirs: pa.Table) -> set[bytes]:
        """The keys of these columns that they have events of; their own also without an event."""
        keys = set(keys_of(stream, theirs, columns))
        if tuple(columns) == (self.key,):
            keys |= set(keys_of(stream, self._own(stream), columns))
        return keys

    def _row_keys(self, one: ServedView, theirs: pa.Table) -> set[bytes]:
        key, stream = one.declared.key, one.declared.stream
        whose = self._own(stream) if key == (self.key,) else theirs
        columns = {name: whose[name].combine_chunks() for name in key}
        return set(key_array(columns).to_pylist())

    def _own(self, stream: EventStream) -> pa.Table:
        kind = event_schema(stream).field(self.key).type
        return pa.table({self.key: self.subject.typed(kind)})

    def _history(self, view: Any, rows: pa.Table) -> tuple[pa.Table, int]:
        if self.key in view.key:
            theirs = self.subject.among(rows[self.key])
            return rows.filter(pa.array(~theirs)), int(theirs.sum())
        return self.anonymous[view.stream.name].rows(view, rows)

    def _without_letters(self, lines: bytes) -> bytes:
        kept = [line for line in lines.splitlines() if not self._names(line)]
        self.counts["dead_letters"] += len(lines.splitlines()) - len(kept)
        return b"".join(line + b"\n" for line in kept)

    def _names(self, line: bytes) -> bool:
        """Whether a refused event was one of theirs."""
        try:
            event = json.loads(line)["event"]
        except (ValueError, KeyError, TypeError):
            return False
        return isinstance(event, dict) and str(event.get(self.key)) in self.subject.ids


def _files(outbox: Outbox) -> list[Path]:
    """All files of an outbox, those included that a merged one has replaced."""
    return sorted(outbox.directory.glob(f"[!.]*.{outbox.suffix}"))


def _read(outbox: Outbox, files: Sequence[Path]) -> list[Path]:
    """Those of some files that are read still."""
    return sorted({path for _, _, path in outbox.segments()}.intersection(files))


def _entries(table: Any) -> dict[bytes, pa.Table]:
    return {key: table_of(value) for key, value in table.cursor()}


def _awaiting(table: Any, stream: EventStream) -> dict[bytes, pa.Table]:
    """The events that wait for their items; they are kept as they were sent."""
    return {k: incoming(stream, [json.loads(value)]).table for k, value in table.cursor()}
