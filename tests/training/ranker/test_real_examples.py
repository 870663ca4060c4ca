"""Repositories of the examples of real data hold valid rows, none visible too early.
Reads: benchmarks.
"""

import importlib
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.inputs.resolution import resolution
from adc_features.store.services.schema import declared_rankers, service_schema

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def examples():
    """The modules open_bandit and movietweetings, and what both share."""
    names = {"shared": "_declared_path", "bandit": "open_bandit", "films": "movietweetings"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        found = {name: importlib.import_module(module) for name, module in names.items()}
    return SimpleNamespace(**found)


def second(n):
    """The n-th second of the data."""
    return datetime(2019, 11, 25, tzinfo=UTC) + timedelta(seconds=n)


# ---- what was known when

EVENTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=25
)


@given(EVENTS, st.integers(1, 4))
def test_a_row_tells_of_the_events_before_it_and_of_no_others(examples, events, last):
    """At each second the newest visible row of a key counts the events of earlier seconds: it is
    found by trying every key and second.
    """
    keys, at, values = (np.array(column) for column in zip(*events, strict=True))
    known = examples.shared.so_far(keys, at.astype("datetime64[s]"))
    key = keys[known.order[known.last]]
    seconds = known.known.astype("datetime64[s]").astype(int)
    totals = known.total(values.astype(float))
    recent = known.recent(pa.array(values), last).to_pylist()
    for one in set(keys.tolist()):
        for now in range(9):
            visible = np.flatnonzero((key == one) & (seconds <= now))
            before = (keys == one) & (at < now)
            if not before.any():
                assert len(visible) == 0
                continue
            row = visible[np.argmax(seconds[visible])]
            assert known.count[row] == before.sum()
            assert totals[row] == values[before].sum()
            in_order = values[before][np.argsort(at[before], kind="stable")]
            assert recent[row] == in_order[-last:].tolist()


def test_rows_are_unique_by_key_and_time(examples):
    """Events of one key in one second become known together, in one row."""
    known = examples.shared.so_far(np.array(["a", "a"]), np.array([5, 5], "datetime64[s]"))
    assert known.count.tolist() == [2]


# ---- Open Bandit

ITEMS = """\
,item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3
0,0,-0.5,a,b,c
1,1,0.5,a,d,c
"""
IMPRESSIONS = """\
,timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,\
user_feature_3,user-item_affinity_0,user-item_affinity_1
0,2019-11-25 00:00:00+00:00,0,3,1,{p},u,v,w,x,1.0,2.0
1,2019-11-25 00:00:07.5+00:00,0,1,0,{p},u,v,w,y,0.0,0.0
"""


@pytest.fixture
def sample(tmp_path, examples):
    """Two items and two impressions in each of the six folders."""
    for policy, p in (("random", 0.5), ("bts", 0.01)):
        for campaign in ("all", "men", "women"):
            folder = tmp_path / "obd" / policy / campaign
            folder.mkdir(parents=True)
            (folder / "item_context.csv").write_text(ITEMS)
            (folder / f"{campaign}.csv").write_text(IMPRESSIONS.format(p=p))
    return examples.bandit.read_sample(tmp_path / "obd")


def test_items_of_two_campaigns_are_two_items(sample):
    """Each campaign numbers its items from 0, and each policy shows the same ones."""
    assert sample.attributes["item_id"].to_pylist()[:3] == ["all-0", "all-1", "men-0"]
    assert set(sample.log["item_id"].to_pylist()) == {"all-0", "men-0", "women-0"}


def test_an_impression_counts_as_if_items_were_shown_equally_often(sample):
    """One item in two shown at 0.5 counts 1; shown at 0.01 it would count 50, and counts 10."""
    assert sorted(sample.log["sample_weight"].to_pylist()) == [1.0] * 6 + [10.0] * 6
    assert sorted(sample.log["past_clicks"].to_pylist()) == [0.0] * 6 + [3.0] * 6


def test_clicks_count_from_a_second_after_them(examples, sample):
    """Both policies' clicks on all-0 at second 0 are known at second 1; attributes from day 1."""
    views = examples.bandit.views(sample)
    rows = [row for row in views["so_far"].to_pylist() if row["item_id"] == "all-0"]
    assert [row["event_timestamp"] for row in rows] == [second(1), second(8.5)]
    assert [(row["shown"], row["click_rate"]) for row in rows] == [(2, 2 / 202), (4, 2 / 204)]
    assert max(views["attributes"]["event_timestamp"].to_pylist()) < second(0)


# ---- MovieTweetings

