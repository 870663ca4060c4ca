"""The stages that fit a tokenizer and encode every cut-off. Reads: vectors of all cut-offs. Writes:
the stage directories `generation` and `codes`.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST
from adc_features.codes.reliability import rank_correlation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.parquet_files import write_table
from adc_features.pipeline.context import (
    dataset_of,
    embedding_tables,
    generation_of,
)
from adc_features.pipeline.embedding_stages import BEHAVIOR_STAGE, DATA, TEXT, popularity_deciles
from adc_features.pipeline.published import is_published, refit_error
from adc_features.pipeline.recipes import tokenizer_settings
from adc_features.pipeline.run import Run, Stage


def _build_generation(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.tokenizer.fit import fit

    tables = embedding_tables(run)
    content = {m: 1 for m in tables[0].vectors if m != BEHAVIOR}
    spec = SidSpec(
        content=content,
        behavior=run.settings.behavior_codes,
        codebook_size=run.settings.codebook_size,
    )
    settings = tokenizer_settings(run.settings)
    generation = fit(
        tables,
        spec,
        settings=settings,
        generation_id=run.settings.generation,
        directory=directory / "generation",
        seed=run.settings.seed,
        events=dataset_of(run).interactions,
        progress=run.progress,
        checkpoint=run.partial(GENERATION) / "fit.pt",
        device=run.settings.device,
    )
    return {
        "quality": generation.quality,
        "codebook_hash": generation.codebook_hash,
        "positions": [p.name for p in generation.spec.positions],
    }


def _build_codes(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.tokenizer.encode import encode_series

    generation, tables = generation_of(run), embedding_tables(run)
    snapshots = list(encode_series(tables, generation, progress=run.progress))
    for number, snapshot in enumerate(snapshots):
        write_table(snapshot.to_arrow(), directory / f"{number:03d}.parquet")
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


def refuse_refit(run: Run) -> None:
    """Raise InputError where building the run's generation would put other codes under an id that
    is published. What is absent or damaged is no reason: it is built again of the same.
    """
    if (run.directory / "generation" / MANIFEST).is_file() and is_published(run):
        fitted = run.facts("generation")["made_of"]["reads"]
        changed = run.differences(GENERATION)
        changed += [f"stage {s!r}" for s, at in fitted.items() if run.identity(s) not in (None, at)]
        if changed:
            raise refit_error(run, changed)


GENERATION = Stage(
    "generation",
    (DATA, TEXT, BEHAVIOR_STAGE),
    ("tokenizer", "reliability", "steps", "codebook_size", "behavior_codes", "generation", "seed"),
    _build_generation,
    recipe=lambda settings: tokenizer_settings(settings).to_dict(),
    guard=refuse_refit,
)
CODES = Stage("codes", (DATA, TEXT, BEHAVIOR_STAGE, GENERATION), (), _build_codes)
