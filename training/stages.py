"""The training stages of a run, after the library's. Reads: the run's Feast repository. Writes:
stage directories.

... publication -> dataset -> ranker_<recipe>, ... -> scores
    online -> parity

A stage reads what it needs of the run once, calls functions of values, and writes what they return.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.artifact import write_json
from adc_features.codes.sids import SidTable, SidTimeline
from adc_features.data.dataset import Split
from adc_features.errors import ArtifactError, InputError
from adc_features.inputs.schema import ServiceSchema
from adc_features.loader.frame import TrainingFrame, label_table, retroactive_frame, training_frame
from adc_features.parquet_files import read_parquet
from adc_features.pipeline.dataset_manifest import (
    RETRIEVAL,
    differences,
    parquet_batches,
    retrieval_manifest,
)
from adc_features.pipeline.run import Progress, Run, Stage, ranker_name
from adc_features.pipeline.run_refresh import codes_online, refresh_of
from adc_features.pipeline.stages import (
    CODES,
    DATA,
    GENERATION,
    ONLINE,
    PUBLICATION,
    STAGES,
    dataset_of,
    embedding_tables,
    generation_of,
    id_array,
    known_interactions,
    repository_of,
    servable_at,
    snapshots_of,
    split_of,
    timeline_of,
)
from adc_features.ranking.recipes import RECIPES, Recipe, Sources
from adc_features.ranking.trained import Trained
from adc_features.store.refresh import RefreshSchedule
from training.evaluation.evaluate import code_coverage, evaluate
from training.ranker.refresh import refresh_facts
from training.vectors import VectorTimeline

PARITY_SAMPLE = 1_000
FRAME = "frame.parquet"
RETROACTIVE = "codes_weights_retroactive"
"""Codes and weights of the newest snapshot declared valid for all time, as papers do: a leak,
trained to show how large it is.
"""


# ---- dataset


def _build_dataset(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.store import join_facts, write_parquet

    joined = joined_rows(run)
    facts, manifest = join_facts(joined), _retrieved(joined)
    write_parquet([joined], directory / FRAME)
    write_json(directory / RETRIEVAL, manifest)
    train, scored = split_rows(checked_frame(run, joined), split_of(run))
    return {
        "rows_in": facts.rows_in,
        "rows_out": facts.rows_out,
        "unmatched": facts.unmatched,
        "generation": facts.generation,
        "content_hash": manifest["content_hash"],
        "coverage": {
            "train": code_coverage(train).to_dict(),
            "scored": code_coverage(scored).to_dict(),
        },
    }


def _published_snapshots(run: Run) -> Any:
    """The snapshots that rows are joined with: one more, by `adc snapshot` or `adc backfill`, and
    the rows are joined anew.
    """
    from adc_features.store import published_snapshots

    snapshots = [
        [s.as_of, s.servable_at, s.computed_at]
        for s in published_snapshots(repository_of(run), run.settings.generation)
    ]
    refresh = run_refresh(run)  # fresh rows are described as ever, and found again
    return {"snapshots": snapshots, "refresh": refresh_facts(refresh)} if refresh else snapshots


def run_refresh(run: Run) -> dict[str, RefreshSchedule]:
    """How the run's views are refreshed online."""
    return refresh_of(repository_of(run), run.settings)


def joined_rows(run: Run, refresh: Mapping[str, RefreshSchedule] | None = None) -> pa.Table:
    """The run's labels with the features that were online at their time. refresh: in place of the
    run's own schedules."""
    from adc_features.store import service_name, training_features

    labels = label_table(known_interactions(run))
    return training_features(
        repository_of(run),
        labels,
        service=service_name(run.settings.generation),
        event_times=True,
        refresh=run_refresh(run) if refresh is None else refresh,
    )


def _retrieved(joined: pa.Table) -> dict[str, Any]:
    from adc_features.store import join_facts

    facts = join_facts(joined)
    return retrieval_manifest(
        [joined],
        joined.schema,
        service=facts.service,
        generation=facts.generation,
        unmatched=facts.unmatched,
        tables=facts.tables,
        rows_in=facts.rows_in,
    )


