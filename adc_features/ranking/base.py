"""What the training of every ranker tells."""

from collections.abc import Callable
from typing import NamedTuple

Progress = Callable[[str, int, int], None]
"""Told what is being trained, how much of it is done, and how much there is."""


class Round(NamedTuple):
    """One point of a training curve: an epoch or a boosting round. holdout: log loss on the
    held-out rows, None when none were given.
    """

    round: int
    train: float
    holdout: float | None
