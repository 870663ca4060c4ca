"""Do the declared recipes score as the former rankers did? Reads: a finished validation run of a
version before format 2 of rankers. Writes: JSON.

    python benchmarks/beauty_declared.py --run runs/beauty --json -

Each recipe is trained as `adc run` trains it today, on the run's joined rows with the run's seeds,
and compared on the evaluated rows with the scores that the run holds: paired differences, declared
minus former, over draws of users.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import write_report

from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of, split_of
from adc_features.ranking.recipes import RECIPES
from training.evaluation.metrics import PairedBootstrap
from training.stages import frame_of, schema_of, sources_of, split_frame, train_recipe


def compared(run: Run, names: list[str], seeds: int) -> dict[str, Any]:
    """By recipe: both systems' metrics and the paired difference, declared minus former."""
    frame, sources = frame_of(run), sources_of(run)
    _, scored = split_frame(run, frame)
    bootstrap = PairedBootstrap(scored.labels, scored.user_ids, seed=run.settings.seed)
    found: dict[str, Any] = {}
    for name in names:
        schema = schema_of(repository_of(run), run.settings.generation, RECIPES[name])
        started = time.perf_counter()
        trained, new = train_recipe(
            frame, sources, split_of(run), name, range(seeds), schema=schema
        )
        seconds = time.perf_counter() - started
        old = np.load(run.directory / f"ranker_{name}" / "scores.npy")[:seeds]
        holdout = [point.holdout for point in trained.curve]
        facts = {"rounds": trained.rounds, "holdout": holdout, "seconds": seconds}
        for metric in ("auc", "gauc"):
            measure = getattr(bootstrap, metric)
            ours, theirs = measure(new), measure(old)
            facts[metric] = {
                "declared": ours.interval(),
                "former": theirs.interval(),
                "difference": (ours - theirs).interval(),
            }
            print(name, metric, facts[metric]["difference"], flush=True)
        found[name] = facts
    return found


def main() -> None:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished validation run")
    parser.add_argument("--recipe", action="append", choices=[*RECIPES], help="by default all")
    parser.add_argument("--seeds", type=int, default=3, help="at most those of the run")
    parser.add_argument("--json", default="-", help="file, or - for standard output")
    given = parser.parse_args()
    run = Run.open(given.run)
    found = compared(run, given.recipe or [*RECIPES], min(given.seeds, run.settings.seeds))
    write_report(given.json, systems=found, ratios={})


if __name__ == "__main__":
    main()
