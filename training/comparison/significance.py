"""What a comparison says. Reads: trials, the rows that they scored. Writes: the result, a plain
dict.

Metrics are means over fits, and over windows, weighted by rows (their order among tokenizers may be
chance in any one window); intervals come from draws of users, the same draws in every window and
for every competitor, so differences are paired. They hold the chance in users; that of fitting anew
shows in `fits`, a value each. p is two-sided, from the draws' normal approximation; `survives` is
Holm's step-down rule at 5 % over all the comparisons of one metric and ranker.

Legend: W windows, B draws.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adc_features.loader.frame import TrainingFrame
from training.comparison.trial import Trial
from training.evaluation.metrics import (
    Estimate,
    PairedBootstrap,
    popularity_slices,
    training_counts,
)

METRICS = ("auc", "gauc", "tail_auc")
LEVEL = 0.05
DECILES = 10


def comparison_result(
    trials: Sequence[Trial],
    frame: TrainingFrame,
    *,
    first: str,
    seed: int = 0,
    deciles: bool = False,
) -> dict[str, Any]:
    """Metrics, paired differences of `first` from each competitor, costs, and what was left out and
    why.

    Returns {"pooled_rows", "windows", "systems", "paired", "paired_codes", "paired_<ranker>",
    "split_90_10", "removed", "collapsed"}; `paired` is under PPNet, keyed `<first>_minus_<other>`,
    and `paired_codes` the same with the codes of `first` alone. deciles: also AUC by popularity
    decile of the rows.
    """
    rolling = [c for c in trials if not c.window.split_90_10]
    names = list(dict.fromkeys(name for c in rolling for name in c.scores))
    windows = list(dict.fromkeys(c.window for c in rolling))
    found = _measured(rolling, windows, frame, names, seed=seed, deciles=deciles)
    result: dict[str, Any] = {
        "pooled_rows": found.rows_total,
        "windows": [
            {"name": w.name, "start": w.start, "end": w.end, "rows": n}
            for w, n in zip(windows, found.rows, strict=True)
        ],
        "systems": {
            name: (
                {m: e.interval() for m, e in found.pooled[name].items()}
                | {"windows": found.by_window[name]}
            )
            for name in found.pooled
        },
    }
    rankers = list(dict.fromkeys(name.partition("/")[2] for name in found.pooled))
    for ranker in rankers:
        key = "paired" if ranker == "ppnet" else f"paired_{ranker}"
        if f"{first}/{ranker}" in found.pooled:
            result[key] = _paired(found, first, ranker)
    if f"{first}_codes/ppnet" in found.pooled:
        result["paired_codes"] = _paired(found, f"{first}_codes", "ppnet")
    if newest := [c for c in trials if c.window.split_90_10]:
        split = _measured(
            newest,
            [newest[0].window],
            frame,
            list(dict.fromkeys(n for c in newest for n in c.scores)),
            seed=seed,
            deciles=False,
        )
        result["split_90_10"] = {
            _short(name): {m: e.interval() for m, e in metrics.items()}
            for name, metrics in split.pooled.items()
        }
    for why in ("removed", "collapsed"):
        result[why] = {c.variant: c.facts[why] for c in trials if why in c.facts}
    result["costs"] = _costs(rolling)
    return result


class _Measured:
    """Per competitor and metric: the pooled estimate, and the value of each window and of
    each fit.
    """

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows
        self.rows_total = sum(rows)
        self.pooled: dict[str, dict[str, Estimate]] = {}
        self.by_window: dict[str, dict[str, list[float]]] = {}
        self.by_fit: dict[str, dict[str, list[float]]] = {}


def _measured(
    trials: Sequence[Trial],
    windows: Sequence[Any],
    frame: TrainingFrame,
    names: Sequence[str],
    *,
    seed: int,
    deciles: bool,
) -> _Measured:
    parts = [frame.between(w.start, w.end) for w in windows]
    number = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    bootstrap = PairedBootstrap(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.user_ids for p in parts]),
        seed=seed,
    )
    popularity = [
        training_counts(frame.between(None, w.start).item_ids, p.item_ids)
        for w, p in zip(windows, parts, strict=True)
    ]
    masks = _masks(popularity, deciles=deciles)
    found = _Measured([len(p) for p in parts])
    fits = sorted({trial.fit for trial in trials})
    scores = {
        (trial.fit, trial.window, name): score
        for trial in trials
        for name, score in trial.scores.items()
    }
    for name in names:
        if any((fit, window, name) not in scores for fit in fits for window in windows):
            continue  # it collapsed in one of them: not ranked
        wholes = [
            np.concatenate([scores[fit, window, name] for window in windows], axis=1)
            for fit in fits
        ]
        found.pooled[name], found.by_window[name], found.by_fit[name] = {}, {}, {}
        for metric, mask in masks.items():
            measure = bootstrap.gauc if metric == "gauc" else bootstrap.auc
            values = [
                [measure(whole, mask & (number == w)) for w in range(len(parts))]
                for whole in wholes
            ]
            each = [_pooled(estimates, found.rows) for estimates in values]
            found.pooled[name][metric] = Estimate(
                float(np.mean([e.value for e in each])), np.mean([e.draws for e in each], axis=0)
            )
            found.by_window[name][metric] = [
                float(np.mean([e.value for e in of_window]))
                for of_window in zip(*values, strict=True)
            ]
            found.by_fit[name][metric] = [e.value for e in each]
    return found


def _masks(popularity: Sequence[np.ndarray], *, deciles: bool) -> dict[str, np.ndarray]:
    """Metric -> the rows that it is over, those of all windows in a row. popularity: training rows
    of each row's item, a window each; slices and deciles are cut within a window.
    """
    slices = [popularity_slices(p) for p in popularity]
    everything = np.ones(sum(map(len, popularity)), bool)
    masks = {"auc": everything, "gauc": everything}
    for part in ("tail", "head", "middle", "cold"):
        masks[f"{part}_auc"] = np.concatenate([s[part] for s in slices])
    if deciles:
        edges = np.linspace(0.1, 0.9, DECILES - 1)
        group = np.concatenate(
            [np.searchsorted(np.quantile(p, edges), p, side="right") for p in popularity]
        )
        masks |= {f"decile_{d}_auc": group == d for d in range(DECILES)}
    return masks


def _pooled(estimates: Sequence[Estimate], rows: Sequence[int]) -> Estimate:
    """The mean over the windows that define the metric, weighted by their rows."""
    defined = [(e, n) for e, n in zip(estimates, rows, strict=True) if math.isfinite(e.value)]
    if not defined:
        return estimates[0]
    weights = [n for _, n in defined]
    return Estimate(
        float(np.average([e.value for e, _ in defined], weights=weights)),
        np.average([e.draws for e, _ in defined], axis=0, weights=weights),
    )


def _paired(found: _Measured, first: str, ranker: str) -> dict[str, Any]:
    own = f"{first}/{ranker}"
    others = [name for name in found.pooled if name.endswith(f"/{ranker}") and name != own]
    differences: dict[str, dict[str, Any]] = {name: {} for name in others}
    for metric in found.pooled[own]:
        for name in others:
            difference = found.pooled[own][metric] - found.pooled[name][metric]
            wins = [
                a - b
                for a, b in zip(
                    found.by_window[own][metric], found.by_window[name][metric], strict=True
                )
                if math.isfinite(a - b)
            ]
            refits = [
                a - b
                for a, b in zip(found.by_fit[own][metric], found.by_fit[name][metric], strict=True)
            ]
            differences[name][metric] = {
                **difference.interval(),
                "p": p_value(difference),
                "sign_test": sign_test(wins),
                "windows": wins,
                "fits": refits,
            }
        kept = holm([differences[name][metric]["p"] for name in others], level=LEVEL)
        for name, survives in zip(others, kept, strict=True):
            differences[name][metric]["survives"] = survives
    return {f"{first}_minus_{_short(name)}": facts for name, facts in differences.items()}


def paired_title(key: str, first: str) -> str:
    """What a result's `paired` part is about, in words."""
    if key == "paired_codes":
        return f"{first}_codes minus each other, under ppnet"
    return f"{first} minus each other, under {key.removeprefix('paired').strip('_') or 'ppnet'}"


