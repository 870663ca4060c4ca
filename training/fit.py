"""Train one recipe. Reads: TrainingFrame, Sources. Writes: Trained."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from adc_features.loader.frame import TrainingFrame, check_two_classes
from adc_features.ranking.base import Progress, Ranker, Round
from adc_features.ranking.inputs import InputEncoder, Inputs
from adc_features.ranking.recipes import MIN_COUNT, Recipe, Sources, exchange, recipe_inputs
from adc_features.ranking.recipes import recipe as recipe_named
from adc_features.ranking.trained import Trained

log = logging.getLogger(__name__)
Fit = Callable[..., tuple[Ranker, list[Round]]]
"""Inputs, seed, rounds, holdout and progress to a ranker and its curve."""
HOLDOUT = 0.1
"""Share of the training rows, the newest, that choose the number of rounds."""


def train(
    frame: TrainingFrame,
    recipe: Recipe | str,
    *,
    sources: Sources,
    seeds: Sequence[int] = (0, 1, 2),
    start: Ranker | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a recipe on every row of `frame`, once for each seed.

    start: an older ranker on the same codes, or on a generation that keeps them, for a warm start:
    the new ones begin with its embeddings of the codes.

    How many rounds is chosen by log loss on the newest tenth of these rows, with a model of the
    first seed that did not see them. Raises InputError when the labels have one class or the recipe
    lacks what it reads.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    check_two_classes(frame.labels)
    encoder = InputEncoder.fit(frame, min_count=MIN_COUNT)
    exchanged = None
    if recipe.permuted != "no" and sources.sids is not None:
        items = np.concatenate([sources.sids.item_ids, frame.item_ids])
        exchanged = exchange(frame, items, within=recipe.permuted, seed=seeds[0])
    inputs = recipe_inputs(frame, recipe, encoder, sources, exchanged=exchanged)
    older, newer = _by_time(frame)
    fit, round_cost = _fitting(recipe, inputs, frame, encoder, start)
    _, curve = fit(inputs.take(older), seed=seeds[0], holdout=inputs.take(newer), progress=progress)
    losses = np.array([r.holdout for r in curve], np.float64)
    rounds = 1 + int((losses + round_cost * np.arange(len(losses))).argmin())
    rankers = {seed: fit(inputs, seed=seed, rounds=rounds, progress=progress)[0] for seed in seeds}
    log.info(
        "stage=train recipe=%s rows=%d seeds=%d rounds=%d holdout_logloss=%.4f",
        recipe.name,
        len(frame),
        len(seeds),
        rounds,
        losses[rounds - 1],
    )
    return Trained(
        recipe,
        frame.generation if recipe.codes != "none" else None,
        encoder,
        rankers,
        rounds,
        curve,
        exchanged,
    )


def _by_time(frame: TrainingFrame) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the older rows and of the newest HOLDOUT of them, split between two times."""
    times = frame.times
    cut = np.sort(times)[int(len(times) * (1 - HOLDOUT))]
    return np.flatnonzero(times < cut), np.flatnonzero(times >= cut)


def _fitting(
    recipe: Recipe,
    inputs: Inputs,
    frame: TrainingFrame,
    encoder: InputEncoder,
    start: Ranker | None,
) -> tuple[Fit, float]:
    """How the recipe's model is fitted to inputs, and what each further round must save."""
    codebook_size = frame.codebook_size if recipe.codes != "none" else 0
    if recipe.model == "xgboost":
        from adc_features.ranking.boosted_settings import BoostedSettings
        from training import boosted

        settings = BoostedSettings()
        return (
            partial(boosted.fit_boosted, settings=settings, codebook_size=codebook_size),
            boosted.ROUND_COST,
        )
    from adc_features.ranking.ppnet.shape import PPNetSettings, PPNetShape
    from training import ppnet

    shape = PPNetShape.of(
        inputs,
        id_rows=encoder.id_rows,
        users=len(encoder.users) + 1,
        codebook_size=codebook_size,
        item_id=recipe.item_id,
    )
    return (
        partial(ppnet.fit_ppnet, settings=PPNetSettings(), shape=shape, start=start),
        ppnet.ROUND_COST,
    )
