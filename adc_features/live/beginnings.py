"""A whole history of events as the beginning of a live directory. Reads: a Parquet file. Writes:
the live directory, the first segments of its files.

The rows of history hold from when the event after them was known, as batch statistics do; at the
moment of the take-over each key gets one live row, and from then on only live rows follow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.aggregates.batch import TIMESTAMP, batch_rows
from adc_features.aggregates.declaration import TIME, EventStream
from adc_features.aggregates.events import EVENT_ID, Events, event_id
from adc_features.aggregates.incremental import newest_rows
from adc_features.artifact import write_atomically
from adc_features.clock import moment
from adc_features.damage import READ_ERRORS
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds
from adc_features.live.history import as_parquet
from adc_features.live.incoming import EVENT_TIME, place_ids
from adc_features.live.repository import Live
from adc_features.live.tables import published_at

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""
FIRST = f"{1:020d}-{1:020d}.parquet"
"""The name of the segments of a history: before that of any commit."""


def begin(
    live: Live, stream: str, path: Path, *, progress: Progress = lambda label, done, total: None
) -> dict[str, Any]:
    """Take a history over, before the stream's first event.

    Parameters
    ----------
    live : Live
    stream : str
    path : Path
        Parquet with the columns of an event: `event_id` (text or whole numbers), `event_time`
        (timestamps), keys, attributes, values.
    progress : callable
        Told which of three steps are done: read, folded, written.

    Returns
    -------
    dict
        What was taken over, and as of when it is served.

    Raises
    ------
    InputError
        The file is no such history, or the stream has accepted events; nothing was changed.
    """
    declared = live.ledger.streams[stream]
    progress("history", 0, 3)
    events, known_as = history_of(declared, path)
    progress("history", 1, 3)
    rows: dict[str, int] = {}

    def write_segments(published: int) -> None:
        before = pa.scalar(published, UTC_US)
        for one in live.ledger.views:
            if one.declared.stream == declared:
                made = batch_rows(one.declared, events)
                served = newest_rows(one.declared, made)
                place = served.column_names.index(TIMESTAMP)
                served = served.set_column(place, TIMESTAMP, pa.repeat(before, len(served)))
                made = pa.concat_tables([made.filter(pc.less(made[TIMESTAMP], before)), served])
                _write(live.histories.history(one.declared.name), made)
                rows[one.declared.name] = len(made)
        progress("history", 2, 3)
        accepted = published_at(events.table, published)
        _write(live.histories.accepted_place(stream), accepted)

    with live.histories.alone():
        gone = live.ledger.forgotten(events)
        events = events.where(np.flatnonzero(~gone))
        published = live.ledger.begin(stream, events, known_as, files=write_segments)
    live.histories.drain()
    if live.histories.elsewhere is not None:
        live.histories.elsewhere.follow()
    progress("history", 3, 3)
    return {
        "stream": stream,
        "events": len(events),
        "forgotten": int(gone.sum()),
        "rows": rows,
        "published": moment(np.datetime64(published, "us")).isoformat(),
    }


def history_of(stream: EventStream, path: Path) -> tuple[Events, dict[bytes, bytes]]:
    """(the events of a file; the id of each accepted event -> what its own id is known as)."""
    try:
        raw = pq.read_table(path, page_checksum_verification=True)
    except READ_ERRORS as error:
        raise InputError(f"{path} cannot be read as Parquet ({error})") from error
    if missing := [name for name in (EVENT_ID, EVENT_TIME) if name not in raw.column_names]:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(raw.column_names)}:"
            " an event has its id and its time beside keys and values"
        )
    times = microseconds(raw[EVENT_TIME], name=EVENT_TIME)
    texts = raw[EVENT_ID].cast(pa.string())
    if texts.null_count:
        raise InputError(f"{path}: {texts.null_count} events have no {EVENT_ID}; give each its own")
    hashes = [event_id(one, source=stream.name) for one in texts.to_pylist()]
    ids = place_ids(hashes, times.tolist())
    columns = {name: raw[name] for name in raw.column_names if name not in (EVENT_ID, EVENT_TIME)}
    table = pa.table({EVENT_ID: ids, TIME: pa.array(times).cast(UTC_US), **columns})
    return Events.of(stream, table), dict(zip(ids.to_pylist(), hashes, strict=True))


def _write(directory: Path, table: pa.Table) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / FIRST, as_parquet(table))
