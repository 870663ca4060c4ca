"""The Spark session that a join runs in. Reads: the settings of the offline store. Writes: nothing.

A session that is active already is used as it is; else one is started. What Spark says of errors in
our workers is said again as the error that was raised there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adc_features.engines.spark import is_classic
from adc_features.engines.spark import spark_session as engine_session
from adc_features.errors import AdcError, ArtifactError, InputError
from adc_features.extras import require

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OLDEST = (4, 1)
"""The first Spark with `repartitionById`."""
_OURS = {kind.__name__: kind for kind in (ArtifactError, InputError)}
_SAID = re.compile(rf"^adc_features\.errors\.({'|'.join(_OURS)}): (.+)$", re.M)


def spark_session(settings: Mapping[str, str] | None) -> SparkSession:
    """The active session, or a new one with these settings.

    Raises MissingExtraError without pyspark or Java, InputError for a Spark that is too old, and
    for one that does not start.
    """
    require("pyspark")
    import pyspark

    refuse_old(pyspark.__version__)
    return _classic(engine_session({"spark.sql.session.timeZone": "UTC"} | dict(settings or {})))


def refuse_old(version: str) -> None:
    """Raise InputError for a version of Spark that lacks what we use."""
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < OLDEST:
        raise InputError(
            f"Spark is {version}; this store needs {'.'.join(map(str, OLDEST))} or later, upgrade"
            " pyspark and the cluster"
        )


def _classic(session: Any) -> SparkSession:
    """The session. Raises InputError for one of Spark Connect, which has no `sparkContext`."""
    if not is_classic(session):
        raise InputError(
            "the session is one of Spark Connect; this store needs a classic one, leave out"
            " spark.remote and give spark.master"
        )
    found: SparkSession = session
    return found


@contextmanager
def set_for(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Around actions: settings of the session, put back afterwards."""
    before = {name: spark.conf.get(name, None) for name in settings}
    for name, value in settings.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, old)


@contextmanager
def in_words() -> Iterator[None]:
    """Around what Spark runs: our own errors of its workers are raised as they were there.

    Raises ArtifactError for files that Spark cannot read.
    """
    from pyspark.errors import AnalysisException, PySparkException

    try:
        yield
    except AnalysisException as error:
        raise ArtifactError(
            f"Spark does not read it ({_short(error)}); correct the source or the query"
        ) from error
    except PySparkException as error:
        if (ours := _as_raised(str(error))) is not None:
            raise ours from error
        raise


def _as_raised(text: str) -> AdcError | None:
    """The error of ours that a traceback of Spark's ends in."""
    said = _SAID.findall(text)
    return _OURS[said[-1][0]](said[-1][1].strip()) if said else None


def _short(error: Any) -> str:
    return str(error).strip().split("\n", 1)[0]
