"""The library's stages of a run, in order. Reads: a data source. Writes: stage directories and the
run's Feast repository.

    data -> text -> behavior -> generation -> codes -> publication -> online

`training.stages` goes on from here.
"""

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from adc_features.artifact import MANIFEST, fresh_directory, write_json
from adc_features.clock import instant, moment
from adc_features.codes.embeddings import EmbeddingTable, id_array, vector_matrix
from adc_features.codes.generation import Generation, open_generation
from adc_features.codes.reliability import rank_correlation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.data.beauty import beauty, is_beauty
from adc_features.data.dataset import (
    Dataset,
    Split,
    dataset_from_tables,
    read_dataset,
    read_table,
    snapshot_times,
    table_in,
    write_dataset,
)
from adc_features.data.table_checks import examine_interactions, examine_items
from adc_features.errors import InputError
from adc_features.pipeline.run import Run, RunSettings, Stage
from adc_features.redaction import redacted_url

DECILES = 10
T = TypeVar("T")


# ---- data


def load_source(source: str, *, seed: int) -> Dataset:
    """The data of a run: `synthetic`, a dataset directory, the Beauty files, or a directory with
    items.parquet and interactions.parquet.
    """
    from adc_features.data.synthetic import synthetic

    if source == "synthetic":
        return synthetic(seed=seed).dataset
    directory = Path(source)
    if not directory.is_dir():
        raise InputError(
            f"{redacted_url(source)} is not a directory; give a directory with items.parquet and"
            " interactions.parquet, or 'synthetic'"
        )
    if (directory / MANIFEST).is_file():
        return read_dataset(directory)
    if is_beauty(directory):
        return beauty(directory)
    return dataset_from_tables(
        directory.name,
        read_table(table_in(directory, "items")),
        read_table(table_in(directory, "interactions")),
    )


def _recipe(recipes: Mapping[str, Callable[[], T]], name: str, *, option: str) -> T:
    if name not in recipes:
        raise InputError(f"{option} is {name!r}; expected one of {', '.join(recipes)}")
    return recipes[name]()


def _build_data(run: Run, directory: Path) -> Mapping[str, Any]:
    dataset = load_source(run.settings.source, seed=run.settings.seed)
    split = dataset.windows.split(final=run.settings.final)
    _refuse_split(dataset, split)
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


def _refuse_split(dataset: Dataset, split: Split) -> None:
    """Before hours of work: both sides of the split must hold rows of both classes."""
    train, scored = (
        dataset.before(split.train_end),
        dataset.within(split.eval_start, split.eval_end),
    )
    scored_span = (
        f"from {split.eval_start.isoformat()} to"
        f" {split.eval_end.isoformat() if split.eval_end else 'the end'}"
    )
    for rows, span in (
        (train, f"before the cut-off {split.train_end.isoformat()}"),
        (scored, scored_span),
    ):
        if not len(rows):
            raise InputError(f"no interaction lies {span}; choose other windows")
        if len(labels := np.unique(rows["label"].to_numpy())) < 2:
            raise InputError(
                f"all {len(rows)} rows {span} have label {labels[0]:g}; a ranker needs both"
                " classes, choose other windows"
            )


def _source_files(run: Run) -> Any:
    """Names, sizes and modification times of the source files: a changed source is loaded again."""
    directory = Path(run.settings.source)
    # a table may be a directory; a run may lie in the source's directory
    files = [*directory.glob("*"), *directory.glob("*.parquet/**/*")]
    return (
        [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(files) if f.is_file()]
        if directory.is_dir()
        else None
    )


def dataset_of(run: Run) -> Dataset:
    """The run's dataset."""
    return read_dataset(run.output("data") / "dataset")


def split_of(run: Run) -> Split:
    """The run's split: validation, or test with `final`."""
    return dataset_of(run).windows.split(final=run.settings.final)


def cutoffs_of(run: Run) -> list[datetime]:
    """The cut-offs at which codes are published, the split's own last."""
    return [datetime.fromisoformat(t) for t in run.facts("data")["facts"]["cutoffs"]]


# ---- text


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


# ---- behavior


