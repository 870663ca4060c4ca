"""Joined rows into one Parquet file. Reads: tables. Writes: row groups that a trainer can shuffle
and read one at a time.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.errors import InputError

ROW_GROUP_ROWS = 1 << 18
"""Enough to encode well; the encoder's own copies, which grow with it, stay small beside the
rows.
"""


def write_parquet(tables: Iterable[pa.Table], path: str | Path, *, filesystem: Any = None) -> int:
    """Write tables of one schema into one Parquet file, in row groups that a trainer can shuffle.

    Parameters
    ----------
    tables : iterable of pyarrow.Table
        At least one; later ones are cast to the schema of the first. One is in memory at a time.
    path : str or Path
        The file; an existing one is replaced as it is written.
    filesystem : pyarrow.fs.FileSystem, optional
        By default the local one.

    Returns
    -------
    int
        The rows written.

    Raises
    ------
    InputError
        There is no table.

    Notes
    -----
    Row groups have 262,144 rows,
    and only columns whose values repeat (texts, codes) have a dictionary.

    Examples
    --------
    >>> import tempfile
    >>> import pyarrow as pa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_parquet([pa.table({"item_id": ["a", "b"]})], f"{folder}/rows.parquet")
    2
    """
    tables = iter(tables)
    table: Any = next(tables, None)
    if table is None:
        raise InputError(
            f"there are no tables to write to {path}; give at least one, if need be without rows"
        )
    schema, rows = table.schema, 0
    with pq.ParquetWriter(
        path,
        schema,
        filesystem=filesystem,
        use_dictionary=_repeating(schema),
        write_page_checksum=True,
    ) as writer:
        while table is not None:
            writer.write_table(table.cast(schema), ROW_GROUP_ROWS)
            rows += len(table)
            del table  # not held while the next one is made
            table = next(tables, None)
    return rows


def _repeating(schema: pa.Schema) -> list[str]:
    """The columns whose values repeat, by Parquet's own paths.

    Texts and short integers (codes), lists of them too;
    times, long integers and fractions hardly repeat.
    """
    empty = io.BytesIO()
    pq.ParquetWriter(empty, schema).close()
    leaves = pq.ParquetFile(empty).schema
    return [leaf.path for leaf in leaves if leaf.physical_type not in {"FLOAT", "DOUBLE", "INT64"}]
