"""Mean labels of large categories, which trees read: fitted on earlier rows alone."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.inputs.encoded import Block, Encoded, InputLayout, Layout, Lookup, SlotLayout
from adc_features.inputs.encoders.base import State
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask import boosted_matrix
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.multitask.ranker import load_model, save_model
from training.ranker.fit_boosted import fit_boosted
from training.ranker.label_means import SMOOTHING, earlier_means, final_means, task_means

MONDAY = np.datetime64("2026-03-02T00:00:00", "us")
LAYOUT = Layout({"sku": InputLayout(slots=(SlotLayout("lookup", ("sku",)),))}, {"sku": 6})
TASKS = ("click", "buy")


def hours(*after):
    return MONDAY + np.array(after) * np.timedelta64(1, "h")


def rows_of(rows):
    return Encoded({"sku": Block(np.zeros((len(rows), 0)), (Lookup(np.array(rows)),))}, len(rows))


def smoothed(labels, prior):
    """By hand: the labels, and `SMOOTHING` rows of the task's mean."""
    return pytest.approx((sum(labels) + SMOOTHING * prior) / (len(labels) + SMOOTHING))


@pytest.fixture(autouse=True)
def small_tables(monkeypatch):
    """Tables of more than three rows are large."""
    monkeypatch.setattr(boosted_matrix, "CATEGORIES", 3)


def test_a_row_is_shown_the_mean_of_earlier_rows():
    """Not its own label, not one of the same moment, not a later one; the first of a value sees
    the task's mean."""
    rows = np.array([2, 2, 3, 2, 2, 2])
    labels = np.array([[1, 1, 0, 0, 0, 1]], np.float32)
    found = earlier_means(
        rows,
        labels,
        np.ones_like(labels),
        times=hours(0, 1, 1, 2, 2, 3),
        known=hours(0, 1, 1, 2, 2, 3)[None],
        own=2,
        priors=np.array([0.5]),
    )[0].tolist()
    expected = [[], [1], [], [1, 1], [1, 1], [1, 1, 0, 0]]
    assert found == [smoothed(labels, 0.5) for labels in expected]


def test_a_label_counts_once_it_is_known():
    """A purchase that is known a day after its row counts for rows later than that."""
    found = earlier_means(
        np.array([2, 2, 2]),
        np.array([[1, 0, 0]], np.float32),
        np.ones((1, 3)),
        times=hours(0, 12, 36),
        known=hours(24, 36, 60)[None],
        own=2,
        priors=np.array([0.25]),
    )[0].tolist()
    assert found == [smoothed([], 0.25), smoothed([], 0.25), smoothed([1], 0.25)]


