"""Parquet that a Spark source names, read by our tasks where Spark would give the same. Reads:
footers. Writes: nothing.

It costs half: Spark makes rows of the columns, and Arrow's columns of these rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from adc_features.errors import AdcError
from adc_features.store.casts import is_list
from adc_features.store.parquet.opening import open_source
from adc_features.store.parquet.sources import Declared, Source


def read_by_tasks(
    paths: Sequence[str], path: str, schema: pa.Schema, *, of: str, declared: Declared
) -> Source | None:
    """The files of a path on this machine, or mounted as on it, opened for our tasks.

    paths: the files that Spark would read. schema: the columns in the types in which Spark would
    give them. None where the answer could be another one: for other file systems, whose keys Spark
    alone may have, for folders of partitions, files of several schemas, and types that Spark reads
    in its own way.
    """
    if not paths or not all(one.startswith("file:/") for one in paths):
        return None
    try:
        found = open_source(os.path.abspath(_local(path)), of=of, declared=declared)
    except (AdcError, OSError):
        return None
    if len(found.runs) != 1 or found.partitions:
        return None
    files = found.runs[0].files
    if list(files.files) != sorted(_local(unquote(one)) for one in paths):
        return None
    if files.schema.names != schema.names:
        return None
    same = all(_alike(a, b) for a, b in zip(files.schema.types, schema.types, strict=True))
    return found if same else None


def _local(path: str) -> str:
    """A path without its scheme: file:/a and file:///a are /a."""
    return "/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:/") else path


def _alike(ours: pa.DataType, sparks: pa.DataType) -> bool:
    """Whether values have one meaning in both types; Spark names elements of lists otherwise."""
    if is_list(ours) and is_list(sparks):
        return _alike(ours.value_type, sparks.value_type)
    if pa.types.is_timestamp(ours) and pa.types.is_timestamp(sparks):
        return (ours.tz is None) == (sparks.tz is None)
    return bool(ours.equals(sparks))
