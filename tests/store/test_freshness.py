"""What would have been online: schedules of a repository's views, in joins of whole services."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from own_world import NOW, STORES, own_world
from store_world import DAY, START, day, frame, item_profile, published_world, user_activity

from adc_features import store
from adc_features.errors import ArtifactError, InputError, NewerFormatError
from adc_features.store.freshness import (
    asked_refresh,
    declared_refresh,
    online_timeline,
    snapshot_gap,
)
from adc_features.store.refresh import Refresh, RefreshSchedule
from adc_features.store.refresh_log import note_refresh, real_refreshes, refresh_log_path
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service, read_times

OURS = "adc_features.store.offline_store.AsofOfflineStore"
HOUR = timedelta(hours=1)
VIEWS = {"item_sid_g1": "g1", "item_profile": None, "user_activity": None}


def with_offline(directory: Path, kind: str) -> Path:
    store.create_repository(directory, project="world")
    config = directory / "feature_store.yaml"
    config.write_text(config.read_text().replace(OURS, kind))
    return published_world(directory)


def declare(repo: Path, refresh: object) -> None:
    config = yaml.safe_load((repo / "feature_store.yaml").read_text())
    config["adc_features"] = {"refresh": refresh}
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    return with_offline(tmp_path_factory.mktemp("fresh"), OURS)


@pytest.mark.parametrize("kind", [OURS, "duckdb"])
def test_each_view_is_read_as_of_its_own_refresh(tmp_path, kind):
    """A user's row waits for the nightly refresh, an item's is fresh, codes are a week behind; our
    store and Feast's say the same."""
    repo = with_offline(tmp_path, kind)
    hours = [day(5) + n * HOUR for n in range(48)]
    store.publish_statistics(
        repo,
        item_profile=item_profile(["a"] * 48, hours, list(range(48)), resolution=HOUR),
        user_activity=user_activity(["u"] * 48, hours, resolution=HOUR),
        resolution=HOUR,
    )
    asked = [day(5) + n * HOUR for n in (0, 2, 3, 27)] + [day(20.25), day(24.25)]
    refresh = {
        "user_activity": RefreshSchedule.parse("1d@03:00"),
        "item_profile": RefreshSchedule.parse("0"),
        "item_sid_g1": RefreshSchedule.parse("0+4d"),
    }
    got = store.training_features(
        repo, frame([("u", "a", t) for t in asked]), service="ranker_g1", refresh=refresh
    )
    newest = [None if t is None else (t // 10**6 - START.timestamp()) // 3600 + 1
              for t in got["user_last_time"].to_pylist()]  # fmt: skip
    assert newest == [None, None, 123, 147, 167, 167]
    assert got["item_event_count"].to_pylist() == [0, 2, 3, 27, 47, 47]
    assert got["sid"].to_pylist()[4:] == [[1, 1, -1], [2, 2, -1]]


def test_no_wait_is_the_plain_join(repo):
    """Schedules of period 0 change no bit of what a service gives."""
    rows = frame([("u", i, day(d / 3)) for d in range(90) for i in ("a", "b", "nobody")])
    plain = store.training_features(repo, rows, service="ranker_g1")
    fresh = dict.fromkeys(VIEWS, RefreshSchedule())
    assert store.training_features(repo, rows, service="ranker_g1", refresh=fresh).equals(plain)
    with pytest.raises(InputError, match=r"\['user_activit'\], which are no views"):
        store.training_features(
            repo, rows, service="ranker_g1", refresh={"user_activit": RefreshSchedule()}
        )


def test_codes_through_time_get_online_by_their_refreshes(repo):
    """The late join of codes under a schedule equals the join of the view under it."""
    moments = [day(d / 4) for d in range(140)]
    items = np.array(["a"] * len(moments))
    times = np.array([t.replace(tzinfo=None) for t in moments], "datetime64[us]")
    for text in ("7d@2d", "0+36h", "3d-1d", "1d@06:00+3d"):
        schedule = RefreshSchedule.parse(text)
        joined = store.training_features(
            repo,
            frame([("u", "a", t) for t in moments]),
            service="ranker_g1",
            refresh={"item_sid_g1": schedule},
        )
        timeline = online_timeline(store.published_timeline(repo, "g1"), schedule)
        assert timeline.gather(items, times)[0].tolist() == joined["sid"].to_pylist()
        switched = np.searchsorted(timeline.servable_at, times, side="right")
        assert (switched > 0).tolist() == joined["sid_found"].to_pylist()
    plain = store.published_timeline(repo, "g1")
    assert online_timeline(plain, None) is online_timeline(plain, RefreshSchedule()) is plain


def test_codes_are_no_fresher_than_their_snapshots(repo):
    """Snapshots lie ten days apart: a daily refresh is refused in words, a slower one is not."""
    assert snapshot_gap(repo, "g1") == 10 * DAY
    with pytest.raises(InputError, match="change with published snapshots, 10d apart"):
        asked_refresh(repo, {"item_sid_g1": "1d"}, VIEWS)
    with pytest.raises(InputError, match="published as whole snapshots"):
        asked_refresh(repo, {"item_sid_g1": "20d/incremental"}, VIEWS)
    found = asked_refresh(repo, {"item_sid_g1": "20d", "user_activity": "0"}, VIEWS)
    assert {view: str(s) for view, s in found.items()} == {"item_sid_g1": "20d"}


def test_a_repository_says_how_its_views_are_refreshed(tmp_path):
    """The block of feature_store.yaml gives the default; what is no schedule is refused by name."""
    repo = published_world(tmp_path)
    assert declared_refresh(repo) == {}
    declare(repo, {"user_activity": "1d@03:00+20m", "item_profile": 0, "other": "1h"})
    assert {v: str(s) for v, s in declared_refresh(repo, VIEWS).items()} == {
        "user_activity": "1d@03:00+20m"
    }
    assert set(declared_refresh(repo)) == {"user_activity", "other"}
    for wrong, words in (({"user_activity": "nightly"}, "view 'user_activity'"),
                         ({"v": 1.5}, "view 'v'"), ("1d", "a schedule for each view")):  # fmt: skip
        declare(repo, wrong)
        with pytest.raises(InputError, match=words):
            declared_refresh(repo)


def test_materializations_are_on_record(tmp_path):
    """Each view's cut and when it was there; `log` joins by them."""
    repo = published_world(tmp_path)
    with pytest.raises(InputError, match="materialize first"):
        asked_refresh(repo, {"user_activity": "log"}, VIEWS)
    before = datetime.now(UTC)
    for now in (day(25), day(30)):
        store.materialize(repo, now=now)
    found = real_refreshes(repo)
    assert set(found) == {"item_profile", "item_sid_g1", "item_sid_g2", "user_activity"}
    assert [r.cut for r in found["user_activity"]] == [day(25), day(30)]
    assert all(before < r.visible < datetime.now(UTC) for r in found["user_activity"])
    schedule = asked_refresh(repo, {"user_activity": "log"}, VIEWS)["user_activity"]
    assert schedule.refreshes == found["user_activity"]


def test_a_log_of_refreshes_is_read_with_care(tmp_path):
    """A torn line is left out and closed, a repeated cut counts once, a cut of the future is now;
    other lines are refused."""
    at = day(3)
    note_refresh(tmp_path, "v", cut=day(1), visible=at)
    path = refresh_log_path(tmp_path)
    path.write_bytes(path.read_bytes() + b'{"format": 1, "view": "v", "cu')
    note_refresh(tmp_path, "v", cut=day(1), visible=at + HOUR)
    note_refresh(tmp_path, "v", cut=day(9), visible=day(4))
    assert real_refreshes(tmp_path) == {"v": (Refresh(day(1), at), Refresh(day(4), day(4)))}
    whole = path.read_text()
    path.write_text(whole + json.dumps({"format": 1, "view": "v"}) + "\n")
    with pytest.raises(ArtifactError, match="line 5 is no refresh"):
        real_refreshes(tmp_path)
    path.write_text(json.dumps({"format": 2, "view": "v"}) + "\n")
    with pytest.raises(NewerFormatError):
        real_refreshes(tmp_path)


def test_a_service_of_ones_own_is_joined_under_schedules(tmp_path):
    """A key that a view renames, a ttl that counts from the request, and when rows became valid;
    another store refuses a ttl, and agrees where there is none."""
    asked = pa.table(
        {
            "customer_id": ["c1", "c1"],
            "viewed_sku": [1, 1],
            "sku": [1, 2],
            "limit": [1.0, 1.0],
            "event_timestamp": pa.array([NOW, NOW], pa.timestamp("us", "UTC")),
        }
    )
    features = ["profile__visits", "stock__shelf"]
    answers = {}
    for kind in ("ours", "duckdb"):
        repo = own_world(tmp_path / kind, *STORES[kind], calendar=False)
        schema = service_schema(repo, "feed")
        weekly = {"profile": RefreshSchedule.parse("0+2d")}
        got = join_service(repo, schema, asked, features=features, refresh=weekly)
        answers[kind] = got["profile__visits"].to_pylist()
        times = read_times(repo, schema, asked, features=features, refresh=weekly)
        if kind == "ours":
            assert times["profile"].to_pylist() == [NOW - 9 * DAY] * 2
            delayed = {"stock": RefreshSchedule.parse("0+23h")}
            late = join_service(repo, schema, asked, features=features, refresh=delayed)
            assert late["stock__shelf"].to_pylist() == [100, None]
        else:
            assert times == {}
            with pytest.raises(InputError, match="'stock' has a ttl"):
                join_service(
                    repo, schema, asked, features=features,
                    refresh={"stock": RefreshSchedule.parse("1h")},
                )  # fmt: skip
    assert answers == {"ours": [1, 1], "duckdb": [1, 1]}
