"""Metrics against scikit-learn and hand counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from adc_features.errors import InputError
from training.evaluation.metrics import (
    Estimate,
    PairedBootstrap,
    expected_calibration_error,
    gauc,
    popularity_slices,
)

rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from([0.1, 0.3, 0.5, 0.9])),
    min_size=2,
    max_size=40,
)


@given(rows)
@settings(max_examples=60, deadline=None)
def test_gauc_equals_scikit_learn_user_by_user(drawn):
    """GAUC is the row-weighted mean of each two-class user's AUC, ties counting one half."""
    user, label, score = (np.array(column) for column in zip(*drawn, strict=True))
    total, covered, users = 0.0, 0, 0
    for u in np.unique(user):
        mine = user == u
        if len(np.unique(label[mine])) == 2:
            total, covered, users = (
                total + mine.sum() * roc_auc_score(label[mine], score[mine]),
                covered + mine.sum(),
                users + 1,
            )
    got = gauc(label, score, user)
    assert (got.users, got.rows) == (users, covered)
    assert (
        got.value == pytest.approx(total / covered, abs=1e-12) if covered else np.isnan(got.value)
    )


def world(n=400, seed=0):
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 60, n)
    label = (rng.random(n) < 0.7).astype(float)
    score = np.round(np.clip(0.5 + 0.2 * (label - 0.5) + 0.2 * rng.normal(size=n), 0.01, 0.99), 2)
    return label, user, score


def test_each_draw_equals_the_metric_of_the_drawn_rows():
    """A draw that holds a user twice scores as if that user's rows stood there twice."""
    label, user, score = world()
    bootstrap = PairedBootstrap(label, user, seed=1, draws=5)
    auc, loss, within, calibration = (
        bootstrap.auc(score),
        bootstrap.logloss(score),
        bootstrap.gauc(score),
        bootstrap.calibration(score),
    )
    for b in range(5):
        times = bootstrap.weights[b][bootstrap.user_row]
        assert auc.draws[b] == pytest.approx(roc_auc_score(label, score, sample_weight=times))
        assert loss.draws[b] == pytest.approx(log_loss(label, score, sample_weight=times))
        assert calibration.draws[b] == pytest.approx((score * times).sum() / (label * times).sum())
        repeated = np.repeat(np.arange(len(label)), times.astype(int))
        copy = np.concatenate([np.arange(int(t)) for t in times])
        assert within.draws[b] == pytest.approx(
            gauc(label[repeated], score[repeated], user[repeated] * 100 + copy).value
        )
    assert auc.value == pytest.approx(roc_auc_score(label, score))


def test_a_mask_judges_its_rows_alone_with_the_draws_of_all():
    """Metrics of a mask are those of its rows; its draws weigh users as they do over all rows, so
    that windows can be pooled.
    """
    label, user, score = world()
    mask = user > 20
    bootstrap = PairedBootstrap(label, user, seed=1, draws=4)
    within, auc = bootstrap.gauc(score, mask), bootstrap.auc(score, mask)
    assert within.value == pytest.approx(gauc(label[mask], score[mask], user[mask]).value)
    assert auc.value == pytest.approx(roc_auc_score(label[mask], score[mask]))
    users = np.unique(user)
    each = [gauc(label[user == u], score[user == u], user[user == u]) for u in users]
    kept = [n for n, u in enumerate(users) if u > 20 and np.isfinite(each[n].value)]
    for b in range(4):
        weight = bootstrap.weights[b][kept] * [each[n].rows for n in kept]
        assert within.draws[b] == pytest.approx(
            np.average([each[n].value for n in kept], weights=weight)
        )


def test_several_seeds_are_averaged_and_differences_are_paired():
    """The estimate of two seeds is the mean of both; a recipe against itself differs by exactly
    nothing.
    """
    label, user, score = world()
    bootstrap = PairedBootstrap(label, user, seed=2, draws=50)
    both = bootstrap.auc(np.stack([score, 1 - score]))
    assert both.value == pytest.approx(0.5)
    assert (bootstrap.auc(score) - bootstrap.auc(score)).interval() == {
        "mean": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    found = bootstrap.auc(score).interval()
    assert found["low"] < found["mean"] < found["high"]


def test_the_same_seed_gives_the_same_interval():
    """Draws depend on the seed alone."""
    label, user, score = world()
    assert (
        PairedBootstrap(label, user, seed=3).auc(score).interval()
        == PairedBootstrap(label, user, seed=3).auc(score).interval()
    )


def test_one_class_is_refused_and_one_class_slices_are_undefined():
    """Rows without both labels cannot be judged; a slice without both has no AUC, which is
    not 0.5.
    """
    with pytest.raises(InputError, match="both 0 and 1"):
        PairedBootstrap(np.ones(5), np.arange(5), seed=0)
    label, user, score = world()
    assert np.isnan(PairedBootstrap(label, user, seed=0).auc(score, label > 0).interval()["mean"])
    assert np.isnan(Estimate(float("nan"), np.full(3, np.nan)).interval()["low"])


def test_scores_that_do_not_fit_are_refused():
    """NaN scores and wrong lengths are refused before anything is computed."""
    label, user, score = world()
    for broken in (score[:-1], np.where(np.arange(len(score)) == 3, np.nan, score)):
        with pytest.raises(InputError, match="expected finite"):
            PairedBootstrap(label, user, seed=0).auc(broken)


def test_slices_follow_training_counts():
    """Items without training rows are cold; the other rows are cut in thirds by their item's
    count.
    """
    slices = popularity_slices(np.array([0, 1, 1, 5, 5, 9, 9]))
    assert slices["cold"].tolist() == [True, False, False, False, False, False, False]
    assert slices["tail"].tolist() == [False, True, True, False, False, False, False]
    assert slices["middle"].tolist() == [False, False, False, True, True, False, False]
    assert slices["head"].tolist() == [False, False, False, False, False, True, True]


def test_calibration_error_of_known_groups():
    """Two bins that predict 0.2 and 0.8 but see 0 and 1 are each off by 0.2."""
    assert expected_calibration_error(
        np.array([0.0, 0, 1, 1]), np.array([0.2, 0.2, 0.8, 0.8]), bins=2
    ) == pytest.approx(0.2)
