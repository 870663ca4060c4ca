"""What was put online, and whether it is there. Reads: adc_features.store.online_record,
materialize, OnlineReader.check, doctor.
"""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from store_world import (
    day,
    item_profile,
    publish_default_statistics,
    published_world,
    user_activity,
)

from adc_features import store
from adc_features.errors import ArtifactError
from adc_features.pipeline.checkup import checkup
from adc_features.store.lmdb.environment import environment
from adc_features.store.online_record import loaded, online_problems, record_path

NOW, ONLINE = day(30), "data/online_lmdb"
SQLITE = {"type": "sqlite", "path": "data/online.db"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Materialized as of day 30: 3 items with codes
    in either generation, 2 with statistics, 2 users.
    """
    directory = published_world(tmp_path / "repo")
    store.materialize(directory, now=NOW)
    return directory


def with_store(directory: Path, block: dict) -> Path:
    store.create_repository(directory, project="world")
    config = yaml.safe_load((directory / "feature_store.yaml").read_text())
    (directory / "feature_store.yaml").write_text(yaml.safe_dump({**config, "online_store": block}))
    return published_world(directory)


def errors(repo: Path) -> list[str]:
    return [str(f) for f in checkup(repo) if f.level == "error"]


def lose(repo: Path) -> None:
    shutil.rmtree(repo / ONLINE)


def empty(repo: Path) -> None:
    ours = environment(os.path.realpath(repo / ONLINE), map_size=1 << 24)
    ours.drop(ours.tables())


def cut(repo: Path) -> None:
    os.truncate(repo / ONLINE / "data.mdb", 10_000)


LOSSES = {
    "gone": (lose, "gone|no row"),
    "empty": (empty, "no row of view"),
    "cut off": (cut, "cut off"),
}


def test_the_record_says_what_is_online(repo):
    """Rows by view, the newest event time and what they were loaded as of, counted in the store."""
    got = loaded(repo)
    assert {name: one.rows for name, one in got.items()} == {
        "item_profile": 2,
        "item_sid_g1": 3,
        "item_sid_g2": 3,
        "user_activity": 2,
    }
    assert {name: one.newest for name, one in got.items()} == {
        "item_profile": day(25),
        "item_sid_g1": day(20.25),
        "item_sid_g2": day(20.25),
        "user_activity": day(15),
    }
    assert {one.through for one in got.values()} == {NOW}
    assert online_problems(repo) == []
    store.open_reader(repo, service="ranker_g1").check()
    assert errors(repo) == []


@pytest.mark.parametrize("loss", LOSSES)
def test_a_store_that_lost_its_rows_is_named_by_readiness_and_doctor(repo, loss):
    """Gone, emptied or cut off, seen by a reader that was open and by one opened anew; loaded
    again, all is well.
    """
    lost, message = LOSSES[loss]
    reader = store.open_reader(repo, service="ranker_g1")
    reader.check()
    lost(repo)
    for check in (reader.check, store.open_reader(repo, service="ranker_no_sid").check):
        with pytest.raises(ArtifactError, match=message):
            check()
    assert any("adc materialize" in error for error in errors(repo))
    if loss == "cut off":
        with pytest.raises(ArtifactError, match="cut off"):
            store.materialize(repo, now=NOW)
        lose(repo)
    store.materialize(repo, now=NOW)
    reader.check()
    assert errors(repo) == []


def test_a_store_from_an_older_backup_is_behind(tmp_path):
    """The rows are all there, as of an earlier time:
    readiness and doctor name the view and both times.
    """
    repo = published_world(tmp_path / "repo")
    store.materialize(repo, now=day(16))
    environment(os.path.realpath(repo / ONLINE), map_size=1 << 24).close()
    shutil.copytree(repo / ONLINE, tmp_path / "backup")
    publish = item_profile(["a", "b"], [day(28), day(28)], [0.5, 0.6])
    store.publish_statistics(
        repo,
        item_profile=publish,
        user_activity=user_activity(["u", "v"], [day(28), day(28)]),
        resolution=day(1) - day(0),
    )
    store.materialize(repo, now=NOW)
    lose(repo)
    shutil.copytree(tmp_path / "backup", repo / ONLINE)
    with pytest.raises(ArtifactError, match=r"behind in view .*2014-01-.*2014-01-"):
        store.open_reader(repo, service="ranker_no_sid").check()
    assert "behind in view" in errors(repo)[0]


def test_one_row_less_is_the_doctors_business_not_readinesss(repo):
    """A row that somebody deleted makes the store incomplete, and the service goes on."""
    ours = environment(os.path.realpath(repo / ONLINE), map_size=1 << 24)
    ours.write("world/item_sid_g1", lambda txn: txn.delete(b"sa"))
    store.open_reader(repo, service="ranker_g1").check()
    assert "holds 2 rows of view item_sid_g1, 3 were put there" in errors(repo)[0]


def test_a_store_that_was_never_loaded_is_not_ready(tmp_path):
    """Applied and not materialized: the reader opens, and refuses until the views are loaded, with
    the record or by Feast.
    """
    repo = published_world(tmp_path / "repo")
    reader = store.open_reader(repo, service="ranker_no_sid")
    with pytest.raises(ArtifactError, match=r"nothing of view \w+ is online"):
        reader.check()
    store.materialize(repo, now=NOW)
    reader.check()
    record_path(repo).unlink()
    reader.check()


@pytest.mark.parametrize("loss", ["gone", "behind"])
def test_other_online_stores_are_asked_by_feasts_own_reads(tmp_path, loss):
    """In Feast's SQLite store some rows on record are looked up: absent or older ones are named."""
    repo = with_store(tmp_path / "repo", SQLITE)
    store.materialize(repo, now=day(16))
    shutil.copy(repo / "data" / "online.db", tmp_path / "backup.db")
    store.materialize(repo, now=NOW)
    assert online_problems(repo) == errors(repo) == []
    store.open_reader(repo, service="ranker_g1").check()
    if loss == "behind":
        shutil.copy(tmp_path / "backup.db", repo / "data" / "online.db")
    else:
        os.truncate(repo / "data" / "online.db", 0)
    assert {"gone": "does not answer for view", "behind": "behind in view"}[loss] in errors(repo)[0]
    if loss == "behind":
        assert any(
            "item_sid_g2" in problem and "absent" in problem
            for problem in online_problems(repo, ["item_sid_g2"])
        )


def test_a_damaged_record_says_what_to_do(repo):
    """It is a typed error for readers and a finding for doctor; `materialize` writes it anew."""
    for text in ("", "[]", '{"views": {"item_profile": {}}}', json.dumps({"views": []})):
        record_path(repo).write_text(text)
        with pytest.raises(ArtifactError, match="remove the file"):
            store.open_reader(repo, service="ranker_g1").check()
        assert "remove the file" in errors(repo)[0]
    store.materialize(repo, now=NOW)
    assert errors(repo) == []


def test_newer_publications_are_told_from_older_ones(repo):
    """What is published has a name that changes with it, and a newest time."""
    before = store.published_files(repo)
    assert (set(before), store.newest_published(repo)) == ({"g1", "g2", "statistics"}, day(25))
    publish_default_statistics(repo)
    assert store.published_files(repo) == before
    later = datetime(2014, 3, 1, tzinfo=UTC)
    store.publish_statistics(
        repo,
        item_profile=item_profile(["a"], [later], [0.5]),
        user_activity=user_activity(["u"], [later]),
        resolution=day(1) - day(0),
    )
    assert {k for k in before if store.published_files(repo)[k] != before[k]} == {"statistics"}
    assert store.newest_published(repo) == later
