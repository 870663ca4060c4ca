"""How sure a difference is when everything learned is learned anew. Reads: an Estimate of each fit,
all on the same draws of users. Writes: Refitted.

Two chances move a difference between tokenizers: which users were scored, and how the fits fell
out. They are independent, so their half-widths add as squares (variance estimates recovered from
separate intervals: Zou & Donner 2008, Statistics in Medicine 27, 1693):

    (upper - mean)^2 = (upper_users - mean)^2 + t^2 s^2 / F

upper_users is the percentile of the bootstrap over users of the mean over F fits, s the standard
deviation of the F differences, t Student's quantile on F - 1 degrees of freedom. A sum of variances
with one quantile (Welch, Satterthwaite) is narrower and covers too little when fits differ by more
than users do: 0.92 to 0.94 of 0.95 for three to five fits. This one covers at least its level.

Legend: F fits, B draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.metrics import Estimate


@dataclass(frozen=True)
class Refitted:
    """A metric, or a difference, of F fits.

    Parameters
    ----------
    fits : sequence of Estimate
        One a fit, at least one, on the same B draws of users. Seeds are not drawn anew in them: the
        spread of the fits holds their chance.

    Examples
    --------
    >>> users = np.array([-0.1, 0.0, 0.1])
    >>> one = Refitted([Estimate(0.2, 0.2 + users)])
    >>> two = Refitted([Estimate(0.1, 0.1 + users), Estimate(0.3, 0.3 + users)])
    >>> one.interval()["low"] < two.value, two.interval()["low"] < one.interval()["low"]
    (True, True)

    Source
    ------
    Zou & Donner 2008, Statistics in Medicine 27, 1693.
    """

    fits: Sequence[Estimate]

    def __sub__(self, other: "Refitted") -> "Refitted":
        """The paired difference, fit by fit: both must come from the same draws and fits."""
        return Refitted([a - b for a, b in zip(self.fits, other.fits, strict=True)])

    @property
    def values(self) -> list[float]:
        """The value of each fit."""
        return [fit.value for fit in self.fits]

    @property
    def value(self) -> float:
        """The mean over fits."""
        return float(np.mean(self.values))

    @property
    def over_users(self) -> Estimate:
        """The mean over fits, with its draws of users."""
        return Estimate(self.value, np.mean([fit.draws for fit in self.fits], axis=0))

    @property
    def fit_error(self) -> float:
        """The standard error of the mean by the chance of fits; 0 for one fit, which tells nothing
        of it.
        """
        count = len(self.fits)
        return float(np.std(self.values, ddof=1) / math.sqrt(count)) if count > 1 else 0.0

    def interval(self, level: float = 0.95) -> dict[str, float]:
        """{mean, low, high} over users and fits; over users alone where there is one fit."""
        from scipy.stats import t

        users = self.over_users.interval(level)
        count = len(self.fits)
        of_fits = float(t.ppf((1 + level) / 2, count - 1)) * self.fit_error if count > 1 else 0.0
        mean = self.value
        return {
            "mean": mean,
            "low": mean - math.hypot(mean - users["low"], of_fits),
            "high": mean + math.hypot(users["high"] - mean, of_fits),
        }


def p_value(difference: Refitted | Estimate) -> float:
    """Two-sided, of no difference, if the chance of users is normal with the spread of the draws:
    the level at which an interval as that of `Refitted` ends at 0. NaN where there is none, 1
    where neither users nor fits differ and the difference is 0, else 0.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm, t

    refitted = difference if isinstance(difference, Refitted) else Refitted([difference])
    mean, count = abs(refitted.value), len(refitted.fits)
    draws = np.asarray(refitted.over_users.draws)
    known = draws[~np.isnan(draws)]
    spread = float(np.std(known)) if known.size else float("nan")
    error = refitted.fit_error
    if not all(map(math.isfinite, (mean, spread, error))):
        return float("nan")
    if mean == 0 or spread == error == 0:
        return float(mean == 0)

    def beyond(log_p: float) -> float:
        half = math.exp(log_p) / 2
        of_fits = float(t.isf(half, count - 1)) * error if count > 1 else 0.0
        return math.hypot(float(norm.isf(half)) * spread, of_fits) - mean

    least = math.log(1e-300)
    return math.exp(brentq(beyond, least, 0.0)) if beyond(least) > 0 else 0.0
