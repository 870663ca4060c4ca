"""Metrics of several tasks, by user and by request. Reads: training.ranker.metrics."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from adc_features.errors import InputError
from training.evaluation.metrics import PairedBootstrap
from training.ranker.metrics import TaskRows, evaluate_rankers, request_quality
from training.ranker.results import RankerEvaluation

RNG = np.random.default_rng(11)
N = 3_000
USER = RNG.integers(0, 60, N)
REQUEST = USER * 10 + RNG.integers(0, 10, N)
LABELS = (RNG.random((2, N)) < np.array([[0.3], [0.15]])).astype(np.float32)
MASK = np.stack([np.ones(N, bool), LABELS[0] > 0])
GOOD = np.clip(0.2 + 0.4 * LABELS + RNG.normal(0, 0.2, (2, N)), 0.01, 0.99)
EVEN = np.full((2, N), 0.2)


def evaluated(**more):
    """Two rankers on click and purchase (given click)."""
    return evaluate_rankers(
        {"good": GOOD, "even": EVEN},
        LABELS,
        MASK,
        tasks=["click", "purchase"],
        user=USER,
        request=REQUEST,
        draws=50,
        **more,
    )


def test_a_request_by_hand():
    """Scores 3, 2, 1 with the positive second: reciprocal rank 1/2, NDCG 1 / log2(3)."""
    label, score = np.array([0.0, 1, 0]), np.array([3.0, 2, 1])
    found = request_quality(label, score, np.zeros(3, np.int64), top=10)
    assert found.mrr.tolist() == [0.5]
    assert found.ndcg.tolist() == pytest.approx([1 / np.log2(3)])
    assert request_quality(label, score, np.zeros(3, np.int64), top=1).ndcg.tolist() == [0]


def test_equal_scores_gain_nothing_by_their_order():
    """With all scores equal, the first positive stands at its expected place, whatever the
    order: place 2 of 3 for one positive.
    """
    for label in ([1.0, 0, 0], [0.0, 0, 1]):
        found = request_quality(np.array(label), np.ones(3), np.zeros(3, np.int64), top=3)
        assert found.mrr.tolist() == [0.5]
        assert found.ndcg.tolist() == pytest.approx([(1 + 1 / np.log2(3) + 0.5) / 3])


def test_requests_with_one_class_are_not_judged():
    """A request without a positive, or without a negative, has no quality."""
    found = request_quality(
        np.array([0.0, 0, 1, 1, 1, 0]), np.arange(6.0), np.array([0, 0, 1, 1, 2, 2]), top=5
    )
    assert np.isnan(found.ndcg).tolist() == [True, True, False]
    assert np.isnan(found.mrr).tolist() == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30
    ),
    st.integers(1, 6),
)
def test_ndcg_and_mrr_equal_an_oracle(rows, top):
    """NDCG@k is scikit-learn's, ties included; the reciprocal rank is counted by hand."""
    rows = [(r, y, s) for r, y, s in rows] + [(r, False, -1) for r in range(4)]
    request, label, score = (np.array(c) for c in zip(*rows, strict=True))
    found = request_quality(label.astype(float), score.astype(float), request, top=top)
    for r in range(4):
        y, s = label[request == r], score[request == r]
        if y.all() or not y.any():
            assert np.isnan(found.ndcg[r])
            assert np.isnan(found.mrr[r])
            continue
        assert found.ndcg[r] == pytest.approx(ndcg_score([y.astype(int)], [s], k=top))
        best = s[y].max()
        tied = s == best
        rank = (s > best).sum() + 1 + (tied & ~y).sum() / ((tied & y).sum() + 1)
        assert found.mrr[r] == pytest.approx(1 / rank)


def test_each_task_is_judged_on_its_own_rows():
    """Masked rows do not enter: the purchase task equals a computation on its rows alone."""
    found = evaluated().tasks["purchase"]
    kept = MASK[1]
    assert found.rows == kept.sum()
    assert found.positives == LABELS[1][kept].sum()
    good = found.rankers["good"]
    assert good.auc["mean"] == pytest.approx(roc_auc_score(LABELS[1][kept], GOOD[1][kept]))
    assert good.logloss["mean"] == pytest.approx(log_loss(LABELS[1][kept], GOOD[1][kept]))
    assert good.calibration["mean"] == pytest.approx(
        LABELS[1][kept].sum() / GOOD[1][kept].sum(), rel=1e-6
    )
    changed = GOOD.copy()
    changed[1, ~kept] = 0.5
    again = evaluate_rankers(
        {"good": changed}, LABELS, MASK, tasks=["click", "purchase"], user=USER,
        request=REQUEST, draws=50,
    )  # fmt: skip
    assert again.tasks["purchase"].rankers["good"] == good


