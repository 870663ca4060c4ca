"""Does one recipe rank better than another, over several windows of time? Reads: a validation run
up to its dataset stage. Writes: JSON.

python benchmarks/ranker_windows.py --run runs/beauty --recipes no_sid codes codes_weights --json -

The windows end where the run's validation window ends; each ranker is trained on all rows before
its window. Metrics are means over the windows, weighted by rows, with paired intervals from draws
of users, the same draws in every window. Codes are those that were servable at each row's time, yet
of one tokenizer, fitted later than the early windows: good for choosing between rankers, not for
saying what codes are worth. A run on test rows is refused.
"""

import argparse
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from _measure import apart, peak_rss_bytes, write_report

from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import split_of
from training.evaluation.metrics import Estimate, PairedBootstrap
from training.fit import train
from training.stages import frame_of, sources_of

Windows = Sequence[tuple[TrainingFrame, TrainingFrame]]


def windows_of(run: Run, *, count: int, days: int) -> Windows:
    """Rows before each window and rows in it, oldest window first."""
    end = split_of(run).eval_end
    if run.settings.final or end is None:
        raise InputError(
            f"{run.directory} scores test rows; rankers are chosen on a run without --final"
        )
    frame, step = frame_of(run), timedelta(days=days)
    starts = [end - step * n for n in range(count, 0, -1)]
    return [(frame.between(None, start), frame.between(start, start + step)) for start in starts]


def measure(
    directory: Path, recipe: str, count: int, days: int, seeds: int
) -> tuple[dict[str, float], list[np.ndarray]]:
    """CPU and wall seconds of all fits, and the scores [seeds, N] of each window."""
    import torch

    torch.set_num_threads(1)
    run = Run.open(directory)
    windows, sources, scores = windows_of(run, count=count, days=days), sources_of(run), []
    wall, cpu = time.perf_counter(), time.process_time()
    for before, scored in windows:
        scores.append(
            train(before, recipe, sources=sources, seeds=range(seeds)).predict(scored, sources)
        )
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_rss_bytes": peak_rss_bytes(),
    }, scores


def pooled(estimates: Sequence[Estimate], rows: Sequence[int]) -> Estimate:
    return Estimate(
        float(np.average([e.value for e in estimates], weights=rows)),
        np.average([e.draws for e in estimates], axis=0, weights=rows),
    )


def judged(
    windows: Windows, scores: dict[str, list[np.ndarray]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of each recipe, pooled and by window, and the differences from the first recipe."""
    parts = [scored for _, scored in windows]
    window = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    bootstrap = PairedBootstrap(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.user_ids for p in parts]),
        seed=0,
    )
    whole = {name: np.concatenate(each, axis=1) for name, each in scores.items()}
    masks = [window == n for n in range(len(parts))]
    by_window = {
        name: {
            metric: [getattr(bootstrap, metric)(score, mask) for mask in masks]
            for metric in ("auc", "gauc")
        }
        for name, score in whole.items()
    }
    total = {
        name: {metric: pooled(each, list(map(len, parts))) for metric, each in metrics.items()}
        for name, metrics in by_window.items()
    }
    facts = {
        name: {
            metric: {**total[name][metric].interval(), "windows": [e.value for e in each]}
            for metric, each in metrics.items()
        }
        for name, metrics in by_window.items()
    }
    first, *others = total
    paired = {
        f"{name}_minus_{first}": {
            metric: (total[name][metric] - total[first][metric]).interval()
            for metric in ("auc", "gauc")
        }
        for name in others
    }
    return facts, paired


def described(windows: Windows) -> list[dict[str, Any]]:
    return [
        {
            "start": str(scored.times.min()),
            "end": str(scored.times.max()),
            "train_rows": len(t),
            "rows": len(scored),
        }
        for t, scored in windows
    ]


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        help="a run whose dataset stage is complete, made without --final",
    )
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--days", type=int, default=91, help="length of a window")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    return parser


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["no_sid", "codes", "codes_weights"])
    asked = parser.parse_args()
    windows = windows_of(Run.open(asked.run), count=asked.windows, days=asked.days)
    measured = {
        name: apart(measure, asked.run, name, asked.windows, asked.days, asked.seeds)
        for name in asked.recipes
    }
    facts, paired = judged(windows, {name: scores for name, (_, scores) in measured.items()})
    systems = {name: {**costs, **facts[name]} for name, (costs, _) in measured.items()}
    first = asked.recipes[0]
    ratios = {
        f"{name}_cpu_s_over_{first}": systems[name]["cpu_s"] / systems[first]["cpu_s"]
        for name in asked.recipes[1:]
    }
    write_report(
        asked.json,
        systems=systems,
        ratios=ratios,
        paired=paired,
        windows=described(windows),
        seeds=asked.seeds,
    )


if __name__ == "__main__":
    main()
