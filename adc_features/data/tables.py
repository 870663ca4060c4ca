"""Items and interactions as they come: Parquet, CSV or SQL. Reads: files, databases. Writes: Arrow
tables of plain types.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.damage import READ_ERRORS
from adc_features.data.attributes import ATTRIBUTES
from adc_features.errors import InputError
from adc_features.redaction import redacted_url, without_secrets

TIME = pa.timestamp("us", tz="UTC")


CSV = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)


def read_table(source: str) -> pa.Table:
    """A Parquet file or directory, or a CSV file (*.csv, *.tsv, also *.gz), by path, or a SQL table
    or view as `<SQLAlchemy URL>#[<schema>.]<table>`.

    A `time` column may also hold dates (midnight UTC) or ISO 8601 text with offsets, since SQLite
    has no times with a zone, and a `vector_<modality>` column may hold JSON text, since few
    databases have arrays. Raises InputError when it cannot be read.
    """
    if "://" in source and "#" in source:
        return _read_sql(*source.rsplit("#", 1))
    if "://" in source:
        raise InputError(
            f"{redacted_url(source)} names a database but no table; give '<SQLAlchemy"
            " URL>#[<schema>.]<table>'"
        )
    if not Path(source).exists():
        raise InputError(
            f"{source} does not exist; give a Parquet or CSV file or '<SQLAlchemy URL>#<table>'"
        )
    if Path(source).is_file() and CSV.search(Path(source).name):
        return _plain_types(_read_csv(source))
    try:
        table = pq.read_table(source, page_checksum_verification=True)
    except READ_ERRORS as error:
        raise InputError(
            f"{source} is not readable as Parquet ({error}); write the file again, or name a CSV"
            " file *.csv"
        ) from error
    return _plain_types(table)


def table_in(directory: Path, name: str) -> str:
    """The path of a table in a data directory: its Parquet file or directory, or else its
    CSV file.
    """
    parquet, csv = directory / f"{name}.parquet", directory / f"{name}.csv"
    return str(csv if csv.is_file() and not parquet.exists() else parquet)


def _read_csv(source: str) -> pa.Table:
    """Ids, times and attributes stay text, so that leading zeros and offsets survive; an empty
    field is null.
    """
    from pyarrow import csv

    text = {
        name: pa.string()
        for name in (
            "user_id",
            "item_id",
            "time",
            *{c for columns in ATTRIBUTES.values() for c in columns},
        )
    }
    convert = csv.ConvertOptions(
        column_types=text,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    delimiter = "\t" if ".tsv" in Path(source).name else ","
    try:
        return csv.read_csv(
            source,
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=convert,
        )
    except READ_ERRORS as error:
        raise InputError(
            f"{source} is not readable as CSV ({error}); give one header line, UTF-8, and as many"
            " fields in every line"
        ) from error


def _read_sql(url: str, table: str) -> pa.Table:
    import pandas as pd
    from sqlalchemy import create_engine, exc
    from sqlalchemy.pool import NullPool

    schema, _, name = table.rpartition(".")
    try:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            frame = pd.read_sql_table(name, connection, schema=schema or None)
        return _plain_types(pa.Table.from_pandas(frame, preserve_index=False))
    except (exc.SQLAlchemyError, pa.ArrowException, ImportError, ValueError) as error:
        raise InputError(
            f"table {table!r} at {redacted_url(url)} cannot be read"
            f" ({without_secrets(str(error), url)}); check the URL, its driver, the table name and"
            " the rights: passwords are hidden here and kept nowhere, so give one on the command"
            " line again, or in what the driver reads, such as PGPASSWORD"
        ) from None  # the driver's own error may hold the password


def _plain_types(table: pa.Table) -> pa.Table:
    """The types that the rest of the library knows; what cannot be converted stays, for the doctor
    to name.
    """
    table = _plain_strings(table)
    for i, column in enumerate(table.column_names):
        if column == "time":
            table = table.set_column(i, column, _times(table[column]))
        elif column.startswith("vector_") and pa.types.is_string(table[column].type):
            with suppress(ValueError, TypeError, pa.ArrowException):
                values = [json.loads(v or "null") for v in table[column].to_pylist()]
                vectors = pa.chunked_array([values], pa.list_(pa.float32()))
                table = table.set_column(i, column, vectors)
    return table


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates and ISO 8601 text with offsets as timestamps; Arrow refuses text without an offset, and
    so do we.
    """
    if pa.types.is_string(column.type):
        for kind in (TIME, pa.date32()):
            with suppress(pa.ArrowInvalid):
                column = pc.cast(column, kind)
                break
    return pc.cast(column, TIME) if pa.types.is_date(column.type) else column


def _plain_strings(table: pa.Table) -> pa.Table:
    """Dictionary and large strings as plain strings,
    so that one id type meets the other everywhere.
    """
    for i, column in enumerate(table.schema):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_large_string(kind) or (
            pa.types.is_dictionary(column.type) and pa.types.is_string(kind)
        ):
            table = table.set_column(i, column.name, pc.cast(table.column(i), pa.string()))
    return table.replace_schema_metadata(None)
