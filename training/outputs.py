"""What a finished run leaves for people and tools. Reads: its stages. Writes: metrics.json,
report.html.
"""

import json
from typing import Any

import numpy as np

from adc_features.artifact import write_json
from adc_features.codes.generation import Generation
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import (
    BEHAVIOR_STAGE,
    CODES,
    DATA,
    dataset_of,
    embedding_tables,
    generation_of,
    snapshots_of,
)
from training.evaluation.results import Coverage, Evaluation, RunMetrics
from training.stages import DATASET, PARITY, RANKERS, SCORES, scored_recipes, stages_of


def run_metrics(run: Run) -> RunMetrics:
    """What the run measured, from the manifests of its complete stages."""
    manifests = {stage.name: run.facts(stage) for stage in stages_of(scored_recipes(run))}
    data, behavior, codes, dataset, parity, scored = (
        manifests[stage.name]["facts"]
        for stage in (DATA, BEHAVIOR_STAGE, CODES, DATASET, PARITY, SCORES)
    )
    scores = Evaluation.from_dict(scored)
    vectors, generation = embedding_tables(run)[-1].vectors, generation_of(run)
    adc = generation.settings.get("adc", {})
    half_agreement = "reliability_half_agreement_rank_correlation"
    return RunMetrics(
        dataset={k: data[k] for k in ("name", "items", "users", "interactions", "split")},
        final=run.settings.final,
        generation={
            "id": generation.id,
            "codebook_hash": generation.codebook_hash,
            "trained_through": generation.trained_through,
            "recipe": run.settings.tokenizer,
        },
        rows_in=dataset["rows_in"],
        rows_out=dataset["rows_out"],
        scored_rows=scores.rows,
        gauc_users=scores.gauc_users,
        gauc_rows=scores.gauc_rows,
        label_rate=scores.label_rate,
        seeds=run.settings.seeds,
        reliability=adc.get("reliability", run.settings.reliability),
        baselines=scores.baselines,
        recipes=scores.recipes,
        paired=scores.paired,
        quality={k: v for k, v in generation.quality.items() if k != "training"},
        reliability_rank_correlation=codes["reliability_rank_correlation"],
        reliability_half_agreement_rank_correlation=codes[half_agreement],
        norm_rank_correlation=behavior["norm_rank_correlation"],
        weight_count_rank_correlation=codes["weight_count_rank_correlation"],
        drift=behavior["drift"],
        changed_codes=codes["changed_codes"],
        coverage={part: Coverage(**facts) for part, facts in dataset["coverage"].items()},
        unmatched=dataset["unmatched"],
        cutoffs=data["cutoffs"],
        bytes_per_item={
            "codes_weights": packed_bytes(generation),
            "vectors": sum(v.shape[1] * v.itemsize for v in vectors.values()),
        },
        parity={k: parity[k] for k in ("items", "users", "different", "now")},
        test_openings=test_openings(run),
        stage_seconds={name: m["seconds"] for name, m in manifests.items()},
        peak_memory_bytes=max(m["peak_memory_bytes"] for m in manifests.values()),
    )


def packed_bytes(generation: Generation) -> int:
    """Bytes of one item's codes, in the smallest integer that fits, and weights, in the spec's
    precision.
    """
    spec = generation.spec
    return spec.length * (
        np.min_scalar_type(spec.codebook_size).itemsize + np.dtype(spec.weight_dtype).itemsize
    )


def test_openings(run: Run) -> list[str]:
    """When this run looked at test rows, ISO times."""
    path = run.directory / "events.jsonl"
    events = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )
    return [e["time"] for e in events if e["event"] == "test_rows_opened"]


def write_outputs(run: Run) -> dict[str, Any]:
    """Write `metrics.json` and `report.html` into the run directory; returns the metrics."""
    from training.reports.pictures import run_pictures
    from training.reports.run_page import write_report

    metrics = run_metrics(run).to_dict()
    write_json(run.directory / "metrics.json", metrics)
    pictures = run_pictures(
        generation_of(run),
        snapshots_of(run)[-1],
        embedding_tables(run)[-1],
        dataset_of(run).items,
        behavior_deciles=run.facts(BEHAVIOR_STAGE)["facts"]["popularity_deciles"],
        code_deciles=run.facts(CODES)["facts"]["popularity_deciles"],
        curves={name: run.facts(RANKERS[name])["facts"]["curve"] for name in scored_recipes(run)},
    )
    write_report(run.directory / "report.html", metrics, pictures)
    return metrics
