"""Probabilities are brought to the observed rate. Reads: training.ranker.calibration."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from adc_features.errors import InputError
from adc_features.ranking.multitask.score import logit, sigmoid
from training.ranker.calibration import fit_calibration, fit_calibrations
from training.ranker.splits import LabelWindow

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def drawn(slope, intercept, *, rows=20_000, seed=0):
    """Probabilities, and labels whose logit is a line in theirs."""
    rng = np.random.default_rng(seed)
    p = sigmoid(rng.normal(-2, 1.5, rows))
    truth = sigmoid(slope * logit(p) + intercept)
    return p, (rng.random(rows) < truth).astype(np.float32)


def test_a_line_in_logits_is_found():
    """Slope and intercept are those of a logistic regression without a penalty."""
    p, labels = drawn(0.6, 0.8)
    found = fit_calibration(p, labels)
    oracle = LogisticRegression(C=1e9).fit(logit(p)[:, None], labels)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=0.002)
    assert found.intercept == pytest.approx(oracle.intercept_[0], abs=0.005)
    assert found.apply(p).mean() == pytest.approx(labels.mean(), abs=1e-4)


def test_weights_count_like_repeated_rows():
    """A row of weight 3 is three rows."""
    p, labels = drawn(1.3, -0.5, rows=2_000)
    weight = np.arange(2_000) % 4
    times = np.repeat(np.arange(2_000), weight)
    found, expected = (
        fit_calibration(p, labels, weights=weight),
        fit_calibration(p[times], labels[times]),
    )
    assert found.slope == pytest.approx(expected.slope, abs=1e-5)
    assert found.intercept == pytest.approx(expected.intercept, abs=1e-5)


def test_a_model_worse_than_chance_keeps_its_order():
    """The slope stays 1 where it would be negative, and the mean is still the observed one."""
    p, labels = drawn(-0.8, -3.0)
    found = fit_calibration(p, labels)
    assert found.slope == 1
    assert found.apply(p).mean() == pytest.approx(labels.mean(), abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_every_sample_with_both_classes_has_a_finite_calibration(rows, positive, negative):
    """Separated classes, equal probabilities, 0 and 1: the observed rate comes out."""
    rows = [*rows, (positive, True), (negative, False)]
    p, labels = (np.array(c) for c in zip(*rows, strict=True))
    found = fit_calibration(p, labels)
    assert found.apply(p).mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_calibration_is_fitted_on_the_validation_window_only():
    """The test window decides nothing, training rows are known to the model; one class is told."""
    p, labels = drawn(1, 0.5)
    mask = np.stack([np.ones(len(p), bool), np.arange(len(p)) % 2 == 0])

    def window(name):
        both = np.stack([labels, labels])
        return LabelWindow(name, None, None, NOW, np.arange(len(p)), both, mask, 0)

    found = fit_calibrations(np.stack([p, p]), window("validation"))
    assert found[0] == fit_calibration(p, labels)
    assert found[1] == fit_calibration(p[::2], labels[::2])
    for name in ("test", "train"):
        with pytest.raises(InputError, match="calibrate on the validation window"):
            fit_calibrations(np.stack([p, p]), window(name))
    with pytest.raises(InputError, match="both classes are needed"):
        fit_calibration(p, np.zeros(len(p)))
