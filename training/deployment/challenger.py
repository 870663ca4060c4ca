"""The rows that both rankers are judged on, and the challenger. Reads: a RetrainTask, what is
published. Writes, each found again when made of the same:

<run>/retrains/<as_of>_<hash>/frame_<generation>/   labelled rows joined with what was knowable at
                                                    each
<run>/retrains/<as_of>_<hash>/ranker/model/         the challenger
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adc_features.artifact import ensure_directory, read_manifest
from adc_features.catalog import Catalog
from adc_features.loader.frame import TrainingFrame, training_frame
from adc_features.parquet_files import read_parquet
from adc_features.pipeline.run_refresh import refresh_of
from adc_features.ranking.legacy.trained import LegacyTrained
from adc_features.ranking.recipes import Recipe, Sources
from adc_features.ranking.trained import Trained, load_trained
from adc_features.store.freshness import online_timeline
from adc_features.store.refresh import RefreshSchedule
from adc_features.store.repository import sid_view_name
from training.deployment.decisions import DECISION
from training.deployment.record import line_of
from training.deployment.task import RetrainTask
from training.fit import train
from training.ranker.refresh import refresh_facts
from training.stages import schema_of

FRAME = "frame.parquet"


def live_of(task: RetrainTask, generation: str) -> Any:
    """What is published of a generation."""
    from adc_features.store.repository import live_generation

    return live_generation(task.repository, generation)


def sources_for(task: RetrainTask, generation: str | None) -> Sources:
    """The codes that a ranker on this generation reads; none without one."""
    from adc_features.store import published_timeline

    if generation is None:
        return Sources()
    timeline = published_timeline(task.repository, generation)
    schedule = refresh_for(task, generation).get(sid_view_name(generation))
    return Sources(sids=online_timeline(timeline, schedule))


def refresh_for(task: RetrainTask, generation: str | None) -> dict[str, RefreshSchedule]:
    """View -> how it is refreshed online: what the run's setting says, else its repository.

    The codes of any generation are refreshed as those of the run's own.
    """
    found = refresh_of(task.repository, task.run.settings)
    own = found.pop(sid_view_name(task.run.settings.generation), None)
    if own is not None and generation is not None:
        found[sid_view_name(generation)] = own
    return found


def labelled_frame(task: RetrainTask, generation: str | None) -> TrainingFrame:
    """Every labelled row before the window's end with the features of this generation's service."""
    from adc_features.store import (
        published_snapshots,
        service_name,
        training_features,
        write_parquet,
    )

    repo, labels = task.repository, task.labels
    refresh = refresh_for(task, generation)

    def join(directory: Path) -> None:
        joined = training_features(repo, labels, service=service_name(generation), refresh=refresh)
        write_parquet([joined], directory / FRAME)

    published = published_snapshots(repo, generation) if generation else []
    # times as `str` writes them, so that frames of earlier versions are found again
    snapshots = json.loads(json.dumps([s.to_dict() for s in published], default=str))
    target = _frame_directory(task, generation)
    made_of = {"labels": task.labels_hash, "snapshots": snapshots}
    if refresh:  # fresh frames of earlier versions are found again, too
        made_of["refresh"] = refresh_facts(refresh)
    ensure_directory(target, made_of, join)
    return training_frame(
        read_parquet(target / FRAME),
        labels,
        generation=generation,
        codebook_size=live_of(task, generation).codebook_size if generation else 0,
        resolution=task.dataset.resolution,
    )


def _frame_directory(task: RetrainTask, generation: str | None) -> Path:
    return task.directory / f"frame_{generation or 'no_sid'}"


def champion_of(task: RetrainTask) -> Trained | LegacyTrained:
    """The serving ranker, under the name that its generation had when it was trained."""
    champion = task.champion
    return load_trained(champion.ranker, generation=champion.known_as or champion.generation)


def judged_gauc(task: RetrainTask) -> float | None:
    """GAUC of the champion when it was judged: by the run's evaluation, or by the retraining that
    made it.
    """
    decision = task.champion.ranker.parent.parent / DECISION
    if decision.is_file():
        return _mean_gauc(_read(decision)["scores"], "challenger")
    scores = task.run.directory / "scores" / "scores.json"
    recipe = read_manifest(task.champion.ranker, verify=False)["recipe"]["name"]
    return _mean_gauc(_read(scores)["recipes"] if scores.is_file() else {}, recipe)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _mean_gauc(scores: Mapping[str, Any], name: str) -> float | None:
    return float(scores[name]["gauc"]["mean"]) if name in scores else None


def challenger_model(task: RetrainTask, catalog: Catalog, frame: TrainingFrame) -> Path:
    """The challenger's directory: the champion's recipe, trained on the rows before the window or
    found there complete. Where its generation keeps the champion's codes, it starts from the
    champion's code embeddings.
    """
    recipe = Recipe(**read_manifest(task.champion.ranker)["recipe"])

    def fill(directory: Path) -> Mapping[str, Any]:
        older = champion_of(task)
        # one of the former format has no embeddings that a declared ranker could begin with
        warm = isinstance(older, Trained) and _keeps_codes(task, catalog)
        trained = train(
            frame.between(None, task.windows.start),
            recipe,
            sources=sources_for(task, task.generation),
            seeds=range(task.run.settings.seeds),
            schema=schema_of(task.repository, task.generation, recipe),
            start=older if isinstance(older, Trained) and warm else None,
            progress=task.run.progress,
        )
        facts = refresh_facts(refresh_for(task, task.generation))
        replace(trained, refresh=facts).save(directory / "model")
        through = task.windows.start
        return {"facts": {"recipe": recipe.name, "trained_through": through, "warm": warm}}

    joined = read_manifest(_frame_directory(task, task.generation))["files"]
    ensure_directory(task.directory / "ranker", {**task.made_of(), "frame": joined}, fill)
    return task.directory / "ranker" / "model"


def _keeps_codes(task: RetrainTask, catalog: Catalog) -> bool:
    """Is the challenger's generation the champion's, or a later one of its line?"""
    if task.generation is None:
        return False
    live = {g["id"]: g for g in catalog.generations() if g["state"] == "live"}
    learned_on = task.champion.known_as or task.champion.generation
    return learned_on in line_of(live, task.generation)
