"""What becomes of an event. Reads: events, what was decided of each. Writes: values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events, event_schema
from adc_features.clock import moment
from adc_features.live.incoming import Fault, Incoming


class Decision(IntEnum):
    """What became of an event. Those up to AWAITING are durable, and their ids are remembered."""

    ACCEPTED = 0
    HELD = 1
    AWAITING = 2
    DUPLICATE = 3
    CONFLICT = 4
    LATE = 5
    FUTURE = 6
    UNKNOWN = 7
    FORGOTTEN = 8


REASONS = {
    Decision.CONFLICT: "another event of the same id was accepted before; the first one holds",
    Decision.LATE: "it is older than the watermark, {watermark}: what was served and computed"
    " before would change",
    Decision.FUTURE: "its time is more than {tolerance} ahead of our clock, {now}",
    Decision.UNKNOWN: "its item is in no published codes; send the item first, or declare the"
    " stream with unknown_items='hold' or 'create'",
    Decision.FORGOTTEN: "it is of somebody who was forgotten after it; nothing of it was kept",
}


class Receipt(NamedTuple):
    """What became of the events of one request.

    accepted: counted, durable and visible; held: durable, counted when their time or item has come;
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


def chosen(
    stream: EventStream,
    requests: Sequence[Incoming],
    decided: Sequence[np.ndarray],
    decision: Decision,
) -> Events:
    """The events of which this was decided."""
    tables = list[pa.Table]()
    for request, of in zip(requests, decided, strict=True):
        mine = of == decision
        if mine.all():  # the usual case, of most requests
            tables.append(request.table)
        elif mine.any():
            tables.append(request.table.filter(pa.array(mine)))
    if not any(len(table) for table in tables):
        return Events(stream, event_schema(stream).empty_table())
    return Events.of(stream, pa.concat_tables(tables))


def shown_time(time: int | None) -> str:
    """A time, microseconds since 1970 UTC, for people."""
    return "none" if time is None else moment(np.datetime64(time, "us")).isoformat()
