"""When a retraining refuses, what asks for it and what its challenger must show: on arrays that can
be checked by hand.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from adc_features.codes.sids import SidTable
from adc_features.errors import InputError
from training.deployment.gates import (
    Gate,
    changed_codes,
    code_gates,
    parity_gate,
    score_gates,
)
from training.deployment.reasons import CodeUse, reasons_to_train, usage_drift
from training.deployment.settings import RetrainSettings
from training.deployment.windows import Windows, between, require_enough_rows, windows_of
from training.evaluation.metrics import PairedBootstrap, training_counts

JANUARY, FEBRUARY, MARCH = (datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3))
WINDOWS = Windows(through=JANUARY, start=FEBRUARY, end=MARCH)
SETTINGS = RetrainSettings()


def days(*each: tuple[int, int]) -> np.ndarray:
    """Midnights of 2024, given as (month, day)."""
    return np.array([f"2024-{month:02}-{day:02}" for month, day in each], "datetime64[us]")


# ---- windows


def test_the_labelled_window_ends_where_it_is_asked_to():
    """It is so many days long, and the champion's end is carried beside it."""
    assert windows_of(through=JANUARY, as_of=MARCH, days=29) == WINDOWS


def test_an_end_is_exclusive():
    """The first instant belongs to a window, the last one to the next."""
    assert between(days((1, 1), (1, 31), (2, 1)), JANUARY, FEBRUARY).tolist() == [True, True, False]


# two new rows in January, two judged rows of both classes in February
ENOUGH = days((1, 1), (1, 31), (2, 1), (2, 29)), np.array([0.0, 0.0, 0.0, 1.0])


def test_enough_rows_of_both_classes_are_accepted():
    """Nothing is raised for as many rows as are asked for, on both sides of the window's start."""
    assert require_enough_rows(WINDOWS, *ENOUGH, min_rows=2) is None


@pytest.mark.parametrize(
    ("windows", "labels", "min_rows", "message"),
    [
        (WINDOWS._replace(through=MARCH), ENOUGH[1], 1, "it has seen"),
        (WINDOWS, ENOUGH[1], 3, "2 labelled rows lie in the window"),
        (WINDOWS, np.ones(4), 2, "of both classes"),
        (WINDOWS._replace(through=datetime(2024, 1, 31, tzinfo=UTC)), ENOUGH[1], 2, "1 rows lie"),
    ],
)
def test_rows_that_cannot_decide_are_refused(windows, labels, min_rows, message):
    """A window that the champion saw, too few rows to bootstrap on, one class only, nothing new."""
    with pytest.raises(InputError, match=message):
        require_enough_rows(windows, ENOUGH[0], labels, min_rows=min_rows)


# ---- reasons


def reasons(**changes: Any) -> dict[str, Any]:
    given = {"gauc": 0.7, "judged_gauc": 0.7, "codes": CodeUse(0.0, 0.0)}
    return reasons_to_train(WINDOWS, ENOUGH[0], SETTINGS, **{**given, **changes})


def test_time_and_new_rows_are_counted_from_the_champion_s_end():
    """31 + 29 days and all four rows lie between the champion's end and the window's."""
    found = reasons()
    assert (found["days_since_champion"].value, found["days_since_champion"].asks) == (60.0, True)
    assert (found["new_rows"].value, found["new_rows"].asks) == (4, False)


@pytest.mark.parametrize(
    ("name", "changes", "value"),
    [
        ("uncoded_share", {"codes": CodeUse(0.25, 0.0)}, 0.25),
        ("code_usage_drift", {"codes": CodeUse(0.0, 0.5)}, 0.5),
        ("gauc_drop", {"gauc": 0.5}, 0.2),
    ],
)
def test_each_measured_reason_asks_beyond_its_limit_only(name, changes, value):
    """At rest none asks; beyond its limit this one does, with its value."""
    assert not reasons()[name].asks
    assert reasons(**changes)[name].asks
    assert reasons(**changes)[name].value == pytest.approx(value)


def test_a_limit_itself_does_not_ask():
    """Reasons that are limits from above ask when they are exceeded, not when they are met."""
    assert not reasons(codes=CodeUse(SETTINGS.max_uncoded, SETTINGS.max_usage_drift))[
        "uncoded_share"
    ].asks


def test_what_was_not_measured_is_no_reason():
    """A champion without codes, judged by nobody, is judged by time and rows alone."""
    assert set(reasons(codes=None, judged_gauc=None)) == {"days_since_champion", "new_rows"}


def test_usage_drift_is_that_of_the_worst_position():
    """The first position is used as before, the second by other codes altogether: distance 1."""
    before, now = np.array([[0, 0], [1, 1]]), np.array([[1, 2], [0, 3]])
    assert usage_drift(before, before, codebook_size=4) == 0.0
    assert usage_drift(before, now, codebook_size=4) == pytest.approx(1.0)
    assert usage_drift(before[:0], now, codebook_size=4) == 0.0


