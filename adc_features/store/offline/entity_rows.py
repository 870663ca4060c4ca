"""The entity rows of a join, in whatever form they come.

Reads: frames, datasets, SQL. Writes: Arrow tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from adc_features.clock import moment
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, is_time, microseconds
from adc_features.extras import extra_modules
from adc_features.input_files import InputFiles
from adc_features.store.column_names import refuse_doubled
from adc_features.store.join.engine import ViewSource

TIME = "event_timestamp"


def entity_table(entity: Any, *, repo_path: Path | None = None) -> pa.Table | ds.Dataset:
    """Entity rows as an Arrow table or dataset.

    Text is run as DuckDB SQL, its file names relative to the repository. Raises InputError for what
    is no frame, and for SQL that DuckDB refuses.
    """
    if isinstance(entity, pa.Table | ds.Dataset):
        return entity
    if isinstance(entity, str):
        with extra_modules():
            import duckdb

        with duckdb.connect() as connection:
            if repo_path is not None:
                connection.execute("SET file_search_path = ?", [str(repo_path)])
            connection.execute("SET TimeZone = 'UTC'")
            try:
                found = connection.sql(entity)
                if found is None:
                    raise InputError(
                        "the entity query returns no rows; give a SELECT, it is run by DuckDB"
                    )
                return found.to_arrow_table()
            except duckdb.Error as error:
                raise InputError(
                    f"the entity query failed: {error}; correct the SQL, it is run by DuckDB"
                ) from error
    if hasattr(entity, "to_arrow"):  # polars; its large types are ours by the key's plain form
        return entity.to_arrow()
    if hasattr(entity, "columns") and hasattr(entity, "index"):
        return _from_pandas(entity)
    raise InputError(
        f"the entity rows are a {type(entity).__name__}; give a pandas, Arrow or polars frame,"
        " or SQL"
    )


def time_column(entity: pa.Schema) -> str:
    """`event_timestamp`, or the only column of times.

    Raises InputError when there is none, or a choice.
    """
    if TIME in entity.names:
        return TIME
    times = [f.name for f in entity if is_time(f.type)]
    if len(times) != 1:
        raise InputError(
            f"the entity rows have no column {TIME!r} and {len(times)} columns of times {times};"
            f" name the one to join by {TIME!r}"
        )
    return times[0]


def table_pieces(entity: pa.Table | ds.Dataset, rows: int) -> Iterator[pa.Table]:
    """A table as it is; a dataset in tables of at least `rows` rows, at least one table."""
    if isinstance(entity, pa.Table):
        yield entity
        return
    waiting = [entity.schema.empty_table()]
    for fragment in entity.get_fragments():
        _check_entity_file(fragment, entity.schema)
        is_parquet = isinstance(fragment, ds.ParquetFileFragment)
        for group in fragment.split_by_row_group() if is_parquet else [fragment]:
            waiting.append(group.to_table(entity.schema, batch_size=1 << 30, use_threads=False))
            if sum(map(len, waiting)) >= rows:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def inputs_of(entity: pa.Table | ds.Dataset) -> list[InputFiles]:
    """The files that entity rows are read from, as they are now; none of a table's."""
    if isinstance(entity, ds.FileSystemDataset):
        return [InputFiles.at(entity.files, entity.filesystem)]
    return []


def check_keys(entity: pa.Schema, sources: Iterable[ViewSource]) -> None:
    """Raise InputError when the entity rows lack a key, or a view's files a column."""
    for source in sources:
        source.check()
        refuse_missing_keys(entity, source)


def refuse_missing_keys(entity: pa.Schema, source: ViewSource) -> None:
    """Raise InputError when the entity rows lack a key of a view."""
    if missing := sorted(set(source.keys) - set(entity.names)):
        raise InputError(
            f"the entity rows have no column {', '.join(missing)}, a key of view"
            f" {source.name}; they have {entity.names}"
        )