def test_differences_are_paired_and_a_metric_lies_in_its_interval():
    """good beats even on every metric of order, and a ranker does not differ from itself."""
    found = evaluated().tasks["click"]
    paired = found.paired["good_minus_even"]
    for metric in ("auc", "gauc", "request_gauc", "ndcg", "mrr"):
        difference, good = getattr(paired, metric), getattr(found.rankers["good"], metric)
        assert difference["low"] > 0
        assert good["low"] <= good["mean"] <= good["high"]
    assert found.rankers["even"].auc["mean"] == 0.5
    assert found.rankers["even"].request_gauc["mean"] == 0.5
    same = evaluate_rankers(
        {"a": GOOD, "b": GOOD}, LABELS, MASK, tasks=["click", "buy"], user=USER, draws=20
    ).tasks["click"].paired["a_minus_b"]  # fmt: skip
    assert same.auc == {"mean": 0, "low": 0, "high": 0}
    assert same.ndcg is None


def test_request_metrics_are_means_over_requests_and_gauc_over_their_rows():
    """NDCG and MRR count each request once; GAUC by request weights it by its rows."""
    quality = request_quality(
        LABELS[0], GOOD[0], np.unique(REQUEST, return_inverse=True)[1], top=10
    )
    found = evaluated().tasks["click"].rankers["good"]
    assert found.ndcg["mean"] == pytest.approx(np.nanmean(quality.ndcg))
    assert found.mrr["mean"] == pytest.approx(np.nanmean(quality.mrr))
    as_users = PairedBootstrap(LABELS[0].astype(float), REQUEST, 0, 2)
    assert found.request_gauc["mean"] == pytest.approx(as_users.gauc(GOOD[0]).value)


def test_without_users_there_is_no_gauc_by_user():
    """Requests, or rows, are resampled in the place of users and are not called users."""
    for request in (REQUEST, None):
        task = evaluate_rankers(
            {"a": GOOD, "b": EVEN}, LABELS, MASK, tasks=["click", "buy"], user=None,
            request=request, draws=20,
        ).tasks["click"]  # fmt: skip
        assert task.users is None
        assert task.rankers["a"].gauc is task.paired["a_minus_b"].gauc is None
        assert task.rankers["a"].auc["low"] < task.rankers["a"].auc["high"]
        assert (task.rankers["a"].request_gauc is None) == (request is None)


def test_weights_count_like_repeated_rows():
    """Whole weights give the metrics of a log in which each row stands so many times, on all
    rows and on every draw.
    """
    weight = RNG.integers(0, 4, N)
    times = np.repeat(np.arange(N), weight)
    label = LABELS[0].astype(float)
    own = TaskRows(PairedBootstrap(label, USER, 0, 30), weight=weight.astype(float))
    repeated = TaskRows(PairedBootstrap(label[times], USER[times], 0, 30))
    found, expected = own.estimates(GOOD[0]), repeated.estimates(GOOD[0][times])
    for metric in ("auc", "logloss", "calibration"):
        weighted = found[f"weighted_{metric}"]
        assert weighted.value == pytest.approx(expected[metric].value)
        assert weighted.draws == pytest.approx(expected[metric].draws)


def test_weighted_metrics_stand_beside_the_others():
    """Both are told where weights differ; where all are equal there is one kind."""
    weights = np.where(LABELS[0] > 0, 2.0, 1.0)
    scores = evaluated(weights=weights).tasks["click"].rankers["good"]
    assert set(scores.weighted) == {"auc", "logloss", "calibration"}
    assert scores.weighted["calibration"]["mean"] > scores.calibration["mean"]
    assert evaluated(weights=np.ones(N)).tasks["click"].rankers["good"].weighted is None


def test_several_seeds_are_averaged():
    """Predictions [S, T, N] give the mean over seeds, and a wider interval than one seed."""
    seeds = np.stack([GOOD, EVEN])
    found = evaluate_rankers(
        {"r": seeds}, LABELS, MASK, tasks=["click", "buy"], user=USER, draws=50
    ).tasks["click"].rankers["r"]  # fmt: skip
    one = evaluated().tasks["click"].rankers
    assert found.auc["mean"] == pytest.approx((one["good"].auc["mean"] + 0.5) / 2)
    assert found.auc["high"] - found.auc["low"] > one["good"].auc["high"] - one["good"].auc["low"]


def test_results_survive_json():
    """to_dict, JSON and from_dict give the same evaluation back."""
    found = evaluated(weights=np.where(LABELS[0] > 0, 2.0, 1.0))
    assert RankerEvaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_task_with_one_class_and_wrong_shapes_are_told():
    """The task without a positive is named; predictions of other rows are refused."""
    with pytest.raises(InputError, match=r"task 'purchase': .* ranking is judged on rows"):
        evaluate_rankers(
            {"a": GOOD}, LABELS * [[1], [0]], MASK, tasks=["click", "purchase"], user=USER
        )
    with pytest.raises(InputError, match="expected \\[tasks, rows\\] alike"):
        evaluate_rankers({"a": GOOD[:, 1:]}, LABELS, MASK, tasks=["click", "buy"], user=None)
    with pytest.raises(InputError, match="expected 1 or more"):
        evaluated(top=0)


def test_metrics_of_the_validation_window_say_that_it_calibrated():
    """Who reads a calibration of 1 there is told why; on test rows it is a result."""
    from training.cli.rankers import scores_text

    told = {
        window: scores_text({"window": window, "tasks": {}}) for window in ("validation", "test")
    }
    assert "calibrates on it too" in told["validation"]
    assert "calibrates" not in told["test"]
