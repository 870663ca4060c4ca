"""Negatives are sampled without a bias. Reads: training.ranker.sampling."""

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_world import KEYS_ONLY, START, generated
from sklearn.linear_model import LogisticRegression

from adc_features.data.windows import Windows
from adc_features.errors import InputError
from adc_features.inputs.declaration import Inputs, Ranker, Task
from training.ranker.labels import read_labels
from training.ranker.sampling import NegativeSampling, row_hashes, uniform
from training.ranker.splits import split_labels

BOTH = Ranker(
    "feed_v3",
    [Task("click"), Task("purchase")],
    inputs=Inputs(),
    user=["customer_id"],
    request="slate",
)
ROWS, DAYS = 400_000, 10
WINDOWS = Windows(*(START + timedelta(days=d) for d in (8, 9, 9)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def shop():
    """Slates of 4 rows with two features; 6 % click and 2 % buy, by the truth's probabilities.

    -> log, its splits, features [N, 2], true probabilities [2, N].
    """
    rng = np.random.default_rng(3)
    features = rng.normal(size=(ROWS, 2))
    logits = np.array([[0.7, -0.3], [0.2, 0.6]]) @ features.T - np.array([[3.0], [4.1]])
    truth = sigmoid(logits)
    labels = (rng.random((2, ROWS)) < truth).astype(np.int8)
    tasks = dict(zip(("click", "purchase"), labels, strict=True))
    table, _ = generated(rng, rows=ROWS, days=DAYS, tasks=tasks, slate=4)
    log = read_labels(table, schema=KEYS_ONLY, ranker=BOTH)
    return log, split_labels(log, WINDOWS), features, truth


def fitted(shop, sampling, task):
    """A logistic regression of one task on the sample -> probabilities of the test rows, [n]."""
    log, parts, features, _ = shop
    kept = sampling.sample(log, parts.train)
    model = LogisticRegression(C=1e6)
    model.fit(
        features[parts.train.rows[kept.rows]],
        parts.train.labels[task][kept.rows],
        sample_weight=kept.weights,
    )
    return model.predict_proba(features[parts.test.rows])[:, 1]


@pytest.mark.parametrize("slates", [False, True])
def test_weights_keep_both_tasks_calibrated(shop, slates):
    """With a tenth of the all-negative rows, expected rates of both tasks are within 3 % of the
    truth; the sample is a fraction of the rows.
    """
    log, parts, _, truth = shop
    sampling = NegativeSampling(0.1, slates=slates)
    assert len(sampling.sample(log, parts.train).rows) < 0.4 * len(parts.train)
    for task in (0, 1):
        ratio = truth[task][parts.test.rows].sum() / fitted(shop, sampling, task).sum()
        assert 0.97 < ratio < 1.03


def test_the_formula_agrees_with_weights_for_one_task(shop):
    """A model of one task, corrected afterwards, predicts what the weighted one does."""
    log, _, features, truth = shop
    ranker = replace(BOTH, tasks=[Task("click")])
    one = read_labels(log.table.drop_columns(["row_id"]), schema=KEYS_ONLY, ranker=ranker)
    single = (one, split_labels(one, WINDOWS), features, truth)
    formula = NegativeSampling(0.1, correction="formula")
    raw = fitted(single, formula, 0)
    by_weights = fitted(single, NegativeSampling(0.1), 0)
    assert raw.mean() > 3 * by_weights.mean()
    assert np.abs(formula.corrected(raw[None])[0] - by_weights).max() < 0.05
    assert np.abs(formula.corrected(raw[None])[0] - by_weights).mean() < 0.005
    assert (formula.sample(one, single[1].train).weights == 1).all()


def test_both_corrections_at_once_cannot_be_asked_for(shop):
    """Weights leave probabilities alone; the formula has no weights, one task and no slates."""
    log, parts, _, _ = shop
    p = np.array([[0.5, 0.1], [0.2, 0.3]], np.float32)
    assert NegativeSampling(0.1).corrected(p) is p
    with pytest.raises(InputError, match="the formula corrects one task, there are 2"):
        NegativeSampling(0.1, correction="formula").sample(log, parts.train)
    with pytest.raises(InputError, match="the formula corrects one task, there are 2"):
        NegativeSampling(0.1, correction="formula").corrected(p)
    with pytest.raises(InputError, match="with whole slates use"):
        NegativeSampling(0.1, correction="formula", slates=True)
    with pytest.raises(InputError, match="expected one of weights, formula"):
        NegativeSampling(0.1, correction="both")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_judged_is_never_sampled(shop, part):
    """The validation and the test window are refused."""
    log, parts, _, _ = shop
    with pytest.raises(InputError, match="metrics are those of all rows"):
        NegativeSampling(0.5).sample(log, getattr(parts, part))


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, float("nan")])
def test_the_kept_share_is_a_share(keep):
    """Nothing, a negative share and more than all are refused."""
    with pytest.raises(InputError, match="expected 0 < keep <= 1"):
        NegativeSampling(keep)


