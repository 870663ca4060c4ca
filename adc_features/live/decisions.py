"""What becomes of an event. Reads: events, what was decided of each. Writes: values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events, event_schema
from adc_features.clock import moment
from adc_features.live.incoming import Incoming


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


def chosen(
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


def shown_time(time: int | None) -> str:
    """A time, microseconds since 1970 UTC, for people."""
    return "none" if time is None else moment(np.datetime64(time, "us")).isoformat()
