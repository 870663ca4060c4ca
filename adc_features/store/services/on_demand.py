"""On-demand views, computed by Feast. Reads: the columns of their sources, keys and request
fields. Writes: their features, in the declared types.

Both paths come here. In `get_historical_features` and `get_online_features` themselves Feast (0.67)
gives a function different inputs for the same row: lists or frames, wide or declared types, whole
columns or, in singleton mode, only the first row (`transform_singleton` takes `v[0]` and forgets
the others). What a function sees here is an Arrow table in the declared types, on both paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from adc_features.aggregates.finalise import READ_AT
from adc_features.errors import InputError
from adc_features.event_times import UTC_US
from adc_features.store.services.plan import OnDemandView
from adc_features.store.services.values import MISFITS, element, in_declared_type


def computed(view: OnDemandView, columns: Mapping[str, Any], rows: int) -> dict[str, pa.Array]:
    """Feature -> its column for `rows` rows.

    columns: what `view` reads: its inputs by their full names, keys and request fields.

    Raises InputError when the function fails, lacks a feature, gives another number of rows, or
    values that the declared type does not hold.
    """
    table = pa.table(dict(columns))
    try:
        made = _singletons(view.view, table) if view.view.singleton else _whole(view.view, table)
    except Exception as error:  # the user's own function: anything may be wrong in it
        raise InputError(
            f"on-demand view {view.projected!r} failed on {rows} rows"
            f" ({type(error).__name__}: {error}); its function got {table.schema.names}: correct"
            " it, and mind that absent values are null"
        ) from error
    answer = {}
    for name, dtype in view.features.items():
        if name not in made.column_names:
            raise InputError(
                f"on-demand view {view.projected!r} declares {name!r} and its function returns"
                f" {made.column_names}; correct one of them and apply again"
            )
        if len(made) != rows:
            raise InputError(
                f"on-demand view {view.projected!r} returned {len(made)} rows for {rows}; a"
                " function gives one row for each that it gets"
            )
        answer[name] = _fitted(made[name], dtype, f"{view.projected}__{name}")
    return answer


def read_at(view: OnDemandView, times: pa.Table) -> dict[str, Any]:
    """The column of the time of reading, where a view asks for it: `READ_AT` of the rows where they
    have it, else their `event_timestamp`.
    """
    if not view.at_read:
        return {}
    if READ_AT in times.column_names:
        return {READ_AT: times[READ_AT]}
    return {READ_AT: times["event_timestamp"].cast(UTC_US).cast(pa.int64())}


def _fitted(column: pa.ChunkedArray, dtype: str, name: str) -> pa.Array:
    try:
        fit = in_declared_type(column, dtype, name=name)
    except MISFITS as error:
        raise InputError(
            f"on-demand feature {name} is declared {dtype} and its function returned"
            f" {column.type}, which does not fit ({error}); correct one of them"
        ) from error
    return fit.chunk(0) if fit.num_chunks == 1 else pa.concat_arrays(fit.chunks)


def _whole(view: Any, table: pa.Table) -> pa.Table:
    return view.transform_arrow(table, full_feature_names=False)


def _singletons(view: Any, table: pa.Table) -> pa.Table:
    """A call a row, as the function is written for one."""
    rows = [
        view.transform_dict({name: [value] for name, value in row.items()})
        for row in table.to_pylist()
    ]
    names = {feature.name: str(feature.dtype) for feature in view.features}
    return pa.table({n: [_first(row[n], kind) for row in rows] for n, kind in names.items()})


def _first(value: Any, kind: str) -> Any:
    """A singleton function may return a value, or a list of one."""
    if not isinstance(value, list) or len(value) != 1:
        return value
    return value[0] if element(kind) == kind or isinstance(value[0], list) else value
