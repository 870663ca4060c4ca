"""Rows on their way into the online store.

Reads: Arrow tables, entity keys. Writes: rows of the row table, value protos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.store import _compat as feast
from adc_features.store.lmdb.entity_keys import key_array, row_key
from adc_features.store.lmdb.feature_values import (
    check_columns,
    columns_from_arrow,
    columns_from_protos,
    conformed,
    keys_from_arrow,
    schema_of,
)
from adc_features.store.lmdb.records import FIRST_TIME, LAST_TIME, NO_CREATED
from adc_features.store.lmdb.row_table import Rows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows_of(view: Any, table: pa.Table, *, event: str, created: str | None) -> Rows:
    """A table in the view's names as rows to write; its columns `event` and `created` hold times.

    Raises InputError for missing columns, null keys or times, values of other types.
    """
    # a view without entities has one row, under the key that `row_key` gives it
    keys, no_entity = keys_from_arrow(view, table), {"": pa.array([""] * len(table))}
    check_columns(view.name, [event, *([created] if created else [])], table.column_names)
    at, born = _times(table[event], view=view.name, name=event), np.full(len(table), NO_CREATED)
    _check_calendar(at, view=view.name, name=event)
    if created:
        born = _times(table[created], view=view.name, name=created, absent=NO_CREATED)
    key = key_array({name: column.combine_chunks() for name, column in keys.items()} or no_entity)
    return Rows(schema_of(view), key, at, born, columns_from_arrow(view, table))


def rows_of_protos(
    view: Any, rows: Sequence[tuple[Any, Mapping[str, Any], datetime, datetime | None]]
) -> Rows:
    """Feast's rows (entity key, value protos, event time, created time), all of the same features.

    Raises InputError for rows without an event time, and values that do not fit their type.
    """
    schema, columns = columns_from_protos(view, [values for _, values, _, _ in rows])
    keys = pa.array([entity_row_key(entity) for entity, _, _, _ in rows], pa.large_binary())
    if lost := sum(_is_lost(time) for _, _, time, _ in rows):
        raise InputError(
            f"view {view.name}: {lost} rows have no event time; a row without its time cannot be"
            " compared, drop these rows"
        )
    created = [
        NO_CREATED if time is None or _is_lost(time) else microseconds_of(time)
        for _, _, _, time in rows
    ]
    event = [microseconds_of(time) for _, _, time, _ in rows]
    return Rows(schema, keys, np.array(event, np.int64), np.array(created, np.int64), columns)


def as_protos(view: Any, table: pa.Table, *, event: str, created: str | None) -> Any:
    """The same as Feast's rows of value protos, for views whose types Arrow does not carry."""
    rows = conformed(view, table, event=event, created=created)
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    converted = feast._convert_arrow_to_proto(rows.combine_chunks(), view, types)
    # by way of pandas, where whole numbers beside nulls are fractions: beyond 2**53 other numbers
    exact = [
        name
        for name, kind in schema_of(view).features
        if kind == "int64_val" and rows[name].null_count
    ]
    for name in exact:
        for (_, values, *_), value in zip(converted, rows[name].to_pylist(), strict=True):
            values[name] = feast.ValueProto(int64_val=value)  # None leaves it unset
    return converted


def entity_row_key(entity_key: Any) -> bytes:
    """The key of the row of an entity, which Feast gives as a proto."""
    values = ((value, value.WhichOneof("val")) for value in entity_key.entity_values)
    return row_key(
        dict(
            zip(
                entity_key.join_keys,
                (getattr(value, kind) if kind else None for value, kind in values),
                strict=True,
            )
        )
    )


def _is_lost(time: datetime | None) -> bool:
    """Whether there is no time: None, or pandas' NaT, which no value equals."""
    return time is None or time != time  # noqa: PLR0124


def microseconds_of(time: datetime) -> int:
    """Microseconds since 1970 UTC; a naive time means UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH) // timedelta(
        microseconds=1
    )


def _check_calendar(times: np.ndarray, *, view: str, name: str) -> None:
    """Raise InputError for times that no `datetime` holds: they could not be served."""
    outside = (times < FIRST_TIME) | (times > LAST_TIME)
    if outside.any():
        raise InputError(
            f"view {view}: {int(outside.sum())} values of {name!r} lie outside the years 1 to 9999"
            f" (first {times[outside][0]} microseconds since 1970); correct these rows"
        )


def _times(
    column: pa.ChunkedArray, *, view: str, name: str, absent: int | None = None
) -> np.ndarray:
    """int64 microseconds [n]; naive times mean UTC."""
    stamps = timestamps(column, name=f"view {view}: {name}").cast(pa.int64())
    if stamps.null_count and absent is None:
        raise InputError(
            f"view {view}: {stamps.null_count} values of {name!r} are null; a row without its time"
            " cannot be compared, drop these rows"
        )
    return stamps.fill_null(absent if absent is not None else 0).to_numpy()
