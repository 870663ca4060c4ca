"""Frames of Spark's, written whole. Reads: frames. Writes: directories of Parquet, tables."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from adc_features.errors import ArtifactError, InputError
from adc_features.store.spark.session import set_for

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_WRITING = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}
"""Spark's own choice, INT96, reads back as nanoseconds without a zone."""


def write_whole(frame: DataFrame, path: str, *, allow_overwrite: bool) -> bool:
    """Write a directory of Parquet beside its place, and move it there when it is complete.

    False, and nothing written, when something is there that may not be overwritten. A failure
    leaves what was there.
    """
    place = _Place(frame.sparkSession, path)
    if not allow_overwrite and place.exists():
        return False
    folder, slash, name = path.rstrip("/").rpartition("/")
    mine = f"{folder}{slash}.{name}.{uuid.uuid4().hex}"
    aside, before = (_Place(frame.sparkSession, f"{mine}{end}") for end in ("", ".before"))
    try:
        with set_for(frame.sparkSession, _WRITING):
            frame.write.parquet(aside.text)
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


def write_table(frame: DataFrame, table: str, *, allow_overwrite: bool) -> None:
    """Write a table of Spark's catalogue. Raises InputError when there is one already."""
    if not allow_overwrite and frame.sparkSession.catalog.tableExists(table):
        raise InputError(f"there is a table {table} already; allow overwriting, or name another")
    with set_for(frame.sparkSession, _WRITING):
        frame.write.mode("overwrite").saveAsTable(table)


class _Place:
    """A path in whatever file system Spark writes it to."""

    def __init__(self, spark: Any, text: str) -> None:
        jvm, context = spark._jvm, spark.sparkContext._jsc
        self.text, self._path = text, jvm.org.apache.hadoop.fs.Path(text)
        self._files = self._path.getFileSystem(context.hadoopConfiguration())

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