# ---- gates

LABELS = np.array([1.0, 0.0] * 6)
GOOD = np.where(LABELS > 0, 0.9, 0.1)
POPULARITY = np.repeat([9, 3, 1], 4)  # head, middle and tail


def gates(champion: np.ndarray, challenger: np.ndarray, **changes: Any) -> dict[str, Gate]:
    bootstrap = PairedBootstrap(LABELS, np.repeat(np.arange(6), 2), seed=0)
    return score_gates(
        bootstrap,
        champion=champion,
        challenger=challenger,
        popularity=POPULARITY,
        settings=replace(SETTINGS, **changes),
    )


def test_an_equal_challenger_passes_and_must_gain_where_that_is_asked():
    """The same scores gain nothing and lose nothing."""
    found = gates(GOOD, GOOD)
    assert all(gate.passed for gate in found.values())
    assert found["gauc_gain"].value == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["calibration"].value == pytest.approx(1.0)
    assert not gates(GOOD, GOOD, min_gain=0.1)["gauc_gain"].passed


def test_a_challenger_that_is_wrong_everywhere_fails_every_gate():
    """GAUC falls from 1 to 0, as does the AUC of head and tail."""
    found = gates(GOOD, 1 - GOOD)
    assert found["gauc_gain"].value["mean"] == -1.0
    assert not any(found[name].passed for name in ("gauc_gain", "head_auc", "tail_auc"))


def test_a_challenger_that_is_wrong_on_the_tail_alone_is_told_so():
    """The head's gate holds, the tail's does not, whatever loss of GAUC is allowed."""
    worse = np.where(POPULARITY == 1, 1 - GOOD, GOOD)
    found = gates(GOOD, worse, max_loss=1.0, min_gain=-1.0)
    assert found["gauc_gain"].passed
    assert found["head_auc"].passed
    assert not found["tail_auc"].passed


def test_scores_that_are_twice_the_labels_mean_are_not_calibrated():
    """Mean prediction 1 over mean label 0.5."""
    found = gates(GOOD, np.ones(12), min_gain=-1.0)["calibration"]
    assert (found.passed, found.value) == (False, pytest.approx(2.0))


def test_codes_may_be_lost_and_renamed_up_to_the_limits():
    """The limits themselves pass."""
    limits = {"coverage_lost": SETTINGS.max_coverage_loss, "changed": SETTINGS.max_churn}
    assert all(g.passed for g in code_gates(**limits, settings=SETTINGS).values())
    found = code_gates(coverage_lost=0.06, changed=0.21, settings=SETTINGS)
    assert not any(g.passed for g in found.values())


def sids(ids: list[int], codes: list[list[int]]) -> SidTable:
    sid, n = np.array(codes, np.int32), len(ids)
    return SidTable(
        item_ids=np.array(ids),
        sid=sid,
        sid_weight=np.ones(sid.shape, np.float32),
        reliability=np.ones(n, np.float32),
        alignment=np.ones(n, np.float32),
        is_cold=np.zeros(n, bool),
        collision_count=np.ones(n, np.int32),
        found=np.ones(n, bool),
        generation="g1",
        codebook_size=10,
        as_of=JANUARY,
    )


def test_changed_codes_are_counted_over_items_in_both():
    """One code of four differs; the item that only one side knows counts for neither."""
    old = sids([1, 2, 3], [[0, 1], [2, 3], [9, 9]])
    assert changed_codes(old, sids([2, 1], [[2, 0], [0, 1]])) == 0.25
    assert changed_codes(old, sids([1], [[0]])) == 1.0


def test_any_value_that_differs_online_is_refused_with_the_first_of_them():
    """None passes; one does not, and is shown."""
    assert parity_gate({"different": 0, "first_differences": []}).passed
    shown = parity_gate({"different": 1, "first_differences": [{"item_id": 1}]}).to_dict()
    assert shown == {
        "passed": False,
        "value": 1,
        "limit": 0,
        "first_differences": [{"item_id": 1}],
    }


def test_training_rows_of_an_item_are_counted():
    """Zero for an item that was never trained on, and for all of them without training rows."""
    asked = np.array([3, 1, 7])
    assert training_counts(np.array([1, 1, 3]), asked).tolist() == [1, 2, 0]
    assert training_counts(np.array([], int), asked).tolist() == [0, 0, 0]
    assert training_counts(np.array(["b", "a"]), np.array(["a", "c"])).tolist() == [1, 0]


def test_a_window_of_a_day_is_a_day():
    """Twenty-four hours before the exclusive end."""
    assert windows_of(through=JANUARY, as_of=MARCH, days=1).start == MARCH - timedelta(days=1)
