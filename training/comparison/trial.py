"""One trial of a comparison: a tokenizer on one window, fitted once. Reads: what all trials share
(`training.comparison.inputs`). Writes:

<out>/cells/<window>_<variant>_<fit>/   scores of its rankers, quality, costs
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features import __version__
from adc_features.artifact import ensure_directory, is_made_of, read_manifest, within, write_json
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.raw_items import RAW_TOKENIZERS
from adc_features.codes.sids import CodeTimeline, SidTimeline
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError, QualityError
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.recipes import Sources
from adc_features.store.freshness import online_timeline
from training.comparison.baselines import lightgbm_version, scores_of_baselines
from training.comparison.inputs import (
    behavior_directory,
    coded_frame,
    interactions_until,
    rows_of,
    tables_until,
)
from training.comparison.plan import (
    BASELINE_TRIAL,
    CODES_VIEW,
    CONTROLS,
    WITH_CODES,
    WITHOUT_CODES,
    WITHOUT_TOKENIZER,
    ComparisonSettings,
    Variant,
    Window,
    refresh_schedules,
)
from training.fit import train
from training.vectors import VectorTimeline

GENERATION = "compared"
CELLS = "cells"


@dataclass(frozen=True)
class Trial:
    """What one variant (or, without one, the competitors that need none) gave on one window, fitted
    once. variant: its name, None for those competitors, BASELINE_TRIAL for the baselines.

    scores: competitor/ranker -> float32 [seeds, N] of the window's rows.
    """

    window: Window
    variant: str | None
    scores: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    fit: int = 0


class TrialTask(NamedTuple):
    """Which trial: the window, the variant (None: the competitors that need no tokenizer) and the
    number of the fit. baselines: those, in the place of a variant.
    """

    window: Window
    variant: Variant | None
    fit: int
    baselines: bool = False

    @property
    def of(self) -> str | None:
        """What is tried, as `Trial.variant` says it."""
        if self.baselines:
            return BASELINE_TRIAL
        return self.variant.name if self.variant else None

    @property
    def name(self) -> str:
        return f"{self.window.name}_{self.of or WITHOUT_TOKENIZER}_{self.fit}"


def trial_directory(out: Path, task: TrialTask) -> Path:
    """Where a trial lies; refused when its name leads elsewhere."""
    return within(Path(out) / CELLS, task.name, said_by="a comparison's trial")


def trial_made_of(out: Path, settings: ComparisonSettings, task: TrialTask) -> dict[str, Any]:
    """Everything that a trial follows from."""
    window, variant, fit, baselines = task
    vectors = behavior_directory(out, *settings.behavior_of(variant, fit))
    shared = ("seeds", "seed", "codebook_size", "behavior_codes")
    return {
        "version": __version__,
        "behavior": read_manifest(vectors, verify=False)["files"],
        "frame": read_manifest(Path(out) / "frame", verify=False)["files"],
        "window": [window.start.isoformat(), window.end.isoformat()],
        "variant": None if variant is None else asdict(variant),
        "rankers": list(settings.rankers),
        "controls": settings.controls and variant == settings.variants[0],
        **({"vectors": settings.controls} if variant is None and not baselines else {}),
        **({"per_user": True} if window.per_user else {}),
        **({"lightgbm": lightgbm_version()} if baselines else {}),
        **({"refresh": codes} if (codes := settings.refresh.get(CODES_VIEW)) else {}),
        **{name: getattr(settings, name) for name in shared},
    }


def is_complete(out: Path, settings: ComparisonSettings, task: TrialTask) -> bool:
    """Is the trial there, made of the same?"""
    return is_made_of(trial_directory(out, task), trial_made_of(out, settings, task))


def ensure_trial(out: Path, settings: ComparisonSettings, task: TrialTask) -> None:
    """Fit, encode, train, score, unless that is done; one directory, complete or not there."""

    def fill(directory: Path) -> Mapping[str, Any]:
        before, scored = task.window.parts(rows_of(out))
        reads_raw = task.variant is not None and task.variant.recipe in RAW_TOKENIZERS
        tables = tables_until(
            out, task.window.start, settings.behavior_of(task.variant, task.fit), raw=reads_raw
        )
        facts: dict[str, Any] = {"train_rows": len(before), "rows": len(scored)}
        seeds = range(task.fit * settings.seeds, (task.fit + 1) * settings.seeds)
        if task.baselines:
            scores, more = scores_of_baselines(before, scored, seeds=seeds)
        elif task.variant is None:
            scores, more = scores_without_codes(before, scored, tables, settings, seeds=seeds)
        else:
            events = interactions_until(out, task.window.start)
            seed = settings.seed + task.fit
            codes, more = fitted_codes(tables, settings, task.variant, events=events, seed=seed)
            scores = {}
            if codes is not None:
                scores = scores_with_codes(
                    before, scored, codes, settings, task.variant, seeds=seeds
                )
        facts |= more
        np.savez(directory / "scores.npz", allow_pickle=False, **scores)
        write_json(directory / "facts.json", facts)
        return {"facts": facts}

    ensure_directory(trial_directory(out, task), trial_made_of(out, settings, task), fill)


def read_trial(out: Path, task: TrialTask) -> Trial:
    """A trial that is there."""
    directory = trial_directory(out, task)
    with np.load(directory / "scores.npz") as arrays:
        scores = {name: arrays[name] for name in arrays.files}
    facts = read_manifest(directory, verify=False)["facts"]
    return Trial(task.window, task.of, scores, facts, task.fit)


Scores = dict[str, np.ndarray]


def scores_without_codes(
    before: TrainingFrame,
    scored: TrainingFrame,
    tables: Sequence[EmbeddingTable],
    settings: ComparisonSettings,
    *,
    seeds: Sequence[int],
) -> tuple[Scores, dict[str, Any]]:
    """Scores of the competitors that need no tokenizer, and the bytes that their vectors cost."""
    vectors = VectorTimeline(tables, [t.as_of for t in tables])
    sources = Sources(vectors=vectors)
    scores = {
        f"{name}/{kind}": train(before, recipe, sources=sources, seeds=seeds).predict(
            scored, sources
        )
        for kind in settings.rankers
        for name, recipe in WITHOUT_CODES[kind].items()
        if settings.controls or name != "vectors"
    }
    return scores, {"bytes_per_item": {"vectors": vectors.bytes_per_item()}}


def scores_with_codes(
    before: TrainingFrame,
    scored: TrainingFrame,
    codes: "Codes",
    settings: ComparisonSettings,
    variant: Variant,
    *,
    seeds: Sequence[int],
) -> Scores:
    """Scores of the rankers on a variant's codes."""
    recipes = {f"{variant.name}/{kind}": WITH_CODES[kind] for kind in settings.rankers}
    if settings.controls and variant == settings.variants[0] and "ppnet" in settings.rankers:
        recipes |= {f"{variant.name}_{name}/ppnet": recipe for name, recipe in CONTROLS.items()}
    coded, asked = (
        coded_frame(part, codes.timeline, codebook_size=codes.codebook_size)
        for part in (before, scored)
    )
    sources = Sources(sids=codes.timeline)
    return {
        name: train(coded, recipe, sources=sources, seeds=seeds).predict(asked, sources)
        for name, recipe in recipes.items()
    }