FILMS = {
    "item_id": ["f1", "f2", "f3", "f4"],
    "title": ["One (1999)", "Two", "Three (2031)", "Four"],
    "categories": [["Drama", "War"], [], ["Comedy"], []],
    "year": pa.array([1999, None, 2031, None], pa.int32()),
}
RATINGS = [("u", "f1", 9, 0), ("v", "f2", 8, 3), ("u", "f2", 7, 5), ("u", "f3", 9, 9)]


@pytest.fixture
def ratings():
    """Four ratings by two users of three films, by time."""
    users, films, rating, at = zip(*RATINGS, strict=True)
    start = int(second(0).timestamp())
    columns = {"user_id": users, "item_id": films, "rating": rating}
    return pa.table({**columns, "timestamp": [start + s for s in at]})


def test_a_user_s_history_is_that_of_earlier_seconds(examples, ratings):
    """After three ratings by u the newest row lists the films, likes and genres in their order."""
    views = examples.films.views(ratings, pa.table(FILMS))
    last = [row for row in views["viewer_so_far"].to_pylist() if row["viewer_id"] == "u"][-1]
    assert last["event_timestamp"] == second(10)
    assert (last["viewer_ratings"], last["viewer_mean"]) == (3, 25 / 3)
    assert last["recent_films"] == ["f1", "f2", "f3"]
    assert last["recent_likes"] == [1.0, 0.0, 1.0]
    assert last["recent_times"] == [second(0), second(5), second(9)]
    assert last["recent_genres"] == ["Drama", "War", "Comedy"]
    assert last["recent_genre_likes"] == [1.0, 1.0, 1.0]


def test_a_film_is_known_from_its_year_or_its_first_rating(examples, ratings):
    """f1 has a year before its first rating, f2 none, f3 a year after it; f4 has neither."""
    films = examples.films.views(ratings, pa.table(FILMS))["films"]
    known = films["event_timestamp"].to_pylist()
    assert known == [datetime(1999, 1, 1, tzinfo=UTC), second(3), second(9)]
    assert films["first_genre"].to_pylist() == ["Drama", None, "Comedy"]


def test_the_second_task_is_defined_by_what_the_user_gave_before(examples, ratings):
    """First ratings have no label; 7 is below u's 9, and 9 is above u's mean of 8."""
    log = examples.films.label_log(ratings)
    assert log["above_mean"].to_pylist() == [None, None, False, True]
    assert log["like"].to_pylist() == [True, True, False, True]


# ---- as repositories


def applied(folder, definitions):
    """The folder as a repository that Feast knows, without a process of its own."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView

    found = runpy.run_path(str(folder / definitions))
    kinds = (Entity, FeatureService, FeatureView)
    FeatureStore(repo_path=str(folder)).apply([t for t in found.values() if isinstance(t, kinds)])
    return folder


def resolved(repo, service, **fields):
    """Ranker -> the names of its inputs. fields: of the request, with their types."""
    schema = service_schema(repo, service)
    return {
        name: {one.name for one in resolution(ranker, schema, columns=fields).inputs}
        for name, ranker in declared_rankers(repo).items()
    }


def test_the_declarations_of_open_bandit_resolve(tmp_path, examples, sample):
    """All four rankers read the item; three read the user's fields of the request as well."""
    examples.bandit.write_repository(tmp_path / "repo", sample)
    features = {f"user_feature_{n}" for n in range(4)}
    fields = dict.fromkeys(features, "String") | {"position": "Int64", "past_clicks": "Float64"}
    inputs = resolved(applied(tmp_path / "repo", "shop.py"), "shop_v1", **fields)
    assert set(inputs) == {"items_only", "with_user", "weighted", "trees"}
    user = features | {"past_clicks"}
    assert inputs["with_user"] - inputs["items_only"] == user
    assert inputs["items_only"] <= inputs["with_user"] == inputs["weighted"] == inputs["trees"]


def test_the_declarations_of_movietweetings_resolve(tmp_path, examples, ratings):
    """Rankers differ by genres and by history, and `full` has both."""
    labels = examples.films.write_repository(tmp_path / "repo", ratings, pa.table(FILMS))
    assert len(pq.read_table(labels)) == 4
    inputs = resolved(applied(tmp_path / "repo", "films.py"), "films_v1")
    assert inputs["history"] - inputs["plain"] == {"recent"}
    assert inputs["full"] == inputs["genres"] | inputs["history"]
    assert "films__title" not in inputs["full"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path, examples, ratings):
    """An example never writes among other files."""
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(SystemExit, match="is not empty; give --work a folder that is new or empty"):
        examples.films.write_repository(tmp_path, ratings, pa.table(FILMS))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
