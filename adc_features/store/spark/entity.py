"""The entity rows of a join as rows that Spark's tasks read.

Reads: frames of the driver or of Spark, datasets, SQL. Writes: nothing.

Every row gets a number before anything moves: its place in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from adc_features.errors import InputError
from adc_features.event_times import is_time
from adc_features.store.column_names import refuse_doubled
from adc_features.store.offline.entity_rows import (
    entity_table,
    inputs_of,
    time_column,
    time_span,
)
from adc_features.store.spark.readers import (
    FragmentPart,
    of_frame,
    of_parts,
    of_pieces,
)
from adc_features.store.spark.routes import ROW
from adc_features.store.spark.session import in_words
from adc_features.store.spark.sources import Rows, arrow_schema, parts_frame, quoted, size_of
from adc_features.store.spark.task_rows import sent_pieces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PARTITION_ROWS = 1 << 33
"""Row numbers of one partition of a Spark frame, as `monotonically_increasing_id` gives them."""
_SAMPLE_ROWS, _SAMPLE_GROUPS, _SAMPLE_BYTES = 1 << 16, 16, 4 << 20
"""What is looked at to find keys with many rows."""


@dataclass(frozen=True)
class Sample:
    """Some entity rows. table: key columns. end: all row numbers are below it."""

    table: pa.Table
    end: int


@dataclass(frozen=True)
class EntityRows:
    """Entity rows, numbered.

    schema: of the user's columns. time: the column to join by. span: the first and the last time,
    None where only Spark knows. sample: takes some rows of these columns.
    """

    rows: Rows
    schema: pa.Schema
    time: str
    span: tuple[datetime | None, datetime | None]
    sample: Callable[[Sequence[str]], Sample]


def entity_rows(spark: SparkSession, entity: Any) -> EntityRows:
    """Entity rows in whatever form they come. A text is SQL that Spark runs.

    Raises InputError for what is no frame, for SQL that Spark refuses, for columns that are there
    twice, and where no column holds the times.
    """
    if isinstance(entity, str):
        with in_words():
            entity = spark.sql(entity)
    if hasattr(entity, "sparkSession"):
        return _of_frame(entity)
    found = entity_table(entity)
    refuse_doubled(found.schema.names)
    time = _time_of(found.schema)
    span = time_span(found, time)
    if isinstance(found, ds.Dataset) and all(
        isinstance(part, ds.ParquetFileFragment) for part in found.get_fragments()
    ):
        return _of_files(spark, found, time, span)
    table = found.to_table() if isinstance(found, ds.Dataset) else found
    return _of_table(spark, table, time, span)


def _time_of(schema: pa.Schema) -> str:
    time = time_column(schema)
    if not is_time(schema.field(time).type):
        raise InputError(
            f"{time} is of type {schema.field(time).type}; expected timestamps or dates, cast the"
            " column"
        )
    return time


def _of_table(spark: SparkSession, table: pa.Table, time: str, span: Any) -> EntityRows:
    """A table of the driver's, sent to the tasks in pieces: no value is converted on the way."""
    table = table.replace_schema_metadata(None)
    numbered = table.append_column(ROW, pa.array(np.arange(len(table))))
    frame = sent_pieces(spark, numbered)

    def sample(names: Sequence[str]) -> Sample:
        some = np.linspace(0, len(table), min(len(table), _SAMPLE_ROWS), endpoint=False)
        return Sample(table.select(names).take(pa.array(some.astype(np.int64))), len(table))

    return EntityRows(Rows(frame, of_pieces, table.nbytes), table.schema, time, span, sample)


def _of_files(spark: SparkSession, files: ds.Dataset, time: str, span: Any) -> EntityRows:
    """Parquet files, read by the tasks a row group at a time."""
    inputs = inputs_of(files)
    groups = [group for part in files.get_fragments() for group in part.split_by_row_group()]
    counts = [group.row_groups[0].num_rows for group in groups]
    if not sum(counts):
        return _of_table(spark, files.schema.empty_table(), time, span)
    parts = [FragmentPart(group, files.schema) for group in groups]
    frame = parts_frame(spark, parts, np.cumsum([0, *counts])[:-1].tolist())
    size = sum(group.row_groups[0].total_byte_size for group in groups)

    def sample(names: Sequence[str]) -> Sample:
        some = groups[:: -(-len(groups) // _SAMPLE_GROUPS)]
        heads = [g.head(_SAMPLE_ROWS // len(some), columns=[*names]) for g in some]
        return Sample(pa.concat_tables(heads).select(names), sum(counts))

    return EntityRows(
        Rows(frame, partial(of_parts, number=ROW), size, inputs), files.schema, time, span, sample
    )


def _of_frame(frame: DataFrame) -> EntityRows:
    """A frame of Spark's, numbered in the order of its partitions."""
    from pyspark.sql import functions as F

    refuse_doubled(frame.columns)
    with in_words():
        schema = arrow_schema(frame)
    time = _time_of(schema)
    size = size_of(frame)

    def sample(names: Sequence[str]) -> Sample:
        place = F.spark_partition_id().cast("long").alias(ROW)
        some = frame.select(*(F.col(quoted(name)) for name in names), place)
        with in_words():
            found = some.sample(False, min(1.0, _SAMPLE_BYTES / max(size, 1)), 0).toArrow()
        # the last partition may have no row in the sample: its rows come last all the same
        last = max(found[ROW].to_pylist(), default=0)
        return Sample(found.select(names), (last + 1) * _PARTITION_ROWS)

    rows = Rows(frame.withColumn(ROW, F.monotonically_increasing_id()), of_frame, size)
    return EntityRows(rows, schema, time, (None, None), sample)