def with_utc_times(tables: Iterable[pa.Table], time: str) -> Iterator[pa.Table]:
    """The same rows with their times as timestamp[us, UTC]."""
    for table in tables:
        stamps = pa.array(microseconds(table[time], name=time)).cast(UTC_US)
        yield table.set_column(table.column_names.index(time), time, stamps)


def _check_entity_file(fragment: Any, wanted: pa.Schema) -> None:
    """Raise InputError for a file whose times Arrow would change into the dataset's type."""
    for field in fragment.physical_schema if isinstance(fragment, ds.ParquetFileFragment) else ():
        place = wanted.get_field_index(field.name)
        kind = wanted.field(place).type if place >= 0 else field.type
        if kind != field.type and (is_time(kind) or is_time(field.type)):
            raise InputError(
                f"the entity rows have {field.name} as {field.type} in {fragment.path} and as"
                f" {kind} in their schema; write the files alike"
            )


def time_span(entity: pa.Table | ds.Dataset, time: str) -> tuple[datetime | None, datetime | None]:
    """The first and the last time of the entity rows; None without rows."""
    if isinstance(entity, ds.Dataset):
        for fragment in entity.get_fragments():
            _check_entity_file(fragment, entity.schema)
    columns = (
        [entity[time]]
        if isinstance(entity, pa.Table)
        else (batch[time] for batch in entity.to_batches(columns=[time]))
    )
    ends = [
        (at.min(), at.max())
        for at in (microseconds(column, name=time) for column in columns)
        if len(at)
    ]
    if not ends:
        return None, None
    first, last = min(first for first, _ in ends), max(last for _, last in ends)
    return moment(np.datetime64(int(first), "us")), moment(np.datetime64(int(last), "us"))


def _from_pandas(frame: Any) -> pa.Table:
    """pandas rows; times that are objects (texts, mixed zones) are parsed, zones become UTC."""
    refuse_doubled(list(frame.columns))
    if TIME in frame.columns and frame[TIME].dtype == object:
        frame = frame.assign(**{TIME: _moments(frame[TIME])})
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError(
            f"column {_unfit(frame)!r} holds values of no common type ({error}); give each column"
            " one type, whole numbers of at most 64 bits"
        ) from error
    return table.replace_schema_metadata(None)


def _unfit(frame: Any) -> str:
    """The first column that Arrow does not take."""
    for name in frame.columns:
        try:
            pa.array(frame[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return str(name)
    return "index"


def _moments(column: Any) -> Any:
    """A pandas column of objects as times. Raises InputError for what is no time."""
    import pandas as pd

    try:
        return pd.to_datetime(column, utc=True)
    except (ValueError, TypeError, OverflowError) as error:
        values = list(column)
        if not all(isinstance(value, datetime) and value is not pd.NaT for value in values):
            raise InputError(
                f"the entity rows' {TIME} holds what is no time ({error}); give datetimes or ISO"
                " 8601 texts"
            ) from error
        # beyond pandas' nanoseconds (years 1677 to 2262); Arrow takes them
        aware = [
            (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
            for value in values
        ]
        return pd.Series(aware, index=column.index, dtype=object)


def keys_between(sources: list[ViewSource], start: datetime, end: datetime) -> pa.Table:
    """Every distinct (key, time) of the views with start <= time <= end.

    They are the entity rows when none are given.
    """
    keys = list(dict.fromkeys(key for source in sources for key in source.keys))
    tables = []
    for source in sources:
        source.check()
        if missing := sorted(set(keys) - set(source.keys)):
            raise InputError(
                f"without entity rows all views need the same keys; {source.name} has no"
                f" {', '.join(missing)}, give entity rows"
            )
        rows = source.files.table([*source.keys.values(), source.time], start=start, end=end)
        tables.append(
            pa.table(
                {TIME: rows[source.time], **{key: rows[name] for key, name in source.keys.items()}}
            ).select([TIME, *keys])
        )
    return (
        pa.concat_tables(tables, promote_options="permissive")
        .group_by([TIME, *keys])
        .aggregate([])
        .sort_by(TIME)
    )
