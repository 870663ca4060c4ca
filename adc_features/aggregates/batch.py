"""Aggregates over a history: one row after each distinct event time of a key. Reads: events.
Writes: point-in-time rows.

A part of the history, all events of some keys, is folded alone where `Elsewhere` says what the
other keys' events have to say.

Sums are differences of int64 prefix sums. They may wrap round; a key's own sum cannot, because its
number of events is checked.

Legend: N events, K keys, R rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import (
    TIME,
    AggregateView,
    Residual,
    microseconds_of,
)
from adc_features.aggregates.events import Events, codes_of
from adc_features.aggregates.finalise import (
    Lists,
    Tiles,
    column_of,
    feature_type,
    finalise,
    recipes,
    residuals_on_grid,
)
from adc_features.aggregates.parts import (
    TYPES,
    Of,
    Part,
    capacity_of,
    counted,
    event_cut,
    prior_parts,
    refuse_overflow,
    row_cut,
    window_start,
)
from adc_features.aggregates.ranges import extremes, newest_different, range_sums, spans
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds

TIMESTAMP = "event_timestamp"


def row_schema(view: AggregateView) -> pa.Schema:
    """Key columns, `event_timestamp`, then the features in the order of their declaration."""
    return pa.schema(
        [
            *((name, TYPES[view.stream.kind_of(name)]) for name in view.key),
            (TIMESTAMP, UTC_US),
            *(
                (
                    column_of(name, one),
                    pa.list_(pa.int64()) if one.at == "read" else feature_type(view, one),
                )
                for name, one in view.features.items()
            ),
        ]
    )


def batch_rows(view: AggregateView, events: Events, *, at: pa.Table | None = None) -> pa.Table:
    """What is known of each key after each distinct time of its events: `row_schema(view)`, sorted
    by (time, key).

    A row that holds the events up to t has the event_timestamp t + resolution.

    Parameters
    ----------
    at : table, optional
        Further rows, of keys with or without events: the key columns, `time` (the newest event's
        time that such a row may hold) and, where features need them, the attributes of the key.

    Raises
    ------
    InputError
        The events are of another stream, or a key has more events than its sums hold.
    """
    if events.stream != view.stream:
        raise InputError(
            f"the events are of the stream {events.stream.name!r} as declared elsewhere; the view"
            f" {view.name!r} aggregates {view.stream.name!r}: build them with the view's stream"
        )
    rows = _Known(view, events, at).rows()
    columns = _columns(view, rows)
    for name, one in view.features.items():
        if one.kind == "newest" and at is not None and one.of in at.column_names:
            columns[name] = rows.text(str(one.of))
    return pa.table(columns, schema=row_schema(view))


@dataclass(frozen=True)
class Elsewhere:
    """What the events of other keys say to a part of a history with N events.

    everybody : callable
        (part, cut: int64 [R]) -> int64 [R], a sum or count over all events before each cut.
    residuals : mapping
        Residual -> int64 [N] on its grid, 0 where the event has no value.
    groups : mapping
        Part with `by` -> int64 [N], as known at the row of each event.
    """

    everybody: Callable[[Part, np.ndarray], np.ndarray]
    residuals: Mapping[Residual, np.ndarray] = field(default_factory=dict)
    groups: Mapping[Part, np.ndarray] = field(default_factory=dict)


def rows_of_part(
    view: AggregateView, events: Events, elsewhere: Elsewhere, *, most: int
) -> Iterator[pa.Table]:
    """The rows of `batch_rows` of keys all of whose events are here, sorted by (key, time), in
    tables of at most `most` rows.
    """
    known = _Known(view, events, None, elsewhere)
    rows = known.rows_by_key()
    for start in range(0, len(rows.key), most):
        columns = _columns(view, rows.slice(start, most))
        yield pa.table(columns, schema=row_schema(view))


def residuals_of_part(
    view: AggregateView, events: Events, elsewhere: Elsewhere, wanted: Sequence[Residual]
) -> list[np.ndarray]:
    """int64 [N] of each residual, where all events of the keys that they are against are here."""
    known = _Known(view, events, None, elsewhere)
    return [known.series(residual)[0] for residual in wanted]


def groups_of_part(
    view: AggregateView, events: Events, elsewhere: Elsewhere, wanted: Sequence[Part]
) -> list[np.ndarray]:
    """int64 [N] of each part with the same `by`, where all events of these groups are here."""
    known = _Known(view, events, None, elsewhere)
    code, group = known.by(wanted[0].by or ())
    begin, end = group.until(code, row_cut(view, events.times))
    return [known.summed(group, part, begin, end) for part in wanted]


def _columns(view: AggregateView, rows: "_Rows") -> dict[str, pa.Array]:
    return {
        **{name: rows.text(name) for name in view.key},
        TIMESTAMP: pa.array(rows.time + microseconds_of(view.stream.resolution)).cast(UTC_US),
        **finalise(recipes(view), rows),
    }


@dataclass(frozen=True)
class _Sorted:
    """Events sorted by (key, time, id). order: int64 [N'], of those with a known key. code, time:
    [N'] in that order. start: int64 [K], the place of each key's first one.
    """

    order: np.ndarray
    code: np.ndarray
    time: np.ndarray
    start: np.ndarray
    times: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, code: np.ndarray, size: int, events: Events) -> "_Sorted":
        order = np.argsort(code, kind="stable")
        order = order[np.searchsorted(code[order], 0) :]
        code, (times, rank) = code[order], events.time_ranks
        place = code * (len(times) + 1) + rank[order] + 1
        start = np.searchsorted(code, np.arange(size))
        return cls(order, code, events.times[order], start, times, place)

    def until(self, code: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(begin, end): places of the events of each key with time < cut; none where code is -1."""
        wanted = code * (len(self.times) + 1) + np.searchsorted(self.times, cut, side="left")
        end = np.searchsorted(self.place, wanted, side="right")
        if not len(self.start):
            return np.zeros_like(end), np.zeros_like(end)
        begin = np.where(code >= 0, self.start[code], 0)
        return begin, np.where(code >= 0, np.maximum(end, begin), 0)


class _Known:
    """Everything that rows read: the events by key, their values and residuals."""

    def __init__(
        self,
        view: AggregateView,
        events: Events,
        at: pa.Table | None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.view, self.events, self.at, self.elsewhere = view, events, at, elsewhere
        self._sorted: dict[tuple[str, ...], tuple[np.ndarray, _Sorted]] = {}
        self._series: dict[Of, tuple[np.ndarray, np.ndarray | None]] = {}
        for residual, series in elsewhere.residuals.items() if elsewhere else ():
            self._series[residual] = series, events.value(residual.of)[1]

    def by(self, columns: tuple[str, ...]) -> tuple[np.ndarray, _Sorted]:
        """(code of each event, then of each further row; the events by these columns)."""
        if columns not in self._sorted:
            table, n = self.events.table.select(list(columns)), len(self.events)
            if self.at is not None and all(c in self.at.column_names for c in columns):
                more = self.at.select(list(columns)).cast(table.schema)
                table = pa.concat_tables([table, more])
            code, size = codes_of(self.view.stream, table, columns)
            if not columns:
                code = np.zeros(n, np.int64)
            self._sorted[columns] = code, _Sorted.of(code[:n], size, self.events)
        return self._sorted[columns]

    def series(self, of: Of) -> tuple[np.ndarray, np.ndarray | None]:
        """(int64 [N] on the grid, valid [N] or None)."""
        if of not in self._series:
            self._series[of] = (
                self._residual(of) if isinstance(of, Residual) else self.events.value(str(of))
            )
        return self._series[of]

    def valid(self, of: str | None) -> np.ndarray:
        """bool [N]: events that count for an optional value; None for all."""
        valid = None if of is None else self.events.value(of)[1]
        return np.ones(len(self.events), bool) if valid is None else valid

    def _residual(self, residual: Residual) -> tuple[np.ndarray, np.ndarray | None]:
        cut, stream = event_cut(self.view, self.events.times), self.view.stream
        value, valid = self.events.value(residual.of)
        code, other = self.by(residual.against)
        read = (Part("sum", residual.of), Part("count", counted(stream, residual.of)))
        begin, end = other.until(code[: len(cut)], cut)
        own = tuple(self.summed(other, part, begin, end) for part in read)
        parts = prior_parts(self.view, residual, residual.initial)
        everybody = tuple(self.everybody(part, cut) for part in parts)
        series = residuals_on_grid(
            stream, residual, value, other=(own[0], own[1]), everybody=(everybody[0], everybody[1])
        )
        return (series if valid is None else np.where(valid, series, 0)), valid

    def everybody(self, part: Part, cut: np.ndarray) -> np.ndarray:
        """A sum or count over all events before each cut."""
        if self.elsewhere is not None:
            return self.elsewhere.everybody(part, cut)
        whole = self.by(())[1]
        begin, end = whole.until(np.zeros(len(cut), np.int64), cut)
        return self.summed(whole, part, begin, np.maximum(end, min(part.n or 0, len(self.events))))

    def summed(self, by: _Sorted, part: Part, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """int64 [R]: a sum or count over the places begin to end of events sorted by a key."""
        if part.kind == "count":
            assert not isinstance(part.of, Residual)
            return range_sums(self.valid(part.of)[by.order].astype(np.int64), begin, end)
        values, valid = self.series(part.of)
        most, capacity = int((end - begin).max(initial=0)), capacity_of(self.view.stream, part.of)
        refuse_overflow(most, capacity, f"the view {self.view.name!r}")
        values = values[by.order]
        return range_sums(
            values if valid is None else np.where(valid[by.order], values, 0), begin, end
        )

    def rows_by_key(self) -> "_Rows":
        """One row for each (key, distinct time), in that order."""
        own = self.by(self.view.key)[1]
        changes = own.place[1:] != own.place[:-1]
        last = np.flatnonzero(np.concatenate([changes, [len(own.code) > 0]]))
        key = own.code[last]
        return _Rows(self, key, own.time[last], own.order[last], (own.start[key], last + 1))

    def rows(self) -> "_Rows":
        """One row for each (key, distinct time) and each further one asked for, sorted."""
        code, made = self.by(self.view.key)[0], self.rows_by_key()
        key, time, event = made.key, made.time, made.event
        if self.at is not None:
            n = len(self.events)
            key = np.concatenate([key, code[n:]])
            time = np.concatenate([time, _times(self.at)])
            event = np.concatenate([event, n + np.arange(len(self.at))])
        order = np.lexsort((event, key, time))
        key, time, event = key[order], time[order], event[order]
        fresh = np.concatenate([[True], (key[1:] != key[:-1]) | (time[1:] != time[:-1])])
        return _Rows(self, *(column[fresh[: len(column)]] for column in (key, time, event)))


class _Rows:
    """R rows: key, time of the newest event they may hold, and `event`, the number of the event, or
    further row, whose columns they have.
    """

    def __init__(
        self,
        known: _Known,
        key: np.ndarray,
        time: np.ndarray,
        event: np.ndarray,
        own: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.known, self.key, self.time, self.event = known, key, time, event
        self.begin, self.end = own or known.by(known.view.key)[1].until(key, time + 1)
        self._places: dict[Part, tuple[np.ndarray, np.ndarray]] = {}

    def slice(self, start: int, length: int) -> "_Rows":
        """Some of the rows."""
        columns = (self.key, self.time, self.event, self.begin, self.end)
        key, time, event, begin, end = (column[start : start + length] for column in columns)
        return _Rows(self.known, key, time, event, (begin, end))

    def text(self, name: str) -> pa.Array:
        """A key or attribute of each row."""
        table = self.known.events.table.select([name])
        if self.known.at is not None:
            table = pa.concat_tables([table, self.known.at.select([name]).cast(table.schema)])
        return table[name].take(pa.array(self.event)).combine_chunks()

    def read(self, part: Part) -> np.ndarray:
        """int64 [R] of a count, sum, extreme or time."""
        known, cut = self.known, row_cut(self.known.view, self.time)
        if part.by == ():
            return known.everybody(part, cut)
        if part.by is not None and known.elsewhere is not None:
            return known.elsewhere.groups[part][self.event]
        if part.by is not None:
            code, group = known.by(part.by)
            return known.summed(group, part, *group.until(code[self.event], cut))
        own, begin = known.by(known.view.key)[1], self._begin(part)
        if part.kind in ("sum", "count"):
            return known.summed(own, part, begin, self.end)
        if part.kind in ("first", "last"):
            place = self.end - 1 if part.kind == "last" else begin
            found = np.append(own.time, -1)[np.minimum(place, len(own.time))]
            return np.where(self.end > begin, found, -1)
        values, valid = known.series(part.of)
        mask = None if valid is None else valid[own.order]
        return extremes(values[own.order], mask, begin, self.end, least=part.kind == "low")

    def read_lists(self, part: Part) -> Lists:
        """The values of a list, oldest first."""
        known, own = self.known, self.known.by(self.known.view.key)[1]
        if part.kind == "distinct":
            code = known.by((str(part.of),))[0][: len(known.events)][own.order]
            places, length = newest_different(code, self._begin(part), self.end, most=part.n or 1)
            event = own.order[places]
        else:
            event, length = self._newest(part)
        offsets = np.concatenate([[0], np.cumsum(length)])
        if part.of in known.view.stream.values or isinstance(part.of, Residual):
            return Lists(offsets, pa.array(known.series(part.of)[0][event]))
        return Lists(offsets, known.events.column(str(part.of)).take(pa.array(event)))

    def _newest(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """(the events of a list of each row; int64 [R], how many each has)."""
        known, own = self.known, self.known.by(self.known.view.key)[1]
        optional = counted(known.view.stream, part.of)
        same = replace(part, of=optional)  # lists of other columns hold the same events
        if same not in self._places:
            begin, end = self._begin(part), self.end
            valid = None if optional is None else np.flatnonzero(known.valid(optional)[own.order])
            if valid is not None:
                begin, end = np.searchsorted(valid, begin), np.searchsorted(valid, end)
            first = np.maximum(begin, end - (part.n or 1))
            places = spans(first, end - first)
            self._places[same] = own.order[places if valid is None else valid[places]], end - first
        return self._places[same]

    def read_tiles(self, part: Part, events: Part) -> Tiles:
        """The tiles of a windowed sum and of the number of its events."""
        known, own = self.known, self.known.by(self.known.view.key)[1]
        begin, tile = self._begin(part), -(-own.time // (part.hop or 1))
        changes = (own.code[1:] != own.code[:-1]) | (tile[1:] != tile[:-1])
        opens = np.flatnonzero(np.concatenate([[len(tile) > 0], changes]))
        first, stop = np.searchsorted(opens, begin), np.searchsorted(opens, self.end)
        number = spans(first, stop - first)
        start = opens[number]
        end = np.minimum(np.append(opens[1:], len(tile))[number], np.repeat(self.end, stop - first))
        count = known.summed(own, events, start, end)
        total = count * 0 if part.kind == "count" else known.summed(own, part, start, end)
        return Tiles(np.concatenate([[0], np.cumsum(stop - first)]), tile[start], count, total)

    def _begin(self, part: Part) -> np.ndarray:
        if part.window is None:
            return self.begin
        own = self.known.by(self.known.view.key)[1]
        return own.until(self.key, window_start(part, self.time) + 1)[1]


def _times(at: pa.Table) -> np.ndarray:
    column = at[TIME]
    if pa.types.is_int64(column.type):
        return column.to_numpy()
    return microseconds(column, name=TIME)
