"""The one hole that every ranker fits. Reads: Inputs. Writes: probabilities, ranker directories."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from adc_features.ranking.inputs import Inputs

Progress = Callable[[str, int, int], None]


class Round(NamedTuple):
    """One point of a training curve: an epoch or a boosting round. holdout: log loss on the
    held-out rows, None when none were given.
    """

    round: int
    train: float
    holdout: float | None


class Ranker(Protocol):
    """A model of P(label = 1).

    fit trains afresh for `rounds` (None: the most it may) and returns the curve; with `holdout` it
    scores those rows after each round. The same seed gives the same model. predict: float32 [N],
    probabilities. save writes files into an existing directory, load reads them back; completeness,
    hashes and the generation are the caller's (training.fit). round_cost: held-out nats that each
    further round must save to be taken. begin_at: the next fit starts from what an older ranker
    knows of the same codes, where it can.
    """

    round_cost: float

    def begin_at(self, older: "Ranker") -> None: ...

    def fit(
        self,
        inputs: Inputs,
        *,
        seed: int,
        rounds: int | None = None,
        holdout: Inputs | None = None,
        progress: Progress | None = None,
    ) -> list[Round]: ...

    def predict(self, inputs: Inputs) -> np.ndarray: ...

    def save(self, directory: Path) -> None: ...

    @classmethod
    def load(cls, directory: Path) -> Self: ...
