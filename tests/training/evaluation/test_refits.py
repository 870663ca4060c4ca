"""Intervals over users and fits: by hand, against the textbook, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from training.evaluation.metrics import Estimate
from training.evaluation.refits import Refitted, p_value

USERS = stats.norm.ppf((np.arange(400) + 0.5) / 400)
"""Draws of a mean with standard error 1, without chance."""


def refitted(values, *, users: float) -> Refitted:
    return Refitted([Estimate(v, v + users * USERS) for v in values])


def test_one_fit_has_the_interval_of_its_users():
    """Nothing is known of the chance of fits, and nothing is added."""
    one = refitted([0.3], users=0.1)
    assert one.interval() == pytest.approx(one.fits[0].interval())


def test_the_interval_of_fits_alone_is_students():
    """Without any chance of users: mean +- t s / sqrt(F), and p that of the t test."""
    values = [0.1, 0.2, 0.4, 0.1, 0.3]
    low, high = stats.t.interval(
        0.95, 4, loc=np.mean(values), scale=np.std(values, ddof=1) / np.sqrt(5)
    )
    found = refitted(values, users=0.0)
    assert found.interval() == pytest.approx({"mean": 0.22, "low": low, "high": high})
    assert p_value(found) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_half_widths_of_users_and_fits_add_as_squares():
    """3 of users and 4 of fits are 5, on either side of the mean."""
    error = 4 / stats.t.ppf(0.975, 1)  # two fits: s / sqrt(2) is half their distance
    users = 3 / np.quantile(USERS, 0.975)
    found = refitted([10 - error, 10 + error], users=users).interval()
    assert found == pytest.approx({"mean": 10, "low": 5, "high": 15})


def test_a_difference_is_taken_fit_by_fit():
    """What both sides share, as a fit on better vectors, is no chance of their difference."""
    a, b = refitted([0.5, 0.7, 0.9], users=0.1), refitted([0.4, 0.6, 0.8], users=0.1)
    difference = a - b
    assert difference.values == pytest.approx([0.1, 0.1, 0.1])
    assert difference.interval() == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


def test_p_is_where_the_interval_ends_at_nothing():
    """At level 1 - p one end is 0, up to the normal approximation of the draws."""
    found = refitted([0.2, 0.5, 0.3, 0.4, 0.1], users=0.1)
    p = p_value(found)
    assert found.interval(1 - p)["low"] == pytest.approx(0, abs=0.01)
    assert p_value(refitted([0.0], users=1.0)) == 1.0
    assert p_value(refitted([9.0] * 3, users=0.01)) < 1e-100
    assert p_value(refitted([2.0, 2.0], users=0.0)) == 0.0
    assert np.isnan(p_value(Refitted([Estimate(0.5, np.full(3, np.nan))])))


def share_of_experiments(fits: int, share: float, *, count: int, fits_too: bool = True) -> float:
    """How many experiments of a difference of 1 have an interval that holds it. share: that of fits
    in the variance of the mean, which is 1.
    """
    rng = np.random.default_rng([fits, round(100 * share)])
    held = 0
    for _ in range(count):
        users = rng.normal(0, np.sqrt(1 - share))
        values = 1.0 + users + rng.normal(0, np.sqrt(share * fits), fits)
        mean = refitted(values, users=np.sqrt(1 - share))
        found = (mean if fits_too else mean.over_users).interval()
        held += found["low"] <= 1.0 <= found["high"]
    return held / count


@pytest.mark.slow
@pytest.mark.parametrize("fits", [2, 5, 8])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_intervals_cover_what_they_say(fits, share):
    """Of 4,000 experiments at least 95 %, less three standard errors of the count (.010), whatever
    the share of fits in the chance.
    """
    assert share_of_experiments(fits, share, count=4_000) >= 0.94


def test_intervals_cover_users_and_fits():
    """Five fits that differ as much as users do: 400 experiments, less three standard errors (.033)
    of 95 %.
    """
    assert share_of_experiments(5, 0.5, count=400) >= 0.917


def test_users_alone_cover_too_little():
    """The mistake that this corrects: an interval of the users of the mean over five fits holds the
    truth in about 83 % of experiments.
    """
    assert 0.77 < share_of_experiments(5, 0.5, count=400, fits_too=False) < 0.89
