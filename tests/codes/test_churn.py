"""Relabelling and churn, on codes that can be checked by hand."""

from datetime import UTC, datetime
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.codes.churn import churn_report, relabelled, relabelling, usage_distance
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.errors import InputError

SPEC = SidSpec(content={"title": 1}, shared=0, behavior=1, codebook_size=3)


def sids(codes, weights=None, *, first=0) -> SidTable:
    sid = np.array(codes, np.int32)
    n = len(sid)
    weight = np.where(sid < 0, 0, 1 if weights is None else np.array(weights)).astype(np.float32)
    ids = np.arange(first, first + n)
    zero = np.zeros(n, np.float32)
    return SidTable(
        ids,
        sid,
        weight,
        zero,
        zero,
        np.zeros(n, bool),
        np.ones(n, np.int32),
        np.ones(n, bool),
        "g",
        3,
        datetime(2024, 1, 1, tzinfo=UTC),
    )


def test_a_renamed_codebook_is_recognised() -> None:
    """Codes 0, 1, 2 became 2, 0, 1 at one position
    and nothing changed at the other: the names undo it.
    """
    old = np.array([[0, 0], [0, 1], [1, 2], [2, 0]], np.int32)
    new = np.array([[2, 0], [2, 1], [0, 2], [1, 0]], np.int32)
    names = relabelling(old, new, codebook_size=3)
    assert names.tolist() == [[1, 2, 0], [0, 1, 2]]
    np.testing.assert_array_equal(relabelled(new, names), old)


def test_the_larger_share_keeps_the_name() -> None:
    """New code 1 holds two items of old code 0, new code 0 holds one of them and none else: 1 is
    renamed 0, and -1 stays.
    """
    old, new = (
        np.array([[0], [0], [0], [-1], [2]], np.int32),
        np.array([[1], [1], [0], [0], [-1]], np.int32),
    )
    names = relabelling(old, new, codebook_size=3)
    assert names[0, 1] == 0
    assert relabelled(new, names)[[0, 1, 4], 0].tolist() == [0, 0, -1]


def test_codes_that_no_item_decides_keep_their_names() -> None:
    """Without a shared item the relabelling is the identity."""
    none = np.full((4, 2), -1, np.int32)
    assert relabelling(none, none, codebook_size=3).tolist() == [[0, 1, 2], [0, 1, 2]]


@settings(deadline=None)  # the first example imports scipy
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=12))
def test_relabelling_equals_the_best_of_all_permutations(pairs) -> None:
    """Oracle: no permutation keeps more items."""
    old, new = (np.array([[p[side]] for p in pairs], np.int32) for side in (0, 1))
    names = relabelling(old, new, codebook_size=4)
    assert sorted(names[0]) == [0, 1, 2, 3]

    def kept(order) -> int:
        both = (old >= 0) & (new >= 0)
        return int((relabelled(new, np.array([order])) == old)[both].sum())

    assert kept(names[0]) == max(kept(order) for order in permutations(range(4)))


def test_codes_of_other_items_are_refused() -> None:
    """Both sides hold the same items at the same positions."""
    with pytest.raises(InputError, match="same items"):
        relabelling(np.zeros((2, 1), np.int32), np.zeros((3, 1), np.int32), codebook_size=3)


def test_churn_counts_codes_that_both_generations_have() -> None:
    """By hand: five pairs of codes, two of them changed, one behavioural; a cold position and a new
    item count nowhere.
    """
    old = sids([[0, 1], [1, -1], [2, 2]], [[1, 1], [1, 0], [1, 2]])
    new = sids([[0, 1], [2, 0], [2, 1], [0, 0]], [[1, 3], [1, 1], [1, 2], [1, 1]])
    report = churn_report(old, new, np.array([5, 1, 9, 0]), spec=SPEC)
    assert report["items"] == 3
    assert report["changed"] == pytest.approx(2 / 5)
    assert report["changed_behavioral"] == pytest.approx(1 / 2)
    assert report["by_position"] == [pytest.approx(1 / 3), pytest.approx(1 / 2)]
    assert report["weight_drift"] == [0, pytest.approx(1)]
    assert [d["interactions"] for d in report["by_popularity"]] == [0, 1, 5, 9]
    assert [d["changed"] for d in report["by_popularity"]][1:] == [1, 0, pytest.approx(1 / 2)]
    assert "changed_raw" not in report


def test_raw_churn_is_that_before_the_new_names() -> None:
    """A pure renaming is all raw churn and no churn."""
    old = sids([[0, 0], [1, 1], [2, 2]])
    raw = np.array([[1, 0], [2, 1], [0, 2]], np.int32)
    names = relabelling(old.sid, raw, codebook_size=3)
    report = churn_report(
        old, sids(relabelled(raw, names)), np.ones(3, np.int64), spec=SPEC, names=names
    )
    assert (report["changed"], report["changed_raw"]) == (0, 0.5)


def test_usage_distance_is_that_of_the_histograms() -> None:
    """By hand: the same use is 0, disjoint use 1, half of it moved to another code 0.707; no code
    at all on one side is not a number.
    """
    before = np.array([[0, 0, 0, -1], [0, 0, 1, -1]], np.int32)
    after = np.array([[0, 1, 2, 0], [0, 1, 0, -1]], np.int32)
    distance = usage_distance(before, after, codebook_size=3)
    assert distance[:2] == pytest.approx([0, 1])
    assert distance[2] == pytest.approx(0.7071, abs=1e-4)
    assert np.isnan(distance[3])
