"""Codes in tables of PostgreSQL, for Feast's PostgreSQL offline store. Reads: Parquet files of a
publication. Writes: a table for each generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.errors import ArtifactError, InputError
from adc_features.extras import extra_modules
from adc_features.store.code_tables.tables import CodeFile, Stored, differences
from adc_features.store.repository import CONFIG, read_config

if TYPE_CHECKING:
    from psycopg import Connection

_ROWS = 50_000
"""Rows that are in memory at once."""
_TYPES = {
    pa.string(): "text",
    pa.large_string(): "text",
    pa.bool_(): "boolean",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.timestamp("us", "UTC"): "timestamptz",
}


class PostgresTables:
    """Tables in the schema that Feast's store searches first.

    Parameters
    ----------
    repo : Path
        A repository whose offline store is PostgreSQL.
    """

    def __init__(self, repo: Path) -> None:
        self._repo = Path(repo)

    def check(self) -> None:
        """Raise ArtifactError where the database does not answer, InputError where the user of the
        offline store may not create tables.
        """
        with self._session("looked at") as session:
            found = session.execute(
                "SELECT current_user, current_schema(),"
                " current_schema() IS NOT NULL AND"
                " has_schema_privilege(current_schema(), 'CREATE')"
            ).fetchone()
        assert found is not None
        user, schema, may = found
        if not may:
            raise InputError(
                f"the user {user!r} of the offline store may not create tables in schema"
                f" {schema or 'none'!r}; grant CREATE on the schema, or set db_schema of"
                f" offline_store in {CONFIG} to one where it may"
            )

    def source(self, view: str, table: str, *, tags: dict[str, str]) -> Any:
        """A source of the table."""
        from adc_features.store import _compat as feast

        with extra_modules():
            source = feast.postgresql_source()
        return source(
            name=view,
            table=f'"{table}"',
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
            tags=tags,
        )

    def write(self, table: str, join_key: str, files: Sequence[CodeFile]) -> int:
        """In one transaction, what differs; other writers wait, readers do not."""
        from psycopg import sql

        name = sql.Identifier(table)
        schema = pq.read_schema(files[0].path)
        columns = {field.name: _sql_type(field.type) for field in schema}
        defined = [
            sql.SQL("{} {} NOT NULL").format(sql.Identifier(column), sql.SQL(kind))
            for column, kind in columns.items()
        ]
        with self._session("written") as session:
            session.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}, event_timestamp))"
                ).format(name, sql.SQL(", ").join(defined), sql.Identifier(join_key))
            )
            session.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(name))
            found = session.execute(
                sql.SQL(
                    "SELECT event_timestamp, created_timestamp, count(*) FROM {} GROUP BY 1, 2"
                ).format(name)
            ).fetchall()
            stale, missing = differences({Stored(*row) for row in found}, files)
            session.execute(
                sql.SQL("DELETE FROM {} WHERE event_timestamp = ANY(%s)").format(name), [stale]
            )
            for file in missing:
                _copy(session, table, columns, file.path)
        return sum(file.rows for file in missing)

    def drop(self, table: str) -> None:
        """Delete the table, where there is one."""
        from psycopg import sql

        with self._session("deleted") as session:
            session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))

    @contextmanager
    def _session(self, done: str) -> Iterator[Connection]:
        """A connection of the offline store, committed when the block ends well.

        done: what was to happen to the tables, for the error.
        """
        from adc_features.store import _compat as feast

        with extra_modules():
            import psycopg
        try:
            config = feast.RepoConfig(**read_config(self._repo), repo_path=self._repo)
            with feast.postgres_connection(config.offline_store) as session:
                yield session
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            raise ArtifactError(
                f"the tables of codes in the PostgreSQL offline store of {self._repo} cannot be"
                f" {done} ({said}); nothing was changed there: see to the database and"
                f" offline_store in {CONFIG}, then run this again"
            ) from error


def _copy(session: Connection, table: str, columns: dict[str, str], path: Path) -> None:
    from psycopg import sql

    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    command = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    with session.cursor() as cursor, cursor.copy(command) as copy:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            copy.write(_lines(batch))


def _lines(rows: pa.RecordBatch) -> str:
    """The rows, none of them null, in the text format of COPY. The driver, row by row, took 49 s
    for 200,000 rows that take 8 s so.
    """
    columns = [_texts(column) for column in rows.columns]
    lines = pc.binary_join_element_wise(*columns, "\t")
    return "\n".join(lines.to_pylist()) + "\n"


def _texts(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type):
        values = column.cast(pa.list_(pa.string()))
        return pc.binary_join_element_wise("{", pc.binary_join(values, ","), "}", "")
    if pa.types.is_timestamp(column.type):
        naive = column.cast(pa.timestamp("us")).cast(pa.string())
        return pc.binary_join_element_wise(naive, "+00", "")
    texts = column.cast(pa.string())
    for character, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        texts = pc.replace_substring(texts, character, escaped)
    return texts


def _sql_type(kind: pa.DataType) -> str:
    return f"{_TYPES[kind.value_type]}[]" if pa.types.is_list(kind) else _TYPES[kind]
