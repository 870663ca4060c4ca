"""The score that candidates are ranked by, from the probabilities of several tasks. Reads: a
declared ranker, probabilities. Writes: scores.

Legend: T tasks, N candidates.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker

LEAST = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm."""


@dataclass(frozen=True)
class Calibration:
    """What brings a task's probabilities to the observed rate: logit q = slope * logit p +
    intercept. A positive slope keeps the task's order.

    Examples
    --------
    >>> import numpy as np
    >>> Calibration().apply(np.array([0.25, 0.5])).round(6).tolist()
    [0.25, 0.5]
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.slope, self.intercept]).all() and self.slope > 0):
            raise InputError(
                f"a calibration has slope {self.slope} and intercept {self.intercept}; expected"
                " finite numbers and a slope above 0"
            )

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64, of the same shape."""
        return sigmoid(self.slope * logit(probabilities) + self.intercept)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "Calibration":
        return cls(float(facts["slope"]), float(facts["intercept"]))


def logit(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), float64, finite also for 0 and 1."""
    p = np.clip(np.asarray(probabilities, np.float64), LEAST, 1 - LEAST)
    return np.log(p) - np.log1p(-p)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    half = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, half) / (1 + half)


def served_score(probabilities: np.ndarray, ranker: Ranker) -> np.ndarray:
    """The declared score of each candidate, float64 [N]: the product of p ** exponent over the
    named tasks, or the weighted sum; without a declaration the first task's probability.

    Parameters
    ----------
    probabilities : ndarray
        [T, N], calibrated, in the order of `ranker.tasks`.
    ranker : Ranker
        Its `score` and `score_sum`.

    Raises
    ------
    InputError
        When the score names no task or an unknown one, or a factor is 0 or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from adc_features.inputs import Ranker, Task
    >>> feed = Ranker("feed", [Task("click"), Task("buy")], score={"click": 1, "buy": 0.5})
    >>> served_score(np.array([[0.5, 0.2], [0.25, 0.25]]), feed).tolist()
    [0.25, 0.1]
    """
    factors = score_factors(ranker)
    if probabilities.ndim != 2 or len(probabilities) != len(ranker.tasks):
        raise InputError(
            f"probabilities are {list(probabilities.shape)}; expected one row for each of the"
            f" {len(ranker.tasks)} tasks of the ranker"
        )
    rows = {task.name: row for row, task in enumerate(ranker.tasks)}
    named = np.asarray(probabilities[[rows[name] for name in factors]], np.float64)
    factor = np.fromiter(factors.values(), np.float64)[:, None]
    if ranker.score_sum:
        return (factor * named).sum(axis=0)
    if (factor < 0).any():  # a power of zero would be infinite
        named = np.clip(named, LEAST, None)
    return np.prod(named**factor, axis=0)


def score_factors(ranker: Ranker) -> dict[str, float]:
    """Task -> its exponent, or its weight in the sum. Raises InputError as `served_score`."""
    names = [task.name for task in ranker.tasks]
    if ranker.score is None:
        return {names[0]: 1.0}
    if unknown := [name for name in ranker.score if name not in names]:
        raise InputError(
            f"the score names {', '.join(map(repr, unknown))}; the ranker's tasks are"
            f" {', '.join(names)}"
        )
    factors = {name: float(value) for name, value in ranker.score.items()}
    wrong = {name: value for name, value in factors.items() if not np.isfinite(value) or not value}
    if wrong or not factors:
        raise InputError(
            f"the score is {dict(ranker.score)}; expected at least one task, each with a finite"
            f" {'weight' if ranker.score_sum else 'exponent'} other than 0"
        )
    return factors