def verify_dataset(run: Run) -> dict[str, Any]:
    """Prove that the run's frame is what its retrieval manifest says, and that the same join gives
    it again now.

    Returns {"rows", "content_hash"}. Raises ArtifactError, with every difference, when the file or
    the answer of the join is another.
    """
    directory = run.output(DATASET)
    path = directory / RETRIEVAL
    if not path.is_file():
        raise ArtifactError(
            f"{directory} has no {RETRIEVAL}, an older version wrote it; run `adc dataset` in a new"
            " run directory"
        )
    then = json.loads(path.read_text(encoding="utf-8"))
    stored = retrieval_manifest(
        parquet_batches(directory / FRAME), pq.read_schema(directory / FRAME)
    )
    said = [
        f"the file {FRAME}: {d}"
        for d in differences(then, {**then, **{k: stored[k] for k in ("rows", "columns")}})
    ]
    said += [f"the join: {d}" for d in differences(then, _retrieved(joined_rows(run)))]
    if said:
        raise ArtifactError(
            "the dataset differs from its retrieval manifest. "
            + "; ".join(said)
            + ". Join again for a new dataset, or restore what was published"
        )
    return {"rows": then["rows"], "content_hash": then["content_hash"]}


def checked_frame(run: Run, joined: pa.Table) -> TrainingFrame:
    """Joined rows of a run as the frame that its rankers learn from."""
    dataset, split = dataset_of(run), split_of(run)
    known = dataset.interactions if split.eval_end is None else dataset.before(split.eval_end)
    return training_frame(
        joined,
        label_table(known),
        generation=run.settings.generation,
        codebook_size=generation_of(run).spec.codebook_size,
        resolution=dataset.resolution,
    )


def frame_of(run: Run) -> TrainingFrame:
    """The run's joined rows, checked again on the way in."""
    return checked_frame(run, read_parquet(run.output(DATASET) / FRAME))


def split_frame(run: Run, frame: TrainingFrame) -> tuple[TrainingFrame, TrainingFrame]:
    """Training rows and scored rows of the run's split."""
    return split_rows(frame, split_of(run))


def split_rows(frame: TrainingFrame, split: Split) -> tuple[TrainingFrame, TrainingFrame]:
    """Training rows and scored rows. Raises InputError when no row would be scored."""
    train = frame.between(None, split.train_end)
    scored = frame.between(split.eval_start, split.eval_end)
    if not len(scored):
        raise InputError(
            f"no row lies in the scored window from {split.eval_start.isoformat()}; choose other"
            " windows"
        )
    return train, scored


# ---- rankers


def sources_of(run: Run, refresh: Mapping[str, RefreshSchedule] | None = None) -> Sources:
    """Codes through time as they were online, and raw vectors as the run published them. refresh:
    in place of the run's own schedules."""
    vectors = VectorTimeline(embedding_tables(run), servable_at(run))
    sids = codes_online(
        timeline_of(run), run.settings, run_refresh(run) if refresh is None else refresh
    )
    return Sources(sids=sids, vectors=vectors)


def retroactive(
    frame: TrainingFrame, sources: Sources, newest: SidTable, *, first: datetime
) -> tuple[TrainingFrame, Sources]:
    """The same rows and sources as if the newest codes had been valid for all time. first: when
    the first snapshot could be served.
    """
    frame = retroactive_frame(frame, newest)
    if not sources.sids:
        return frame, sources
    return frame, Sources(sids=SidTimeline([newest], [first - timedelta(days=36_500)]))


