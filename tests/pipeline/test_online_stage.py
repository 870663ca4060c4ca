"""When `adc materialize` loads again. Reads: the run's last library stage."""

import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from store_world import DAY, day, item_profile, published_world, user_activity

from adc_features import store
from adc_features.errors import ArtifactError
from adc_features.pipeline import publication_stages as stages
from adc_features.pipeline.run import Run, RunSettings
from adc_features.store.online_record import loaded


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Run:
    """A run whose repository is the store's world and whose scored window ends on day 30."""
    opened = Run.start(tmp_path / "run", RunSettings("synthetic"))
    repo = published_world(opened.directory / "feature_repo")
    monkeypatch.setattr(stages, "repository_of", lambda _: repo)
    monkeypatch.setattr(stages, "serving_time", lambda _: day(30))
    return opened


def materialized(run: Run) -> bool:
    """Run the stage; True when it loaded, False when it was reused."""
    before = len(run.built)
    run.ensure(stages.ONLINE._replace(reads=()))
    return len(run.built) > before


def test_materialize_looks_at_the_store_and_at_what_was_published(run):
    """Reused while nothing changed; loaded again when the store is lost, and when newer values were
    published, as of their time.
    """
    repo = run.directory / "feature_repo"
    assert [materialized(run), materialized(run)] == [True, False]
    shutil.rmtree(repo / "data" / "online_lmdb")
    assert [materialized(run), materialized(run)] == [True, False]
    assert {one.through for one in loaded(repo).values()} == {day(30)}
    newer = {
        "item_profile": item_profile(["a"], [day(40)], [0.9]),
        "user_activity": user_activity(["u"], [day(41)]),
    }
    store.publish_statistics(repo, **newer, resolution=day(1) - day(0))
    assert [materialized(run), materialized(run)] == [True, False]
    assert {one.through for one in loaded(repo).values()} == {day(41)}
    assert loaded(repo)["user_activity"].newest == day(41)
    os.truncate(repo / "data" / "online_lmdb" / "data.mdb", 8192)
    with pytest.raises(ArtifactError, match="cut off"):
        materialized(run)


def test_what_holds_from_midnight_on_is_loaded_when_midnight_has_come(run, monkeypatch):
    """Rows of today, of data that is stamped by day, hold from tomorrow on: requests of today are
    not refused for them, but read those that hold, and the next day loads again.
    """

    class Clock(datetime):
        time = day(30.5)

        @classmethod
        def now(cls, tz=None):
            return cls.time

    monkeypatch.setattr(stages, "datetime", Clock)
    monkeypatch.setattr(stages, "serving_time", lambda _: day(31))
    repo = run.directory / "feature_repo"
    dated = {
        "item_profile": item_profile(["a"], [day(30)], [0.9]),
        "user_activity": user_activity(["u", "u"], [day(30), day(31)]),
    }
    store.publish_statistics(repo, **dated, resolution=DAY)
    store.apply(repo)

    assert [materialized(run), materialized(run)] == [True, False]
    assert loaded(repo)["user_activity"].newest == day(30)  # whose last event is of day 29
    Clock.time = day(31)
    assert [materialized(run), materialized(run)] == [True, False]
    assert loaded(repo)["user_activity"].newest == day(31)


@pytest.mark.parametrize(
    ("known", "clock", "loaded_before", "expected"),
    [
        (25, 30, None, 25),
        (31, 30.5, None, 30.5),  # the coming midnight
        (25, 30, 28, 28),
        (31, 30.5, 33, 33),  # by a version that looked ahead: what is online stays online
    ],
)
def test_a_store_is_loaded_as_of_what_is_known_and_has_come(
    tmp_path, monkeypatch, known, clock, loaded_before, expected
):
    """Of a retraining, too, whose window ends with the last event's day."""
    before = None if loaded_before is None else day(loaded_before)
    monkeypatch.setattr(store, "materialized_through", lambda repo: before)
    found = stages.loaded_as_of(tmp_path, day(known), clock=day(clock))
    assert found == day(expected)
