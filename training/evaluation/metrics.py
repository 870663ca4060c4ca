"""How good scores are, and how sure that is. Reads: labels, users, scores. Writes: estimates with
intervals.

Legend: N rows, S seeds, B bootstrap draws, U users.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from adc_features.codes.sids import find_rows
from adc_features.errors import InputError
from adc_features.loader.frame import check_two_classes

DRAWS = 200


@dataclass(frozen=True)
class Estimate:
    """A metric on all rows (the mean over seeds) and on each bootstrap draw of the users, float64
    [B]; NaN where undefined.
    """

    value: float
    draws: np.ndarray

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference: both estimates must come from the same PairedBootstrap, hence
        the same draws.
        """
        return Estimate(self.value - other.value, self.draws - other.draws)

    def interval(self, level: float = 0.95) -> dict[str, float]:
        """{mean, low, high}: the value and the percentile interval of the draws; NaN when no draw
        defines it.
        """
        known = self.draws[np.isfinite(self.draws)]
        low, high = (
            np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
            if len(known)
            else (np.nan, np.nan)
        )
        return {"mean": self.value, "low": float(low), "high": float(high)}


class Gauc(NamedTuple):
    """GAUC and what it rests on: users with both classes, and their rows."""

    value: float
    users: int
    rows: int


