"""Rows of our tasks, written whole. Reads: pieces. Writes: directories of Parquet, tables."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from adc_features.errors import ArtifactError, InputError
from adc_features.input_files import InputFiles, check_all, unchanged
from adc_features.store.spark.session import set_for
from adc_features.store.spark.task_rows import TaskRows

_WRITING = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}
"""Spark's own choice, INT96, reads back as nanoseconds without a zone."""


def write_whole(
    rows: TaskRows, path: str, *, allow_overwrite: bool, inputs: Sequence[InputFiles] = ()
) -> bool:
    """Write a directory of Parquet beside its place, and move it there when it is complete.

    False, and nothing written, when something is there that may not be overwritten. A failure
    leaves what was there. Raises ArtifactError when one of the inputs changed meanwhile.
    """
    spark = rows.pieces.sparkSession
    place = _Place(spark, path)
    if not allow_overwrite and place.exists():
        return False
    folder, slash, name = path.rstrip("/").rpartition("/")
    mine = f"{folder}{slash}.{name}.{uuid.uuid4().hex}"
    aside, before = (_Place(spark, f"{mine}{end}") for end in ("", ".before"))
    try:
        with unchanged(inputs), set_for(spark, _WRITING):
            if aside.local is not None:
                rows.save(aside.local)
            else:
                rows.frame().write.parquet(aside.text)
        if place.exists():
            place.move_to(before)
        try:
            aside.move_to(place)
        except BaseException:
            if before.exists():
                before.move_to(place)
            raise
    finally:
        aside.delete()
        before.delete()
    return True


def write_table(
    rows: TaskRows, table: str, *, allow_overwrite: bool, inputs: Sequence[InputFiles] = ()
) -> None:
    """Write a table of Spark's catalogue. Raises InputError when there is one already.

    Raises ArtifactError when one of the inputs changed meanwhile: the table is dropped then.
    """
    spark = rows.pieces.sparkSession
    if not allow_overwrite and spark.catalog.tableExists(table):
        raise InputError(f"there is a table {table} already; allow overwriting, or name another")
    with set_for(spark, _WRITING):
        rows.frame().write.mode("overwrite").saveAsTable(table)
    try:
        check_all(inputs)
    except ArtifactError:
        spark.sql(f"DROP TABLE {table}")
        raise


class _Place:
    """A path in whatever file system Spark writes it to."""

    def __init__(self, spark: Any, text: str) -> None:
        jvm, context = spark._jvm, spark.sparkContext._jsc
        self.text, self._path = text, jvm.org.apache.hadoop.fs.Path(text)
        self._files = self._path.getFileSystem(context.hadoopConfiguration())

    @property
    def local(self) -> str | None:
        """Its path, where it is one of this machine."""
        whole = self._files.makeQualified(self._path).toUri()
        return str(whole.getPath()) if whole.getScheme() == "file" else None

    def exists(self) -> bool:
        return bool(self._files.exists(self._path))

    def delete(self) -> None:
        self._files.delete(self._path, True)

    def move_to(self, place: _Place) -> None:
        if not self._files.rename(self._path, place._path):
            raise ArtifactError(
                f"{self.text} was written and could not be moved to {place.text}; check who may"
                " write there, and persist again"
            )