class Codes(NamedTuple):
    """Codes of every cut-off, as they get online."""

    timeline: CodeTimeline
    codebook_size: int


def fitted_codes(
    tables: Sequence[EmbeddingTable],
    settings: ComparisonSettings,
    variant: Variant,
    *,
    events: pa.Table,
    seed: int,
) -> tuple[Codes | None, dict[str, Any]]:
    """The codes of every cut-off, or None where the tokenizer lacks a modality or collapsed; and
    facts that say which, and what it cost.
    """
    from adc_features.tokenizer import baselines
    from adc_features.tokenizer.encode import encode_series
    from adc_features.tokenizer.fit import fit
    from adc_features.tokenizer.model import AdcSettings

    tokenizer, spec = _tokenizer_settings(variant), _spec(tables[0], settings, variant)
    if not isinstance(tokenizer, AdcSettings):
        try:
            baselines.spec_of(spec, tokenizer)
        except InputError as error:
            return None, {"removed": str(error)}
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with tempfile.TemporaryDirectory() as directory:
            generation = fit(
                tables,
                spec,
                settings=tokenizer,
                generation_id=GENERATION,
                directory=Path(directory) / "generation",
                seed=seed,
                events=events,
            )
    except QualityError as error:
        return None, {"collapsed": str(error)}
    facts: dict[str, Any] = {
        "fit_seconds": time.perf_counter() - wall,
        "fit_cpu_seconds": time.process_time() - cpu,
    }
    wall = time.perf_counter()
    snapshots = list(encode_series(tables, generation))
    facts["encode_rows_per_second"] = sum(map(len, snapshots)) / (time.perf_counter() - wall)
    published = SidTimeline(snapshots, [s.as_of for s in snapshots])
    timeline = online_timeline(published, refresh_schedules(settings).get(CODES_VIEW))
    return Codes(timeline, generation.spec.codebook_size), facts | _code_facts(generation)


def _tokenizer_settings(variant: Variant) -> Any:
    from adc_features.tokenizer.fit import RECIPES

    if variant.recipe not in RECIPES:
        raise InputError(
            f"there is no tokenizer {variant.recipe!r}; choose from {', '.join(RECIPES)}"
        )
    base = RECIPES[variant.recipe]()
    if unknown := sorted(set(variant.changes) - {f.name for f in fields(base)}):
        raise InputError(
            f"tokenizer {variant.recipe!r} has no {', '.join(unknown)}; leave the change out"
        )
    return replace(base, **variant.changes)


def _spec(table: EmbeddingTable, settings: ComparisonSettings, variant: Variant) -> SidSpec:
    """One position of each content modality, and those of behaviour."""
    return SidSpec(
        content={m: 1 for m in table.vectors if m != BEHAVIOR},
        behavior=(
            settings.behavior_codes if variant.behavior_codes is None else variant.behavior_codes
        ),
        codebook_size=variant.codebook_size or settings.codebook_size,
    )


def _code_facts(generation: Generation) -> dict[str, Any]:
    """Bytes of an item's codes and weights, and the quality of the codebooks."""
    spec, quality = generation.spec, generation.quality
    size = np.min_scalar_type(spec.codebook_size).itemsize + np.dtype(spec.weight_dtype).itemsize
    return {
        "bytes_per_item": spec.length * size,
        "quality": {
            "entropy": [book["entropy"] for book in quality["codebooks"]],
            "utilisation": [book["utilisation"] for book in quality["codebooks"]],
            "reconstruction_1_minus_r2": quality["reconstruction_1_minus_r2"],
        },
    }
