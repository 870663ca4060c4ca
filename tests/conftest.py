"""Fixtures that several files share."""

import importlib.util
import os
import shutil
import sys

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)  # on a shared machine an example may be slow
settings.load_profile("busy")


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Published, materialized and trained once; tests read it."""
    from serving_world import open_shop

    return open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def trained_feed(tmp_path_factory):
    """A repository with a known truth and its trained rankers, made once; tests read it."""
    from trained_feed import open_trained_feed

    return open_trained_feed(tmp_path_factory.mktemp("feed") / "repo")


@pytest.fixture(scope="session")
def spark():
    """A session on two cores whose failed tasks are tried again; skipped where it cannot be had."""
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("there is no Java")
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "OFF",
        "spark.driver.memory": "1g",
        # a quarter of what so short a session costs is Java that is compiled again, and better
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.session.timeZone": "Asia/Tokyo",
    }
    builder = SparkSession.builder.master("local[2,3]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def s3_endpoint():
    """The endpoint of an S3 service with a bucket; skipped where moto is not installed."""
    from object_store import make_bucket, s3_service

    with s3_service() as found:
        make_bucket(found)
        yield found


@pytest.fixture
def bucket(s3_endpoint, monkeypatch, tmp_path) -> str:
    """The address of a bucket, which the environment leads to."""
    from object_store import BUCKET, environment

    from adc_features.pulled import CACHE

    for name, value in {**environment(s3_endpoint), CACHE: str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}"
