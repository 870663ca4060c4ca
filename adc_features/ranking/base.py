"""What every trained ranker does. Reads: Inputs. Writes: probabilities, ranker directories."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from adc_features.ranking.inputs import Inputs

Progress = Callable[[str, int, int], None]
"""Told what is being trained, how much of it is done, and how much there is."""


class Round(NamedTuple):
    """One point of a training curve: an epoch or a boosting round. holdout: log loss on the
    held-out rows, None when none were given.
    """

    round: int
    train: float
    holdout: float | None


class Ranker(Protocol):
    """A trained model of P(label = 1). Fitting one is training's business.

    predict: probabilities, float32 [N]. save writes files into an existing directory, load reads
    them back; completeness, hashes and the generation are those of `Trained`.
    """

    def predict(self, inputs: Inputs) -> np.ndarray: ...

    def save(self, directory: Path) -> None: ...

    @classmethod
    def load(cls, directory: Path) -> Self: ...
