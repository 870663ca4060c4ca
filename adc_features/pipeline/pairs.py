"""The pair of ranker and codes that a run offers. Reads: runs. Writes: Promotion."""

import os
from datetime import datetime

from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of
from adc_features.serving.promotion import (
    DEFAULT_RECIPE,
    PROMOTION,
    Promotion,
    check_served,
    read_promotion,
    trained_pair,
)


def promotion_of(run: Run, *, recipe: str = DEFAULT_RECIPE, promoted_at: datetime) -> Promotion:
    """The pair that a finished run offers: the ranker of a recipe and the run's own repository.

    Raises InputError for a recipe that is not served (controls, raw vectors), ArtifactError when
    the run lacks it.
    """
    check_served(recipe)
    run.output("online")
    return trained_pair(repository_of(run), run.ranker(recipe) / "model", at=promoted_at)


def serving_pair(run: Run, *, now: datetime) -> Promotion:
    """What a run's service begins with: the promoted pair, or the default recipe's where nothing
    was promoted yet.
    """
    path = run.directory / PROMOTION
    return read_promotion(path) if os.path.lexists(path) else promotion_of(run, promoted_at=now)
