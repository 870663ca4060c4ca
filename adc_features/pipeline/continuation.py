"""What a later cut-off of a run continues from.
Reads: a run, newer data. Writes: behaviour states, EmbeddingTables.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import is_made_of
from adc_features.clock import utc
from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.spec import BEHAVIOR
from adc_features.data.dataset import Dataset
from adc_features.encoders.behavior_state import BehaviorState, read_state
from adc_features.errors import InputError
from adc_features.live.items import kept_texts
from adc_features.pipeline.recipes import behavior_settings
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import (
    content_vectors,
    dataset_of,
    generation_of,
    load_source,
    raw_of,
    repository_of,
    split_of,
    text_of,
)


def data_until(run: Run, as_of: datetime, source: str | None) -> Dataset:
    """What the run may look at: its own data up to the end of its scored window, or the newer data
    that was given.
    """
    if source is not None:
        return load_source(source, seed=run.settings.seed)
    if (end := split_of(run).eval_end) is not None:
        refuse_after_window(as_of, end)
    return dataset_of(run)


def refuse_after_window(as_of: datetime, end: datetime) -> None:
    """Raise InputError for a cut-off after the end of the run's scored window, whose later rows
    nobody may look at yet.
    """
    if utc(as_of, name="as_of") > end:
        raise InputError(
            f"the run may look at its data up to {end.isoformat()}, as_of is {as_of.isoformat()};"
            " give newer data with --data, or an earlier cut-off"
        )


def made_of(run: Run) -> dict[str, Any]:
    """The generation and the behaviour that a snapshot rests on; another one makes it stale."""
    return {
        "codebook_hash": generation_of(run).codebook_hash,
        "behavior": run.facts("behavior")["files"],
    }


def is_current(run: Run, directory: Path) -> bool:
    """Is the snapshot complete, unaltered and of the run as it is now?"""
    return is_made_of(directory, made_of(run))


def state_until(run: Run, dataset: Dataset, as_of: datetime) -> BehaviorState:
    """Behaviour as of the cut-off, continued from the newest state before it: of the run's own
    cut-offs and its earlier snapshots.
    """
    from adc_features.encoders.behavior import continued, encoder_of

    paths = {path.name[:21]: path for path in (run.output("behavior") / "states").iterdir()}
    paths |= {
        d.name: d / "state.npz"
        for d in (run.directory / "snapshots").glob("[0-9]*")
        if is_current(run, d)
    }
    earlier = sorted(name for name in paths if name < f"{as_of:%Y%m%dT%H%M%S%f}")
    if not earlier:
        raise InputError(
            f"as_of {as_of.isoformat()} is not after the run's first cut-off, {min(paths)}: there"
            " is no behaviour to continue from; choose a later one"
        )
    settings = behavior_settings(run.settings.behavior)
    item_ids, content = id_array(dataset.items["item_id"]), None
    if encoder_of(settings).reads_content:
        vectors, present = content_vectors(dataset, _texts(run, dataset))
        content = {m: (vectors[m], present[m]) for m in vectors}
    return continued(
        read_state(paths[earlier[-1]]),
        dataset.before(as_of),
        item_ids,
        as_of=as_of,
        settings=settings,
        seed=run.settings.seed,
        content=content,
        progress=run.progress,
        device=run.settings.device,
    )


def _texts(run: Run, dataset: Dataset) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Text view -> vectors and presence, made or found in the cache."""
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    def text(view: str) -> tuple[np.ndarray, np.ndarray]:
        return text_vectors(
            item_texts(dataset.items, dataset.text_views[view]),
            model=run.settings.text_model,
            cache=cache_directory(),
            kept=kept_texts(repository_of(run)),
            progress=run.progress,
        )

    return text


def table_of(run: Run, dataset: Dataset, state: BehaviorState, *, own: bool) -> EmbeddingTable:
    """Content vectors of the data set and behaviour of the state. own: the text vectors are the
    run's; else they are made, or found in the cache.
    """
    text = partial(text_of, run) if own else _texts(run, dataset)
    vectors, present = content_vectors(dataset, text)
    item_ids = id_array(dataset.items["item_id"])
    behavior = state.over(item_ids)
    return EmbeddingTable(
        item_ids,
        {**vectors, BEHAVIOR: behavior.vectors},
        {**present, BEHAVIOR: behavior.present},
        behavior.interaction_count,
        behavior.as_of,
        raw_of(run, dataset),
    )
