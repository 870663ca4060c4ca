"""The pair of ranker and codes that a run offers. Reads: runs. Writes: Promotion."""

import os
from datetime import datetime

from adc_features.artifact import MANIFEST, file_hash, read_manifest
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import generation_of, repository_of
from adc_features.serving.promotion import (
    DEFAULT_RECIPE,
    PROMOTION,
    Promotion,
    check_served,
    read_promotion,
)


def promotion_of(run: Run, *, recipe: str = DEFAULT_RECIPE, promoted_at: datetime) -> Promotion:
    """The pair that a finished run offers: the ranker of a recipe and the run's own repository.

    Raises InputError for a recipe that is not served (controls, raw vectors), ArtifactError when
    the run lacks it.
    """
    check_served(recipe)
    run.output("online")
    ranker = run.ranker(recipe) / "model"
    manifest = read_manifest(ranker)
    generation = manifest["generation"]
    codebook = generation_of(run).codebook_hash if generation else None
    return Promotion(
        ranker, file_hash(ranker / MANIFEST), repository_of(run), generation, codebook, promoted_at
    )


def serving_pair(run: Run, *, now: datetime) -> Promotion:
    """What a run's service begins with: the promoted pair, or the default recipe's where nothing
    was promoted yet.
    """
    path = run.directory / PROMOTION
    return read_promotion(path) if os.path.lexists(path) else promotion_of(run, promoted_at=now)
