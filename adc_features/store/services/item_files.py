"""Parquet files of items: their vectors, their texts, and what holds as of a time. Reads: Parquet
files with a join key. Writes: Arrow tables.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.damage import READ_ERRORS
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import microseconds

TIME = "event_timestamp"
VECTOR_TYPES = ("Array(Float32)", "Array(Float64)")
"""Feast types of features that hold a vector."""


def is_file(name: str) -> bool:
    """Whether a source names a Parquet file, and no feature."""
    return name.endswith(".parquet") or "/" in name


def item_file(path: Path) -> pa.Table:
    """The table of a file. Raises InputError for a missing one, ArtifactError for a damaged one."""
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; name a Parquet file of items") from error
    except READ_ERRORS as error:
        raise ArtifactError(
            f"{path} cannot be read as Parquet ({error}); write it again"
        ) from error


def newest_rows(table: pa.Table, join_key: str, as_of: datetime) -> pa.Table:
    """The newest row of each item with a time before `as_of`; all rows of a table without a column
    `event_timestamp`, which hold at any time.
    """
    if TIME not in table.column_names:
        return table
    times = microseconds(table[TIME]).astype("datetime64[us]")
    order = np.argsort(times, kind="stable")[::-1]
    order = order[times[order] < instant(as_of)]
    ids = id_array(table[join_key])[order]
    return table.take(pa.array(order[np.sort(np.unique(ids, return_index=True)[1])]))


def vector_columns(table: pa.Table, join_key: str) -> list[str]:
    """Its columns of lists of floating-point numbers."""
    fields = _others(table, join_key)
    return [f.name for f in fields if is_list(f.type) and pa.types.is_floating(f.type.value_type)]


def text_columns(table: pa.Table, join_key: str) -> list[str]:
    """Its columns of texts."""
    return [f.name for f in _others(table, join_key) if is_text(f.type)]


def _others(table: pa.Table, join_key: str) -> list[pa.Field]:
    return [field for field in table.schema if field.name not in (join_key, TIME)]


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
