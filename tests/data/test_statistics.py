"""Statistics against a brute-force count over plain Python rows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.data.statistics import (
    ITEM_PROFILE_SCHEMA,
    NO_TIME,
    SMOOTHING,
    USER_ACTIVITY_SCHEMA,
    item_profile,
    user_activity,
)
from adc_features.errors import InputError

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)


def log(rows: list[tuple[str, str, int, int, int]]) -> pa.Table:
    """Rows of (user, item, day, label, rating)."""
    rows = sorted(rows, key=lambda r: r[2])
    user, item, day, label, rating = zip(*rows, strict=True)
    times = pa.array([START + d * DAY for d in day], pa.timestamp("us", tz="UTC"))
    columns = {"user_id": pa.array(user), "item_id": pa.array(item), "time": times}
    return pa.table(
        {
            **columns,
            "label": pa.array(label, pa.float32()),
            "rating": pa.array(rating, pa.float32()),
        }
    )


def catalogue() -> pa.Table:
    names = {
        "brand": ["x", "x", None, "y"],
        "category": ["p", "p", "p", "r"],
        "category_path": ["p > q", "p", "p", "r"],
    }
    return pa.table({"item_id": ["a", "b", "c", "d"], **names})


def mean(values: list[float], prior: float) -> float:
    return (sum(values) + SMOOTHING * prior) / (len(values) + SMOOTHING)


def prior_of(rows: list[dict], value: str, until: datetime) -> float:
    """The running mean over everything; before the first event, that of the first."""
    seen = [r[value] for r in rows if r["time"] <= until] or [rows[0][value]]
    return sum(seen) / len(seen)


def residual(rows: list[dict], row: dict, key: str) -> float:
    until = row["time"] - DAY
    return row["rating"] - mean(
        [r["rating"] for r in rows if r[key] == row[key] and r["time"] <= until],
        prior_of(rows, "rating", until),
    )


events = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from("abc"),
        st.sampled_from([0, 1, 2, 3, 4, 40, 160]),
        st.integers(0, 1),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=25,
)


@given(events)
@settings(max_examples=40, deadline=None)
def test_every_user_row_equals_a_plain_count(drawn):
    """A user's row holds the events up to one resolution before it, no other."""
    table = log(drawn)
    rows, of = table.to_pylist(), {i["item_id"]: i for i in catalogue().to_pylist()}
    got = user_activity(table, catalogue(), resolution=DAY, recent=3).to_pylist()
    assert [(r["user_id"], r["event_timestamp"]) for r in got] == sorted(
        {(r["user_id"], r["time"] + DAY) for r in rows}, key=lambda p: (p[1], p[0])
    )
    for r in got:
        until = r["event_timestamp"] - DAY
        mine = [e for e in rows if e["user_id"] == r["user_id"] and e["time"] <= until]
        assert r["user_event_count"] == len(mine)
        assert r["user_label_sum"] == sum(e["label"] for e in mine)
        assert r["user_label_mean"] == pytest.approx(
            mean([e["label"] for e in mine], prior_of(rows, "label", until)), rel=1e-6
        )
        assert r["user_rating_mean"] == pytest.approx(
            mean([e["rating"] for e in mine], prior_of(rows, "rating", until)), rel=1e-6
        )
        assert r["user_residual_mean"] == pytest.approx(
            mean([residual(rows, e, "item_id") for e in mine], 0.0), abs=1e-5
        )
        assert r["user_last_time"] == int(max(e["time"] for e in mine).timestamp() * 1_000_000)
        assert r["user_recent_items"] == [e["item_id"] for e in mine][-3:]
        assert r["user_recent_brands"] == [of[e["item_id"]]["brand"] or "" for e in mine][-3:]
        assert r["user_recent_paths"] == [of[e["item_id"]]["category_path"] for e in mine][-3:]
        assert r["user_recent_labels"] == [e["label"] for e in mine][-3:]
        assert r["user_recent_residuals"] == pytest.approx(
            [residual(rows, e, "item_id") for e in mine][-3:], abs=1e-5
        )
        assert r["user_recent_times"] == [int(e["time"].timestamp() * 1_000_000) for e in mine][-3:]


