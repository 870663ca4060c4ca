"""The served score of several tasks. Reads: adc_features.ranking.multitask.score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker, Task
from adc_features.ranking.multitask.score import Calibration, served_score

TASKS = [Task("click"), Task("buy")]
P = np.array([[0.5, 0.2], [0.04, 0.09]], np.float32)


def test_without_a_declaration_the_first_task_is_the_score():
    """The first task's probability comes back as it is."""
    assert served_score(P, Ranker("feed", TASKS)).tolist() == P[0].tolist()


def test_a_product_of_powers_and_a_weighted_sum():
    """click * buy ** 0.5 and click + 10 buy are as by hand."""
    product = served_score(P, Ranker("feed", TASKS, score={"buy": 0.5, "click": 1}))
    assert product == pytest.approx([0.1, 0.06])
    total = served_score(P, Ranker("feed", TASKS, score={"click": 1, "buy": 10}, score_sum=True))
    assert total == pytest.approx([0.9, 1.1])


def test_a_negative_exponent_of_a_zero_is_finite():
    """A task that is to be avoided may have a negative exponent, also where its p is 0."""
    ranker = Ranker("feed", TASKS, score={"buy": -1})
    score = served_score(np.array([[0.5, 0.5], [0.0, 0.5]]), ranker)
    assert np.isfinite(score).all()
    assert score[0] > score[1]


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ({"clik": 1}, "the score names 'clik'; the ranker's tasks are click, buy"),
        ({}, "at least one task"),
        ({"click": 0}, "other than 0"),
        ({"click": float("nan")}, "finite exponent"),
    ],
)
def test_a_score_that_cannot_be_meant_is_refused(score, words):
    """Unknown tasks, no task, and factors of 0 or NaN are errors."""
    with pytest.raises(InputError, match=words):
        served_score(P, Ranker("feed", TASKS, score=score))
    with pytest.raises(InputError, match="expected one row for each of the 2 tasks"):
        served_score(P[:1], Ranker("feed", TASKS))


@given(
    st.lists(st.floats(0, 1), min_size=2),
    st.floats(0.1, 5),
    st.floats(-5, 5),
)
def test_calibration_keeps_a_task_s_order(probabilities, slope, intercept):
    """Calibrated probabilities lie in [0, 1] and never swap two candidates."""
    p = np.sort(np.array(probabilities))
    q = Calibration(slope, intercept).apply(p)
    assert (np.diff(q) >= 0).all()
    assert (q >= 0).all()
    assert (q <= 1).all()


def test_a_calibration_that_would_turn_the_order_is_refused():
    """A slope of 0 or below is no calibration, and the dictionary form gives it back whole."""
    with pytest.raises(InputError, match="a slope above 0"):
        Calibration(-1.0, 0.0)
    assert Calibration.from_dict(Calibration(1.5, -0.25).to_dict()) == Calibration(1.5, -0.25)