def test_every_positive_is_kept_and_slates_stay_whole(shop):
    """No row with a positive is lost; with slates, none of its neighbours either."""
    log, parts, _, _ = shop
    positive = (parts.train.labels > 0).any(axis=0)
    kept = NegativeSampling(0.1, seed=5).sample(log, parts.train)
    assert set(np.flatnonzero(positive)) <= set(kept.rows)
    assert set(kept.weights[positive[kept.rows]]) == {1}
    assert set(kept.weights[~positive[kept.rows]]) == {np.float32(10)}
    whole = NegativeSampling(0.1, slates=True).sample(log, parts.train)
    requests = log.requests[parts.train.rows]
    assert set(np.bincount(requests[whole.rows])) == {0, 4}
    assert np.isin(requests[positive], requests[whole.rows]).all()


def test_a_decision_does_not_depend_on_other_rows(shop):
    """In a log without its first half, the rows of the second are decided as before."""
    log, parts, _, _ = shop
    half = read_labels(
        log.table.slice(ROWS // 2).drop_columns(["row_id"]), schema=KEYS_ONLY, ranker=BOTH
    )
    sampling = NegativeSampling(0.2, seed=1)
    window = split_labels(half, WINDOWS).train
    some = half.table["sku"].to_numpy()[window.rows[sampling.sample(half, window).rows]]
    all_ = log.table["sku"].to_numpy()[parts.train.rows[sampling.sample(log, parts.train).rows]]
    assert some.tolist() == all_[all_ >= ROWS // 2].tolist()


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_equal_rows_hash_alike_wherever_they_stand(rows):
    """A row's hash is a function of its values, in any order and any chunks."""
    texts, numbers = zip(*rows, strict=True)
    table = pa.table({"a": pa.array(texts), "b": pa.array(numbers, pa.int64())})
    found = row_hashes(table, ["a", "b"])
    chunks = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert row_hashes(chunks, ["a", "b"]).tolist() == found.tolist()
    back = table.take(pa.array(np.arange(len(rows))[::-1]))
    assert row_hashes(back, ["a", "b"]).tolist() == found[::-1].tolist()
    assert len({*found.tolist()}) == len({*rows})


@given(st.integers(0, 2**63), st.floats(0.02, 0.98))
def test_the_kept_share_is_what_was_asked_for(seed, keep):
    """Of 20,000 consecutive numbers, the share below `keep` is off by less than five deviations."""
    drawn = uniform(np.arange(20_000, dtype=np.uint64), seed)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs((drawn < keep).mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / 20_000)


def test_hashes_are_the_same_in_another_process():
    """Nothing of the process, such as Python's salted hash, enters a decision."""
    code = (
        "import pyarrow as pa; from training.ranker.sampling import row_hashes;"
        "print(row_hashes(pa.table({'a': ['ann', 'bob'], 'b': [1, 2]}), ['a', 'b']).tolist())"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    table = pa.table({"a": ["ann", "bob"], "b": [1, 2]})
    assert shown.stdout.strip() == str(row_hashes(table, ["a", "b"]).tolist())


def test_settings_survive_a_manifest():
    """to_dict and from_dict are inverse."""
    sampling = NegativeSampling(0.25, seed=3, slates=True)
    assert NegativeSampling.from_dict(sampling.to_dict()) == sampling
