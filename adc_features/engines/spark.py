"""Parts on Spark: each is a partition, whose Python worker reads and writes it. Reads, writes: as
the work does; through Spark go only part numbers and counts of rows.

They go by an RDD, for which Java loads none of Spark SQL; Spark Connect, which has no RDDs, gets a
query of one column.

Every worker has this library installed and reaches the same paths or object store as the driver.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from adc_features.engines.parts import Outcome, Part, PartWork, outcome, rows_of, stopped
from adc_features.engines.watching import watching
from adc_features.errors import InputError, MissingExtraError
from adc_features.extras import require

NAME = "adc-features"
QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
"""Settings of a session of our own: no web server and no bar, for progress is told here."""
ANSWER = "number int, rows long, kind string, said string"


def spark_session(settings: Mapping[str, str]) -> Any:
    """The running Spark session, or a new one with these settings (`spark.master` and the like; by
    default all cores of this machine).

    Raises MissingExtraError when pyspark, or Java for a new session, is not there, InputError when
    the session does not start.
    """
    require("pyspark")
    from pyspark.sql import SparkSession

    if (running := SparkSession.getActiveSession()) is not None:
        return running
    builder = SparkSession.builder.appName(NAME)
    for name, value in _to_start(settings).items():
        builder = builder.config(name, value)
    with _starting():
        return builder.getOrCreate()


def _context(settings: Mapping[str, str]) -> Any:
    """What RDDs are made with: of the running session, or a new one, for which Spark starts no SQL.
    None for Spark Connect, which has none. Raises as `spark_session` does.
    """
    require("pyspark")
    from pyspark.sql import SparkSession

    if (running := SparkSession.getActiveSession()) is not None:
        return running.sparkContext if is_classic(running) else None
    if _is_remote(settings):
        return None
    from pyspark import SparkConf, SparkContext

    asked = SparkConf().setAppName(NAME).setAll(list(_to_start(settings).items()))
    with _starting():
        return SparkContext.getOrCreate(asked)


def is_classic(session: Any) -> bool:
    """Whether the session talks to its JVM itself; one of Spark Connect has no `sparkContext`."""
    return hasattr(session, "_jsparkSession")


def _to_start(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings to start with. Raises MissingExtraError without Java."""
    if _is_remote(settings):
        return dict(settings)
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        raise MissingExtraError(
            f"Spark needs Java 17 or newer, and there is none on $PATH (JAVA_HOME is {home!r});"
            " install a Java runtime, or name a Spark Connect server: spark.remote=sc://host",
            extra="spark",
        )
    if _is_here(settings):
        # its workers run on this machine: let them be this Python and not the first on $PATH;
        # pyspark reads the variable, and none of its settings, when a context starts
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return {**QUIET, **settings}


@contextmanager
def _starting() -> Iterator[None]:
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, OSError) as error:
        raise InputError(
            f"Spark did not start ({error}); correct its settings, or start a session before"
        ) from error


def _is_remote(settings: Mapping[str, str]) -> bool:
    """Whether the session would be one of Spark Connect."""
    return "spark.remote" in settings or "SPARK_REMOTE" in os.environ


def _is_here(settings: Mapping[str, str]) -> bool:
    """Whether the session would be of this machine alone."""
    return str(settings.get("spark.master", "local")).startswith("local")


def _light(settings: Mapping[str, str]) -> dict[str, str]:
    """For a session of this machine: the JVM only hands out numbers, so that compiling its own code
    would cost more than it saves, and workers are forked with torch imported.
    """
    if not _is_here(settings):
        return {}
    return {
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.python.daemon.module": "adc_features.engines.spark_daemon",
    }


@dataclass(frozen=True)
class SparkEngine:
    """A Spark session. settings: of one that is started for this; a running one is used as it is.

    cores: threads of torch in a worker, as Spark gives each of its tasks one core.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = "spark"
    cores: int | None = 1

    def run(
        self, work: PartWork, parts: Sequence[Part], *, told: Callable[[int], None]
    ) -> Mapping[int, int]:
        """Part number -> rows written. told: called with the rows of each part that is done.

        Raises the error of a worker as its own class, ArtifactError when Spark gives up.
        """
        settings, count = {**_light(self.settings), **self.settings}, len(parts)
        if (context := _context(settings)) is not None:
            numbers = context.parallelize(range(count), count)
            answers = numbers.map(_task(work, tuple(parts)))
        else:
            numbers = spark_session(settings).range(0, count, 1, count)
            answers = numbers.mapInArrow(_worker(work, tuple(parts)), ANSWER)
        try:
            with watching(work.into, parts, told):
                found = answers.collect()
        except Exception as error:  # py4j and Spark Connect have each their own
            raise stopped("Spark", error, work.into) from error
        return rows_of([Outcome(*row) for row in found])


def _task(work: PartWork, parts: tuple[Part, ...]) -> Callable[[int], tuple[Any, ...]]:
    def answered(number: int) -> tuple[Any, ...]:
        return tuple(outcome(work, parts[number]))

    return answered


def _worker(
    work: PartWork, parts: tuple[Part, ...]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The same for a query."""

    def answered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            done = [outcome(work, parts[number]) for number in batch.column(0).to_pylist()]
            yield answer_batch(done)

    return answered


def answer_batch(done: Sequence[Outcome]) -> pa.RecordBatch:
    """What workers say, as Spark takes it."""
    columns = zip(*done, strict=True)
    types = (pa.int32(), pa.int64(), pa.string(), pa.string())
    return pa.record_batch(
        [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)],
        names=list(Outcome._fields),
    )
