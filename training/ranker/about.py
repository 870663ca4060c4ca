"""What a report tells of a trained ranker beside its metrics. Reads: a trained ranker, joined rows,
windows. Writes: JSON values.

Legend: S seeds, T tasks, n rows of a window.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from adc_features.clock import instant
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import TrainedRanker
from training.ranker.explain import window_importance
from training.ranker.joined import JoinedRows
from training.ranker.label_sources import TIME
from training.ranker.learned import summed_counts
from training.ranker.refresh import FACT, refresh_facts
from training.ranker.ripening import duration_text
from training.ranker.splits import LabelWindow, Splits, request_times

PERMUTATIONS = 3
MOST_ROWS = 5_000
BINS = 10


def about_ranker(
    trained: TrainedRanker,
    joined: JoinedRows,
    splits: Splits,
    window: LabelWindow,
    scores: np.ndarray,
    *,
    importance: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What was learned from, what is read, how calibrated it is, and what it leans on.

    Parameters
    ----------
    trained, joined, splits : TrainedRanker, JoinedRows, Splits
        The ranker, and its rows in windows.
    window : LabelWindow
        Of the splits: the one that it is judged on.
    scores : ndarray
        Calibrated P(task) of its rows, [S, T, n].
    importance : bool
        Whether inputs are exchanged too: three times, on at most 5,000 rows.
    seed, progress : optional
        As `window_importance`.
    """
    tasks = [task.name for task in trained.ranker.tasks]
    facts = trained.facts
    return {
        "service": trained.ranker.service,
        "model": trained.ranker.model,
        "generation": trained.generation,
        "rows": facts.get("rows"),
        "rounds": facts.get("rounds"),
        "seeds": len(trained.models),
        "refresh": {"train": facts.get(FACT) or {}, "judged": refresh_facts(joined.refresh)},
        "inputs": _inputs(trained, joined, window),
        "labels": {
            "train": _labels(
                joined, splits, splits.final_train if _is_test(window) else splits.train
            ),
            window.name: _labels(joined, splits, window),
        },
        "windows": {name: duration_text(found) for name, found in splits.windows.items()},
        "calibration": {
            name: calibration_bins(
                window.labels[t][window.mask[t]], scores[:, t][:, window.mask[t]].mean(axis=0)
            )
            for t, name in enumerate(tasks)
        },
        "importance": (
            window_importance(
                trained,
                joined,
                window,
                seed=seed,
                permutations=PERMUTATIONS,
                most_rows=MOST_ROWS,
                progress=progress,
            ).to_dict()
            if importance
            else None
        ),
    }


def calibration_bins(label: np.ndarray, probability: np.ndarray) -> list[dict[str, Any]]:
    """Tenths of the rows by their probability: how many rows, what was predicted and observed."""
    order = np.argsort(probability, kind="stable")
    return [
        {
            "rows": len(rows),
            "predicted": float(probability[rows].mean()),
            "observed": float(label[rows].mean()),
        }
        for rows in np.array_split(order, BINS)
        if len(rows)
    ]


def _is_test(window: LabelWindow) -> bool:
    return window.name == "test"


def _inputs(
    trained: TrainedRanker, joined: JoinedRows, window: LabelWindow
) -> dict[str, dict[str, Any]]:
    """Input -> what it is, and the shares of rows in which it is absent or unknown: of training
    rows, and of the window's."""
    encoder = trained.encoder
    judged = summed_counts(
        encoder.counts(parts, encoder.encode(parts)) for _, parts in joined.pieces(window.rows)
    )
    learned: Mapping[str, Any] = trained.facts.get("inputs", {})
    return {
        spec.name: {
            "kind": spec.kind_name,
            "side": spec.side,
            "origin": spec.origin,
            "columns": [f"{c.name} ({c.dtype})" for c in spec.columns.values()],
            "train_only": spec.kind.train_only,
            "train": _shares(learned.get(spec.name)),
            "judged": _shares(judged.get(spec.name)),
        }
        for spec in encoder.specs
    }


def _shares(counts: Mapping[str, int] | None) -> dict[str, float] | None:
    """Shares of rows that are absent and unknown; None without counts."""
    states = {name: (counts or {}).get(name, 0) for name in ("absent", "unknown", "present")}
    total = sum(states.values())
    return {n: states[n] / total for n in ("absent", "unknown")} if total else None


def _labels(joined: JoinedRows, splits: Splits, window: LabelWindow) -> dict[str, Any]:
    """Task -> what became of the rows of a window at its cut-off."""
    first = request_times(joined.log)
    kept = np.ones(len(first), bool)
    if window.start is not None:
        kept &= first >= instant(window.start)
    if window.end is not None:
        kept &= first < instant(window.end)
    columns = [TIME, *(t.column or t.name for t in joined.log.tasks)]
    columns += [t.known_at for t in joined.log.tasks if t.known_at]
    outcomes = joined.log.table.select(list(dict.fromkeys(columns)))
    log = replace(joined.log, table=outcomes).take(np.flatnonzero(kept))
    counts = log.counts(window.cutoff, windows=splits.windows)
    return {name: asdict(found) for name, found in counts.items()}
