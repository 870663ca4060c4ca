"""Labels joined to what was served. Reads: logs, events. Writes: label logs."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_world import NOON, events, logged, minutes, record

from adc_features.errors import InputError
from adc_features.served.dataset import served_dataset
from adc_features.served.dataset_settings import DatasetSettings
from adc_features.served.outcomes import Target

CLICK = Target("click", timedelta(minutes=30), "click")
LATER = NOON + timedelta(days=1)


def labels(table, column="click"):
    """(request, sku) -> label."""
    return {
        (row["request_id"], row["sku"]): row[column]
        for row in table.select(["request_id", "sku", column]).to_pylist()
    }


def test_a_label_is_joined_by_request_and_item_within_its_window(tmp_path):
    """A click of 29 minutes counts, one of 31 does not, and one of another request is an orphan."""
    log = logged(tmp_path, record("r1"), record("r2"))
    found, report = served_dataset(
        log,
        events(
            ("r1", 1, "click", minutes(29)),
            ("r2", 1, "click", minutes(31)),
            ("r2", 2, "click", minutes(-1)),
            ("r3", 1, "click", minutes(1)),
            ("r1", 7, "click", minutes(1)),
        ),
        [CLICK],
        settings=DatasetSettings(until=LATER),
    )
    assert labels(found) == {("r1", 1): 1, ("r1", 2): 0, ("r2", 1): 0, ("r2", 2): 0}
    assert report.orphans == {"click": 2, "impression": 0}
    assert report.outside == {"click": 2}
    assert report.tasks["click"] == {
        "window": 1800.0,
        "positives": 1,
        "negatives": 3,
        "immature": 0,
    }


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        # of r1: item 1 is best, then 2, then 0; two were answered, 2 was clicked
        ("shown", {1, 2}),
        ("ranked:1", {1, 2}),
        ("all", {0, 1, 2}),
    ],
)
def test_negatives_without_impressions_are_those_that_were_asked_for(tmp_path, negatives, expected):
    """What was answered is assumed to be shown, and the report says so; a click is always a row."""
    log = logged(tmp_path, record("r1"))
    found, report = served_dataset(
        log,
        events(("r1", 2, "click", minutes(1))),
        [CLICK],
        settings=DatasetSettings(negatives=negatives, until=LATER),
    )
    assert {sku for _, sku in labels(found)} == expected
    assert labels(found)["r1", 2] == 1
    assert report.shown == "assumed"


def test_with_impressions_only_what_was_seen_is_a_negative(tmp_path):
    """A candidate that was answered and not seen is no row."""
    log = logged(tmp_path, record("r1", answered=3))
    found, report = served_dataset(
        log,
        events(("r1", 0, "impression", minutes(0)), ("r1", 1, "click", minutes(1))),
        [CLICK],
        settings=DatasetSettings(until=LATER),
    )
    assert labels(found) == {("r1", 0): 0, ("r1", 1): 1}
    assert report.shown == "impressions"


def test_a_request_whose_window_is_not_over_is_left_out_and_counted(tmp_path):
    """Young requests are no negatives, even where a click came already; of two tasks, the one with
    the longer window is null."""
    log = logged(tmp_path, record("old"), record("young", received=minutes(50)))
    buy = Target("buy", timedelta(days=1), "bought", known_at="bought_at")
    found, report = served_dataset(
        log,
        events(
            ("old", 1, "click", minutes(1)),
            ("old", 1, "buy", minutes(2)),
            ("young", 1, "click", minutes(55)),
            ("old", 1, "impression", minutes(60)),
        ),
        [CLICK, buy],
    )
    assert labels(found) == {("old", 1): 1}
    assert labels(found, "bought") == {("old", 1): None}
    assert found["bought_at"].to_pylist() == [None]
    assert report.immature_requests == 1
    assert report.tasks["buy"]["immature"] == 1
    assert report.until == minutes(60)


def test_an_event_that_comes_twice_counts_once(tmp_path):
    """Events are told apart by their ids; events without one all count."""
    log = logged(tmp_path, record("r1"))
    twice = ("r1", 1, "click", minutes(1), "e1")
    _, report = served_dataset(
        log, events(twice, twice), [CLICK], settings=DatasetSettings(until=LATER)
    )
    assert report.duplicates == 1
    assert report.tasks["click"]["positives"] == 1


def test_of_a_request_that_was_answered_twice_the_last_answer_counts(tmp_path):
    """A client that asked again saw the second answer; rows of the first would be doubled."""
    log = logged(tmp_path, record("r1"), record("r1", received=minutes(1), scores=(0.9, 0.1, 0.5)))
    found, report = served_dataset(
        log, events(), [CLICK], settings=DatasetSettings(until=LATER, negatives="ranked:1")
    )
    assert labels(found) == {("r1", 0): 0}
    assert report.repeated_requests == 1
    assert report.requests == 1


def test_a_sampled_log_gives_weights(tmp_path):
    """Rows of a log that holds a quarter of the requests weigh four."""
    log = logged(tmp_path, record("r1"), sample=0.25)
    found, _ = served_dataset(log, events(), [CLICK], settings=DatasetSettings(until=LATER))
    assert found["sample_weight"].to_pylist() == [4.0, 4.0]


def test_logged_values_and_the_place_stand_beside_the_labels(tmp_path):
    """On request rows carry what was scored, under the features' own names, and the position."""
    log = logged(tmp_path, record("r1"))
    settings = DatasetSettings(until=LATER, logged_values=True, rank_as="position")
    found, _ = served_dataset(log, events(), [CLICK], settings=settings)
    rows = found.select(["sku", "stock__price", "position", "customer"]).to_pylist()
    assert rows == [
        {"sku": 1, "stock__price": 1.0, "position": 0, "customer": "c1"},
        {"sku": 2, "stock__price": 2.0, "position": 1, "customer": "c1"},
    ]


