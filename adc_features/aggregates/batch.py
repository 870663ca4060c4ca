"""Aggregates over a history: one row after each distinct event time of a key. Reads: events.
Writes: point-in-time rows.

Sums are differences of int64 prefix sums. They may wrap round; a key's own sum cannot, because its
number of events is checked.

Legend: N events, K keys, R rows.
"""

from dataclasses import dataclass

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
    known = _Known(view, events, at)
    rows = known.rows()
    features = finalise(recipes(view), rows)
    columns = {
        **{name: rows.text(name) for name in view.key},
        TIMESTAMP: pa.array(rows.time + microseconds_of(view.stream.resolution)).cast(UTC_US),
        **features,
    }
    for name, one in view.features.items():
        if one.kind == "newest" and at is not None and one.of in at.column_names:
            columns[name] = rows.text(str(one.of))
    return pa.table(columns, schema=row_schema(view))


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
    def of(cls, code: np.ndarray, size: int, time: np.ndarray) -> "_Sorted":
        order = np.argsort(code, kind="stable")
        order = order[np.searchsorted(code[order], 0) :]
        code, time = code[order], time[order]
        times = np.unique(time)
        place = code * (len(times) + 1) + np.searchsorted(times, time, side="right")
        return cls(order, code, time, np.searchsorted(code, np.arange(size)), times, place)

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

    def __init__(self, view: AggregateView, events: Events, at: pa.Table | None) -> None:
        self.view, self.events, self.at = view, events, at
        self._sorted: dict[tuple[str, ...], tuple[np.ndarray, _Sorted]] = {}
        self._series: dict[Of, tuple[np.ndarray, np.ndarray | None]] = {}

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
            self._sorted[columns] = code, _Sorted.of(code[:n], size, self.events.times)
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

    def rows(self) -> "_Rows":
        """One row for each (key, distinct time) and each further one asked for, sorted."""
        code, own = self.by(self.view.key)
        changes = (own.code[1:] != own.code[:-1]) | (own.time[1:] != own.time[:-1])
        last = np.flatnonzero(np.concatenate([changes, [len(own.code) > 0]]))
        key, time, event = own.code[last], own.time[last], own.order[last]
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

    def __init__(self, known: _Known, key: np.ndarray, time: np.ndarray, event: np.ndarray) -> None:
        self.known, self.key, self.time, self.event = known, key, time, event
        self.begin, self.end = known.by(known.view.key)[1].until(key, time + 1)

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
        begin, n = self._begin(part), part.n or 1
        if part.kind == "distinct":
            code = known.by((str(part.of),))[0][: len(known.events)][own.order]
            places, length = newest_different(code, begin, self.end, most=n)
        else:
            valid = np.flatnonzero(known.valid(counted(known.view.stream, part.of))[own.order])
            stop = np.searchsorted(valid, self.end)
            first = np.maximum(np.searchsorted(valid, begin), stop - n)
            length, places = stop - first, valid[spans(first, stop - first)]
        event = own.order[places]
        offsets = np.concatenate([[0], np.cumsum(length)])
        if part.of in known.view.stream.values or isinstance(part.of, Residual):
            return Lists(offsets, pa.array(known.series(part.of)[0][event]))
        return Lists(offsets, known.events.column(str(part.of)).take(pa.array(event)))

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
