"""The rows of an answer, as the tasks make them of pieces. Reads: frames of pieces. Writes: Parquet
files, one of each partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.engines.places import Place
from adc_features.errors import ArtifactError
from adc_features.parquet_files import reading
from adc_features.store.parquet import write_parquet
from adc_features.store.spark.pieces import ENTITY, PIECE_ROWS, PIECES, Piece, as_batch, pieces_of
from adc_features.store.spark.session import in_words
from adc_features.store.spark.types import spark_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_BATCH_ROWS = 1 << 16
"""Rows that a task hands to Spark at once."""
_WRITTEN = "name string, rows long"
"""What a task says of the file that it wrote."""


@dataclass(frozen=True)
class TaskRows:
    """The rows of pieces. tables: makes them of one partition's pieces. schema: theirs; in Spark,
    and in files, they have the nearest types that Spark has.
    """

    pieces: DataFrame
    tables: Callable[[Iterator[Piece]], Iterator[pa.Table]]
    schema: pa.Schema

    def frame(self) -> DataFrame:
        """As a frame of Spark's."""
        from pyspark.sql.pandas.types import from_arrow_schema

        kinds, tables = spark_schema(self.schema), self.tables

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for table in tables(pieces_of(batches)):
                yield from table.cast(kinds).to_batches(max_chunksize=_BATCH_ROWS)

        return self.pieces.mapInArrow(task, from_arrow_schema(kinds))

    def save(self, folder: str) -> None:
        """Write them from the tasks, into a folder that every worker reaches under this path.

        Spark's own writer would take rows of Arrow apart, and encode them value by value. Raises
        ArtifactError where the files that workers wrote are not there afterwards.
        """
        kinds, tables = spark_schema(self.schema), self.tables

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            cast = (table.cast(kinds) for table in tables(pieces_of(batches)))
            if (first := next(cast, None)) is not None:
                name = f"part-{_partition():05d}.parquet"
                # a task that is run again gives the same name, to a file that is whole
                with Place(folder).writing(name) as file:
                    rows = write_parquet(chain([first], cast), file)
                yield pa.record_batch([pa.array([name]), pa.array([rows])], names=["name", "rows"])

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        with in_words():
            said: Sequence[Any] = self.pieces.mapInArrow(task, _WRITTEN).collect()
        written: dict[str, int] = dict(said)
        for name, rows in written.items():
            _check(place / name, rows)
        for left in place.iterdir():
            if left.name not in written:  # by a worker that died
                left.unlink()
        if not written:
            write_parquet([kinds.empty_table()], place / "part-00000.parquet")


def _check(path: Path, rows: int) -> None:
    found = 0
    if path.is_file():
        with reading(path):
            found = pq.read_metadata(path).num_rows
    if found != rows:
        raise ArtifactError(
            f"{path} has {found} rows here, and a worker wrote {rows}; save to a folder that every"
            " machine mounts under this path, or to a table of Spark's"
        )


def sent_pieces(spark: SparkSession, table: pa.Table) -> DataFrame:
    """A table of the driver's as pieces for the tasks: no value is converted on the way."""
    step = min(PIECE_ROWS, max(1, -(-len(table) // spark.sparkContext.defaultParallelism)))
    batches = [
        as_batch(Piece(0, start, ENTITY, table.slice(start, step)))
        for start in range(0, max(len(table), 1), step)
    ]
    return spark.createDataFrame(pa.Table.from_batches(batches), PIECES)


def _partition() -> int:
    """The number of the partition that this task works on."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None, "only a task has a partition"
    return context.partitionId()
