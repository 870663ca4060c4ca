"""What an event time is. Reads: Arrow columns, datetimes. Writes: microseconds, scan filters.

Joins, scans, bounds, audits and manifests all ask here, so that a row has one time: timestamps of
every unit (without a zone they mean UTC) and dates (midnight UTC). What is finer than a
microsecond is floored to it. Text and numbers are no times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError

if TYPE_CHECKING:
    import pyarrow.dataset as ds

UTC_US = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds in a tick of a unit; of nanoseconds a thousand make one."""


def is_time(kind: pa.DataType) -> bool:
    """Whether values of this type are event times."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def microseconds(
    times: pa.ChunkedArray | pa.Array,
    *,
    name: str = "event_timestamp",
    space: Callable[[int], np.ndarray] | None = None,
) -> np.ndarray:
    """A time column without nulls as int64 [N] microseconds since 1970 UTC, floored.

    space: makes the array of a column in several chunks. Raises InputError for columns that are
    not timestamps or dates, for nulls, and for times that 64 bits of microseconds do not hold.
    """
    if not is_time(times.type):
        raise InputError(
            f"{name} is of type {times.type}; expected timestamps or dates, cast the column"
        )
    if times.null_count:
        raise InputError(f"{name}: {times.null_count} values are null; drop these rows")
    if not isinstance(times, pa.ChunkedArray):
        return _microseconds(times, name)
    if times.num_chunks == 1:
        return _microseconds(times.chunk(0), name)
    whole, end = (np.empty(len(times), np.int64) if space is None else space(len(times))), 0
    for chunk in times.chunks:
        start, end = end, end + len(chunk)
        whole[start:end] = _microseconds(chunk, name)
    return whole


def timestamps(times: pa.ChunkedArray, *, name: str) -> pa.ChunkedArray:
    """A time column, nulls kept, as timestamp[us, UTC], floored. Raises InputError as above."""
    if times.type == UTC_US:
        return times
    if pa.types.is_null(times.type):
        return pa.chunked_array([pa.nulls(len(times), UTC_US)])
    return pa.chunked_array([_timestamps(chunk, name) for chunk in times.chunks], UTC_US)


def time_bounds(
    kind: pa.DataType, column: str, *, start: datetime | None, end: datetime | None
) -> ds.Expression | None:
    """The scan filter start <= column <= end, both aware, in the column's own type; None for none.

    Rows without a time are in no range. The times of the column count as `microseconds` has them.
    """
    import pyarrow.dataset as ds  # brings pandas: not at import

    if start is None and end is None:
        return None
    if pa.types.is_null(kind):
        return ds.scalar(False)
    storage = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    limits = np.iinfo(np.int32 if pa.types.is_date32(kind) else np.int64)
    least, most = int(limits.min), int(limits.max)
    bound = ds.field(column).is_valid()
    if start is not None:
        first = _ticks(kind, start, last=False)
        if first > most:
            return ds.scalar(False)
        if first > least:
            bound = bound & (ds.field(column) >= pa.scalar(first, storage).cast(kind))
    if end is not None:
        last = _ticks(kind, end, last=True)
        if last < least:
            return ds.scalar(False)
        if last < most:
            bound = bound & (ds.field(column) <= pa.scalar(last, storage).cast(kind))
    return bound


def _ticks(kind: pa.DataType, moment: datetime, *, last: bool) -> int:
    """The last tick of a type that is not after a moment, or the first that is not before it."""
    if moment.tzinfo is None:
        raise InputError(
            f"a bound is {moment.isoformat()} without a time zone; give an aware time, for example"
            " ...+00:00"
        )
    at = (moment - _EPOCH) // timedelta(microseconds=1)
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return at * 1_000 + (999 if last else 0)
    ticks = _microseconds_in_tick(kind)
    return at // ticks if last else -(-at // ticks)


def _microseconds_in_tick(kind: pa.DataType) -> int:
    if pa.types.is_date32(kind):
        return _DAY_MS * 1_000
    return _TICKS["ms"] if pa.types.is_date64(kind) else _TICKS[kind.unit]


def _microseconds(times: pa.Array, name: str) -> np.ndarray:
    kind = times.type
    # through integers: pyarrow 26.0.1 converts day resolution to wrong times without a word
    whole = np.asarray(times.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64()))
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return np.floor_divide(whole, 1_000)
    if pa.types.is_date64(kind):
        whole = np.floor_divide(whole, _DAY_MS) * _DAY_MS
    ticks = _microseconds_in_tick(kind)
    if ticks == 1:
        return whole
    most = np.iinfo(np.int64).max // ticks
    if len(whole) and (int(whole.max()) > most or int(whole.min()) < -most):
        raise InputError(
            f"{name} holds times of type {kind} that are further from 1970 than 64 bits of"
            " microseconds count; correct these rows"
        )
    return whole.astype(np.int64) * ticks


def _timestamps(chunk: pa.Array, name: str) -> pa.Array:
    if not is_time(chunk.type):
        microseconds(chunk, name=name)  # says what is wrong
    if pa.types.is_timestamp(chunk.type) and chunk.type.unit == "us":
        return chunk.cast(pa.int64()).cast(UTC_US)
    if not chunk.null_count:
        return pa.array(_microseconds(chunk, name)).cast(UTC_US)
    known = np.asarray(chunk.is_valid())
    whole = np.zeros(len(chunk), np.int64)
    whole[known] = _microseconds(chunk.drop_null(), name)
    return pa.array(whole, mask=~known).cast(UTC_US)