def train_recipe(
    frame: TrainingFrame,
    sources: Sources,
    split: Split,
    recipe: str,
    seeds: Sequence[int],
    *,
    schema: ServiceSchema | None = None,
    one_round: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[Trained, np.ndarray]:
    """A recipe trained on the split's training rows, and its probabilities [S, N] of the scored
    rows. schema: the service whose features were joined; one_round: see `training.fit`.
    """
    from training.fit import train

    rows, scored = split_rows(frame, split)
    trained = train(
        rows,
        RECIPES[recipe],
        sources=sources,
        seeds=seeds,
        schema=schema,
        one_round=one_round,
        device=device,
        progress=progress,
    )
    return trained, trained.predict(scored, sources)


def schema_of(repository: Path, generation: str | None, recipe: Recipe) -> ServiceSchema:
    """The service that a recipe is declared on: that of the generation whose codes it reads, or the
    statistics alone.
    """
    from adc_features.store import service_name
    from adc_features.store.services.schema import service_schema

    return service_schema(repository, service_name(None if recipe.codes == "none" else generation))


def _build_ranker(run: Run, directory: Path, *, name: str) -> Mapping[str, Any]:
    frame, sources, leaks = frame_of(run), sources_of(run), name == RETROACTIVE
    if leaks:
        newest, first = snapshots_of(run)[-1], servable_at(run)[0]
        frame, sources = retroactive(frame, sources, newest, first=first)
    recipe = "codes_weights" if leaks else name
    trained, scores = train_recipe(
        frame,
        sources,
        split_of(run),
        recipe,
        range(run.settings.seeds),
        schema=schema_of(repository_of(run), run.settings.generation, RECIPES[recipe]),
        one_round=run.settings.one_round,
        device=run.settings.device,
        progress=run.progress,
    )
    np.save(directory / "scores.npy", scores)
    # controls and the leaky one are never served
    if trained.exchanged is None and not leaks:
        replace(trained, refresh=refresh_facts(run_refresh(run))).save(directory / "model")
    return {"recipe": name, "rounds": trained.rounds, "curve": [r._asdict() for r in trained.curve]}


def ranker_stage(name: str) -> Stage:
    """The stage that trains one recipe and scores the evaluated rows."""
    return Stage(
        ranker_name(name),
        (DATASET, GENERATION, CODES),
        ("seeds",),
        lambda run, directory: _build_ranker(run, directory, name=name),
        recipe=lambda settings: {"one_round": True} if settings.one_round else None,
    )


# ---- scores and parity


def _build_scores(run: Run, directory: Path, *, recipes: Sequence[str]) -> Mapping[str, Any]:
    split = split_of(run)
    if run.settings.final:
        run.record("test_rows_opened", split=split._asdict(), recipes=list(recipes))
    train, scored = split_rows(frame_of(run), split)
    scores = {name: np.load(run.output(RANKERS[name]) / "scores.npy") for name in recipes}
    facts = evaluate(scores, scored, trained_on=train, seed=run.settings.seed).to_dict()
    write_json(directory / "scores.json", facts)
    return facts


def scores_stage(recipes: Sequence[str]) -> Stage:
    """The stage that scores the evaluated rows by these recipes, together."""
    return Stage(
        "scores",
        (DATASET, *(RANKERS[name] for name in recipes)),
        ("seed", "final"),
        lambda run, directory: _build_scores(run, directory, recipes=recipes),
    )


def asked_recipes(names: Sequence[str] | None) -> tuple[str, ...]:
    """The recipes of these names, all without one, in the order of reports. Raises InputError for
    an unknown name."""
    if unknown := [r for r in names or () if r not in RANKERS]:
        raise InputError(f"there is no recipe {unknown[0]!r}; choose from {', '.join(RANKERS)}")
    return tuple(r for r in RANKERS if not names or r in names)


def trained_recipes(run: Run) -> tuple[str, ...]:
    """The recipes whose rankers are trained on what the run now holds. Raises ArtifactError when
    none is."""
    found = tuple(name for name, stage in RANKERS.items() if run.is_current(stage))
    if not found:
        raise ArtifactError(
            f"{run.directory} has no ranker that was trained on its present settings and stages;"
            f" train some first, `adc train --run {run.directory} --recipe NAME`"
        )
    return found


def scored_recipes(run: Run) -> tuple[str, ...]:
    """The recipes that the run's scores are of. Raises ArtifactError when nothing was scored."""
    reads = run.facts(SCORES)["made_of"]["reads"]
    return tuple(name for name, stage in RANKERS.items() if stage.name in reads)


def stages_of(recipes: Sequence[str]) -> tuple[Stage, ...]:
    """Every stage of a run that trains and scores these recipes, in order."""
    rankers = (RANKERS[name] for name in recipes)
    return (*STAGES, DATASET, PARITY, *rankers, scores_stage(recipes))


def parity_sample(
    item_ids: pa.ChunkedArray, user_ids: pa.ChunkedArray, *, seed: int
) -> dict[str, np.ndarray]:
    """The items and users to compare online with offline: at most PARITY_SAMPLE of each."""
    rng = np.random.default_rng(seed)
    ids = {"item_ids": id_array(item_ids), "user_ids": np.unique(id_array(user_ids))}
    return {name: rng.permutation(values)[:PARITY_SAMPLE] for name, values in ids.items()}


def _build_parity(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.store import parity, require_parity, service_name

    items, log = dataset_of(run).items, known_interactions(run)
    sample = parity_sample(items["item_id"], log["user_id"], seed=run.settings.seed)
    now = datetime.fromisoformat(run.facts(ONLINE)["facts"]["now"])
    facts = parity(
        repository_of(run), service=service_name(run.settings.generation), now=now, **sample
    )
    require_parity(facts)
    write_json(directory / "parity.json", facts)
    return {"now": now, **facts}


DATASET = Stage("dataset", (DATA, PUBLICATION), (), _build_dataset, _published_snapshots)
RANKERS = {name: ranker_stage(name) for name in (*RECIPES, RETROACTIVE)}
PARITY = Stage("parity", (PUBLICATION, ONLINE), ("seed",), _build_parity)
SCORES = scores_stage(tuple(RANKERS))
ALL_STAGES = stages_of(tuple(RANKERS))
