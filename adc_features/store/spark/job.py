"""What the store gives back to Feast: a join or a scan that Spark runs when it is asked for.

Reads: frames of pieces. Writes: saved datasets, by Spark's executors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.input_files import InputFiles, all_of, unchanged
from adc_features.store import _compat as feast
from adc_features.store.offline.job import AsofRetrievalJob
from adc_features.store.spark.saved import write_table, write_whole
from adc_features.store.spark.session import in_words, spark_session
from adc_features.store.spark.task_rows import TaskRows, sent_pieces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Answer(Protocol):
    """What a job may ask for."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def inputs(self) -> Sequence[InputFiles]: ...

    def in_rows(self) -> TaskRows: ...
    def tables(self) -> Iterator[pa.Table]: ...
    def table(self) -> pa.Table: ...


class SparkRetrievalJob(AsofRetrievalJob):
    """A join or a scan in Spark. answer: makes it, when it is first asked for."""

    def __init__(
        self, answer: Callable[[], Answer], *, spark_conf: Any = None, **named: Any
    ) -> None:
        super().__init__(self._tables, **named)
        self._make, self._spark_conf = answer, spark_conf

    @cached_property
    def _answer(self) -> Answer:
        return self._make()

    def _tables(self) -> Iterator[pa.Table]:
        first = True
        for table in all_of(self._answer.tables(), self._answer.inputs):
            first = False
            yield table
        if first:
            yield self._answer.schema.empty_table()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with unchanged(self._answer.inputs):
            return self._answer.table()

    def to_spark_df(self) -> DataFrame:
        """The answer as a frame of Spark's, its rows in order.

        Types without a like in Spark are widened. Without on-demand views, which Feast computes in
        the driver. Spark reads the sources when the frame is used: nothing is told of files that
        change by then.
        """
        if self._on_demand:
            raise InputError(
                f"on-demand views {[v.name for v in self._on_demand]} are computed in the driver;"
                " use to_arrow, or leave them out"
            )
        return self._answer.in_rows().frame()

    def persist(
        self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the answer as Parquet, or as a table of Spark's, from the executors.

        A reader sees the directory when it is complete. Where it is on this machine, or mounted as
        on it, our own workers write the files; elsewhere Spark does. On-demand features are
        computed in the driver.

        Raises
        ------
        InputError
            The storage is of another format.
        ArtifactError
            A file that a worker wrote cannot be seen from the driver, or one that was read changed
            meanwhile: nothing is written then.
        """
        table = getattr(getattr(storage, "spark_options", None), "table", None)
        path = "" if table else saved_path(storage, self._repo_path)
        rows = self._on_demand_rows() if self._on_demand else self._answer.in_rows()
        inputs = self._answer.inputs
        with in_words():
            if table:
                write_table(rows, table, allow_overwrite=allow_overwrite, inputs=inputs)
            elif not write_whole(rows, path, allow_overwrite=allow_overwrite, inputs=inputs):
                raise feast.SavedDatasetLocationAlreadyExists(location=path)

    def _on_demand_rows(self) -> TaskRows:
        """The answer with on-demand features, sent back to the tasks."""
        table = self.to_arrow()
        pieces = sent_pieces(spark_session(self._spark_conf), table)
        return TaskRows(pieces, lambda pieces: (piece.table for piece in pieces), table.schema)


def saved_path(storage: Any, repo_path: Path | None) -> str:
    """Where Parquet is saved, as Spark names it. Raises InputError for other formats."""
    if hasattr(storage, "spark_options"):  # Feast makes no source of one with a path alone
        asked = storage.spark_options
        if asked.path and asked.table_format is None and asked.file_format == "parquet":
            return str(asked.path)
        form = asked.table_format.format_type.value if asked.table_format else asked.file_format
        raise InputError(
            f"saved datasets of format {form} are not written by this store; give a table, or a"
            " path with file_format parquet, or write job.to_spark_df() yourself"
        )
    location = feast.FileSource.get_uri_for_file_path(
        repo_path=repo_path, uri=storage.to_data_source().file_options.uri
    )
    return str(location).replace("s3://", "s3a://", 1)
