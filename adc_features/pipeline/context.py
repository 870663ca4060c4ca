"""What the finished stages of a run hold. Reads: stage directories. Writes: values.

Every stage asks here. The data set, the generation and the timeline are read once for an open run,
however many stages ask; embedding tables and snapshots are not kept, because a run needs them at
few places and they are the largest arrays that it has.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adc_features.clock import instant, moment
from adc_features.codes.embeddings import EmbeddingTable, id_array, vector_matrix
from adc_features.codes.generation import Generation, open_generation
from adc_features.codes.raw_items import RAW_TOKENIZERS, RawItems
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR
from adc_features.data.dataset import (
    Dataset,
    Split,
    read_dataset,
)
from adc_features.data.raw_items import raw_items
from adc_features.parquet_files import read_parquet
from adc_features.pipeline.run import Run

if TYPE_CHECKING:
    from adc_features.store.packed.timeline import PackedTimeline


def dataset_of(run: Run) -> Dataset:
    """The run's dataset, read once while the run is open."""
    return run.kept("data", _dataset_in)


def _dataset_in(directory: Path) -> Dataset:
    return read_dataset(directory / "dataset")


def split_of(run: Run) -> Split:
    """The run's split: validation, or test with `final`."""
    return dataset_of(run).windows.split(final=run.settings.final)


def cutoffs_of(run: Run) -> list[datetime]:
    """The cut-offs at which codes are published, the split's own last."""
    return [datetime.fromisoformat(t) for t in run.facts("data")["facts"]["cutoffs"]]


def content_vectors(
    dataset: Dataset, text: Callable[[str], tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Vectors and presence of every content modality: as they came with the items, and text views
    as `text` gives them.
    """
    both = {
        m: vector_matrix(dataset.items[f"vector_{m}"], name=f"vector_{m}")
        for m in dataset.vector_modalities
    }
    both |= {view: text(view) for view in dataset.text_views}
    return {m: v for m, (v, _) in both.items()}, {m: p for m, (_, p) in both.items()}


def text_of(run: Run, view: str) -> tuple[np.ndarray, np.ndarray]:
    """The run's vectors of a text view, float [N, D], and which items have one, bool [N]."""
    text = run.output("text")
    return np.load(text / f"{view}.npy"), np.load(text / f"{view}.present.npy")


def raw_of(run: Run, dataset: Dataset) -> RawItems | None:
    """The raw columns of a data set's items, where the run's tokenizer reads them."""
    return raw_items(dataset.items) if run.settings.tokenizer in RAW_TOKENIZERS else None


def embedding_tables(run: Run) -> list[EmbeddingTable]:
    """One EmbeddingTable per cut-off: content vectors as they are, behaviour as of the cut-off."""
    dataset = dataset_of(run)
    item_ids = id_array(dataset.items["item_id"])
    vectors, present = content_vectors(dataset, lambda view: text_of(run, view))
    series, raw = np.load(run.output("behavior") / "series.npz"), raw_of(run, dataset)
    return [
        EmbeddingTable(
            item_ids, {**vectors, BEHAVIOR: v}, {**present, BEHAVIOR: p}, count, moment(as_of), raw
        )
        for v, p, count, as_of in zip(
            series["vectors"],
            series["present"],
            series["interaction_count"],
            series["as_of"],
            strict=True,
        )
    ]


def generation_of(run: Run) -> Generation:
    """The run's generation, hashes checked once while the run is open."""
    return run.kept("generation", _generation_in)


def _generation_in(directory: Path) -> Generation:
    return open_generation(directory / "generation")


def timeline_of(run: Run) -> "PackedTimeline":
    """The run's codes through time as they were published, opened again when more are published."""
    from adc_features.store import published_files, published_timeline

    repo, generation = repository_of(run), run.settings.generation

    def published(_: Path) -> "PackedTimeline":
        return published_timeline(repo, generation)

    return run.kept("publication", published, changes_with=(generation, published_files(repo)))


def snapshots_of(run: Run) -> list[SidTable]:
    """The run's encoded snapshots, oldest first."""
    return [
        SidTable.from_arrow(read_parquet(path))
        for path in sorted(run.output("codes").glob("*.parquet"))
    ]


def repository_of(run: Run) -> Path:
    """The run's Feast repository."""
    return run.directory / "feature_repo"


def servable_at(run: Run) -> list[datetime]:
    """When each snapshot could first be served: its cut-off plus the publish lag."""
    return [t + timedelta(hours=run.settings.publish_lag_hours) for t in cutoffs_of(run)]


def refresh_times(run: Run, until: datetime | None = None) -> list[datetime]:
    """When every item's profile is published anew, rated or not: at each snapshot and at each
    month's start from the first one on.

    Statistics of an item's brand and category move while the item itself has no events; a month
    bounds how stale they get. until: default the end of the run's scored window.
    """
    snapshots = servable_at(run)
    first, last = (
        instant(snapshots[0]).astype("datetime64[M]") + 1,
        instant(until or serving_time(run)).astype("datetime64[M]"),
    )
    return sorted(
        {*snapshots, *(moment(t) for t in np.arange(first, last + 1).astype("datetime64[us]"))}
    )


def known_interactions(run: Run) -> Any:
    """The interactions a run may look at: all before the end of its scored window."""
    dataset, split = dataset_of(run), split_of(run)
    return dataset.interactions if split.eval_end is None else dataset.before(split.eval_end)


def serving_time(run: Run) -> datetime:
    """The run's `now`: the end of its scored window, when every event of it is known."""
    dataset, split = dataset_of(run), split_of(run)
    return (
        split.eval_end or moment(dataset.interactions["time"].to_numpy()[-1]) + dataset.resolution
    )
