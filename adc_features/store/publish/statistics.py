"""Publish statistics as rows that Feast reads.

Reads: tables of features. Writes: data/statistics of a repository.
"""

import logging
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import fresh_directory, seal
from adc_features.clock import moment
from adc_features.codes.rows import TIME, check_timed
from adc_features.data.statistics import NO_TIME
from adc_features.errors import InputError
from adc_features.parquet_files import write_table
from adc_features.store.definitions import (
    ENTITY_OF,
    FEATURE_TYPES,
    JOIN_KEY,
    feature_schema,
    id_type,
)
from adc_features.store.publish.lock import only_publisher
from adc_features.store.publish.published import LAST_TIME, check_same_ids
from adc_features.store.repository import live_generations, statistics_path

_log = logging.getLogger(__name__)


def publish_statistics(
    repo: Path, *, item_profile: pa.Table, user_activity: pa.Table, resolution: timedelta
) -> Path:
    """Replace the published statistics by these, both at once.

    Parameters
    ----------
    repo : Path
        A repository that `create_repository` wrote.
    item_profile, user_activity : pyarrow.Table
        One row per change of an item (`item_id`) or user (`user_id`): `event_timestamp` (aware,
        from when on the row holds), then features of the types int32, int64, float32, float64,
        string, bool, or lists of them. Every `*_last_time` column is int64, microseconds since
        1970 UTC, of the last event that the row contains.
    resolution : timedelta
        The smallest step of the data's times.

    Returns
    -------
    Path
        The directory of the statistics.

    Raises
    ------
    InputError
        Times are naive or null, ids null, a key has two rows at one time, integers or lists hold
        nulls, numbers NaN, Feast lacks a type, or a row would leak (`check_validity`).

    Examples
    --------
    >>> from datetime import UTC, datetime, timedelta
    >>> second = datetime(2014, 1, 2, tzinfo=UTC)
    >>> before = int(datetime(2014, 1, 1, tzinfo=UTC).timestamp() * 1_000_000)
    >>> item_profile = pa.table(
    ...     {
    ...         "item_id": ["a"],
    ...         "event_timestamp": [second],
    ...         "item_event_count": [3],
    ...         "item_last_time": [before],
    ...     }
    ... )
    >>> user_activity = pa.table(
    ...     {"user_id": ["u"], "event_timestamp": [second], "user_last_time": [before]}
    ... )
    >>> publish_statistics(
    ...     repo,
    ...     item_profile=item_profile,
    ...     user_activity=user_activity,
    ...     resolution=timedelta(days=1),
    ... ).name
    'statistics'

    Source
    ------
    Feast documentation, "Data ingestion":
    https://docs.feast.dev/getting-started/concepts/data-ingestion
    """
    tables = {
        name: _checked(table, JOIN_KEY[ENTITY_OF[name]], name)
        for name, table in (("item_profile", item_profile), ("user_activity", user_activity))
    }
    shared = set(feature_schema(tables["item_profile"].schema).names) & set(
        feature_schema(tables["user_activity"].schema).names
    )
    if shared:
        raise InputError(
            f"both statistics have columns {sorted(shared)}; feature names are unique across views,"
            " rename them"
        )
    for name, table in tables.items():
        check_validity(table, resolution=resolution)
        if ENTITY_OF[name] == "item" and live_generations(repo):
            check_same_ids(repo, "item", id_type(table.schema, "item_id"))
    with only_publisher(repo), fresh_directory(statistics_path(repo)) as aside:
        for name, table in tables.items():
            write_table(table, aside / f"{name}.parquet")
        seal(
            aside,
            {
                "kind": "statistics",
                "rows": {name: len(table) for name, table in tables.items()},
                "resolution_seconds": resolution.total_seconds(),
            },
        )
    _log.info(
        "stage=publish_statistics %s",
        " ".join(f"{name}={len(table)}" for name, table in tables.items()),
    )
    return statistics_path(repo)