def test_events_may_have_a_column_for_each_task(tmp_path):
    """A true value is an event of that task; false and null are none."""
    log = logged(tmp_path, record("r1"))
    table = pa.table(
        {
            "request_id": ["r1", "r1"],
            "sku": [1, 2],
            "event_timestamp": pa.array([minutes(1)] * 2, pa.timestamp("us", "UTC")),
            "click": [True, None],
        }
    )
    found, _ = served_dataset(log, table, [CLICK], settings=DatasetSettings(until=LATER))
    assert labels(found) == {("r1", 1): 1, ("r1", 2): 0}


def test_what_cannot_be_joined_is_refused_in_words(tmp_path):
    """Missing columns, ids of another type, several rankers, wrong negatives and nothing ripe."""
    log = logged(tmp_path / "one", record("r1"))
    two = logged(tmp_path / "two", record("r1"), record("r2", ranker="games"))
    click = events(("r1", 1, "click", minutes(1)))
    text = click.set_column(1, "sku", pa.array(["1"]))
    for made, told in (
        (lambda: served_dataset(log, click.drop_columns(["sku"]), [CLICK]), "no column 'sku'"),
        (lambda: served_dataset(log, text, [CLICK]), "two ids"),
        (lambda: served_dataset(two, click, [CLICK]), "name one, --ranker"),
        (lambda: served_dataset(two, click, [CLICK], ranker="books"), "no answer of ranker"),
        (lambda: served_dataset(log, click, [CLICK]), "no request .* is ripe"),
        (lambda: served_dataset(log, events(), [CLICK]), "--until"),
        (lambda: DatasetSettings(negatives="ranked:0"), "expected shown"),
        (lambda: Target("click", timedelta(0), "click"), "attribution window"),
    ):
        with pytest.raises(InputError, match=told):
            made()


moments = st.integers(-40, 80)
served = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), min_size=1, max_size=6)
clicks = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), moments), max_size=25)


@given(served, clicks)
def test_the_join_is_the_one_that_is_written_down(tmp_path_factory, answers, clicked):
    """Against a loop over every request, candidate and event."""
    at = {}
    records = []
    for number, minute in answers:
        if at.get(number, -1) != minute:
            records.append(record(f"r{number}", received=minutes(minute)))
        at[number] = max(at.get(number, -1), minute)
    rows = [(f"r{n}", sku, "click", minutes(m)) for n, sku, m in clicked]
    until = minutes(70)
    expected = {}
    for number, minute in at.items():
        if minute + 30 > 70:
            continue
        for sku in range(3):
            hits = [m for n, s, m in clicked if (n, s) == (number, sku)]
            expected[f"r{number}", sku] = float(any(0 <= m - minute <= 30 for m in hits))
    log = logged(tmp_path_factory.mktemp("log"), *records)
    settings = DatasetSettings(until=until, negatives="all")
    if not expected:
        with pytest.raises(InputError, match="ripe"):
            served_dataset(log, events(*rows), [CLICK], settings=settings)
        return
    found, report = served_dataset(log, events(*rows), [CLICK], settings=settings)
    assert labels(found) == expected
    assert len(found) == len(expected)
    assert report.immature_requests == len(at) - len(expected) // 3
    known = {(f"r{n}", sku) for n in at for sku in range(3)}
    assert report.orphans["click"] == sum((r[0], r[1]) not in known for r in rows)
