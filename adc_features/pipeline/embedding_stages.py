"""The stages that load data and turn items into vectors. Reads: a data source. Writes: the stage
directories `data`, `text` and `behavior`.
"""

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.codes.reliability import rank_correlation
from adc_features.data.dataset import (
    Dataset,
    snapshot_times,
    write_dataset,
)
from adc_features.data.table_checks import examine_interactions, examine_items
from adc_features.pipeline.context import (
    content_vectors,
    cutoffs_of,
    dataset_of,
    split_of,
)
from adc_features.pipeline.published import refuse_other_data
from adc_features.pipeline.recipes import behavior_settings
from adc_features.pipeline.run import Run, RunSettings, Stage
from adc_features.pipeline.source import load_source, refuse_split, source_files

DECILES = 10


def _build_data(run: Run, directory: Path) -> Mapping[str, Any]:
    dataset = load_source(run.settings.source, seed=run.settings.seed)
    split = dataset.windows.split(final=run.settings.final)
    refuse_split(dataset, split)
    write_dataset(dataset, directory / "dataset")
    findings = [
        *examine_items(dataset.items, text_views=dataset.text_views),
        *examine_interactions(dataset.interactions, dataset.items),
    ]
    return {
        "name": dataset.name,
        "items": len(dataset.items),
        "users": len(set(dataset.interactions["user_id"].to_pylist())),
        "interactions": len(dataset.interactions),
        "split": split._asdict(),
        "cutoffs": snapshot_times(
            dataset.interactions["time"].to_numpy(),
            split=split.train_end,
            count=run.settings.snapshots,
        ),
        "findings": [f._asdict() for f in findings],
    }


def _build_text(run: Run, directory: Path) -> Mapping[str, Any]:
    dataset = dataset_of(run)
    if not dataset.text_views:
        return {}
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    facts = {}
    for view, columns in dataset.text_views.items():
        vectors, present = text_vectors(
            item_texts(dataset.items, columns),
            model=run.settings.text_model,
            cache=cache_directory(),
            progress=run.progress,
        )
        np.save(directory / f"{view}.npy", vectors)
        np.save(directory / f"{view}.present.npy", present)
        facts[view] = {
            "width": vectors.shape[1],
            "present": int(present.sum()),
            "distinct": len(np.unique(vectors, axis=0)),
        }
    return facts


def _build_behavior(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.encoders.behavior import behavior_series, drift

    dataset, split = dataset_of(run), split_of(run)
    settings = behavior_settings(run.settings.behavior)
    item_ids = id_array(dataset.items["item_id"])
    log = dataset.before(split.train_end)
    content, cutoffs = _content(run, dataset), cutoffs_of(run)
    series = behavior_series(
        log,
        item_ids,
        cutoffs=cutoffs,
        settings=settings,
        seed=run.settings.seed,
        content=None if content is None else [content] * len(cutoffs),
        checkpoint=run.partial(BEHAVIOR_STAGE),
        progress=run.progress,
        device=run.settings.device,
    )
    # what a killed process left
    shutil.copytree(
        run.partial(BEHAVIOR_STAGE), directory / "states", ignore=shutil.ignore_patterns(".*")
    )
    agreement = _half_agreement(run, log, item_ids, as_of=split.train_end, content=content)
    newest = series[-1]
    np.savez(
        directory / "series.npz",
        vectors=np.stack([s.vectors for s in series]),
        present=np.stack([s.present for s in series]),
        interaction_count=np.stack([s.interaction_count for s in series]),
        as_of=np.array([instant(s.as_of) for s in series]),
        half_agreement=agreement,
    )
    norm, count = (
        np.linalg.norm(newest.vectors[newest.present], axis=1),
        newest.interaction_count[newest.present],
    )
    agreed = agreement[newest.present]
    shared = np.isfinite(agreed)
    return {
        "drift": [drift(a, b) for a, b in itertools.pairwise(series)],
        "alignment_residual": [s.alignment_residual for s in series[1:]],
        "warm_items": [int(s.present.sum()) for s in series],
        "norm_rank_correlation": rank_correlation(norm, count),
        "half_agreement_items": int(shared.sum()),
        "half_agreement_rank_correlation": {
            "log_count": rank_correlation(agreed[shared], count[shared]),
            "norm": rank_correlation(agreed[shared], norm[shared]),
        },
        "popularity_deciles": popularity_deciles(count, norm=norm, half_agreement=agreed),
    }


def _half_agreement(
    run: Run, log: pa.Table, item_ids: np.ndarray, *, as_of: datetime, content: Any
) -> np.ndarray:
    """How alike two encoders, each of half of the users' events, see each item: in [-1, 1], NaN
    for items that one of them has not met. A quick run trains no such encoders: all NaN.
    """
    from adc_features.encoders.behavior import half_agreement

    if run.settings.behavior == "quick":
        return np.full(len(item_ids), np.nan)
    return half_agreement(
        log,
        item_ids,
        as_of=as_of,
        settings=behavior_settings(run.settings.behavior),
        seed=run.settings.seed,
        content=content,
        progress=run.progress,
        device=run.settings.device,
    )


def _content(run: Run, dataset: Dataset) -> Any:
    """What the run's encoder of behaviour reads of the items: content by modality, None where it
    reads events alone.
    """
    from adc_features.encoders.behavior import encoder_of
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    if not encoder_of(behavior_settings(run.settings.behavior)).reads_content:
        return None

    def text(view: str) -> tuple[np.ndarray, np.ndarray]:
        return text_vectors(
            item_texts(dataset.items, dataset.text_views[view]),
            model=run.settings.text_model,
            cache=cache_directory(),
            progress=run.progress,
        )

    vectors, present = content_vectors(dataset, text)
    return {m: (vectors[m], present[m]) for m in vectors}


def _behavior_recipe(settings: RunSettings) -> dict[str, Any]:
    from adc_features.encoders.behavior import encoder_of

    found = behavior_settings(settings.behavior)
    text = {"text_model": settings.text_model} if encoder_of(found).reads_content else {}
    return asdict(found) | text


def popularity_deciles(count: np.ndarray, **values: np.ndarray) -> list[dict[str, float]]:
    """Means of `values` over ten groups of items of equal size, rarest first; NaN values are left
    out of their mean.
    """
    order = np.argsort(count, kind="stable")
    groups = [g for g in np.array_split(order, DECILES) if len(g)]
    mean = {
        name: [float(np.nanmean(v[g])) if np.isfinite(v[g]).any() else float("nan") for g in groups]
        for name, v in values.items()
    }
    return [
        {"interactions": float(count[g].mean()), **{name: m[i] for name, m in mean.items()}}
        for i, g in enumerate(groups)
    ]


DATA = Stage("data", (), ("source", "final", "snapshots", "seed"), _build_data, source_files)
TEXT = Stage("text", (DATA,), ("text_model",), _build_text, guard=refuse_other_data)
BEHAVIOR_STAGE = Stage(
    "behavior",
    (DATA,),
    ("behavior", "seed"),
    _build_behavior,
    recipe=_behavior_recipe,
    guard=refuse_other_data,
)