def check_validity(rows: pa.Table, *, resolution: timedelta) -> None:
    """Refuse rows that would show an event to its own training row.

    Feast joins feature rows whose time is not after the row's. A feature row that is stamped with
    the time of an event which it contains would therefore hand that event, label included, to the
    row of that event: it must hold from a later moment on.

    Parameters
    ----------
    rows : pyarrow.Table
        `event_timestamp` and every `*_last_time` column (int64, microseconds since 1970 UTC).
    resolution : timedelta
        The smallest step of the data's times: last_time + resolution <= event_timestamp.

    Raises
    ------
    InputError
        The column, how many rows and the first of them; also when there is no such column.

    Examples
    --------
    >>> from datetime import UTC, datetime, timedelta
    >>> import pyarrow as pa
    >>> noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    >>> rows = pa.table(
    ...     {
    ...         "event_timestamp": pa.array([noon], pa.timestamp("us", "UTC")),
    ...         "user_last_time": [int(noon.timestamp()) * 1_000_000],
    ...     }
    ... )
    >>> check_validity(rows, resolution=timedelta(seconds=1))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    adc_features.errors.InputError: 1 rows leak: row 0 is valid from 2024-01-01T12:00:00+00:00 ...
    """
    if resolution <= timedelta(0):
        raise InputError(
            f"resolution is {resolution}; expected the smallest step of the data's times, above 0"
        )
    columns = [name for name in rows.column_names if name.endswith(LAST_TIME)]
    if not columns:
        raise InputError(
            f"no column ends with '{LAST_TIME}' among {rows.column_names}; without the time of the"
            " last event a leak cannot be ruled out, add it"
        )
    valid_from = rows["event_timestamp"].cast(TIME).cast(pa.int64()).to_numpy()
    for name in columns:
        last = rows[name].to_numpy()
        leaking = np.flatnonzero(
            (last != NO_TIME) & (last + resolution // timedelta(microseconds=1) > valid_from)
        )
        if len(leaking):
            first = leaking[0]
            raise InputError(
                f"{len(leaking)} rows leak: row {first} is valid from"
                f" {moment(valid_from[first].astype('datetime64[us]')).isoformat()} but holds an"
                f" event of {name} = {moment(last[first].astype('datetime64[us]')).isoformat()},"
                f" known only {resolution} later; stamp such rows last_time + resolution"
            )


def _checked(table: pa.Table, key: str, name: str) -> pa.Table:
    """The table with event_timestamp in microseconds.

    Raises InputError for what Feast could not carry faithfully.
    """
    check_timed(table, [key], name=name)
    for field in feature_schema(table.schema):
        column = table[field.name]
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        if inner not in FEATURE_TYPES:
            raise InputError(
                f"{name}: column {field.name!r} is of type {field.type}; expected"
                f" {', '.join(map(str, FEATURE_TYPES))}, or a list of one of them"
            )
        if pa.types.is_integer(field.type) and column.null_count:
            raise InputError(
                f"{name}: {column.null_count} nulls in integer column {field.name!r}, which would"
                " become floats; give a value that means none"
            )
        if pa.types.is_list(field.type) and pc.list_flatten(column).null_count:
            raise InputError(
                f"{name}: nulls inside the lists of {field.name!r}, which Feast turns into 0; drop"
                " them"
            )
        numbers = pc.list_flatten(column) if inner != field.type else column
        if pa.types.is_floating(inner) and pc.any(pc.is_nan(numbers)).as_py():
            raise InputError(
                f"{name}: NaN in {field.name!r}, which would be served as null; use null"
            )
        if field.name.endswith("_y"):
            raise InputError(
                f"{name}: column {field.name!r} ends with '_y', which Feast's DuckDB store drops;"
                " rename it"
            )
    table = table.set_column(
        table.column_names.index("event_timestamp"),
        "event_timestamp",
        table["event_timestamp"].cast(TIME),
    )
    if not len(table):
        raise InputError(f"{name} is empty; publish at least one row")
    if len(table.group_by([key, "event_timestamp"]).aggregate([])) < len(table):
        raise InputError(
            f"{name}: several rows of one {key} at one event_timestamp; keep the last of each"
        )
    return table.replace_schema_metadata(None)
