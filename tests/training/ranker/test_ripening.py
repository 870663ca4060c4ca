"""Attribution windows and ripeness. Reads: training.ranker.ripening."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.inputs.declaration import Task
from training.ranker.ripening import (
    LONGEST,
    TaskLabels,
    duration_text,
    given_order,
    observed_window,
    parse_duration,
    ripe,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = np.timedelta64(3_600_000_000, "us")


def hours(*values):
    """datetime64[us] that many hours after the start; None is NaT."""
    return np.array(
        [np.datetime64("NaT", "us") if v is None else instant(START) + v * HOUR for v in values]
    )


def at(hour):
    """The aware time that many hours after the start."""
    return START + timedelta(hours=hour)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", timedelta(days=7)),
        ("36h", timedelta(hours=36)),
        ("1d12h", timedelta(hours=36)),
        ("2w", timedelta(weeks=2)),
        ("90min", timedelta(minutes=90)),
        (" 1.5h ", timedelta(minutes=90)),
        ("0s", timedelta(0)),
        (timedelta(days=3), timedelta(days=3)),
    ],
)
def test_a_duration_is_read_with_its_unit(text, expected):
    """Weeks, days, hours, minutes and seconds are read, also several in a row."""
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (7, "no unit"),
        (None, "no unit"),
        ("7", "expected a duration"),
        ("", "expected a duration"),
        ("-7d", "expected a duration"),
        ("7 days", "expected a duration"),
        ("90m", "write 'min' for minutes"),
        ("1e9d", "expected a duration"),
        ("0.0000001s", "finer than a microsecond"),
        ("99999999999999999d", "a hundred years"),
        (timedelta(days=-1), "a hundred years"),
        (LONGEST + timedelta(days=1), "a hundred years"),
    ],
)
def test_what_is_no_duration_is_refused_with_the_form_that_is_expected(wrong, words):
    """A number without a unit, an unknown unit, a negative and an endless duration are refused."""
    with pytest.raises(InputError, match=words):
        parse_duration(wrong, name="delay of task 'buy'")


@given(st.timedeltas(min_value=timedelta(0), max_value=LONGEST))
def test_a_duration_survives_its_text(duration):
    """parse_duration(duration_text(d)) is d, to the microsecond."""
    assert parse_duration(duration_text(duration)) == duration


def test_a_row_is_ripe_when_its_window_is_over_whatever_its_label():
    """With a window of 2 hours, a cut-off at 5 has rows up to 3 ripe; an early positive waits."""
    times = hours(0, 3, 3, 4, 4)
    labels = TaskLabels(
        Task("buy", known_at="bought_at", delay="2h"),
        np.array([1, 1, 0, 1, 0], np.float32),
        hours(1, 6, None, 4, None),
    )
    found, mask = labels.at(times, timedelta(hours=2), at(5))
    assert mask.tolist() == [True, True, True, False, False]
    assert found.tolist() == [1, 0, 0, 0, 0]  # the second was known an hour too late
    assert labels.late(times, timedelta(hours=2)).tolist() == [False, True, False, False, False]


def test_a_missing_label_is_never_ripe():
    """A null label is masked at every cut-off."""
    labels = TaskLabels(Task("click"), np.array([np.nan, 0], np.float32))
    _, mask = labels.at(hours(0, 0), timedelta(0), at(9))
    assert mask.tolist() == [False, True]


def test_the_observed_window_covers_99_percent_of_what_was_known_before():
    """Of 100 delays of 1 to 100 hours, the 99th counts; positives known later do not."""
    times = hours(*[0] * 101)
    known = hours(*range(1, 101), 5_000)
    assert observed_window(times, known, at(101), task="buy") == timedelta(hours=99)
    assert observed_window(times, known, at(3), task="buy") == timedelta(hours=2)
    with pytest.raises(InputError, match="none of 101 positive labels was known before"):
        observed_window(times, known, at(1), task="buy")


@given(
    st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(0, 60)), min_size=1),
    st.integers(0, 20),
    st.integers(0, 60),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_what_is_known_later_changes_no_earlier_label(rows, window, cutoff, late):
    """Positives that became known after a cut-off leave that cut-off's labels and mask alone."""
    times = hours(*[t for t, _ in rows])
    known = hours(*[None if d is None else t + d for t, d in rows])
    before = TaskLabels(Task("buy", known_at="at"), (~np.isnat(known)).astype(np.float32), known)
    changed = known.copy()
    for row, more in enumerate(late[: len(rows)]):
        if np.isnat(known[row]):
            changed[row] = max(times[row], instant(at(cutoff)) + HOUR) + more * HOUR
    after = TaskLabels(Task("buy", known_at="at"), (~np.isnat(changed)).astype(np.float32), changed)
    span = timedelta(hours=window)
    for old, new in zip(
        before.at(times, span, at(cutoff)), after.at(times, span, at(cutoff)), strict=True
    ):
        assert old.tolist() == new.tolist()


@given(st.lists(st.integers(0, 50)), st.integers(0, 20), st.integers(0, 60), st.integers(0, 9))
def test_a_ripe_row_stays_ripe(times, window, cutoff, more):
    """A later cut-off has every row ripe that an earlier one had."""
    span, times = timedelta(hours=window), hours(*times).astype("datetime64[us]")
    early, later = ripe(times, span, at(cutoff)), ripe(times, span, at(cutoff + more))
    assert not (early & ~later).any()


def test_tasks_are_ordered_by_what_they_are_given():
    """A task comes after the one it is given; unknown ones, circles and doubled names are told."""
    buy, click = Task("buy", given="click"), Task("click")
    assert [t.name for t in given_order([buy, click])] == ["click", "buy"]
    with pytest.raises(InputError, match="given 'clik', which is no task; there are buy"):
        given_order([Task("buy", given="clik")])
    with pytest.raises(InputError, match="a, b are given each other in a circle"):
        given_order([Task("a", given="b"), Task("b", given="a")])
    with pytest.raises(InputError, match="each with a name of its own"):
        given_order([click, click])
