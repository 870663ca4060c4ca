"""Which rows a retraining of a ranker of a feature service learns from, and is judged on."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from adc_features.errors import InputError
from adc_features.inputs.declaration import Task
from training.deployment.declared.judging import input_shifts
from training.deployment.declared.service_windows import retrain_windows
from training.ranker.labels import LabelLog
from training.ranker.score_profile import score_drift, score_profiles

DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = (Task("click"), Task("buy", known_at="bought_at", delay="3d", given="click"))


def feed_log(*, late=()):
    """Four rows a day for 40 days, from 0:00 to 3:00: the first is clicked and bought after an hour
    every other day, the second is clicked, the rest is not; rows `late` were bought after a week.
    """
    rows = np.arange(160)
    times = np.datetime64("2026-01-01", "us") + (rows // 4) * np.timedelta64(24, "h")
    times = times + (rows % 4) * np.timedelta64(1, "h")
    click = rows % 4 < 2
    buy = (rows % 8 == 0) | np.isin(rows, late)
    delay = np.where(np.isin(rows, late), 7 * 24, 1) * np.timedelta64(1, "h")
    utc = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "row_id": rows,
            "user": rows % 5,
            "event_timestamp": pa.array(times).cast(utc),
            "click": click.astype(np.float32),
            "buy": buy.astype(np.float32),
            "bought_at": pa.array(times + delay, pa.timestamp("us"), mask=~buy).cast(utc),
        }
    )
    return LabelLog(table, TASKS, ("user",), ("user",), {})


def windows(log, **options):
    known = {"through": FIRST + 10 * DAY, "end": FIRST + 40 * DAY, "days": 7, "min_rows": 20}
    return retrain_windows(log, **{**known, **options})


def test_the_judged_window_is_ripe_and_seen_by_neither():
    """Seven days in which purchases are ripe, and the three younger days for clicks alone; the
    challenger learns clicks up to its start, purchases up to three days before."""
    found = windows(feed_log())
    assert found.start == FIRST + 30 * DAY
    assert found.final.rows.tolist() == list(range(120))
    assert found.judged.rows.tolist() == list(range(120, 160))
    clicked, bought = found.judged.mask
    assert clicked.all()
    # given a click, and three days over at the end: true of 0:00 on day 37, not of 1:00
    assert found.judged.rows[bought].max() == 4 * 37
    learned = found.final.rows[found.final.mask[1]]
    assert learned.max() == 4 * 27
    assert found.new == 160 - 40
    assert found.train.cutoff == found.calibration.start
    assert set(found.train.rows) | set(found.calibration.rows) == set(found.final.rows)
    assert not set(found.train.rows) & set(found.calibration.rows)


def test_late_purchases_alter_no_window():
    """Purchases that became known after their three days leave every label as it was."""
    plain, late = windows(feed_log()), windows(feed_log(late=[1, 101, 117, 125, 157]))
    for name in ("train", "calibration", "final", "judged"):
        a, b = getattr(plain, name), getattr(late, name)
        assert np.array_equal(a.labels, b.labels), name
        assert np.array_equal(a.mask, b.mask), name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"through": FIRST + 31 * DAY}, "it would be judged on what it has seen"),
        ({"through": FIRST + 29 * DAY}, "there is nothing new to learn"),
        ({"min_rows": 50}, "40 labelled rows lie in the judged window"),
    ],
)
def test_rows_that_do_not_suffice_are_refused(options, said):
    """A window that the champion knows, and one of too few rows, is refused with what to do."""
    with pytest.raises(InputError, match=said):
        windows(feed_log(), **options)


def test_a_log_without_ripe_rows_before_the_window_is_refused():
    """A log that begins with the window teaches nothing."""
    log = feed_log().take(np.arange(110, 160))
    with pytest.raises(InputError, match="was ripe"):
        windows(log, through=FIRST)


def test_a_shift_is_the_rise_of_a_share():
    """Half absent where nothing was, is a rise of one half; inputs of one side are left out."""
    before = {"a": {"absent": 0, "unknown": 1, "present": 9}, "b": {"absent": 1}}
    now = {"a": {"absent": 5, "unknown": 1, "present": 4}, "c": {"absent": 1}}
    assert input_shifts(before, now) == {"a": {"absent": 0.5, "unknown": 0.0}}


def test_scores_drift_from_their_profile():
    """The same spread has no distance, scores that left their deciles have, equal scores are one
    group."""
    rng = np.random.default_rng(0)
    scores = rng.random(5_000).astype(np.float32)
    profile = score_profiles(scores[None], ["click"])["click"]
    assert sum(profile["counts"]) == 5_000
    assert score_drift(profile, rng.random(5_000)) < 0.05
    assert score_drift(profile, rng.random(5_000) ** 4) > 0.3
    even = score_profiles(np.full((1, 100), 0.5, np.float32), ["click"])["click"]
    assert score_drift(even, np.full(50, 0.5, np.float32)) == 0.0
