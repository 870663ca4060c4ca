"""Which way to read codes ranks better, above all for new items? Reads: a validation run up to its
dataset stage. Writes: JSON, with --json.

    python benchmarks/code_readers.py --run runs/beauty --json readers.json

Each recipe is trained, several fits of it, on all rows before each of the last windows of the run,
and judged on the window by the training events, the age and the popularity of the rows' items. Each
is compared with the first on the same rows: intervals cover users and fits of the rankers, as those
of `adc compare` do, and the difference of every fit is given too. The codes are of one tokenizer,
as in `ranker_windows`. A run on test rows is refused.

"moved" is the mean change of the probability when a row's item has an id that no ranker has seen
and everything else as it was.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _measure import apart, write_report
from ranker_windows import Windows, arguments, described, windows_of

from adc_features.pipeline.run import Run
from adc_features.ranking.recipes import READERS
from training.evaluation.cold_start import (
    cold_start_groups,
    estimates_by_group,
    with_unseen_ids,
)
from training.evaluation.metrics import PairedBootstrap
from training.evaluation.refits import Refitted
from training.fit import train
from training.stages import sources_of

PRESENT = "codes"
Scores = list[tuple[np.ndarray, np.ndarray]]
"""Of each window: scores [fits, N], and those of the twins of its items."""


def measured(asked: argparse.Namespace, recipe: str) -> Scores:
    """Scores of a recipe; kept ones are read in the place of a fit."""
    import torch

    torch.set_num_threads(1)
    run, found = Run.open(asked.run), []
    windows, sources = windows_of(run, count=asked.windows, days=asked.days), sources_of(run)
    for before, scored in windows:
        begins = scored.times.min().astype("datetime64[D]")
        name = f"{recipe}_{begins}_{asked.days}d_{asked.seeds}.npz"
        path = None if asked.keep is None else asked.keep / name
        if path is not None and path.is_file():
            with np.load(path) as file:
                found.append((file["scores"], file["twins"]))
            continue
        trained = train(before, recipe, sources=sources, seeds=range(asked.seeds))
        pair = (
            trained.predict(scored, sources),
            trained.predict(with_unseen_ids(scored), sources),
        )
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, scores=pair[0], twins=pair[1])
        found.append(pair)
    return found


def judged(windows: Windows, scores: dict[str, Scores]) -> dict[str, Any]:
    """By recipe and group: metrics, the paired difference from the first recipe, that of each
    fit, and how far unseen ids move a score."""
    parts = [scored for _, scored in windows]
    groups = [cold_start_groups(*window) for window in windows]
    bootstrap = PairedBootstrap(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.user_ids for part in parts]),
        seed=0,
    )
    whole = {name: np.concatenate([of[0] for of in each], axis=1) for name, each in scores.items()}
    moved = {
        name: np.concatenate([np.abs(a - b).mean(axis=0) for a, b in each])
        for name, each in scores.items()
    }
    masks = {name: np.concatenate([of[name] for of in groups]) for name in groups[0]}
    fits = {
        name: [estimates_by_group(bootstrap, fit[None], groups) for fit in each]
        for name, each in whole.items()
    }
    first = next(iter(scores))
    return {
        name: {
            group: {
                "rows": int(mask.sum()),
                "moved": float(moved[name][mask].mean()) if mask.any() else None,
                **{
                    metric: _compared(
                        *(
                            Refitted([fit[group][metric] for fit in fits[one]])
                            for one in (name, first)
                        )
                    )
                    for metric in ("auc", "gauc")
                },
            }
            for group, mask in masks.items()
        }
        for name in scores
    }


def _compared(ours: Refitted, theirs: Refitted) -> dict[str, Any]:
    difference = ours - theirs
    return {
        **ours.interval(),
        "minus_first": difference.interval(),
        "fits": difference.values,
    }


def _readable(run: Run) -> list[str]:
    """Other readers; the one of two codes where the run's generation tells second ones."""
    sids = sources_of(run).sids
    second = sids is not None and sids.has_second
    return [name for name, of in READERS.items() if second or of.reader != "expected"]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--readers", nargs="+", help="by default all that the run's codes allow")
    parser.add_argument("--keep", type=Path, help="a folder of scores, to go on from")
    asked = parser.parse_args()
    if asked.seeds < 3:
        parser.error(f"--seeds is {asked.seeds}; expected at least 3 fits")
    run = Run.open(asked.run)
    windows = windows_of(run, count=asked.windows, days=asked.days)
    names = asked.readers or [PRESENT, *_readable(run)]
    scores = {name: apart(measured, asked, name) for name in names}
    write_report(
        asked.json,
        systems=judged(windows, scores),
        ratios={},
        windows=described(windows),
        fits=asked.seeds,
        interval_covers=["users", "fits"],
    )


if __name__ == "__main__":
    main()
