"""A ranker of the feed that serves, trained on its first 24 days."""

import shutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from declared_feed import apply
from feed_world import START, make_feed

from adc_features.store.services.schema import declared_rankers
from training.ranker.fitting import TrainSettings
from training.ranker.workflow import Period, promote_ranker, train_rankers

TRAINED_AT = START + timedelta(days=24)


@pytest.fixture(scope="session")
def served_feed(tmp_path_factory):
    """The folder of the repository; whoever changes it takes `feed`."""
    folder = tmp_path_factory.mktemp("served") / "feed"
    make_feed(folder, rows=8_000, customers=80, products=60)
    apply(folder)
    train_rankers(
        folder,
        {"feed": declared_rankers(folder)["feed"]},
        folder / "events.parquet",
        at=TRAINED_AT,
        settings=TrainSettings(seeds=1, quick=True),
        period=Period(end=TRAINED_AT),
    )
    promote_ranker(folder, "feed", at=TRAINED_AT)
    return folder


@pytest.fixture
def feed(served_feed, tmp_path):
    """The same, as it was again after the test: the registry knows it by its absolute path."""
    shutil.copytree(served_feed, tmp_path / "kept")
    labels = served_feed / "events.parquet"
    yield SimpleNamespace(folder=served_feed, labels=labels, at=datetime(2026, 3, 1, tzinfo=UTC))
    shutil.rmtree(served_feed)
    shutil.copytree(tmp_path / "kept", served_feed)
