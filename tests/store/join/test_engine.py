"""The point-in-time join through Feast, against a brute-force oracle."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_world import (
    DAY,
    START,
    day,
    examples,
    frame,
    generation,
    item_profile,
    publish_default_statistics,
    published_world,
    snapshot,
    times,
    user_activity,
)

from adc_features import store
from adc_features.errors import ArtifactError, InputError
from adc_features.store.history import reads_parquet_itself
from adc_features.store.registry import open_store

OURS = "adc_features.store.offline_store.AsofOfflineStore"


@pytest.fixture(scope="module", params=[OURS, "duckdb"])
def repo(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("join")
    store.create_repository(directory, project="world")
    config = directory / "feature_store.yaml"
    config.write_text(config.read_text().replace(OURS, request.param))
    return published_world(directory)


def known(rows: pa.Table, key: str, wanted: str, at: datetime) -> dict | None:
    """The brute-force answer: the newest row of the key that is valid at a time."""
    valid = [r for r in rows.to_pylist() if r[key] == wanted and r["event_timestamp"] <= at]
    return max(valid, key=lambda r: r["event_timestamp"], default=None)


KEYS = st.sampled_from(["a", "b", "c", "nobody"])
DAYS = st.integers(0, 8)  # few, so that times tie and rows are equal


@settings(
    max_examples=examples(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    facts=st.lists(st.tuples(KEYS, DAYS), min_size=1, max_size=12, unique=True),
    asked=st.lists(st.tuples(st.sampled_from(["u", "v"]), KEYS, DAYS), min_size=1, max_size=20),
)
def test_the_join_equals_brute_force(repo, facts, asked):
    """Ties, equal rows, slates, unknown keys and keys known only later: each row gets the newest
    valid row, in its place.
    """
    items, moments = [i for i, _ in facts], [day(d) for _, d in facts]
    profile = item_profile(items, moments, [0.1 * n for n in range(len(facts))])
    activity = user_activity(items, moments)
    activity = activity.set_column(
        0, "user_id", pa.array(["u" if i in "ab" else "v" for i in items])
    )
    activity = activity.filter(
        pa.array(
            ~pd.DataFrame({"u": activity["user_id"].to_pylist(), "t": moments})
            .duplicated()
            .to_numpy()
        )
    )
    store.publish_statistics(repo, item_profile=profile, user_activity=activity, resolution=DAY)
    rows = [(u, i, day(d)) for u, i, d in asked]
    joined = store.training_features(repo, frame(rows), service="ranker_no_sid")
    assert joined["row_id"].to_pylist() == joined["label"].to_pylist() == list(range(len(rows)))
    for got, (user, item, at) in zip(joined.to_pylist(), rows, strict=True):
        for table, key, wanted, view in (
            (profile, "item_id", item, "item_profile"),
            (activity, "user_id", user, "user_activity"),
        ):
            expected = known(table, key, wanted, at)
            assert got[f"{view}_found"] == (expected is not None)
            assert {n: got[n] for n in table.column_names[2:]} == {
                n: expected and expected[n] for n in table.column_names[2:]
            }
    publish_default_statistics(repo)


def test_codes_are_those_servable_at_the_row(repo):
    """Before the first snapshot there are none, at servable_at (included) they change, and their
    cut-off comes with them.
    """
    first = day(10.25)
    moments = [
        first - timedelta(microseconds=1),
        first,
        day(20.25) - timedelta(microseconds=1),
        day(20.25),
        day(900),
    ]
    joined = store.training_features(
        repo, frame([("u", "a", t) for t in moments]), service="ranker_g1"
    )
    assert joined["sid"].to_pylist() == [
        [-1, -1, -1],
        [1, 1, -1],
        [1, 1, -1],
        [2, 2, -1],
        [2, 2, -1],
    ]
    assert joined["sid_weight"].to_pylist()[0] == [0, 0, 0]
    assert joined["sid_found"].to_pylist() == [False, True, True, True, True]
    assert joined["sid_as_of"].to_pylist() == [None, day(10), day(10), day(20), day(20)]


def test_types_are_the_declared_ones_however_many_rows_miss(repo):
    """Codes stay int32 and weights float32 when every row, some, or none has a match; a miss never
    makes a float of a code.
    """
    schemas = {
        store.training_features(
            repo, frame([("u", item, at)]), service="ranker_g1"
        ).schema.remove_metadata()
        for item, at in (("nobody", day(1)), ("a", day(30)))
    }
    (schema,) = schemas
    expected = {
        "sid": pa.list_(pa.int32()),
        "sid_weight": pa.list_(pa.float32()),
        "is_cold": pa.bool_(),
        "collision_count": pa.int32(),
    }
    expected |= {
        "sid_as_of": pa.timestamp("us", tz="UTC"),
        "item_label_mean": pa.float32(),
        "item_event_count": pa.int64(),
        "user_recent_items": pa.list_(pa.string()),
    }
    assert {name: schema.field(name).type for name in expected} == expected


def test_an_empty_frame_joins_to_an_empty_table(repo):
    """No rows in, no rows out, all columns there."""
    joined = store.training_features(repo, frame([]), service="ranker_g1")
    assert len(joined) == 0
    assert "sid" in joined.column_names


def test_two_generations_answer_side_by_side(repo):
    """The same rows have the codes of the generation whose service is asked."""
    rows = frame([("u", "a", day(30)), ("u", "c", day(30))])
    codes = {
        g: store.training_features(repo, rows, service=store.service_name(g))["sid"].to_pylist()
        for g in ("g1", "g2")
    }
    assert codes == {"g1": [[2, 2, -1]] * 2, "g2": [[7, 7, -1]] * 2}
    assert (
        "sid"
        not in store.training_features(repo, rows, service=store.service_name(None)).column_names
    )


def test_the_facts_of_a_join_are_kept_with_it(repo):
    """Rows in and out, the generation and the unmatched rows per view; another table has none."""
    joined = store.training_features(
        repo, frame([("u", "a", day(30)), ("nobody", "nothing", day(30))]), service="ranker_g1"
    )
    facts = store.join_facts(joined)
    assert (facts.service, facts.generation, facts.rows_in, facts.rows_out) == (
        "ranker_g1",
        "g1",
        2,
        2,
    )
    assert facts.unmatched == {"item_sid_g1": 1, "item_profile": 1, "user_activity": 1}
    with pytest.raises(InputError, match="what training_features returned"):
        store.join_facts(frame([]))


def test_pieces_of_any_size_give_the_same_rows(repo):
    """join_rows bounds what is joined at once and nothing else."""
    rows = frame([(u, i, day(d)) for d in (4, 9, 12, 22) for u in "uvw" for i in "abc"] * 2)
    whole = store.training_features(repo, rows, service="ranker_g1")
    config = repo / "feature_store.yaml"
    text = config.read_text()
    try:
        config.write_text(text.replace("join_rows: 100000", "join_rows: 5"))
        assert store.training_features(repo, rows, service="ranker_g1").equals(whole)
    finally:
        config.write_text(text)


def test_pandas_frames_with_nanoseconds_and_zones_join_alike(repo):
    """A pandas frame in another zone, with its own row_id, gives the same features; nanoseconds are
    cut, never rounded up.
    """
    at = pd.DatetimeIndex(
        [pd.Timestamp(day(10.25)) - pd.Timedelta(1, "ns"), pd.Timestamp(day(10.25))]
    ).tz_convert("Asia/Tokyo")
    joined = store.training_features(
        repo,
        pd.DataFrame({"row_id": [7, 3], "user_id": "u", "item_id": "a", "event_timestamp": at}),
        service="ranker_g1",
    )
    assert joined["row_id"].to_pylist() == [7, 3]
    assert joined["sid"].to_pylist() == [[-1, -1, -1], [1, 1, -1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.set_column(2, "event_timestamp", pa.array([datetime(2014, 1, 1)])),
            "with a time zone",
        ),
        (lambda t: t.set_column(2, "event_timestamp", times([None])), "are null"),
        (lambda t: t.set_column(1, "item_id", pa.array([None], pa.string())), "are null"),
        (
            lambda t: t.set_column(1, "item_id", pa.array([1])),
            "item_id is int64, view item_sid_g1 has string ids",
        ),
        (lambda t: t.drop_columns("user_id"), "no column 'user_id'"),
        (
            lambda t: t.append_column("sid", pa.array([1])),
            r"columns \['sid'\], which are feature names",
        ),
    ],
)
def test_frames_that_cannot_be_joined_are_refused(repo, change, words):
    """Naive or null times, null or missing keys and clashing names are one clear error."""
    with pytest.raises(InputError, match=words):
        store.training_features(repo, change(frame([("u", "a", day(30))])), service="ranker_g1")


def test_a_service_that_is_not_declared_is_named(repo):
    """The error lists what is declared."""
    with pytest.raises(InputError, match=r"\['ranker_g1', 'ranker_g2', 'ranker_no_sid'\]"):
        store.training_features(repo, frame([("u", "a", day(30))]), service="ranker_g9")


def test_the_late_join_equals_the_join(repo):
    """Gathering from published snapshots by (item, time) gives the codes, weights and reliability
    of Feast's join, row by row.
    """
    rng = np.random.default_rng(0)
    items, at = (
        rng.choice(["a", "b", "c", "nobody"], 200),
        [day(float(d)) for d in rng.uniform(8, 24, 200)],
    )
    joined = store.training_features(
        repo, frame([("u", i, t) for i, t in zip(items, at, strict=True)]), service="ranker_g1"
    )
    sid, weight, reliability = store.published_timeline(repo, "g1").gather(
        items, joined["event_timestamp"].to_numpy()
    )
    assert joined["sid"].to_pylist() == sid.tolist()
    assert joined["sid_weight"].to_pylist() == weight.tolist()
    assert joined["reliability"].to_pylist() == reliability.tolist()


def test_a_streamed_join_is_shared_out_over_ranks_and_workers(repo):
    """Joined while they are read by two ranks of two worker processes each: every row once, as many
    batches a rank, values of the whole join.
    """
    from adc_features.loader.batches import Columns, Order
    from adc_features.loader.row_groups import JoinedGroups, TableGroups
    from adc_features.loader.torch_batches import TrainingLoader

    rows = frame([(u, i, day(d)) for d in (4, 9, 12, 22) for u in "uvw" for i in "abc"] * 3)
    if not reads_parquet_itself(open_store(repo)):
        with pytest.raises(InputError, match="AsofOfflineStore"):
            store.open_join(repo, "ranker_g1")
        return
    whole = store.training_features(repo, rows, service="ranker_g1")
    source = JoinedGroups(TableGroups(rows, group_rows=10), store.open_join(repo, "ranker_g1"))
    columns = Columns(("label",), {"sid": 3, "sid_weight": 3})
    ranks = [
        TrainingLoader(
            source, columns, Order(8, seed=1, buffer_rows=24, rank=rank, ranks=2), workers=2
        )
        for rank in range(2)
    ]
    batches = [list(loader) for loader in ranks]
    assert len(batches[0]) == len(batches[1]) == len(ranks[0])
    seen = np.concatenate([batch["label"].numpy() for mine in batches for batch in mine]).astype(
        int
    )
    assert sorted(seen.tolist()) == list(range(len(rows)))
    for name in ("sid", "sid_weight"):
        got = np.concatenate([batch[name].numpy() for mine in batches for batch in mine])
        np.testing.assert_array_equal(got, np.array(whole[name].to_pylist(), got.dtype)[seen])
    again = TrainingLoader(
        source, columns, Order(8, seed=1, buffer_rows=24, rank=1, ranks=2), workers=2
    )
    again.load_state_dict({**again.state_dict(), "batch": 3})
    assert [b["label"].tolist() for b in again] == [b["label"].tolist() for b in batches[1][3:]]


def test_backfilled_codes_are_hidden_by_their_created_time(repo):
    """Feast's own created-time filter, asked at the row's time,
    sees no snapshot that was computed later.
    """
    asked = pd.DataFrame({"item_id": ["a", "a"], "event_timestamp": [day(25), day(31)]})
    joined = (
        open_store(repo)
        .get_historical_features(asked, ["item_sid_g1:sid"], filter_by_created_timestamp=True)
        .to_df()
        .sort_values("event_timestamp")
    )
    assert [s is None for s in joined["sid"]] == [True, False]


def test_times_before_1970_join(tmp_path):
    """Events of 1950 are found from the next day on; no time is special."""
    old = datetime(1950, 6, 1, tzinfo=UTC)
    store.create_repository(tmp_path, project="old")
    store.publish(
        tmp_path,
        generation(trained_through=old),
        [snapshot(old, 3, items=[1, 2])],
        servable_at=[old],
        computed_at=START,
    )
    store.publish_statistics(
        tmp_path,
        item_profile=item_profile([1, 2], [old, old], [0.5, 0.6]),
        user_activity=user_activity([7], [old]),
        resolution=DAY,
    )
    store.apply(tmp_path)
    asked = pa.table(
        {
            "user_id": [7, 7],
            "item_id": [2, 2],
            "event_timestamp": times([old - timedelta(microseconds=1), old]),
        }
    )
    joined = store.training_features(tmp_path, asked, service="ranker_g1")
    assert (
        joined["sid_found"].to_pylist()
        == joined["user_activity_found"].to_pylist()
        == [False, True]
    )
    assert joined["sid"].to_pylist()[1] == [3, 3, -1]
    store.materialize(tmp_path, now=old)
    assert store.lookup(tmp_path, "g1", np.array([2])).sid.tolist() == [[3, 3, -1]]
    assert (
        store.parity(
            tmp_path,
            service="ranker_g1",
            item_ids=np.array([1, 2, 3]),
            user_ids=np.array([7, 8]),
            now=old,
        )["different"]
        == 0
    )


# ---- the leakage canary


def event_statistics(valid_after: timedelta) -> tuple[pa.Table, pa.Table]:
    """One event of each of 40 users on item `a` with a label of pure chance; each user's statistic
    contains exactly that label.
    """
    labels = np.random.default_rng(1).integers(0, 2, 40)
    users, moments = [f"u{n}" for n in range(40)], [day(n) for n in range(40)]
    activity = user_activity(users, moments, resolution=timedelta(0)).append_column(
        "user_label_mean", pa.array(labels, pa.float32())
    )
    events = frame([(u, "a", t) for u, t in zip(users, moments, strict=True)]).set_column(
        3, "label", pa.array(labels)
    )
    return (
        activity.set_column(1, "event_timestamp", times([m + valid_after for m in moments])),
        events,
    )


def seen_of_own_label(repo: Path, events: pa.Table) -> list[float | None]:
    return store.training_features(repo, events, service="ranker_no_sid")[
        "user_label_mean"
    ].to_pylist()


def test_statistics_carry_nothing_of_a_label_into_its_own_row(repo, tmp_path):
    """Valid from the next day, a statistic that contains a row's own label does not reach that row;
    the day after, it does.
    """
    activity, events = event_statistics(DAY)
    store.create_repository(tmp_path, project="canary")
    store.publish_statistics(
        tmp_path,
        item_profile=item_profile(["a"], [day(1)], [0.5]),
        user_activity=activity,
        resolution=DAY,
    )
    store.apply(tmp_path)
    assert seen_of_own_label(tmp_path, events) == [None] * 40
    later = events.set_column(2, "event_timestamp", times([day(n + 1) for n in range(40)]))
    assert seen_of_own_label(tmp_path, later) == events["label"].to_pylist()


def test_stamped_naively_statistics_would_leak_and_are_refused_loudly(tmp_path, monkeypatch):
    """Stamped at the label's own time, the publisher refuses them; past it, each row would see its
    label, and the join fails loudly.
    """
    activity, events = event_statistics(timedelta(0))
    tables = {"item_profile": item_profile(["a"], [day(1)], [0.5]), "user_activity": activity}
    store.create_repository(tmp_path, project="canary")
    with pytest.raises(InputError, match="40 rows leak"):
        store.publish_statistics(tmp_path, **tables, resolution=DAY)
    monkeypatch.setattr(
        sys.modules["adc_features.store.publish.statistics"],
        "check_validity",
        lambda rows, *, resolution: None,
    )
    store.publish_statistics(tmp_path, **tables, resolution=DAY)
    store.apply(tmp_path)
    with pytest.raises(
        ArtifactError, match="40 rows got a user_last_time that is newer than the row"
    ):
        store.training_features(tmp_path, events, service="ranker_no_sid")
    monkeypatch.setattr(
        sys.modules["adc_features.store.history"], "_refuse_newer", lambda times, features: None
    )
    assert seen_of_own_label(tmp_path, events) == events["label"].to_pylist()


def test_a_service_with_two_features_of_one_name_is_refused(tmp_path):
    """A user's own view beside ours: the clash is named for training and for serving, and nothing
    is overwritten in silence.
    """
    from adc_features.store import _compat as feast

    repo = published_world(tmp_path)
    handle = open_store(repo)
    ours = handle.get_feature_view("item_profile")
    schema = [
        feast.Field(name="item_id", dtype=feast.String),
        feast.Field(name="item_label_mean", dtype=feast.Float32),
    ]
    mine = feast.FeatureView(
        name="mine", entities=[handle.get_entity("item")], schema=schema, source=ours.batch_source
    )
    handle.apply([mine, feast.FeatureService(name="both", features=[ours, mine])])
    said = (
        "view item_profile feature item_label_mean and view mine feature item_label_mean would"
        " share the column"
    )
    with pytest.raises(InputError, match=said):
        store.training_features(repo, frame([("u", "a", day(30))]), service="both")
    with pytest.raises(InputError, match=said):
        store.open_reader(repo, service="both")


def test_categorical_keys_and_doubled_columns_of_a_training_frame(repo):
    """pandas categoricals join as their values; a column that is there twice is refused by name."""
    rows = frame([("u", "a", day(30)), ("nobody", "b", day(30))])
    plain = store.training_features(repo, rows, service="ranker_g1")
    coded = rows.to_pandas().astype({"user_id": "category", "item_id": "category"})
    assert store.training_features(repo, coded, service="ranker_g1")["sid"].equals(plain["sid"])
    with pytest.raises(InputError, match="more than once"):
        store.training_features(
            repo, rows.append_column("item_id", rows["item_id"]), service="ranker_g1"
        )
