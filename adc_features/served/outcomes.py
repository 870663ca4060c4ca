"""What came of what was served. Reads: a table of events. Writes: Outcomes.

Legend: E events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import microseconds

IMPRESSION = "impression"
"""The event that says that a candidate was seen."""
TIME, EVENT, EVENT_ID = "event_timestamp", "event", "event_id"
DEFAULT_WINDOW = timedelta(minutes=30)


@dataclass(frozen=True)
class Target:
    """A task and the events that make its label.

    Parameters
    ----------
    name : str
        The events of this name count.
    window : timedelta
        A label is 1 where such an event came within this time of the request.
    column : str
        Of the label.
    known_at : str, optional
        Column of the time at which a positive label became known.

    Raises
    ------
    InputError
        A window that is not more than 0.
    """

    name: str
    window: timedelta
    column: str
    known_at: str | None = None

    def __post_init__(self) -> None:
        if self.window <= timedelta(0):
            raise InputError(
                f"the attribution window of {self.name!r} is {self.window}; give more than 0, such"
                f" as --window {self.name}=30min"
            )


@dataclass(frozen=True)
class Outcomes:
    """Events, each once.

    Parameters
    ----------
    keys : pyarrow.Table, E rows
        `request_id` and the item's join keys.
    times : ndarray
        datetime64[us] [E].
    names : ndarray
        What each is called, object [E].
    duplicates : int
        Events that were left out because another has their id.
    """

    keys: pa.Table
    times: np.ndarray
    names: np.ndarray
    duplicates: int

    def __len__(self) -> int:
        return len(self.times)

    @property
    def tells_impressions(self) -> bool:
        """Whether it says what was seen."""
        return bool((self.names == IMPRESSION).any())


def read_outcomes(
    events: pa.Table, *, request: str, item: Sequence[str], targets: Sequence[Target]
) -> Outcomes:
    """The events of a table.

    Parameters
    ----------
    events : pyarrow.Table
        The request's id, the item's join keys, `event_timestamp`; `event` with the name of a task
        or "impression", or in its place a column for each task that is true, or 1, where the event
        is one; `event_id` where events may come twice.
    request : str
        The column of request ids.
    item : sequence of str
        Join keys of a candidate.
    targets : sequence of Target

    Raises
    ------
    InputError
        Columns are missing or of another type, or hold no value.
    """
    names = [target.name for target in targets]
    wide = EVENT not in events.column_names
    needed = [request, *item, TIME, *(names if wide else [EVENT])]
    if missing := [name for name in needed if name not in events.column_names]:
        raise InputError(
            f"the events have no column {', '.join(map(repr, missing))}; they have"
            f" {', '.join(events.column_names)}. Expected: the request's id, the item's keys,"
            f" {TIME}, and {EVENT} with the names of tasks (or a column for each task)"
        )
    for name in (request, *item, TIME):
        if events[name].null_count:
            raise InputError(
                f"{events[name].null_count} events have no {name!r}; drop them: they belong to"
                " nothing that was served"
            )
    before = len(events)
    if EVENT_ID in events.column_names:
        events = _each_once(events)
    duplicates = before - len(events)
    if wide:
        events = _long(events, names)
    ids = events[request]
    keys = pa.table({"request_id": ids.cast(pa.string()), **{name: events[name] for name in item}})
    times = microseconds(events[TIME], name=TIME).astype("datetime64[us]")
    called = np.array(events[EVENT].cast(pa.string()).to_pylist(), dtype=object)
    return Outcomes(keys.combine_chunks(), times, called, duplicates)


def _each_once(events: pa.Table) -> pa.Table:
    """The first event of each id; those without one are kept."""
    ids = events[EVENT_ID]
    place = pa.array(np.arange(len(events)))
    numbered = pa.table({"id": ids, "place": place})
    known = numbered.filter(pc.is_valid(ids))
    first = known.group_by("id").aggregate([("place", "min")])["place_min"].to_numpy()
    without = numbered.filter(pc.is_null(ids))["place"].to_numpy()
    return events.take(pa.array(np.sort(np.concatenate([first, without]).astype(np.int64))))


def _long(events: pa.Table, names: Sequence[str]) -> pa.Table:
    """A row for each task's event, of a table with a column for each task."""
    found = []
    for name in names:
        try:
            happened = pc.fill_null(events[name].cast(pa.bool_()), False)
        except pa.ArrowException as error:
            raise InputError(
                f"column {name!r} of the events is of type {events[name].type}; expected true or"
                " false, or 1 and 0"
            ) from error
        rows = events.filter(happened).drop_columns(list(names))
        found.append(rows.append_column(EVENT, pa.array([name] * len(rows), pa.string())))
    return pa.concat_tables(found)