@dataclass(frozen=True)
class PairedBootstrap:
    """The evaluated rows and one set of bootstrap draws, so that every difference is paired.

    Draws resample users (Poisson(1) weights), as rows of one user are not independent, and the
    seeds of each recipe where it has several: an interval then covers the chance in training as
    well as the choice of users. Scores are probabilities, float [S, N] (or [N] for one seed).

    Parameters
    ----------
    label
        float [N] in {0, 1}.
    user
        Ids [N].
    seed
        Of the draws.
    draws
        How many, B.
    seeds_drawn
        Draw seeds too. False where their chance is in the spread of fits (`Refitted`): counted
        here as well, it would be counted twice.

    Raises
    ------
    InputError
        When the labels have one class, or their number is not that of the users.

    Examples
    --------
    >>> import numpy as np
    >>> rows = PairedBootstrap(np.array([1.0, 0.0] * 20), np.arange(40) // 2, seed=0)
    >>> good, even = np.array([0.9, 0.1] * 20), np.full(40, 0.5)
    >>> (rows.auc(good) - rows.auc(even)).interval()
    {'mean': 0.5, 'low': 0.5, 'high': 0.5}
    """

    label: np.ndarray
    user: np.ndarray
    seed: int
    draws: int = DRAWS
    seeds_drawn: bool = True

    def __post_init__(self) -> None:
        check_two_classes(self.label)
        if len(self.label) != len(self.user):
            raise InputError(
                f"{len(self.label)} labels but {len(self.user)} users; give one user a row"
            )

    @cached_property
    def user_row(self) -> np.ndarray:
        """Per row the number of its user, int64 [N] in 0..U-1."""
        return np.unique(self.user, return_inverse=True)[1]

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each draw holds each user, float64 [B, U]."""
        return (
            np.random.default_rng(self.seed)
            .poisson(1.0, (self.draws, int(self.user_row.max()) + 1))
            .astype(np.float64)
        )

    def seed_weights(self, seeds: int) -> np.ndarray:
        """How often each draw holds each seed, float64 [B, S]: the same for all recipes of as many
        seeds, so that differences are paired.
        """
        return (
            np.random.default_rng([self.seed, seeds])
            .multinomial(seeds, np.full(seeds, 1 / seeds), self.draws)
            .astype(np.float64)
        )

    def auc(
        self,
        scores: np.ndarray,
        rows: np.ndarray | None = None,
        *,
        row_weight: np.ndarray | None = None,
    ) -> Estimate:
        """AUC over all rows, or over those of a mask [N]; ties count one half. NaN where the mask
        leaves one class. row_weight: what each row counts, float [N].
        """
        keep = np.ones(len(self.label), bool) if rows is None else rows
        label, user = self.label[keep], self.user_row[keep]
        weight = None if row_weight is None else row_weight[keep]
        if len(np.unique(label if weight is None else label[weight > 0])) < 2:
            return Estimate(float("nan"), np.full(self.draws, np.nan))
        return self.over_seeds(scores, lambda score: self._auc_of(label, score[keep], user, weight))

    def gauc(self, scores: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
        """GAUC over all rows, or over those of a mask [N]: AUC within each user that has both
        classes, weighted by the user's rows (method notes: Grouped AUC).
        """
        keep = np.ones(len(self.label), bool) if rows is None else rows
        return self.over_seeds(
            scores, lambda score: self._gauc_of(self.label[keep], score[keep], self.user_row[keep])
        )

    def logloss(self, scores: np.ndarray, *, row_weight: np.ndarray | None = None) -> Estimate:
        """Mean negative log likelihood, nats a row. row_weight: what each counts, float [N]."""
        weight = np.ones(len(self.label)) if row_weight is None else row_weight
        return self.over_seeds(
            scores, lambda score: self.ratio(weight * _row_loss(self.label, score), weight)
        )

    def calibration(self, scores: np.ndarray) -> Estimate:
        """Mean predicted over mean observed; 1 is calibrated."""
        return self.over_seeds(scores, lambda score: self.ratio(score, self.label))

    def over_seeds(self, scores: np.ndarray, metric: Callable[[np.ndarray], Estimate]) -> Estimate:
        """The mean over seeds of what `metric` says of the scores of one, float64 [N]."""
        scores = np.atleast_2d(scores).astype(np.float64)
        if scores.shape[1] != len(self.label) or not np.isfinite(scores).all():
            raise InputError(
                f"scores are {list(scores.shape)}, finite: {np.isfinite(scores).all()}; expected"
                f" finite [seeds, {len(self.label)}]"
            )
        each = [metric(score) for score in scores]
        draws = np.stack([e.draws for e in each])
        mean = draws.mean(axis=0)
        # a bootstrap of n seeds spreads by sqrt((n - 1) / n) of what the seeds do
        if (n := len(each)) > 1 and self.seeds_drawn:
            mean = mean + np.sqrt(n / (n - 1)) * (
                (self.seed_weights(n) * draws.T).sum(axis=1) / n - mean
            )
        return Estimate(float(np.mean([e.value for e in each])), mean)

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Estimate:
        """sum(above) / sum(below) over rows, float [N] each; NaN where nothing is below."""
        over = self.weights @ np.bincount(self.user_row, above)
        under = self.weights @ np.bincount(self.user_row, below)
        total = float(below.sum())
        return Estimate(
            float(above.sum()) / total if total else float("nan"),
            np.divide(over, under, out=np.full(self.draws, np.nan), where=under != 0),
        )

    def _auc_of(
        self, label: np.ndarray, score: np.ndarray, user: np.ndarray, own: np.ndarray | None
    ) -> Estimate:
        order = np.argsort(score, kind="stable")  # once; a draw only changes the weights
        positive, user, score = label[order] > 0, user[order], score[order]
        own = np.ones(len(order)) if own is None else own[order]
        last = np.flatnonzero(np.concatenate([score[1:] != score[:-1], [True]]))

        def auc(row_weight: np.ndarray) -> float:
            positives, negatives = (
                np.diff(np.cumsum(np.where(mask, row_weight, 0.0))[last], prepend=0.0)
                for mask in (positive, ~positive)
            )
            below = np.cumsum(negatives) - negatives / 2
            total = positives.sum() * negatives.sum()
            return float(positives @ below / total) if total else float("nan")

        return Estimate(auc(own), np.array([auc(weight[user] * own) for weight in self.weights]))

    def _gauc_of(self, label: np.ndarray, score: np.ndarray, user: np.ndarray) -> Estimate:
        auc, rows = user_auc(label, score, user)
        kept = np.flatnonzero(np.isfinite(auc))
        if not len(kept):
            return Estimate(float("nan"), np.full(self.draws, np.nan))
        weight = self.weights[:, kept] * rows[kept]
        with np.errstate(invalid="ignore"):
            return Estimate(
                float(np.average(auc[kept], weights=rows[kept])),
                weight @ auc[kept] / weight.sum(axis=1),
            )


def gauc(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> Gauc:
    """GAUC with the number of users and rows that it covers; NaN when no user has both classes."""
    auc, rows = user_auc(label, score, np.unique(user, return_inverse=True)[1])
    kept = np.isfinite(auc)
    return Gauc(
        float(np.average(auc[kept], weights=rows[kept])) if kept.any() else float("nan"),
        int(kept.sum()),
        int(rows[kept].sum()),
    )


def user_auc(
    label: np.ndarray, score: np.ndarray, user: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """AUC of each user 0..U-1 (NaN with one class) and their number of rows: float64 [U], int64
    [U]. Ties count one half.

    From ranks within the user: AUC = (rank sum of positives - p (p + 1) / 2) / (p n).
    """
    order = np.lexsort((score, user))
    label, score, user = label[order], score[order], user[order]
    new_user = np.concatenate([[True], user[1:] != user[:-1]])
    start = np.flatnonzero(new_user)[np.cumsum(new_user) - 1]
    new_tie = np.concatenate([[True], new_user[1:] | (score[1:] != score[:-1])])
    tie = np.cumsum(new_tie) - 1
    rank = (np.flatnonzero(new_tie) + (np.bincount(tie) - 1) / 2)[tie] - start + 1
    rows = np.bincount(user)
    positives = np.bincount(user, label)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = (np.bincount(user, rank * label) - positives * (positives + 1) / 2) / (
            positives * (rows - positives)
        )
    return np.where((positives > 0) & (positives < rows), auc, np.nan), rows


def expected_calibration_error(label: np.ndarray, score: np.ndarray, bins: int = 10) -> float:
    """Mean |predicted - observed| over `bins` groups of equal size, by score."""
    groups = np.array_split(np.argsort(score, kind="stable"), bins)
    return float(
        sum(len(g) * abs(score[g].mean() - label[g].mean()) for g in groups if len(g)) / len(label)
    )


def training_counts(trained_on: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """How many training rows each row's item had: int64 [N] for item_ids [N], given the item ids of
    the training rows.
    """
    items, counts = np.unique(trained_on, return_counts=True)
    row, known = find_rows(items, item_ids)
    return np.where(known, counts[row], 0) if len(items) else np.zeros(len(item_ids), np.int64)


def popularity_slices(item_count: np.ndarray) -> dict[str, np.ndarray]:
    """Masks [N] by the training interactions of each row's item: cold (none), then thirds of the
    other rows, tail to head.
    """
    warm = item_count > 0
    low, high = np.quantile(item_count[warm], (1 / 3, 2 / 3)) if warm.any() else (0, 0)
    return {
        "head": warm & (item_count > high),
        "middle": warm & (item_count > low) & (item_count <= high),
        "tail": warm & (item_count <= low),
        "cold": ~warm,
    }


def _row_loss(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    score = np.clip(score, 1e-7, 1 - 1e-7)
    return -np.where(label > 0, np.log(score), np.log1p(-score))