def _short(name: str) -> str:
    """adc/ppnet is adc: PPNet is the ranker that is spoken of."""
    return name.removesuffix("/ppnet")


def p_value(difference: Estimate) -> float:
    """Two-sided, of no difference, if the estimate is normal with the spread of its draws; 1 where
    every draw is the value.
    """
    draws = np.asarray(difference.draws)
    known = draws[~np.isnan(draws)]
    if not math.isfinite(difference.value) or not known.size:
        return float("nan")
    spread = float(np.std(known))
    if not math.isfinite(spread):
        return float("nan")
    return (
        math.erfc(abs(difference.value) / spread / math.sqrt(2))
        if spread > 0
        else float(difference.value == 0)
    )


def holm(p: Sequence[float], *, level: float) -> list[bool]:
    """Which hypotheses are rejected at this family-wise level (Holm 1979): the k-th smallest of n
    against level / (n - k + 1), until one fails. NaN never is.
    """
    order = sorted((value, place) for place, value in enumerate(p) if math.isfinite(value))
    rejected = [False] * len(p)
    for rank, (value, place) in enumerate(order):
        if value > level / (len(order) - rank):
            break
        rejected[place] = True
    return rejected


def sign_test(differences: Sequence[float]) -> dict[str, float]:
    """How many windows were won, and the two-sided probability of so uneven a split by chance; ties
    count for neither.
    """
    from scipy.stats import binomtest

    won, played = sum(d > 0 for d in differences), sum(d != 0 for d in differences)
    return {"won": won, "of": played, "p": float(binomtest(won, played).pvalue) if played else 1.0}


def _costs(trials: Sequence[Trial]) -> dict[str, Mapping[str, float]]:
    """Fit seconds and encode rate, means over windows, and bytes an item; by variant."""
    costs: dict[str, Mapping[str, float]] = {}
    for variant in dict.fromkeys(
        c.variant for c in trials if c.variant and "fit_seconds" in c.facts
    ):
        mine = [c.facts for c in trials if c.variant == variant and "fit_seconds" in c.facts]
        costs[str(variant)] = {
            name: float(np.mean([f[name] for f in mine]))
            for name in (
                "fit_seconds",
                "fit_cpu_seconds",
                "encode_rows_per_second",
                "bytes_per_item",
            )
        }
    for trial in trials:
        if trial.variant is None:
            costs["vectors"] = {"bytes_per_item": trial.facts["bytes_per_item"]["vectors"]}
    return costs
