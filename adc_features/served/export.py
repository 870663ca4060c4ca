"""A served log in Feast's own format. Reads: segments. Writes: tables for `write_logged_features`.

Feast logs a flat row for each candidate: join keys and request fields, each feature as
`view__feature` with `__timestamp` and `__status`, and `__log_timestamp`, `__log_date`,
`__request_id`. The event time of a value is not in our log, so `__timestamp` is null.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.served.segments import Segment, sealed_segments

_SECONDS, _VALUE = pa.timestamp("s", "UTC"), pa.timestamp("s")
_PRESENT, _NULL_VALUE = 2, 1
"""Feast's FieldStatus of a value that is there and of one that is not."""


def feast_log(log: Path, *, service: str) -> Iterator[pa.Table]:
    """The segments of a feature service as Feast logs rows, one table each; those without values
    are left out.

    Give each to `FeatureStore.write_logged_features(table, service)`: it goes to the
    `LoggingDestination` that the service declares. Raises as `sealed_segments`.
    """
    for segment in sealed_segments(log):
        if segment.about.service == service and segment.has_values:
            yield _flat(segment)


def _flat(segment: Segment) -> pa.Table:
    requests, rows = segment.request_rows(), segment.candidate_rows()
    of = pa.array(np.repeat(np.arange(len(requests)), requests["candidates"].to_numpy()))
    columns = segment.keys(requests, rows, of)
    for name, value in segment.values(requests, rows, of).items():
        there = pc.is_valid(value)
        columns[name] = _in_seconds(value)
        columns[f"{name}__timestamp"] = pa.nulls(len(rows), _SECONDS)
        status = pc.if_else(there, _PRESENT, _NULL_VALUE)
        columns[f"{name}__status"] = status.cast(pa.int32())
    received = requests["received"].take(of)
    columns["__log_timestamp"] = received
    columns["__log_date"] = received.cast(pa.date32())
    columns["__request_id"] = rows["request_id"]
    return pa.table(columns)


def _in_seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as Feast logs them: whole seconds, as its online stores keep them."""
    kind = column.type
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        return column.cast(pa.list_(_VALUE), safe=False)
    return column.cast(_VALUE, safe=False) if pa.types.is_timestamp(kind) else column