def _build_behavior(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.encoders.behavior import RECIPES, behavior_series, drift, half_agreement

    dataset, split = dataset_of(run), split_of(run)
    settings = _recipe(RECIPES, run.settings.behavior, option="behavior")
    item_ids = id_array(dataset.items["item_id"])
    log = dataset.before(split.train_end)
    series = behavior_series(
        log,
        item_ids,
        cutoffs=cutoffs_of(run),
        settings=settings,
        seed=run.settings.seed,
        checkpoint=run.partial(BEHAVIOR_STAGE),
        progress=run.progress,
    )
    # what a killed process left
    shutil.copytree(
        run.partial(BEHAVIOR_STAGE), directory / "states", ignore=shutil.ignore_patterns(".*")
    )
    agreement = half_agreement(
        log,
        item_ids,
        as_of=split.train_end,
        settings=settings,
        seed=run.settings.seed,
        progress=run.progress,
    )
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


def embedding_tables(run: Run) -> list[EmbeddingTable]:
    """One EmbeddingTable per cut-off: content vectors as they are, behaviour as of the cut-off."""
    dataset = dataset_of(run)
    item_ids = id_array(dataset.items["item_id"])
    vectors, present = content_vectors(
        dataset,
        lambda view: (
            np.load(run.output("text") / f"{view}.npy"),
            np.load(run.output("text") / f"{view}.present.npy"),
        ),
    )
    series = np.load(run.output("behavior") / "series.npz")
    return [
        EmbeddingTable(
            item_ids, {**vectors, BEHAVIOR: v}, {**present, BEHAVIOR: p}, count, moment(as_of)
        )
        for v, p, count, as_of in zip(
            series["vectors"],
            series["present"],
            series["interaction_count"],
            series["as_of"],
            strict=True,
        )
    ]


# ---- generation and codes


def _tokenizer_settings(asked: RunSettings) -> Any:
    """The recipe's settings with what was asked for besides; InputError when this tokenizer has no
    such setting.
    """
    from adc_features.tokenizer.fit import RECIPES

    settings = _recipe(RECIPES, asked.tokenizer, option="tokenizer")
    changes = {
        option: value
        for option in ("reliability", "steps")
        if (value := getattr(asked, option)) is not None
    }
    if unknown := sorted(changes.keys() - {f.name for f in fields(settings)}):
        raise InputError(
            f"tokenizer {asked.tokenizer!r} has no {', '.join(unknown)}; leave the option out"
        )
    return replace(settings, **changes)


def _build_generation(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.tokenizer.fit import fit

    tables = embedding_tables(run)
    content = {m: 1 for m in tables[0].vectors if m != BEHAVIOR}
    spec = SidSpec(
        content=content,
        behavior=run.settings.behavior_codes,
        codebook_size=run.settings.codebook_size,
    )
    settings = _tokenizer_settings(run.settings)
    generation = fit(
        tables,
        spec,
        settings=settings,
        generation_id=run.settings.generation,
        directory=directory / "generation",
        seed=run.settings.seed,
        progress=run.progress,
        checkpoint=run.partial(GENERATION) / "fit.pt",
    )
    return {
        "quality": generation.quality,
        "codebook_hash": generation.codebook_hash,
        "positions": [p.name for p in generation.spec.positions],
    }


def generation_of(run: Run) -> Generation:
    """The run's generation, hashes checked."""
    return open_generation(run.output("generation") / "generation")


def _build_codes(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.tokenizer.encode import encode_series

    generation, tables = generation_of(run), embedding_tables(run)
    snapshots = list(encode_series(tables, generation, progress=run.progress))
    for number, snapshot in enumerate(snapshots):
        pq.write_table(snapshot.to_arrow(), directory / f"{number:03d}.parquet")
    newest, table = snapshots[-1], tables[-1]
    agreement = np.load(run.output("behavior") / "series.npz")["half_agreement"]
    shared, warm = np.isfinite(agreement), table.present[BEHAVIOR]
    behavioral = np.array(generation.spec.is_behavioral)
    weight = (
        newest.sid_weight[:, behavioral].mean(axis=1) if behavioral.any() else np.zeros(len(newest))
    )
    changed = [(a.sid != b.sid)[~a.is_cold] for a, b in itertools.pairwise(snapshots)]
    return {
        "reliability_rank_correlation": generation.quality["reliability_rank_correlation"],
        "reliability_half_agreement_rank_correlation": rank_correlation(
            newest.reliability[shared], agreement[shared]
        ),
        "changed_codes": [float(c.mean()) if c.size else float("nan") for c in changed],
        "changed_behavioral_codes": [
            float(c[:, behavioral].mean()) if c[:, behavioral].size else float("nan")
            for c in changed
        ],
        "cold_items": [int(s.is_cold.sum()) for s in snapshots],
        "weight_count_rank_correlation": rank_correlation(
            weight[warm], table.interaction_count[warm]
        ),
        "popularity_deciles": popularity_deciles(
            table.interaction_count[warm],
            reliability=newest.reliability[warm],
            alignment=newest.alignment[warm],
            behavioral_weight=weight[warm],
            zero_weights=(
                (newest.sid_weight[warm][:, behavioral] == 0).mean(axis=1)
                if behavioral.any()
                else np.zeros(int(warm.sum()))
            ),
        ),
    }


def snapshots_of(run: Run) -> list[SidTable]:
    """The run's encoded snapshots, oldest first."""
    return [
        SidTable.from_arrow(pq.read_table(path))
        for path in sorted(run.output("codes").glob("*.parquet"))
    ]


# ---- the Feast repository


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


def statistics_of(dataset: Dataset, log: Any, *, refresh_at: Sequence[datetime]) -> dict[str, Any]:
    """The rows of both statistics views over these interactions."""
    from adc_features.data.statistics import item_profile, user_activity

    return {
        "user_activity": user_activity(log, dataset.items, resolution=dataset.resolution),
        "item_profile": item_profile(
            log, dataset.items, resolution=dataset.resolution, refresh_at=refresh_at
        ),
    }


def _build_publication(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.store import apply, create_repository, publish, publish_statistics

    snapshots = snapshots_of(run)
    statistics = statistics_of(
        dataset_of(run), known_interactions(run), refresh_at=refresh_times(run)
    )
    published_at = datetime.now(UTC)
    with fresh_directory(repository_of(run)) as repo:
        create_repository(repo, project="adc_features")
        publish(
            repo,
            generation_of(run),
            snapshots,
            servable_at=servable_at(run),
            computed_at=published_at,
        )
        publish_statistics(repo, **statistics, resolution=dataset_of(run).resolution)
    apply(repository_of(run))
    rows = {
        "item_sid": sum(map(len, snapshots)),
        **{name: len(table) for name, table in statistics.items()},
    }
    facts = {
        "repository": "feature_repo",
        "snapshots": len(snapshots),
        "rows": rows,
        "published_at": published_at,
    }
    write_json(directory / "publication.json", facts)
    return facts


def _repository_identity(run: Run) -> Any:
    """The live generations, or None when the repository is lost or broken: then it is published
    again.
    """
    from adc_features.store import check_repository, live_generations

    repo = repository_of(run)
    return (
        None
        if not repo.is_dir() or check_repository(repo)
        else [[g.id, g.codebook_hash] for g in live_generations(repo)]
    )


def serving_time(run: Run) -> datetime:
    """The run's `now`: the end of its scored window, when every event of it is known."""
    dataset, split = dataset_of(run), split_of(run)
    return (
        split.eval_end or moment(dataset.interactions["time"].to_numpy()[-1]) + dataset.resolution
    )


def online_time(run: Run) -> datetime:
    """What `adc materialize` loads as of: the run's `now`, or later where newer values were
    published or loaded since.

    Never a time that has not come yet, unless the run's own has not.
    """
    from adc_features.store import materialized_through, newest_published

    later = [
        t
        for t in (newest_published(repository_of(run)),)
        if t is not None and t <= datetime.now(UTC)
    ]
    return max(
        [serving_time(run), *later, *filter(None, [materialized_through(repository_of(run))])]
    )


def _online_identity(run: Run) -> Any:
    """What was published, and what the online store lacks: with newer values, or after a loss, it
    is loaded again.
    """
    from adc_features.store import online_problems, published_files

    identity = _repository_identity(run)
    return identity and {
        "live": identity,
        "published": published_files(repository_of(run)),
        "problems": online_problems(repository_of(run)),
    }


def _build_online(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.store import materialize

    now = online_time(run)
    materialize(repository_of(run), now=now, progress=run.progress)
    write_json(directory / "online.json", {"now": now})
    return {"now": now}


DATA = Stage("data", (), ("source", "final", "snapshots", "seed"), _build_data, _source_files)
TEXT = Stage("text", ("data",), ("text_model",), _build_text)
BEHAVIOR_STAGE = Stage("behavior", ("data",), ("behavior", "seed"), _build_behavior)
GENERATION = Stage(
    "generation",
    ("data", "text", "behavior"),
    ("tokenizer", "reliability", "steps", "codebook_size", "behavior_codes", "generation", "seed"),
    _build_generation,
)
CODES = Stage("codes", ("data", "text", "behavior", "generation"), (), _build_codes)
PUBLICATION = Stage(
    "publication",
    ("data", "generation", "codes"),
    ("publish_lag_hours",),
    _build_publication,
    _repository_identity,
)
ONLINE = Stage("online", ("publication",), (), _build_online, _online_identity)
STAGES = (DATA, TEXT, BEHAVIOR_STAGE, GENERATION, CODES, PUBLICATION, ONLINE)
