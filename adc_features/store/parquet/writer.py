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
    """Write tables of one schema, at least one, one after the other; returns the rows written.

    Only what repeats has a dictionary. Raises InputError without a table, pyarrow's errors for one
    that cannot be cast to the first one's schema.
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
    """Columns of texts and short integers (codes), lists' elements among them, by Parquet's own
    paths: times, long integers and fractions hardly repeat.
    """
    empty = io.BytesIO()
    pq.ParquetWriter(empty, schema).close()
    leaves = pq.ParquetFile(empty).schema
    return [leaf.path for leaf in leaves if leaf.physical_type not in {"FLOAT", "DOUBLE", "INT64"}]
