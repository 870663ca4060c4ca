"""Drift of codes in traffic: profiles and distances checked by hand."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from adc_features.codes.drift import DriftThresholds, distance, drift, traffic_profile
from adc_features.codes.sids import SidTable, SidTimeline
from adc_features.errors import GenerationMismatch, InputError

DAY = np.datetime64("2024-05-01", "us")
AT = datetime(2024, 1, 1, tzinfo=UTC)


def timeline() -> SidTimeline:
    """Items 1, 2, 3 of two positions; item 3 has no code at the second."""
    n = 3
    table = SidTable(
        item_ids=np.array([1, 2, 3]),
        sid=np.array([[0, 0], [1, 2], [1, -1]], np.int32),
        sid_weight=np.array([[1, 4], [1, 2], [1, 0]], np.float32),
        reliability=np.array([0.0, 0.5, 1.0], np.float32),
        alignment=np.zeros(n, np.float32),
        is_cold=np.zeros(n, bool),
        collision_count=np.ones(n, np.int32),
        found=np.ones(n, bool),
        generation="g1",
        codebook_size=3,
        as_of=AT,
    )
    return SidTimeline([table], [AT])


def profile(items: list[int], **changes) -> dict:
    ids = np.array(items)
    facts = {
        "codebook_size": 3,
        "codebook_hash": "aa",
        "catalogue": np.array([1, 2, 3, 4]),
        **changes,
    }
    return traffic_profile(ids, np.full(len(ids), DAY), timeline(), **facts)


def test_a_profile_counts_what_was_shown():
    """By hand: five impressions, one of an item without codes, one of an item that the catalogue
    lacks; repeats count.
    """
    found = profile([1, 2, 2, 4, 9])
    assert found["usage"] == [[1, 2, 0], [1, 0, 2]]
    assert found["coverage"] == pytest.approx(3 / 5)
    assert found["unknown"] == pytest.approx(1 / 5)
    assert found["entropy"][0] == pytest.approx(-(1 / 3) * np.log(1 / 3) - (2 / 3) * np.log(2 / 3))
    assert sum(found["weight"][1]) == 3
    assert found["weight"][1][-1] == 1  # the weight of 4
    assert (found["reliability"][0], sum(found["reliability"])) == (1, 3)


def test_a_position_without_a_code_says_nothing():
    """Item 3 alone: no code at the second position, so its usage is empty and its entropy 0."""
    found = profile([3])
    assert found["usage"] == [[0, 1, 0], [0, 0, 0]]
    assert found["entropy"] == [0, 0]


def test_the_same_traffic_has_not_drifted_and_other_traffic_has():
    """Item 1 alone against item 2 alone, many times: usage moved all the way; coverage of unknown
    items fell by its share.
    """
    same = drift(profile([1, 2] * 50), profile([2, 1] * 50), DriftThresholds())
    assert not any(f["beyond"] for f in same.values())
    other = drift(profile([1] * 500), profile([2] * 500 + [9] * 500), DriftThresholds())
    assert other["usage"]["by_position"] == [pytest.approx(1, abs=0.01)] * 2
    assert other["coverage"]["value"] == other["unknown"]["value"] == pytest.approx(0.5)
    assert all(other[name]["beyond"] for name in ("usage", "reliability", "coverage", "unknown"))


def test_codes_of_another_codebook_are_not_compared():
    """They are other words; the message says what to do."""
    with pytest.raises(GenerationMismatch, match="make a baseline of this generation"):
        drift(profile([1]), profile([1], codebook_hash="bb"), DriftThresholds())


def test_a_profile_needs_traffic():
    """No impressions, no profile."""
    with pytest.raises(InputError, match="needs traffic"):
        profile([])


def test_two_samples_of_one_distribution_are_near_each_other():
    """What chance makes of their distance is taken off: near 0 for samples, still near the truth
    for distributions that differ.
    """
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(100)), rng.dirichlet(np.ones(100))
    samples = [[rng.multinomial(2000, x) for _ in range(30)] for x in (p, q)]
    assert (
        np.mean([distance(a, b) for a, b in zip(samples[0][:15], samples[0][15:], strict=True)])
        < 0.04
    )
    assert np.mean([distance(a, b) for a, b in zip(*samples, strict=True)]) == pytest.approx(
        float(jensenshannon(p, q, base=2)), abs=0.01
    )


@given(
    st.lists(st.integers(0, 1000), min_size=2, max_size=8),
    st.lists(st.integers(0, 1000), min_size=2, max_size=8),
)
def test_a_distance_is_one_of_two_histograms(a, b):
    """From 0 to 1, the same both ways, 0 from itself."""
    size = max(len(a), len(b))
    first, second = (np.array(x + [0] * (size - len(x))) for x in (a, b))
    assert 0 <= distance(first, second) <= 1
    assert distance(first, second) == distance(second, first)
    assert distance(first, first) == 0
