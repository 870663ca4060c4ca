"""The trained rankers of a run as they would score under refresh schedules. Reads: a run. Writes:
nothing, the run stays as it is.
"""

from collections.abc import Mapping
from typing import Any

from adc_features.pipeline.run import Run
from adc_features.pipeline.run_refresh import refresh_of
from adc_features.pipeline.stages import repository_of, split_of
from adc_features.ranking.recipes import RECIPES
from adc_features.ranking.trained import load_trained
from training.evaluation.evaluate import evaluate
from training.ranker.refresh import refresh_facts
from training.stages import (
    RANKERS,
    checked_frame,
    frame_of,
    joined_rows,
    sources_of,
    split_rows,
    trained_recipes,
)


def evaluate_refreshed(run: Run, refresh: Mapping[str, str]) -> dict[str, Any]:
    """The trained rankers of a run on the scored rows as they would be online under schedules; the
    run stays as it is. refresh: view -> schedule.

    Raises ArtifactError when none is trained, InputError for what is no schedule.
    """
    recipes = [name for name in trained_recipes(run) if name in RECIPES]
    schedules, split = refresh_of(repository_of(run), run.settings, refresh), split_of(run)
    if run.settings.final:
        run.record("test_rows_opened", split=split._asdict(), recipes=recipes)
    train, _ = split_rows(frame_of(run), split)
    sources = sources_of(run, schedules)
    _, scored = split_rows(checked_frame(run, joined_rows(run, schedules)), split)
    scores = {}
    for name in recipes:
        model = run.output(RANKERS[name]) / "model"
        if model.is_dir():  # controls are not kept
            trained = load_trained(model, generation=scored.generation)
            scores[name] = trained.predict(scored, sources)
    facts = evaluate(scores, scored, trained_on=train, seed=run.settings.seed).to_dict()
    return {"refresh": refresh_facts(schedules), **facts}
