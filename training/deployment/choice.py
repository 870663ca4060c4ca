"""The recipe of a run to promote where none is named. Reads: a run's rankers and its scores.
Writes: Choice.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adc_features.errors import InputError
from adc_features.pipeline.run import Run
from adc_features.ranking.recipes import RECIPES, Recipe
from adc_features.serving.promotion import DEFAULT_RECIPE, served_recipes
from training.evaluation.choice import Candidate, Choice, chosen
from training.evaluation.metrics import Estimate, PairedBootstrap
from training.stages import RANKERS, SCORES, frame_of, scored_recipes, scores_stage, split_frame

METRIC = "gauc"


def best_recipe(run: Run, *, coded: bool = False) -> Choice:
    """The recipe to promote where none is named, of those that a run scored together and that can
    be served, by GAUC on the validation window and how much they read, see
    `training.evaluation.choice`. coded: only those that read codes, for a generation that is named.

    A run that was never scored has nothing to choose by: the default recipe.

    Raises
    ------
    InputError
        The scores are of test rows, on which nothing is chosen; they are older than a ranker; or no
        recipe that can be served was scored.
    """
    if run.identity(SCORES) is None:
        return Choice(
            DEFAULT_RECIPE,
            f"the default, as the run was never scored; `adc evaluate --run {run.directory}` scores"
            " what is trained, and the best is taken",
        )
    scored = scored_recipes(run)
    if run.settings.final:
        raise InputError(
            f"{run.directory} was scored on test rows, on which no recipe is chosen; name the one"
            " to promote, --recipe NAME"
        )
    if not run.is_current(scores_stage(scored)):
        raise InputError(
            f"the scores of {run.directory} are older than what they were made of; score it again,"
            f" `adc evaluate --run {run.directory}`, or name the recipe to promote, --recipe NAME"
        )
    served = [n for n in served_recipes() if not coded or RECIPES[n].codes != "none"]
    names = [name for name in scored if name in served]
    if not names:
        raise InputError(
            f"none of the recipes that {run.directory} scored can be served ({', '.join(scored)});"
            f" train one of {', '.join(served)}"
        )
    estimates = _estimates(run, names)
    candidates = {
        name: Candidate(estimate.value, *_reads(RECIPES[name]))
        for name, estimate in estimates.items()
    }

    def paired(best: str, other: str) -> Mapping[str, Any]:
        return (estimates[best] - estimates[other]).interval()

    return chosen(candidates, paired, metric=METRIC)


def _estimates(run: Run, names: list[str]) -> dict[str, Estimate]:
    """GAUC of each recipe on the validation window, on the same draws."""
    _, scored = split_frame(run, frame_of(run))
    rows = PairedBootstrap(scored.labels.astype(np.float64), scored.user_ids, run.settings.seed)
    return {name: rows.gauc(np.load(run.output(RANKERS[name]) / "scores.npy")) for name in names}


def _reads(recipe: Recipe) -> tuple[int, str]:
    """How much a recipe reads beside the statistics, which all do, and the same in words."""
    parts = ["the item's id"] if recipe.item_id else []
    if recipe.codes != "none":
        parts.append("codes")
    if recipe.codes == "weighted":
        parts.append("weights")
    said = ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + "".join(parts[-1:])
    return len(parts), said or "the statistics alone"
