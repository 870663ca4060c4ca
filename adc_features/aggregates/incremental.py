"""Aggregates over a stream: from the states of the touched keys and a batch of accepted events to
new states and rows. Reads: states, events. Writes: values only; nothing is changed here.

After any cut of the accepted events into batches, and any order of arrival within the lateness,
states and newest rows are the same, bit for bit, and the rows are those of `batch_rows`.

Legend: K touched keys, N events of the batch, E entries of sections.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.batch import TIMESTAMP, batch_rows
from adc_features.aggregates.declaration import (
    AggregateView,
    EventStream,
    Residual,
    microseconds_of,
)
from adc_features.aggregates.events import Events, event_schema, together
from adc_features.aggregates.finalise import Lists, Tiles, finalise, residuals_on_grid
from adc_features.aggregates.folds import Batch, fold_numbers, fold_tiles
from adc_features.aggregates.keys import different_keys, keyed_events, keys_of
from adc_features.aggregates.ledgers import (
    Ledger,
    LedgerPlan,
    StateReader,
)
from adc_features.aggregates.parts import (
    Part,
    counted,
    event_cut,
    refuse_overflow,
    residuals,
    row_cut,
    window_start,
    without_window,
)
from adc_features.aggregates.plans import COUNT, LAST, ViewPlan
from adc_features.aggregates.ranges import range_sums, spans
from adc_features.aggregates.states import Entries
from adc_features.errors import InputError
from adc_features.event_times import UTC_US


@runtime_checkable
class HistoryReader(StateReader, Protocol):
    """What views with known="resolution" read besides: they are computed again."""

    def history(self, stream: EventStream) -> Events:
        """All events of a stream that were accepted before the batch."""
        ...


@dataclass(frozen=True)
class Advance:
    """What a batch of events changes.

    states : name (a view, or a ledger of it) -> key -> the state to keep.
    rows : view -> the newest row of every key that changed, `row_schema(view)`; its
        event_timestamp is that of history, the newest event's time + resolution.
    row_keys : view -> the key of each of these rows.
    """

    states: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    row_keys: Mapping[str, Sequence[bytes]] = field(default_factory=dict)


class Incremental:
    """The engine of some views of one stream, prepared once."""

    def __init__(self, views: Iterable[AggregateView]) -> None:
        self.plans = [ViewPlan(view) for view in views]
        if len({plan.view.name for plan in self.plans}) < len(self.plans):
            raise InputError("two views of aggregates have the same name; rename one")

    def advance(self, reader: StateReader, events: Events) -> Advance:
        """Fold a batch of accepted events, which were in no batch before.

        Raises InputError for events of another stream, older than the lateness permits, or more of
        a key than its sums hold; nothing was changed then.
        """
        states: dict[str, Mapping[bytes, bytes]] = {}
        rows, keys = {}, {}
        for plan in self.plans if len(events) else []:
            view = plan.view
            if events.stream != view.stream:
                raise InputError(
                    f"the events are of the stream {events.stream.name!r}, the view {view.name!r}"
                    f" aggregates {view.stream.name!r}; advance the views of one stream at a time"
                )
            if view.known == "resolution":
                rows[view.name] = _again(view, reader, events)
                keys[view.name] = keys_of(view.stream, rows[view.name], view.key)
                continue
            folded = _Folded(plan, reader, events)
            states |= folded.states()
            rows[view.name], keys[view.name] = folded.rows(), folded.keys
        return Advance(states, rows, keys)


class MemoryStates:
    """States in memory: what `advance` reads and what it gives back."""

    def __init__(self) -> None:
        self.kept: defaultdict[str, dict[bytes, bytes]] = defaultdict(dict)
        self.accepted: list[Events] = []

    def states(self, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The state of each key."""
        kept = self.kept[name]
        return [kept.get(key) for key in keys]

    def history(self, stream: EventStream) -> Events:
        """All events so far."""
        mine = [events for events in self.accepted if events.stream == stream]
        return together(*mine) if mine else _no_events(stream)

    def keep(self, step: Advance, events: Events) -> None:
        """Take over what a batch changed."""
        for name, states in step.states.items():
            self.kept[name].update(states)
        self.accepted.append(events)


def batch_states(
    views: Sequence[AggregateView], events: Events, *, step: int = 200_000
) -> Mapping[str, dict[bytes, bytes]]:
    """name -> key -> state after all events of a history: what a stream begins with."""
    memory, engine = MemoryStates(), Incremental(v for v in views if v.known == "sealed")
    for start in range(0, len(events), step):
        part = Events(events.stream, events.table.slice(start, step))
        memory.keep(engine.advance(memory, part), part)
    return memory.kept


