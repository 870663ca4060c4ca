"""A view's source as rows that Spark's tasks read.

Reads: Feast's Spark and file sources. Writes: nothing.

Files of a `FileSource` are read by our own reader inside the tasks, a row group at a time, and what
a `SparkSource` names is read by Spark. Either way a row carries its position: the order of the
names of files, then that of the rows inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.input_files import InputFiles
from adc_features.store.join.engine import ViewSource
from adc_features.store.offline.places import Place, Places
from adc_features.store.parquet.opening import refuse_tables
from adc_features.store.parquet.sources import Declared, Run, Source
from adc_features.store.spark.hadoop import hadoop_files
from adc_features.store.spark.matching import ViewShape
from adc_features.store.spark.pieces import PIECES, Piece, as_batch
from adc_features.store.spark.plain_files import read_by_tasks
from adc_features.store.spark.readers import (
    FILE,
    LINE,
    PARTS,
    Part,
    SourcePart,
    of_files,
    of_frame,
    of_parts,
    packed_part,
)
from adc_features.store.spark.routes import POSITION
from adc_features.store.spark.session import in_words

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_DECLARE = dict.fromkeys(
    ("Delta", "Iceberg", "Hudi"),
    "Declare it as what it is: SparkSource(path=..., table_format=...), or SparkSource(table=...)"
    " of a catalogue that knows it",
)
_MARGIN = timedelta(days=2)
"""Added to bounds that Spark compares: it takes times without a zone for those of the session."""
_TEXT_BYTES = 64
"""What a text or a list is thought to take."""
_TASKS = 1 << 10
"""Tasks that read the parts of one source, at most."""


@dataclass(frozen=True)
class Rows:
    """Rows that tasks read. frame: what Spark hands them. read: its batches as numbered tables.
    size: about how many bytes the rows take. inputs: the files that they are read from, where it is
    known that these have no versions.
    """

    frame: DataFrame
    read: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.Table]]
    size: int
    inputs: Sequence[InputFiles] = ()

    def pieces(self, work: Callable[[Iterator[pa.Table]], Iterator[Piece]]) -> DataFrame:
        """The pieces that tasks make of the rows."""
        read = self.read

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return map(as_batch, work(read(batches)))

        return self.frame.mapInArrow(task, PIECES)


@dataclass(frozen=True)
class SparkView:
    """A view to be joined: what workers know of it, and its rows."""

    shape: ViewShape
    rows: Rows


def is_spark_source(source: Any) -> bool:
    """Whether Spark itself reads the source."""
    return hasattr(source, "spark_options")


class SparkPlaces(Places):
    """Places of sources that Spark reads, and of Parquet files."""

    def place(self, source: Any) -> Place:
        """Of one of Spark's sources, what it names.

        Raises InputError for sources of other kinds, and for tables that Spark does not read
        itself: where files hold deleted rows, what is left was written on this machine alone.
        """
        if is_spark_source(source):
            return Place(str(source.table or source.path or source.query))
        found = super().place(source)
        if found.table is not None:
            raise InputError(
                f"source {source.name} is a table that this process would read; declare it as a"
                " SparkSource with its table_format, so that Spark's executors do"
            )
        return found


def _refuse_tables(spark: SparkSession, path: str, *, of: str) -> None:
    """Raise InputError for a table that is declared as plain Parquet, whose files also hold rows
    that were deleted, on any file system of Spark's.
    """
    jvm: Any = spark._jvm
    at = jvm.org.apache.hadoop.fs.Path
    files = at(path).getFileSystem(spark._jsc.hadoopConfiguration())

    def format_of(directory: str) -> str | None:
        for name, found in (("_delta_log", "Delta"), (".hoodie", "Hudi")):
            if files.exists(at(f"{directory}/{name}")):
                return found
        return "Iceberg" if files.globStatus(at(f"{directory}/metadata/*.metadata.json")) else None

    is_part = not (files.exists(at(path)) and files.getFileStatus(at(path)).isDirectory())
    refuse_tables(path, is_part=is_part, format_of=format_of, declare=_DECLARE, of=of)


def opened(spark: SparkSession, source: Any, path: str, *, of: str, declared: Declared) -> Any:
    """What a Spark source names, as a frame and as a `Source` of one schema, which checks it. None
    in the place of the frame where tasks read the files of the `Source` by themselves.
    """
    found, plain = None, False
    import pyarrow.dataset as ds
    from pyarrow import fs

    with in_words():
        if source.table:
            frame = spark.table(source.table)
        elif source.query:
            frame = spark.sql(source.query)
        else:
            table_format = source.table_format
            form = table_format.format_type.value if table_format else source.file_format
            options = dict(table_format.properties) if table_format else {}
            plain = form == "parquet" and not options
            if form == "parquet":
                _refuse_tables(spark, source.path, of=of)
            frame = spark.read.format(form).options(**options).load(source.path)
        schema = arrow_schema(frame)
        if plain:
            found = read_by_tasks(frame.inputFiles(), path, schema, of=of, declared=declared)
    if found is not None:
        return None, found
    files = ds.FileSystemDataset.from_paths(
        [path], schema=schema, format=ds.ParquetFileFormat(), filesystem=fs.LocalFileSystem()
    )
    return frame, Source(of, path, [Run(files, ())], declared)


def spark_view(
    spark: SparkSession,
    view: ViewSource,
    source: Any,
    *,
    until: datetime | None,
    known_only: bool,
) -> SparkView:
    """A view, checked. until: later rows may be left out.

    Raises InputError when a declared column is not there or never of its type.
    """
    of = f"view {view.name}"
    if known_only and not view.created:
        raise InputError(
            f"{of}: created-time filtering was asked for, the source declares no created timestamp;"
            " name its created_timestamp_column"
        )
    if is_spark_source(source):
        frame, files = opened(spark, source, view.path, of=of, declared=view.declared)
    else:
        frame, files = None, view.files
    shape = _shape(view, files, known_only=known_only)
    files.check(shape.columns)
    if frame is None:
        return SparkView(shape, file_rows(spark, files.within(end=until), shape.columns))
    return SparkView(shape, frame_rows(frame, shape.columns, time=view.time, end=until))


def _shape(view: ViewSource, files: Source, *, known_only: bool) -> ViewShape:
    """What workers know of a view: its columns in the types that they are joined in."""
    return ViewShape(
        of=f"view {view.name}",
        keys={
            name: (column, view.key_types.get(name) or files.kind(column))
            for name, column in view.keys.items()
        },
        features={
            out: (column, view.types.get(out) or files.kind(column))
            for out, column in view.features.items()
        },
        undeclared=tuple(out for out in view.features if out not in view.types),
        seconds=view.seconds,
        time=view.time,
        created=view.created,
        ttl=view.ttl,
        known_only=known_only,
    )


def file_rows(spark: SparkSession, files: Source, names: Sequence[str]) -> Rows:
    """Rows of files that our own reader reads, a row group in a part."""
    groups = files.groups()
    counts = [group.row_groups[0].num_rows for _, group in groups]
    kinds = [files.kind(name) for name in names]
    width = sum(k.bit_width // 8 if pa.types.is_primitive(k) else _TEXT_BYTES for k in kinds)
    parts = [SourcePart(files.part(group, names), tuple(names)) for group in groups]
    frame = parts_frame(spark, parts, np.cumsum([0, *counts])[:-1].tolist())
    return Rows(frame, partial(of_parts, number=POSITION), sum(counts) * width, files.inputs)


def parts_frame(spark: SparkSession, parts: Sequence[Part], starts: Sequence[int]) -> DataFrame:
    """Parts that tasks read by themselves, spread over tasks."""
    tasks = min(max(len(parts), 1), _TASKS)
    table = pa.table(
        {
            "place": pa.array(
                [place * tasks // len(parts) for place in range(len(parts))], "int32"
            ),
            "start": pa.array(starts, pa.int64()),
            "part": pa.array([packed_part(part) for part in parts], pa.binary()),
        }
    )
    frame = spark.createDataFrame(table, PARTS)
    return frame.repartitionById(tasks, "place") if tasks > 1 else frame


def frame_rows(
    frame: DataFrame,
    names: Sequence[str],
    *,
    time: str,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Rows:
    """Rows that Spark reads, in positions that are the files' where they are Parquet.

    Rows far outside start <= time <= end are left out by Spark.
    """
    from pyspark.sql import functions as F

    columns = [F.col(quoted(name)) for name in names]
    named_lines = _has_lines(frame)
    if named_lines:
        columns += [F.xxhash64("_metadata.file_path").alias(FILE)]
        columns += [F.col("_metadata.row_index").alias(LINE)]
    else:
        columns += [F.monotonically_increasing_id().alias(POSITION)]
    size, chosen = size_of(frame.select(*columns[: len(names)])), frame
    if start is not None:
        chosen = chosen.where(F.col(quoted(time)) >= F.lit(start - _MARGIN))
    if end is not None:
        chosen = chosen.where(F.col(quoted(time)) <= F.lit(end + _MARGIN))
    chosen = chosen.select(*columns)
    if not named_lines:
        return Rows(chosen, of_frame, size)
    paths = sorted(frame.inputFiles(), key=unquote)
    read = partial(of_files, number=POSITION, hashes=_file_hashes(frame.sparkSession, paths))
    return Rows(chosen, read, size, [hadoop_files(frame.sparkSession, paths)])


def _file_hashes(spark: SparkSession, paths: Sequence[str]) -> list[int]:
    """The hashes of the names of files, in their order."""
    from pyspark.sql import functions as F

    # Spark gives local names as file:///a in one place and as file:/a in the other
    paths = ["file:" + p.removeprefix("file://") if p.startswith("file:///") else p for p in paths]
    names = spark.createDataFrame(pa.table({"path": pa.array(paths, pa.string())}))
    return [row[0] for row in names.select(F.xxhash64("path")).collect()]


def _has_lines(frame: DataFrame) -> bool:
    """Whether Spark knows the file and the place in it of every row: of plain Parquet."""
    plan = frame._jdf.queryExecution().analyzed()
    found = plan.metadataOutput()
    kinds = [found.apply(place).dataType().simpleString() for place in range(found.size())]
    return any("row_index" in kind for kind in kinds)


def arrow_schema(frame: DataFrame) -> pa.Schema:
    """The columns of a frame in the types in which Spark gives them to Arrow."""
    return frame.limit(0).toArrow().schema


def size_of(frame: DataFrame) -> int:
    """About how many bytes Spark thinks that a frame takes."""
    return int(frame._jdf.queryExecution().optimizedPlan().stats().sizeInBytes())


def quoted(name: str) -> str:
    """A column's name as Spark's expressions take it."""
    return "`" + name.replace("`", "``") + "`"


__all__ = [
    "Rows",
    "SparkPlaces",
    "SparkView",
    "arrow_schema",
    "file_rows",
    "frame_rows",
    "is_spark_source",
    "opened",
    "parts_frame",
    "quoted",
    "size_of",
    "spark_view",
]
