"""How far an item's behaviour can be trusted, as x in [0, 1]. Reads: EmbeddingTable. Writes:
ReliabilityScale and its values.

ADC-SID (Eq. 15-16) takes x from the norm of the behaviour vector. Norms of accurate SASRec models
fall with popularity, so the default takes x from interaction counts; either way the rank
correlation of x and count must be high enough, or the fit refuses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import BEHAVIOR
from adc_features.errors import InputError, ReliabilityError

Mode = Literal["log_count", "norm", "norm_quantile"]
MIN_RANK_CORRELATION = 0.3


@dataclass(frozen=True)
class ReliabilityScale:
    """The frozen map from an item's signal to x in [0, 1]:
    linear between `low` and `high`, clipped outside.

    mode `log_count`: log(1 + interactions). `norm`: the L2 norm of the behaviour vector before
    standardisation, between its minimum and maximum (Eq. 16). `norm_quantile`: the same between the
    1st and 99th percentile, against outliers. rank_correlation: Spearman of x and count over the
    warm items of the fit.
    """

    mode: Mode
    low: float
    high: float
    rank_correlation: float

    def __call__(self, items: EmbeddingTable) -> np.ndarray:
        """x: float32 [N] in [0, 1]; 0 for items without a behaviour vector."""
        x = np.clip((_signal(items, self.mode) - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.where(items.present[BEHAVIOR], x, 0.0).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ReliabilityScale":
        return cls(**fields)


def fit_reliability(
    tables: Sequence[EmbeddingTable],
    *,
    mode: Mode = "log_count",
    min_rank_correlation: float = MIN_RANK_CORRELATION,
) -> ReliabilityScale:
    """The scale over the warm items of all tables;
    its rank correlation is measured on the newest table.

    Raises InputError when there is no behaviour or all signals are equal, ReliabilityError when the
    rank correlation of signal and count is under `min_rank_correlation` (then alignment would be
    switched on for the wrong items).
    """
    if mode not in ("log_count", "norm", "norm_quantile"):
        raise InputError(
            f"reliability mode is {mode!r}; expected 'log_count', 'norm' or 'norm_quantile'"
        )
    tables = [
        t.take(t.present[BEHAVIOR])
        for t in tables
        if BEHAVIOR in t.present and t.present[BEHAVIOR].any()
    ]
    if not tables:
        raise InputError(
            "no item has a behaviour vector; embed interactions first, or use a spec with"
            " behavior=0"
        )
    signals = np.concatenate([_signal(t, mode) for t in tables])
    low, high = (
        np.quantile(signals, (0.01, 0.99))
        if mode == "norm_quantile"
        else (signals.min(), signals.max())
    )
    if not high > low:
        raise InputError(
            f"every behaviour signal ({mode}) equals {low:.4g}; reliability cannot be told apart,"
            " check the interactions or use a spec with behavior=0"
        )
    newest = max(tables, key=lambda t: t.as_of)
    correlation = rank_correlation(_signal(newest, mode), newest.interaction_count)
    if not correlation >= min_rank_correlation:
        raise ReliabilityError(
            f"the {mode} signal has rank correlation {correlation:.2f} with interaction counts,"
            f" expected >= {min_rank_correlation}: alignment would trust rarely seen items more"
            " than popular ones; use mode='log_count' or train behaviour vectors whose norm grows"
            " with popularity"
        )
    return ReliabilityScale(mode, float(low), float(high), correlation)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation;
    NaN when either is constant or holds a NaN, or fewer than two values are given.
    """
    if len(a) < 2 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return float("nan")
    return float(np.corrcoef(_mean_ranks(a), _mean_ranks(b))[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value in their order, the mean place where several are equal."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    means: np.ndarray = np.cumsum(sizes) - (sizes - 1) / 2
    return means[group]


def _signal(items: EmbeddingTable, mode: Mode) -> np.ndarray:
    if mode == "log_count":
        return np.log1p(items.interaction_count.astype(np.float64))
    return np.linalg.norm(items.vectors[BEHAVIOR].astype(np.float64), axis=1)