def _no_events(stream: EventStream) -> Events:
    return Events(stream, event_schema(stream).empty_table())


def _again(view: AggregateView, reader: StateReader, events: Events) -> pa.Table:
    """The newest rows of a view with known="resolution" that a batch may change: of all keys with
    an event at its first time or later. Computed from the whole history.
    """
    if not isinstance(reader, HistoryReader):
        raise InputError(
            f"the view {view.name!r} is declared with known='resolution', which is computed from"
            " all accepted events; give a reader with `history`, or declare it with known='sealed'"
        )
    rows = newest_rows(view, batch_rows(view, together(reader.history(view.stream), events)))
    touched = pc.greater_equal(rows[view.last_time], int(events.times[0]))
    return rows.filter(touched)


def newest_rows(view: AggregateView, rows: pa.Table) -> pa.Table:
    """Of rows sorted by time the last one of each key, sorted by key."""
    backwards = rows.take(pa.array(np.arange(len(rows))[::-1]))
    _, _, row = different_keys(view.stream, backwards, view.key)
    return backwards.take(pa.array(row))


class _Folded:
    """A view after a batch of events."""

    def __init__(self, plan: ViewPlan, reader: StateReader, events: Events) -> None:
        self.plan, self.view = plan, plan.view
        self.batch = Batch(self.view, events)
        self.given = {p.columns: Ledger(p, reader, self.batch) for p in plan.given}
        self._find_residuals()
        code, self.keys, row = keyed_events(events, self.view.key)
        self.key_columns = events.table.select(list(self.view.key)).take(pa.array(row))
        self._fold(reader, code)
        self.groups = {p.columns: self._group(p, reader) for p in plan.groups}
        cut = row_cut(self.view, self.newest)
        self.group_sums = {by: one.read(one.row_code, cut) for by, one in self.groups.items()}
        if plan.early:
            self.everybody = self.given[()].read(np.zeros(len(cut), np.int64), cut)
        self._places: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    def _find_residuals(self) -> None:
        cut = event_cut(self.view, self.batch.events.times)
        if not residuals(self.view):
            return
        prior = self.given[()].read(np.zeros(len(cut), np.int64), cut)
        for one in residuals(self.view):
            other = self.given[one.against].read(self.given[one.against].code, cut)
            value, valid = self.batch.numbers(one.of)
            count = counted(self.view.stream, one.of)
            total, events = Part("sum", one.of), Part("count", count)
            found = residuals_on_grid(
                self.view.stream,
                one,
                value,
                other=(other.of(total), other.of(events)),
                everybody=(prior.of(total), prior.of(events)),
            )
            self.batch.residuals[one] = found if valid is None else np.where(valid, found, 0)

    def _fold(self, reader: StateReader, code: np.ndarray) -> None:
        plan, batch = self.plan, self.batch
        fixed, old = plan.layout.decode(reader.states(self.view.name, self.keys))
        known = np.flatnonzero(code >= 0)
        if len(known) < len(code):  # events of an unknown attribute are of no key
            batch, code = self._only(known), code[known]
        self.numbers = fold_numbers(plan.slots, fixed, batch.slots(plan.slots), code)
        self.newest = self.numbers[:, plan.slots.place(LAST)]
        refuse_overflow(
            int(self.numbers[:, plan.slots.place(COUNT)].max(initial=0)),
            plan.capacity,
            f"the view {self.view.name!r}",
        )
        sections = iter(old)
        self.tiles: dict[int, Entries] = {}
        for hop, (reach, slots) in plan.tiles.items():
            tile = -(-batch.events.times // hop)
            entries = fold_tiles(slots, next(sections), tile, batch.slots(slots), code)
            kept = entries.numbers(0) > (self.newest[entries.key] - reach) // hop
            self.tiles[hop] = Entries(entries.section, entries.key[kept], entries.words[kept])
        keys = len(self.keys)
        self.lists = {
            needs: one.fold(next(sections), batch, code, keys=keys)
            for needs, one in plan.lists.items()
        }
        self.different = {
            of: one.fold(next(sections), batch, code, keys=keys)
            for of, one in plan.different.items()
        }

    def _only(self, known: np.ndarray) -> Batch:
        batch = Batch(self.view, self.batch.events.where(known))
        batch.residuals = {of: one[known] for of, one in self.batch.residuals.items()}
        return batch

    def _group(self, plan: LedgerPlan, reader: StateReader) -> Ledger:
        """The ledger of the groups of the batch's events and of the rows' newest events."""
        if not plan.columns:
            return Ledger(plan, reader, self.batch, rows=self.key_columns)
        entries, one = self.lists[None], self.plan.lists[None]
        newest = entries.ends(len(self.keys)) - 1
        schema = self.batch.events.table.select(list(plan.columns)).schema
        columns = {c: one.values(entries, c, newest) for c in plan.columns}
        return Ledger(plan, reader, self.batch, rows=pa.table(columns, schema=schema))

    def states(self) -> dict[str, Mapping[bytes, bytes]]:
        """The states of the view and of its ledgers."""
        sections = [*self.tiles.values(), *self.lists.values(), *self.different.values()]
        encoded = self.plan.layout.encode(self.numbers, sections)
        found: dict[str, Mapping[bytes, bytes]] = {
            self.view.name: dict(zip(self.keys, encoded, strict=True))
        }
        for ledger in (*self.given.values(), *self.groups.values()):
            found[ledger.plan.name] = ledger.states()
        return found

    def rows(self) -> pa.Table:
        """The newest row of each touched key."""
        resolution = microseconds_of(self.view.stream.resolution)
        columns = {name: self.key_columns[name] for name in self.view.key}
        columns[TIMESTAMP] = pa.array(self.newest + resolution).cast(UTC_US)
        columns |= finalise(self.plan.recipes, self)
        return pa.table(columns, schema=self.plan.schema)

    def read(self, part: Part) -> np.ndarray:
        """int64 [K] of a count, sum, extreme or time."""
        if part.by is not None:
            early = part.by == () and not isinstance(part.of, Residual)
            return (self.everybody if early else self.group_sums[part.by]).of(part)
        if part.window is None:
            return self.numbers[:, self.plan.slots.place(part)]
        entries, kept, first, end = self._window(part)
        column = self.plan.tiles[part.hop or 0][1].place(without_window(part))
        values = entries.numbers(1 + column)
        if part.kind in ("sum", "count"):
            return range_sums(values, first, end)
        found = np.zeros(len(self.keys), np.int64)
        full = np.flatnonzero(end > first)
        places = entries.key[kept]
        starts = np.searchsorted(places, full)
        fold = np.minimum if part.kind == "low" else np.maximum
        if len(full):
            found[full] = fold.reduceat(values[kept], starts)
        return found

    def _window(self, part: Part) -> tuple[Entries, np.ndarray, np.ndarray, np.ndarray]:
        """(entries, places of those in the window, of each key the first one and the end)."""
        entries = self.tiles[part.hop or 0]
        oldest = window_start(part, self.newest) // (part.hop or 1)
        kept = np.flatnonzero(entries.numbers(0) > oldest[entries.key])
        end = entries.ends(len(self.keys))
        count = np.bincount(entries.key[kept], minlength=len(self.keys))
        return entries, kept, end - count, end

    def read_tiles(self, part: Part, events: Part) -> Tiles:
        """The tiles of a windowed sum and of the number of its events."""
        entries, kept, first, end = self._window(part)
        slots = self.plan.tiles[part.hop or 0][1]
        count = entries.numbers(1 + slots.place(without_window(events)))[kept]
        total = count * 0
        if part.kind == "sum":
            total = entries.numbers(1 + slots.place(without_window(part)))[kept]
        offsets = np.concatenate([[0], np.cumsum(end - first)])
        return Tiles(offsets, entries.numbers(0)[kept], count, total)

    def read_lists(self, part: Part) -> Lists:
        """The values of a list, oldest first."""
        if part.kind == "distinct":
            plan, entries = self.plan.different[part.of], self.different[part.of]
        else:
            needs = counted(self.view.stream, part.of)
            plan, entries = self.plan.lists[needs], self.lists[needs]
        asked = id(entries), part.n, part.window, part.hop
        if asked not in self._places:
            self._places[asked] = self._newest(entries, part)
        offsets, places = self._places[asked]
        return Lists(offsets, plan.values(entries, part.of, places))

    def _newest(self, entries: Entries, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """(offsets [K + 1], places) of the newest entries of each key."""
        end = entries.ends(len(self.keys))
        begin = np.concatenate([[0], end[:-1]])
        if part.window is not None:
            inside = entries.numbers(0) > window_start(part, self.newest)[entries.key]
            begin = end - np.bincount(entries.key[inside], minlength=len(self.keys))
        first = np.maximum(begin, end - (part.n or 1))
        offsets = np.concatenate([[0], np.cumsum(end - first)])
        return offsets, spans(first, end - first)
