"""Files as Spark's file systems tell of them. Reads: listings of directories. Writes: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from adc_features.input_files import FileState, InputFiles

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ETAGS = "org.apache.hadoop.fs.EtagSource"


def hadoop_files(spark: SparkSession, paths: Sequence[str]) -> InputFiles:
    """Files that Spark reads, as they are now. paths: as `DataFrame.inputFiles` names them."""
    asked = set(map(_plain, paths))
    folders = sorted({path.rpartition("/")[0] for path in asked})

    def look() -> dict[str, FileState]:
        return {
            path: state
            for folder in folders
            for path, state in _listed(spark, folder).items()
            if path in asked
        }

    return InputFiles.seen(look)


def _listed(spark: SparkSession, folder: str) -> dict[str, FileState]:
    """The files of a directory, in one question; none where it is gone."""
    from py4j.java_gateway import is_instance_of

    jvm: Any = spark._jvm
    at = jvm.org.apache.hadoop.fs.Path(folder)
    files = at.getFileSystem(spark._jsc.hadoopConfiguration())
    states = {}
    for one in files.listStatus(at) if files.exists(at) else ():
        etag = one.getEtag() if is_instance_of(spark.sparkContext._gateway, one, _ETAGS) else ""
        changed = one.getModificationTime() * 1_000_000
        states[_plain(one.getPath().toString())] = FileState(one.getLen(), changed, etag or "")
    return states


def _plain(path: str) -> str:
    """A path under one name: Spark writes file:///a in one place, file:/a in another, and a blank
    as %20 here only.
    """
    path = unquote(path)
    return "file:" + path.removeprefix("file://") if path.startswith("file:///") else path