@given(events)
@settings(max_examples=40, deadline=None)
def test_every_item_row_equals_a_plain_count(drawn):
    """An item's row, its own or a refresh, holds what was known one resolution before it, for item,
    brand, category and path.
    """
    table, items = log(drawn), catalogue()
    rows = table.to_pylist()
    of = {i["item_id"]: i for i in items.to_pylist()}
    refresh = [START + 3 * DAY, START + 34 * DAY + timedelta(hours=5), START + 162 * DAY]
    got = item_profile(table, items, resolution=DAY, refresh_at=refresh).to_pylist()
    wanted = {(r["item_id"], r["time"] + DAY) for r in rows} | {(i, t) for i in of for t in refresh}
    assert [(r["item_id"], r["event_timestamp"]) for r in got] == sorted(
        wanted, key=lambda p: (p[1], p[0])
    )
    for r in got:
        until = r["event_timestamp"] - DAY
        before = [e for e in rows if e["time"] <= until]
        mine = [e for e in before if e["item_id"] == r["item_id"]]
        prior = prior_of(rows, "label", until)
        assert r["item_event_count"] == len(mine)
        assert r["item_label_mean"] == pytest.approx(
            mean([e["label"] for e in mine], prior), rel=1e-6
        )
        for days in (30, 120):
            young = [e["label"] for e in mine if e["time"] > until - days * DAY]
            assert r[f"item_event_count_{days}d"] == len(young)
            assert r[f"item_label_mean_{days}d"] == pytest.approx(mean(young, prior), rel=1e-6)
        assert r["item_residual_mean"] == pytest.approx(
            mean([residual(rows, e, "user_id") for e in mine], 0.0), abs=1e-5
        )
        assert r["item_last_time"] == (
            int(max(e["time"] for e in mine).timestamp() * 1_000_000) if mine else NO_TIME
        )
        for name, column in (
            ("brand", "brand"),
            ("category", "category"),
            ("path", "category_path"),
        ):
            value = of[r["item_id"]][column]
            group = [e for e in before if value is not None and of[e["item_id"]][column] == value]
            assert r[f"item_{name}"] == (value or "")
            assert r[f"{name}_event_count"] == len(group)
            assert r[f"{name}_label_mean"] == pytest.approx(
                mean([e["label"] for e in group], prior), rel=1e-6
            )
            assert r[f"{name}_residual_mean"] == pytest.approx(
                mean([residual(rows, e, "user_id") for e in group], 0.0), abs=1e-5
            )


def test_an_event_never_reaches_a_row_of_its_own_time():
    """At the event's own stamp nothing of it is valid; one resolution later it is."""
    table = log([("u", "a", 2, 0, 1)])
    assert user_activity(table, catalogue(), resolution=DAY)["event_timestamp"].to_pylist() == [
        START + 3 * DAY
    ]
    refreshed = item_profile(
        table, catalogue(), resolution=DAY, refresh_at=[START + 2 * DAY, START + 3 * DAY]
    ).to_pylist()
    counts = {
        (r["item_id"], (r["event_timestamp"] - START).days): r["item_event_count"]
        for r in refreshed
    }
    assert counts[("a", 2)] == 0
    assert counts[("a", 3)] == 1


def test_schemas_are_kept_and_integer_ids_stay_integers():
    """The columns are those of the schemas; ids keep the type of the data."""
    table = log([("u", "a", 0, 1, 5), ("u", "b", 1, 0, 2)])
    users, profile = (
        user_activity(table, catalogue(), resolution=DAY),
        item_profile(table, catalogue(), resolution=DAY, refresh_at=[]),
    )
    assert users.schema.equals(USER_ACTIVITY_SCHEMA)
    assert profile.schema.equals(ITEM_PROFILE_SCHEMA)
    numbered = table.set_column(0, "user_id", pa.array([7, 7])).set_column(
        1, "item_id", pa.array([1, 2])
    )
    assert user_activity(numbered, pa.table({"item_id": [2, 1]}), resolution=DAY)[
        "user_recent_items"
    ].to_pylist() == [[1], [1, 2]]
    assert item_profile(numbered, pa.table({"item_id": [1, 2]}), resolution=DAY, refresh_at=[])[
        "item_id"
    ].to_pylist() == [1, 2]


def test_without_ratings_and_attributes_labels_and_empty_names_stand_in():
    """Data without ratings uses its labels; items without attributes have "" and count 0."""
    table = log([("u", "a", 0, 1, 5), ("u", "b", 1, 0, 2)]).drop_columns(["rating"])
    users = user_activity(table, catalogue(), resolution=DAY)
    assert users["user_rating_mean"].equals(users["user_label_mean"])
    profile = item_profile(table, pa.table({"item_id": ["a", "b"]}), resolution=DAY, refresh_at=[])
    for name in ("brand", "category", "path"):
        assert profile[f"item_{name}"].to_pylist() == ["", ""]
        assert profile[f"{name}_event_count"].to_pylist() == [0, 0]
        assert profile[f"{name}_residual_mean"].to_pylist() == [0, 0]
    assert user_activity(table, pa.table({"item_id": ["a", "b"]}), resolution=DAY)[
        "user_recent_brands"
    ].to_pylist() == [[""], ["", ""]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(0, 0), "empty"),
        (lambda t: t.take(np.array([1, 0])), "not sorted"),
        (lambda t: t.set_column(3, "label", pa.array([1.0, None], pa.float32())), "nulls"),
        (lambda t: t.set_column(1, "item_id", pa.array(["a", "zz"])), "lacks"),
    ],
)
def test_unusable_logs_are_refused(change, message):
    """Empty, unsorted, null-labelled logs and unknown items are refused with the reason."""
    table = change(log([("u", "a", 0, 1, 5), ("u", "b", 1, 0, 2)]))
    with pytest.raises(InputError, match=message):
        item_profile(table, catalogue(), resolution=DAY, refresh_at=[])
    with pytest.raises(InputError, match=message):
        user_activity(table, catalogue(), resolution=DAY)
