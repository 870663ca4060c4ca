"""Rows of a label log, wherever they are. Reads: Parquet here or on object stores, SQL databases,
frames. Writes: Arrow tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from adc_features.damage import READ_ERRORS
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, is_time, time_bounds
from adc_features.redaction import redacted_url, without_secrets
from adc_features.uris import is_address, is_remote, open_uri, reaching, storage_error

if TYPE_CHECKING:
    import pyarrow.dataset as ds

TIME = "event_timestamp"
SQL_ROWS = 100_000
"""Rows that are fetched from a database at a time."""


@dataclass(frozen=True)
class SqlLabels:
    """A label log in a database.

    Parameters
    ----------
    url : str
        Of SQLAlchemy, such as postgresql+psycopg://user@host/database. A password in it is never
        printed.
    query : str
        A table or view (`events`, `schema.events`), or a SELECT.
    """

    url: str
    query: str

    def __repr__(self) -> str:
        return f"SqlLabels({redacted_url(self.url)!r}, {self.query!r})"


LabelSource = Path | str | SqlLabels | Any
"""A Parquet file or directory, as a path or an address that `open_uri` opens; a database, or a
pandas, Arrow or polars frame.
"""


def source_name(source: LabelSource) -> str:
    """The source in words, without secrets."""
    if isinstance(source, Path | str):
        return f"label log {source}"
    return f"label log {source!r}" if isinstance(source, SqlLabels) else "label log"


@dataclass(frozen=True)
class Scan:
    """A source that is opened and not yet read: its columns are known, rows are read by `table`."""

    schema: pa.Schema
    whole: pa.Table | ds.Dataset

    def table(
        self,
        columns: Sequence[str],
        *,
        time: str,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pa.Table:
        """These columns of the rows with start <= time < end. The time column must be of times."""
        import pyarrow.dataset as ds

        kind = self.schema.field(time).type
        last = None if end is None else end - timedelta(microseconds=1)
        bound = time_bounds(kind, time, start=start, end=last)
        if isinstance(self.whole, ds.Dataset):
            return self.whole.to_table(list(columns), filter=bound)
        rows = self.whole.select(list(columns))
        return rows if bound is None else rows.filter(bound)


def open_labels(source: LabelSource) -> Scan:
    """A source, opened. Raises InputError for what is missing, unreadable or no label log."""
    if isinstance(source, SqlLabels):
        return _whole(_from_sql(source))
    if isinstance(source, Path | str):
        if "://" in str(source) and not is_address(source):
            raise InputError(
                f"label log {redacted_url(str(source))} is the URL of a database; give it with a"
                " table or a SELECT, SqlLabels(url, query)"
            )
        return _from_parquet(source)
    from adc_features.store.offline.entity_rows import entity_table

    table = entity_table(source)
    return _whole(table if isinstance(table, pa.Table) else table.to_table())


def time_column(schema: pa.Schema, others: set[str], *, name: str) -> str:
    """The column of row times: `event_timestamp`, or the only column of times beside `others`.

    Raises InputError when there is none, or a choice.
    """
    if TIME in schema.names:
        return TIME
    times = [f.name for f in schema if is_time(f.type) and f.name not in others]
    if len(times) == 1:
        return times[0]
    raise InputError(
        f"{name} has no column {TIME!r}, and {len(times)} other columns of times {times}; name the"
        f" one at which features were read {TIME!r}"
    )


def _whole(table: pa.Table) -> Scan:
    doubled = {n for n in table.column_names if table.column_names.count(n) > 1}
    if doubled:
        raise InputError(
            f"the label log has {', '.join(sorted(doubled))} more than once; rename a column"
        )
    return Scan(table.schema, table)


def _from_parquet(place: Path | str) -> Scan:
    import pyarrow.dataset as ds
    from pyarrow.fs import FileType

    filesystem, path = open_uri(place)
    with reaching(place):
        info = filesystem.get_file_info(path)
    if info.type == FileType.NotFound:
        raise InputError(
            f"label log {place} does not exist; give a Parquet file, or a directory of them"
        )
    texts = (".csv", ".tsv", ".json", ".jsonl", ".gz")
    if info.type == FileType.File and path.lower().endswith(texts):
        raise InputError(
            f"label log {place} is no Parquet file; text has no types, so ids and times would be"
            " guessed: write it as Parquet first"
        )
    try:
        # those here Arrow opens itself and does not map: a log may be cut while it is read
        elsewhere = filesystem if is_remote(place) else None
        found = ds.dataset(path, filesystem=elsewhere, format="parquet", partitioning="hive")
        fragments = list(found.get_fragments())
        if not fragments:
            raise InputError(
                f"label log {place} holds no Parquet file; give the directory that does"
            )
        schemas = [(f.path, f.physical_schema) for f in fragments]
        _refuse_other_times(schemas)
        schema = pa.unify_schemas([*(s for _, s in schemas), _partitions(found)])
        return Scan(schema, found.replace_schema(schema))
    except READ_ERRORS as error:
        raise storage_error(error, place) or InputError(
            f"label log {place} cannot be read as Parquet ({error}); write its files anew, all with"
            " the same types"
        ) from error


def _partitions(found: Any) -> pa.Schema:
    """The columns that stand in names of folders, such as day=2024-01-01."""
    known = found.partitioning.schema if found.partitioning is not None else pa.schema([])
    return pa.schema([field for field in known if field.name in found.schema.names])


def _refuse_other_times(schemas: Sequence[tuple[str, pa.Schema]]) -> None:
    """Raise InputError where two files have a column of times in two types: Arrow would change the
    times of one, silently.
    """
    for (one, first), (other, second) in pairwise(schemas):
        for field in first:
            place = second.get_field_index(field.name)
            kind = second.field(place).type if place >= 0 else field.type
            if kind != field.type and is_time(kind) and is_time(field.type):
                raise InputError(
                    f"{field.name} is of type {field.type} in {one} and of type {kind} in {other};"
                    " write the files alike"
                )


def _from_sql(source: SqlLabels) -> pa.Table:
    from sqlalchemy import MetaData, Table, create_engine, exc, select, text
    from sqlalchemy.pool import NullPool

    try:
        engine = create_engine(source.url, poolclass=NullPool)
        with engine.connect().execution_options(stream_results=True) as connection:
            words = source.query.strip().rstrip(";")
            statement: Any = text(words)
            if not any(c.isspace() for c in words):
                schema, _, name = words.rpartition(".")
                statement = select(
                    Table(name, MetaData(), schema=schema or None, autoload_with=connection)
                )
            result = connection.execute(statement)
            return _joined(list(result.keys()), _pieces(result))
    except (exc.SQLAlchemyError, pa.ArrowException, ImportError, ValueError) as error:
        said = without_secrets(str(getattr(error, "orig", None) or error), source.url)
        raise InputError(
            f"{source!r} cannot be read ({said}); check the URL, its driver, the table or SELECT,"
            " and the rights: passwords are hidden here and kept nowhere, so give one again, or in"
            " what the driver reads, such as PGPASSWORD"
        ) from None  # the driver's own error may hold the password


def _pieces(result: Any) -> Iterator[list[pa.Array]]:
    """The columns of some rows at a time. Integers stay integers: pandas would make floats of a
    column with nulls.
    """
    for rows in result.partitions(SQL_ROWS):
        yield [_column(values) for values in zip(*rows, strict=True)]


def _column(objects: Sequence[Any]) -> pa.Array:
    """What a driver gives, as Arrow: times of whatever zone the connection has are in UTC, UUIDs
    are text.
    """
    if any(isinstance(value, UUID) for value in objects):
        return pa.array([None if value is None else str(value) for value in objects])
    values = pa.array(objects)
    zoned = pa.types.is_timestamp(values.type) and values.type.tz is not None
    return values.cast(UTC_US) if zoned else values


def _joined(names: list[str], pieces: Iterator[list[pa.Array]]) -> pa.Table:
    tables = [pa.Table.from_arrays(columns, names=names) for columns in pieces]
    if not tables:
        raise InputError("the table or SELECT of the label log gives no rows; check its conditions")
    return pa.concat_tables(tables, promote_options="permissive")
