"""What one retraining is asked. Reads: a run, newer data, its catalogue. Writes: RetrainTask, with
the names and hashes that its answer is kept under.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from adc_features.catalog import Catalog
from adc_features.clock import utc
from adc_features.codes.embeddings import id_array
from adc_features.data.dataset import Dataset
from adc_features.errors import ArtifactError
from adc_features.loader.frame import label_table
from adc_features.pipeline.dataset_manifest import retrieval_manifest
from adc_features.pipeline.pairs import promotion_of
from adc_features.pipeline.run import Run
from adc_features.pipeline.snapshots import refuse_after_window
from adc_features.pipeline.stages import dataset_of, load_source, repository_of, split_of
from adc_features.serving.promotion import PROMOTION, Promotion, read_promotion
from training.deployment.decisions import content_hash
from training.deployment.places import retrain_place
from training.deployment.record import sync
from training.deployment.settings import RetrainSettings
from training.deployment.windows import Windows, windows_of


@dataclass(frozen=True)
class RetrainTask:
    """Everything that a retraining's answer follows from, besides what is published.

    source: newer data than the run's own, or None. champion: what serves, with the windows that it
    leaves to judge it in. generation: the challenger's, None for no codes. at: the time on record.
    """

    run: Run
    dataset: Dataset
    source: str | None
    champion: Promotion
    windows: Windows
    generation: str | None
    settings: RetrainSettings
    at: datetime

    @property
    def repository(self) -> Path:
        return repository_of(self.run)

    @cached_property
    def labels(self) -> pa.Table:
        """Every labelled row before the window's end."""
        return label_table(self.dataset.before(self.windows.end))

    @cached_property
    def labels_hash(self) -> str:
        return str(retrieval_manifest([self.labels], self.labels.schema)["content_hash"])

    def facts(self) -> dict[str, Any]:
        """The task as the catalogue records it."""
        return {
            "as_of": self.windows.end.isoformat(),
            "window_start": self.windows.start.isoformat(),
            "champion": self.champion.ranker_hash,
            "generation": self.generation,
        }

    def made_of(self) -> dict[str, Any]:
        """Equal tasks have equal answers."""
        return {**self.facts(), "labels": self.labels_hash, "settings": asdict(self.settings)}

    @cached_property
    def directory(self) -> Path:
        """Named by everything that the answer follows from: no later task writes where a ranker
        serves.
        """
        return self.run.directory / retrain_place(self.windows.end, self.made_of())


def retrain_task(
    run: Run,
    catalog: Catalog,
    *,
    as_of: datetime | None,
    source: str | None,
    generation: str | None,
    settings: RetrainSettings,
    complete_through: datetime | None,
    at: datetime,
) -> RetrainTask:
    """The task of a call of `retrain`, for the ranker that serves now, or the run's own where
    nothing was promoted. Raises InputError for a window that the run must not look at, or that data
    does not reach; ArtifactError when a ranker serves that is not on record.
    """
    dataset = load_source(source, seed=run.settings.seed) if source else dataset_of(run)
    if complete_through:
        dataset = replace(dataset, complete_through=complete_through)
    limit = None if source else split_of(run).eval_end
    as_of = utc(as_of, name="as_of") if as_of else min(limit or dataset.last_known, dataset.end)
    if limit is not None:
        refuse_after_window(as_of, limit)
    dataset.refuse_after_end(as_of)
    sync(run, catalog, at=at)
    path = run.directory / PROMOTION
    champion = read_promotion(path) if path.exists() else promotion_of(run, promoted_at=at)
    known = {r["hash"]: r["trained_through"] for r in catalog.rankers()}
    if champion.ranker_hash not in known:
        raise ArtifactError(
            f"the serving ranker {champion.ranker} is not a ranker of {run.directory}; promote"
            f" one of its own, `adc promote --run {run.directory}`"
        )
    windows = windows_of(
        through=known[champion.ranker_hash], as_of=as_of, days=settings.window_days
    )
    return RetrainTask(
        run, dataset, source, champion, windows, generation or champion.generation, settings, at
    )


def answer_depends_on(task: RetrainTask, *, judged_gauc: float | None) -> str:
    """Hash of what the answer follows from besides the task: what is published, and what the
    champion was judged to be.
    """
    from adc_features.store import live_generations, published_snapshots

    used = {task.generation, task.champion.generation} - {None}
    snapshots = {
        g.id: [
            g.codebook_hash,
            *(s.to_dict() for s in published_snapshots(task.repository, g.id)),
        ]
        for g in live_generations(task.repository)
        if g.id in used
    }
    facts = {
        "snapshots": snapshots,
        "champion_on": task.champion.generation,
        "judged_gauc": judged_gauc,
        "items": id_array(task.dataset.items["item_id"]),
    }
    return content_hash(facts)
