"""How far behaviour can be trusted. Reads: adc_features.codes.reliability."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.reliability import ReliabilityScale, fit_reliability, rank_correlation
from adc_features.codes.spec import BEHAVIOR
from adc_features.errors import InputError, ReliabilityError


def table(counts, norms, *, day=1):
    """Items seen `counts` times,
    whose behaviour vector has the given norm; norm 0 means no vector.
    """
    norms = np.array(norms, np.float32)
    return EmbeddingTable(
        item_ids=np.arange(len(counts)),
        vectors={BEHAVIOR: np.stack([norms, np.zeros_like(norms)], axis=1)},
        present={BEHAVIOR: norms > 0},
        interaction_count=np.array(counts, np.int64),
        as_of=datetime(2024, 1, day, tzinfo=UTC),
    )


def test_counts_become_reliability_between_their_extremes():
    """log(1 + count), linear between the rarest and the most popular warm item; an item without
    behaviour has 0.
    """
    items = table([1, 3, 7, 100], [1, 1, 1, 0])
    assert fit_reliability([items])(items).tolist() == [0.0, 0.5, 1.0, 0.0]


def test_later_items_are_clipped():
    """The frozen scale never leaves [0, 1] at later cut-offs."""
    scale = fit_reliability([table([1, 3, 7], [1, 1, 1])])
    assert scale(table([0, 500], [1, 1])).tolist() == [0.0, 1.0]


def test_norms_that_fall_with_popularity_are_refused():
    """Norms that fall with the count would trust rare items most: refused, with the number and the
    way out.
    """
    with pytest.raises(
        ReliabilityError,
        match=r"norm signal has rank correlation -1.00 .* expected >= 0.3: .* use mode='log_count'",
    ):
        fit_reliability([table([1, 2, 3], [3, 2, 1])], mode="norm")


def test_norms_that_rise_with_popularity_are_the_faithful_mode():
    """Equation 16: min-max over norms."""
    items = table([1, 2, 9], [1, 2, 5])
    scale = fit_reliability([items], mode="norm")
    assert scale(items).tolist() == [0.0, 0.25, 1.0]
    assert scale.rank_correlation == pytest.approx(1.0)


def test_the_gate_reads_the_newest_table():
    """The scale spans all cut-offs, the gate judges the newest, in whatever order they come."""
    old, new = table([1, 2, 3], [1, 2, 3], day=1), table([1, 2, 3], [9, 2, 1], day=2)
    with pytest.raises(ReliabilityError):
        fit_reliability([new, old], mode="norm")


@pytest.mark.parametrize("mode", ["log_count", "norm", "norm_quantile"])
def test_signals_that_are_all_equal_are_refused(mode):
    """One item, or equal items, tell nothing apart."""
    for items in (table([4], [2]), table([4, 4, 4], [2, 2, 2])):
        with pytest.raises(InputError, match="cannot be told apart"):
            fit_reliability([items], mode=mode)


def test_no_behaviour_is_refused():
    """Without a behaviour vector there is nothing to fit."""
    with pytest.raises(InputError, match="no item has a behaviour vector"):
        fit_reliability([table([4, 5], [0, 0])])
    with pytest.raises(InputError, match="expected 'log_count', 'norm' or 'norm_quantile'"):
        fit_reliability([table([4, 5], [1, 1])], mode="counts")


def test_the_scale_survives_json():
    """from_dict undoes to_dict."""
    scale = fit_reliability([table([1, 3, 7], [1, 1, 1])])
    assert ReliabilityScale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale


def test_a_constant_has_no_rank_correlation():
    """NaN, not 0: nothing was measured."""
    assert np.isnan(rank_correlation(np.array([1.0]), np.array([2.0])))
    assert np.isnan(rank_correlation(np.array([1.0, 1.0]), np.array([2.0, 3.0])))
    assert rank_correlation(np.array([1, 2, 3]), np.array([10, 5, 1])) == pytest.approx(-1)


def test_rank_correlation_is_that_of_mean_ranks():
    """Equal values share the mean of their places, as scipy has it; there is none of a constant, of
    a NaN or of one value."""
    from scipy.stats import spearmanr

    a = np.array([3, 1, 1, 7, 3, 3, 0])
    b = np.array([0.5, 0.5, -1.0, 2.0, 9.0, 0.5, 4.0])
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    for none in (np.ones(7), np.where(a == 7, np.nan, b)):
        assert np.isnan(rank_correlation(a, none))
    assert np.isnan(rank_correlation(a[:1], b[:1]))
