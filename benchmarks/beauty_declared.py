"""Do the declared recipes score as the old rankers did? Reads: a finished validation run. Writes:
JSON.

    python benchmarks/beauty_declared.py --run runs/beauty --json -

Each recipe of `training.recipes` is resolved against the run's own feature service, trained on the
run's joined rows with the run's seeds, and compared on the evaluated rows with the scores that the
run holds: paired differences, declared minus old, over draws of users.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _measure import write_report

from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.resolution import resolution
from adc_features.inputs.rows import Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.loader.frame import TrainingFrame
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of, timeline_of
from training.evaluation.metrics import PairedBootstrap
from training.fit import HOLDOUT
from training.ranker.labelled import Labelled
from training.ranker.models import ModelFit
from training.recipes import RECIPES, declared_recipe
from training.stages import frame_of, split_frame


def keyed(frame: TrainingFrame, schema: ServiceSchema) -> pa.Table:
    """The joined rows with columns named as a service's features are."""
    keys = {feature.name: feature.key for feature in schema.features}
    return frame.table.rename_columns([keys.get(n, n) for n in frame.table.column_names])


def scores_of(run: Run, schema: ServiceSchema, name: str, seeds: int) -> dict[str, Any]:
    """A declared recipe's probabilities [S, N] of the evaluated rows, with rounds and seconds."""
    train, scored = split_frame(run, frame_of(run))
    resolved = resolution(declared_recipe(name, schema.service), schema)
    timeline = timeline_of(run)
    parts, later = (
        Parts.joined(keyed(frame, schema), frame.times, timeline=timeline)
        for frame in (train, scored)
    )
    started = time.perf_counter()
    encoder = InputEncoder.fit(resolved.inputs, parts)
    label = train.labels[None]
    users = np.unique(train.user_ids, return_inverse=True)[1]
    rows = Labelled(
        encoder.encode(parts, training=True),
        label,
        np.ones_like(label, bool),
        np.ones(len(train)),
        None,
        users,
    )
    cut = np.sort(train.times)[int(len(train) * (1 - HOLDOUT))]
    before, newest = (
        taken(rows, np.flatnonzero(w)) for w in (train.times < cut, train.times >= cut)
    )
    model = ModelFit(resolved.ranker, encoder)
    rounds, curve = model.rounds(before, newest, seed=0)
    shown = encoder.encode(later)
    scores = [model.fit(rows, seed=seed, rounds=rounds).predict(shown)[0] for seed in range(seeds)]
    return {
        "scores": np.stack(scores),
        "rounds": rounds,
        "holdout": [point.holdout for point in curve],
        "seconds": time.perf_counter() - started,
    }


def taken(rows: Labelled, places: np.ndarray) -> Labelled:
    """Some of the rows."""
    assert rows.users is not None
    return Labelled(
        rows.encoded.take(places),
        rows.labels[:, places],
        rows.mask[:, places],
        rows.weights[places],
        None,
        rows.users[places],
    )


def compared(run: Run, names: list[str], seeds: int) -> dict[str, Any]:
    """By recipe: both systems' metrics and the paired difference, declared minus old."""
    from adc_features.store import service_name
    from adc_features.store.services.schema import service_schema

    schema = service_schema(repository_of(run), service_name(run.settings.generation))
    _, scored = split_frame(run, frame_of(run))
    bootstrap = PairedBootstrap(scored.labels, scored.user_ids, seed=run.settings.seed)
    found: dict[str, Any] = {}
    for name in names:
        new = scores_of(run, schema, name, seeds)
        old = np.load(run.directory / f"ranker_{name}" / "scores.npy")[:seeds]
        facts = found[name] = {k: v for k, v in new.items() if k != "scores"}
        for metric in ("auc", "gauc"):
            measure = getattr(bootstrap, metric)
            ours, theirs = measure(new["scores"]), measure(old)
            facts[metric] = {
                "declared": ours.interval(),
                "old": theirs.interval(),
                "difference": (ours - theirs).interval(),
            }
            print(name, metric, facts[metric]["difference"], flush=True)
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
