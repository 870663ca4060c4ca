"""Windows of a label log, and labels that ripen. Reads: training.ranker.splits."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_world import KEYS_ONLY, RANKER, SCHEMA, START, at, generated, instants, log

from adc_features.data.windows import Windows
from adc_features.errors import InputError
from adc_features.inputs.declaration import Inputs, Ranker, Task
from training.ranker.labels import read_labels
from training.ranker.splits import request_times, ripe_times, split_labels

PLAIN = Ranker("feed_v3", [Task("click")], inputs=Inputs(), user=["customer_id"], request="slate")
DELAYED = Ranker(
    "feed_v3", [Task("purchase", known_at="bought_at", delay="9d")], inputs=Inputs(), item=["sku"]
)


def hourly(hours, slates, ranker=PLAIN):
    """One row at each of these hours in these slates of one customer, clicked in turn."""
    hours = list(hours)
    table = log(
        customer_id=["ann"] * len(hours),
        sku=list(range(len(hours))),
        event_timestamp=[at(h) for h in hours],
        slate=[str(s) for s in slates],
        click=[i % 2 for i in range(len(hours))],
        device=None,
        hour=None,
        purchase=None,
        bought_at=None,
    )
    return read_labels(table, schema=KEYS_ONLY, ranker=ranker)


def test_rows_go_where_their_request_begins():
    """A slate that begins before the validation is trained on, as far as it is ripe; none is in
    two windows.
    """
    found = hourly([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    assert request_times(found).tolist() == found.times[[0, 0, 2, 2, 4, 4, 4, 7, 7, 7]].tolist()
    parts = split_labels(found, Windows(at(4), at(6), at(7)))
    assert parts.train.rows.tolist() == [0, 1, 2, 3]
    assert parts.validation.rows.tolist() == [4, 5, 6]
    assert parts.test.rows.tolist() == [7, 8, 9]
    assert parts.final_train.rows.tolist() == [0, 1, 2, 3, 4, 5, 6]
    across = split_labels(found, Windows(at(3), at(6), at(7)))
    assert across.train.rows.tolist() == [0, 1, 2, 3]
    assert across.train.cutoff == at(3)


def test_a_label_is_ripe_after_its_windows():
    """When its own attribution window is over, and that of the task that it is given."""
    tasks = [Task("click", delay="3h"), Task("read", column="click", given="click")]
    found = hourly([0, 1], [0, 0], replace(PLAIN, tasks=tasks))
    expected = found.times + np.timedelta64(3, "h")
    assert (ripe_times(found, at(9)) == expected).all()
    assert (ripe_times(hourly([0, 1], [0, 0]), at(9)) == found.times).all()


def test_train_rows_are_ripe_at_the_train_cutoff_and_others_at_the_end():
    """With a delay of 2 hours, the last 2 hours before a cut-off have no labels there."""
    ranker = replace(PLAIN, tasks=[Task("click", delay="2h")])
    found = hourly(range(16), range(16), ranker)
    parts = split_labels(found, Windows(at(6), at(9), at(9)))
    assert parts.train.rows.tolist() == [0, 1, 2, 3, 4]
    assert parts.train.unlabelled == 1
    assert parts.validation.rows.tolist() == [6, 7, 8]
    assert parts.test.rows.tolist() == [9, 10, 11, 12, 13]
    later = split_labels(found, Windows(at(6), at(9), at(9)), end=at(17))
    assert later.test.rows.tolist() == [9, 10, 11, 12, 13, 14, 15]


def test_a_window_without_positives_is_refused_with_its_numbers():
    """All windows and tasks that lack a class are told, with counts, delay and cut-off."""
    with pytest.raises(InputError) as caught:
        split_labels(read_labels(log(), schema=SCHEMA, ranker=RANKER), Windows(at(1), at(5), at(8)))
    words = str(caught.value)
    assert "train (to 2024-01-01 01:00): task 'purchase' has 0 positives among 0 ripe rows" in words
    assert "attribution window 2h" in words
    assert "choose other windows, a shorter delay, or bring a longer log" in words


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=8, max_size=40),
    st.integers(1, 20),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 6),
)
def test_no_request_is_cut_and_no_label_is_from_later(rows, start, length, gap, delay):
    """Whatever the windows: a request is in one of them, and every label is ripe at its cut-off."""
    ranker = replace(PLAIN, tasks=[Task("click", delay=timedelta(hours=delay))])
    hours, slates = zip(*sorted(rows), strict=True)
    found = hourly(hours, slates, ranker)
    windows = Windows(at(start), at(start + length + 1), at(start + length + 1 + gap))
    try:
        parts = split_labels(found, windows)
    except InputError:
        return  # a window without both labels
    three = [parts.train, parts.validation, parts.test]
    seen = [set(found.requests[part.rows]) for part in three]
    assert sum(map(len, seen)) == len(set().union(*seen))
    for part in [*three, parts.final_train]:
        cutoff = np.datetime64(part.cutoff.replace(tzinfo=None), "us")
        ripe = found.times[part.rows] + np.timedelta64(delay, "h") <= cutoff
        assert (ripe | ~part.mask[0]).all()


@pytest.fixture(scope="module")
def shop():
    """400,000 rows in 30 days; 2 % buy, on average 3 days later (exponential)."""
    rng = np.random.default_rng(7)
    rows = 400_000
    bought = rng.random(rows) < 0.02
    delay = np.where(bought, rng.exponential(72, rows), np.nan)
    table, hours = generated(rng, rows=rows, days=30, tasks={"purchase": bought.astype(np.int8)})
    known = hours + delay
    return table.append_column("bought_at", instants(known)), hours, known


@pytest.mark.parametrize("day", [12, 15, 18, 21, 24])
def test_ripe_labels_have_the_true_rate_where_naive_ones_are_biased(shop, day):
    """At each cut-off the true rate of purchases within 9 days lies in the 99 % interval of the
    ripe rows, and far above the rate among all rows whose purchases were known.
    """
    table, hours, known = shop
    truth = 0.02 * (1 - np.exp(-9 / 3))
    labels, mask = read_labels(table, schema=KEYS_ONLY, ranker=DELAYED).labels(at(24 * day))

    def off(rate, count):
        return (rate - truth) / np.sqrt(truth * (1 - truth) / count)

    assert abs(off(labels[mask].mean(), mask.sum())) < 2.58
    seen = hours <= 24 * day
    assert off((known[seen] <= 24 * day).mean(), seen.sum()) < -4


def test_late_purchases_alter_no_earlier_cutoff(shop):
    """Purchases that are added after a cut-off leave its labels, mask and windows as they were,
    with a declared delay and with an observed one.
    """
    table, hours, known = shop
    later = np.isnan(known)
    changed = np.where(later, np.maximum(hours, 24 * 20) + 1 + np.arange(len(hours)) % 500, known)
    place = table.column_names.index("bought_at")
    more = table.set_column(place, "bought_at", instants(changed))
    place = table.column_names.index("purchase")
    more = more.set_column(place, "purchase", [np.r_[np.ones(len(table) - 1, np.int8), 0]])
    observed = replace(DELAYED, tasks=[Task("purchase", known_at="bought_at")])
    for ranker in (DELAYED, observed):
        before, after = (
            read_labels(rows, schema=KEYS_ONLY, ranker=ranker) for rows in (table, more)
        )
        cutoff = START + timedelta(days=20)
        assert before.windows(cutoff) == after.windows(cutoff)
        for old, new in zip(before.labels(cutoff), after.labels(cutoff), strict=True):
            assert (old == new).all()
        assert after.counts(after.end)["purchase"].late > 0
