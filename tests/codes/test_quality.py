"""The quality report, on codes that can be counted by hand."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from adc_features.codes.quality import (
    code_usage,
    collision_counts,
    popularity_slices,
    quality_report,
)
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.errors import InputError

SPEC = SidSpec(content={"title": 1}, shared=0, behavior=1, codebook_size=4)


def sids(codes: list[list[int]], weights: list[list[float]] | None = None) -> SidTable:
    sid, n = np.array(codes, np.int32), len(codes)
    weight = np.where(sid < 0, 0, 1) if weights is None else np.array(weights)
    return SidTable(
        np.arange(n),
        sid,
        weight.astype(np.float32),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
        sid[:, 1] < 0,
        np.ones(n, np.int32),
        np.ones(n, bool),
        "g1",
        4,
        datetime(2024, 1, 1, tzinfo=UTC),
    )


def test_even_use_reaches_the_bound() -> None:
    """Four codes used alike: entropy ln 4, perplexity 4, nothing dead, Gini 0."""
    usage = code_usage(np.array([0, 1, 2, 3]), codebook_size=4)
    assert usage["entropy"] == pytest.approx(math.log(4)) == usage["entropy_bound"]
    assert (usage["utilisation"], usage["dead"]) == (1.0, 0)
    assert usage["gini"] == pytest.approx(0)
    assert usage["perplexity"] == pytest.approx(4)


def test_missing_codes_do_not_count() -> None:
    """-1 is no code: two codes in use, evenly, of four."""
    usage = code_usage(np.array([0, 3, -1, -1, -1]), codebook_size=4)
    assert usage["entropy"] == pytest.approx(math.log(2))
    assert (usage["utilisation"], usage["dead"]) == (0.5, 2)


def test_a_codebook_that_nobody_uses_is_dead() -> None:
    """Without any code the entropy is 0 and every code dead, not NaN."""
    assert code_usage(np.array([-1, -1]), codebook_size=4) == {
        "entropy": 0.0,
        "entropy_bound": math.log(4),
        "utilisation": 0.0,
        "perplexity": 1.0,
        "gini": 0.0,
        "dead": 4,
    }


def test_uniqueness_and_collisions() -> None:
    """Three items on one SID and one on another:
    half as many SIDs as items, the largest group is three.
    """
    report = quality_report(
        sids([[0, 1], [0, 1], [0, 1], [2, -1]]), np.array([5, 4, 3, 0]), spec=SPEC
    )
    assert (report["uniqueness"], report["largest_collision"]) == (0.5, 3)
    assert [(b["position"], b["kind"], b["modality"]) for b in report["codebooks"]] == [
        (0, "content", "title"),
        (1, "behavior", "behavior"),
    ]


@given(
    npst.arrays(
        np.int32, st.tuples(st.integers(1, 30), st.integers(1, 5)), elements=st.integers(-1, 2)
    ),
    st.sampled_from([3, 60_000]),
)
def test_collision_counts_equal_brute_force(sid: np.ndarray, codebook_size: int) -> None:
    """Counting equal rows by their packed key equals comparing all pairs,
    also when the key overflows.
    """
    expected = (sid[:, None] == sid[None]).all(-1).sum(1)
    assert collision_counts(sid, codebook_size=codebook_size).tolist() == expected.tolist()


def test_popularity_slices_by_share_of_interactions() -> None:
    """Of 100 interactions the item with 20 is the head,
    items with 5 share the tail, the rest is between.
    """
    assert popularity_slices(np.array([20, 16, 16, 14, 14, 5, 5, 5, 5, 0])).tolist() == [
        0,
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("counts", "expected"), [([3, 3, 3], [1, 1, 1]), ([0, 0], [2, 2]), ([7], [1]), ([], [])]
)
def test_popularity_slices_of_flat_counts(counts: list[int], expected: list[int]) -> None:
    """Items of equal count share a slice: all alike are the middle, all unseen the tail."""
    assert popularity_slices(np.array(counts, np.int64)).tolist() == expected


@given(npst.arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 1000)))
def test_popularity_slices_follow_counts(counts: np.ndarray) -> None:
    """A more popular item is never in a less popular slice."""
    ordered = popularity_slices(counts)[np.argsort(counts, kind="stable")]
    assert (np.diff(ordered) <= 0).all()


def test_slices_are_reported_apart() -> None:
    """Head, middle and tail each have their own codebooks; an empty slice has only its size."""
    report = quality_report(sids([[0, 1], [1, 2], [2, 3]]), np.array([9, 3, 3]), spec=SPEC)
    assert [report[s]["items"] for s in ("head", "middle", "tail")] == [1, 0, 2]
    assert report["tail"]["codebooks"][0]["entropy"] == pytest.approx(math.log(2))
    assert report["middle"] == {"items": 0, "interactions": 0}


def test_weights_against_popularity() -> None:
    """Weights that grow with the count correlate perfectly; the rarest item's weight is zero."""
    codes, weights = [[0, i % 4] for i in range(20)], [[1, i / 10] for i in range(20)]
    report = quality_report(sids(codes, weights), np.arange(1, 21), spec=SPEC)["weights"]
    assert report["rank_correlation"] == pytest.approx(1)
    assert report["zero_share_by_decile"] == [0.5] + [0.0] * 9
    assert report["mean_by_decile"][-1] == pytest.approx(1.85)


def test_counts_of_other_items_are_refused() -> None:
    """The counts must be of the same items."""
    with pytest.raises(InputError, match="3 counts"):
        quality_report(sids([[0, 1]]), np.array([1, 2, 3]), spec=SPEC)
