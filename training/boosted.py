"""Grow boosted trees. Reads: Inputs. Writes: BoostedRanker, its curve."""

import xgboost as xgb

from adc_features.ranking.base import Progress, Round
from adc_features.ranking.boosted import BoostedRanker, boosted_matrix
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.inputs import Inputs

ROUND_COST = 0.0
"""Held-out nats that each further tree must save to be taken."""


def fit_boosted(
    inputs: Inputs,
    *,
    settings: BoostedSettings,
    codebook_size: int,
    seed: int,
    rounds: int | None = None,
    holdout: Inputs | None = None,
    progress: Progress | None = None,
) -> tuple[BoostedRanker, list[Round]]:
    """Grow `rounds` trees (None: the most that the settings allow), and the losses by round.

    holdout: rows that are scored after each round. The same seed gives the same trees. There is no
    warm start: an older ranker's splits are on the older ids and scales.
    """
    parameters = settings.parameters(seed=seed)
    rounds = rounds or settings.max_rounds
    train = boosted_matrix(inputs)
    watched = [(train, "train")]
    if holdout is not None:
        watched.append((boosted_matrix(holdout), "holdout"))
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgb.train(
        parameters, train, rounds, evals=watched, evals_result=history, verbose_eval=False
    )
    if progress is not None:
        progress("train xgboost", rounds, rounds)
    held = history["holdout"]["logloss"] if holdout is not None else [None] * rounds
    losses = zip(history["train"]["logloss"], held, strict=True)
    return (
        BoostedRanker(settings, codebook_size=codebook_size, booster=booster),
        [Round(n, *both) for n, both in enumerate(losses, start=1)],
    )