def test_later_rows_are_shown_the_mean_of_all_training_rows():
    """Each task has its own, smoothed to its own mean; rows that many values share have that
    mean alone; labels that do not count are left out, and weights weigh."""
    labels = np.array([[1, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    weights = np.array([[1, 1, 1, 1], [1, 0, 2, 1]], np.float32)
    priors = task_means(labels, weights)
    assert priors.tolist() == [0.75, 0.75]
    found = final_means(
        np.array([2, 2, 3, 1]), labels, weights, size=5, own=2, priors=priors
    ).tolist()
    assert found[0] == [0.75, 0.75, smoothed([1, 0], 0.75), smoothed([1], 0.75), 0.75]
    assert found[1] == [0.75, 0.75, smoothed([0], 0.75), smoothed([1, 1], 0.75), 0.75]


@given(data=st.data())
def test_earlier_means_are_those_of_a_loop(data):
    """Whatever times, weights and delays: as if each row looked through all others."""
    count = data.draw(st.integers(1, 12))

    def whole(low, high):
        return np.array(data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    rows, times, waits = whole(0, 4), whole(0, 5), whole(0, 3)
    labels, weights = whole(0, 1)[None].astype(np.float32), whole(0, 2)[None].astype(np.float32)
    known = times + waits
    found = earlier_means(
        rows,
        labels,
        weights,
        times=hours(*times),
        known=hours(*known)[None],
        own=2,
        priors=np.array([0.3]),
    )[0]
    for n in range(count):
        seen = (rows == rows[n]) & (known < times[n]) & (rows[n] >= 2)
        total, weight = (labels * weights)[0, seen].sum(), weights[0, seen].sum()
        assert found[n] == pytest.approx((total + SMOOTHING * 0.3) / (weight + SMOOTHING))


def test_trees_read_a_mean_for_each_task():
    """Online: absent is NaN, unknown ids and those that were admitted later get the task's mean
    and a count of 0, known ones the mean of their training rows."""
    labels = np.array([[1, 1, 0, 0], [0, 1, 0, 1]], np.float32)
    model, _ = fit_boosted(
        rows_of([2, 2, 3, 1]),
        labels,
        np.ones_like(labels, bool),
        np.ones(4),
        tasks=TASKS,
        columns=BoostedColumns.of(LAYOUT, {"sku": np.array([0, 1, 2, 1, 0, 0])}),
        settings=BoostedSettings(max_rounds=1),
        seed=0,
        times=hours(0, 1, 2, 3),
    )
    matrix = model.columns.matrix(rows_of([0, 1, 2, 3, 4, 9]))
    assert matrix.names == ("sku:row/0", "sku:mean_label/0/0", "sku:mean_label/0/1")
    assert matrix.types == ("q", "q", "q")
    counted, click, buy = matrix.values.T.tolist()
    nan = pytest.approx(np.nan, nan_ok=True)
    assert counted == [nan, 0, pytest.approx(np.log(3)), pytest.approx(np.log(2)), 0, 0]
    assert click == [nan, 0.5, smoothed([1, 1], 0.5), smoothed([0], 0.5), 0.5, 0.5]
    assert buy == [nan, 0.5, smoothed([0, 1], 0.5), smoothed([0], 0.5), 0.5, 0.5]


def drawn(count, ids, *, seed=0, truth=0.0):
    """Rows of ids at random, one a minute, and labels of which `truth` tells how much the id
    says."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(2, 2 + ids, count)
    chance = np.where(rows % 2 == 0, 0.5 + truth / 2, 0.5 - truth / 2)
    labels = (rng.random(count) < chance).astype(np.float32)[None]
    return rows, labels, MONDAY + np.arange(count) * np.timedelta64(1, "m")


def learned(rows, labels, times, ids):
    layout = Layout(LAYOUT.inputs, {"sku": 2 + ids})
    counts = np.bincount(rows, minlength=2 + ids)
    return fit_boosted(
        rows_of(rows),
        labels,
        np.ones_like(labels, bool),
        np.ones(len(rows)),
        tasks=TASKS[:1],
        columns=BoostedColumns.of(layout, {"sku": counts}),
        settings=BoostedSettings(max_rounds=20),
        seed=0,
        times=times,
    )[0]


def auc(labels, scores):
    """The share of pairs in order, ties half."""
    positive, negative = scores[labels == 1], np.sort(scores[labels == 0])
    below = np.searchsorted(negative, positive, "left")
    return (below + np.searchsorted(negative, positive, "right")).mean() / 2 / len(negative)


def test_a_random_label_is_not_learned_from_itself():
    """Of ids that occur three times each, the mean of all training rows tells a random label of
    these rows; what the rows are shown tells nothing, nor do the trees of later rows."""
    ids = 2_000
    rows, labels, times = drawn(3 * ids, ids)
    priors = task_means(labels, np.ones_like(labels))
    options = {"own": 2, "priors": priors}
    shown = earlier_means(
        rows, labels, np.ones_like(labels), times=times, known=times[None], **options
    )
    naive = final_means(rows, labels, np.ones_like(labels), size=2 + ids, **options)[:, rows]
    assert auc(labels[0], naive[0]) > 0.7
    assert auc(labels[0], shown[0]) == pytest.approx(0.5, abs=0.03)
    later, their_labels, _ = drawn(3 * ids, ids, seed=1)
    scores = learned(rows, labels, times, ids).predict(rows_of(later))[0]
    assert auc(their_labels[0], scores) == pytest.approx(0.5, abs=0.03)


def test_what_an_id_says_is_learned():
    """Where half of the ids are liked, trees tell them apart on later rows."""
    rows, labels, times = drawn(12_000, 300, truth=0.6)
    later, their_labels, _ = drawn(3_000, 300, seed=1, truth=0.6)
    scores = learned(rows, labels, times, 300).predict(rows_of(later))[0]
    assert auc(their_labels[0], scores) > 0.75


def test_means_are_kept_with_the_trees(tmp_path):
    """A model that was written and read scores the same bits; trees that were grown before there
    were means are read as they were."""
    rows, labels, times = drawn(2_000, 50, truth=0.6)
    model = learned(rows, labels, times, 50)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    asked = rows_of([0, 1, *range(2, 60)])
    np.testing.assert_array_equal(again.predict(asked), model.predict(asked))
    older = BoostedColumns.of(Layout(LAYOUT.inputs, {"sku": 6}), {"sku": np.arange(6)})
    state = older.state()
    facts = {k: v for k, v in json.loads(json.dumps(state.facts)).items() if k != "means"}
    assert BoostedColumns.restore(LAYOUT, State(facts, state.arrays)).matrix(asked).names == (
        "sku:row/0",
    )


def test_rows_without_times_are_refused():
    """Only where a table is large: its mean labels need them; labels known before their rows are
    refused as well."""
    rows, labels, times = drawn(100, 50)
    with pytest.raises(InputError, match=r"'sku'.*pass `times`"):
        learned(rows, labels, None, 50)
    options = {
        "tasks": TASKS[:1],
        "columns": BoostedColumns.of(LAYOUT, {"sku": np.arange(6)}),
        "settings": BoostedSettings(max_rounds=1),
        "seed": 0,
    }
    given = (rows_of(rows % 6), labels, np.ones_like(labels, bool), np.ones(100))
    with pytest.raises(InputError, match="known before the time of its row"):
        fit_boosted(*given, **options, times=times, known=times[None] - np.timedelta64(1, "s"))
    with pytest.raises(InputError, match="expected one for each of 100"):
        fit_boosted(*given, **options, times=times[1:])
