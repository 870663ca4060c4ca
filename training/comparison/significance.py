"""What a comparison says. Reads: trials, the rows that they scored. Writes: the result, a plain
dict.

Metrics are means over fits, and over windows, weighted by rows (their order among tokenizers may be
chance in any one window). Intervals cover the choice of users, by draws that are the same in every
window and for every competitor, so that differences are paired; and, with several fits, the chance
of fitting (`training.evaluation.refits`). `interval_covers` says which. p is two-sided and belongs
to the same interval; `survives` is Holm's step-down rule at 5 % over all the comparisons of one
metric and ranker.

Legend: W windows, B draws.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adc_features.loader.frame import TrainingFrame
from training.comparison.baselines import KIND
from training.comparison.plan import Window
from training.comparison.trial import Trial
from training.evaluation.metrics import (
    Estimate,
    PairedBootstrap,
    popularity_slices,
    training_counts,
)
from training.evaluation.refits import Refitted, p_value

LEVEL = 0.05
DECILES = 10
NEW_ITEM_EVENTS = 3
"""Training rows that an item has at most, to be a new one."""
PAIRED = "paired"
PAIRED_BASELINES = f"{PAIRED}_{KIND}s"


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

    Returns {"interval_covers", "pooled_rows", "windows", "systems", "new_items", "paired",
    "paired_codes", "paired_<ranker>", "paired_baselines", "split_90_10", "per_user", "removed",
    "collapsed", "absent", "costs"}; `paired` is under PPNet, keyed `<first>_minus_<other>`, and
    `paired_codes` the same with the codes of `first` alone. new_items: AUC over the rows whose item
    has at most NEW_ITEM_EVENTS training rows. deciles: also AUC by popularity decile of the rows.
    """
    rolling = [c for c in trials if c.window.rolling]
    found = _measured(rolling, frame, seed=seed, deciles=deciles)
    result: dict[str, Any] = {
        "interval_covers": interval_covers(len({c.fit for c in trials})),
        "pooled_rows": found.rows_total,
        "windows": [
            {"name": w.name, "start": w.start, "end": w.end, "rows": n}
            for w, n in zip(found.windows, found.rows, strict=True)
        ],
        "systems": {
            name: metrics | {"windows": found.by_window[name]}
            for name, metrics in _intervals(found).items()
        },
        "new_items": {
            _short(name): {"auc": metrics["new_auc"].interval()}
            for name, metrics in found.pooled.items()
        },
        "new_items_of": {"at_most_training_rows": NEW_ITEM_EVENTS, "rows": found.new_rows},
        **_all_paired(found, first),
    }
    if newest := [c for c in trials if c.window.split_90_10]:
        split = _measured(newest, frame, seed=seed, deciles=False)
        result["split_90_10"] = {_short(n): m for n, m in _intervals(split).items()}
    if of_users := [c for c in trials if c.window.per_user]:
        split = _measured(of_users, frame, seed=seed, deciles=False)
        result["per_user"] = {
            "rows": split.rows_total,
            "systems": _intervals(split),
            **_all_paired(split, first),
        }
    for why in ("removed", "collapsed"):
        result[why] = {c.variant: c.facts[why] for c in trials if why in c.facts}
    result["absent"] = {
        name: why for c in trials for name, why in c.facts.get("absent", {}).items()
    }
    result["costs"] = _costs(rolling)
    return result


def interval_covers(fits: int) -> list[str]:
    """What the intervals of as many fits cover."""
    return ["users", "fits"] if fits > 1 else ["users"]


class _Measured:
    """Per competitor and metric: the pooled estimate of every fit, and the value of each window.
    new_rows: of new items.
    """

    def __init__(self, windows: list[Window], rows: list[int], new_rows: int) -> None:
        self.windows = windows
        self.rows = rows
        self.rows_total = sum(rows)
        self.new_rows = new_rows
        self.pooled: dict[str, dict[str, Refitted]] = {}
        self.by_window: dict[str, dict[str, list[float]]] = {}


def _intervals(found: _Measured) -> dict[str, dict[str, Any]]:
    return {
        name: {m: e.interval() for m, e in metrics.items()}
        for name, metrics in found.pooled.items()
    }


def _measured(
    trials: Sequence[Trial], frame: TrainingFrame, *, seed: int, deciles: bool
) -> _Measured:
    windows = list(dict.fromkeys(c.window for c in trials))
    fits = sorted({trial.fit for trial in trials})
    splits = [w.parts(frame) for w in windows]
    parts = [scored for _, scored in splits]
    number = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    bootstrap = PairedBootstrap(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.user_ids for p in parts]),
        seed=seed,
        seeds_drawn=len(fits) == 1,
    )
    masks = _masks([training_counts(b.item_ids, p.item_ids) for b, p in splits], deciles=deciles)
    found = _Measured(windows, [len(p) for p in parts], int(masks["new_auc"].sum()))
    scores = {
        (trial.fit, trial.window, name): score
        for trial in trials
        for name, score in trial.scores.items()
    }
    for name in dict.fromkeys(name for c in trials for name in c.scores):
        if any((fit, window, name) not in scores for fit in fits for window in windows):
            continue  # it collapsed in one of them: not ranked
        wholes = [
            np.concatenate([scores[fit, window, name] for window in windows], axis=1)
            for fit in fits
        ]
        found.pooled[name], found.by_window[name] = {}, {}
        for metric, mask in masks.items():
            measure = bootstrap.gauc if metric == "gauc" else bootstrap.auc
            values = [
                [measure(whole, mask & (number == w)) for w in range(len(parts))]
                for whole in _distinct(wholes)
            ]
            values *= len(fits) // len(values)
            found.pooled[name][metric] = Refitted([_pooled(each, found.rows) for each in values])
            found.by_window[name][metric] = [
                float(np.mean([e.value for e in of_window]))
                for of_window in zip(*values, strict=True)
            ]
    return found


def _distinct(wholes: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """One of them where all are the same, as those of what is not fitted."""
    same = all(np.array_equal(wholes[0], whole) for whole in wholes[1:])
    return wholes[:1] if same else wholes


def _masks(popularity: Sequence[np.ndarray], *, deciles: bool) -> dict[str, np.ndarray]:
    """Metric -> the rows that it is over, those of all windows in a row. popularity: training rows
    of each row's item, a window each; slices and deciles are cut within a window.
    """
    slices = [popularity_slices(p) for p in popularity]
    everything = np.ones(sum(map(len, popularity)), bool)
    new = np.concatenate([p <= NEW_ITEM_EVENTS for p in popularity])
    masks = {"auc": everything, "gauc": everything, "new_auc": new}
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


def _all_paired(found: _Measured, first: str) -> dict[str, dict[str, Any]]:
    """The differences of `first` from others: a key a ranker, its codes alone, the baselines."""
    result = {}
    rankers = list(dict.fromkeys(name.partition("/")[2] for name in found.pooled))
    for ranker in rankers:
        key = PAIRED if ranker == "ppnet" else f"{PAIRED}_{ranker}"
        if f"{first}/{ranker}" in found.pooled:
            result[key] = _paired(found, first, ranker, ranker)
    if f"{first}_codes/ppnet" in found.pooled:
        result["paired_codes"] = _paired(found, f"{first}_codes", "ppnet", "ppnet")
    if f"{first}/ppnet" in found.pooled and KIND in rankers:
        result[PAIRED_BASELINES] = _paired(found, first, "ppnet", KIND)
    return result


def _paired(found: _Measured, first: str, ranker: str, against: str) -> dict[str, Any]:
    own = f"{first}/{ranker}"
    others = [name for name in found.pooled if name.endswith(f"/{against}") and name != own]
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
            differences[name][metric] = {
                **difference.interval(),
                "p": p_value(difference),
                "sign_test": sign_test(wins),
                "windows": wins,
                "fits": difference.values,
            }
        kept = holm([differences[name][metric]["p"] for name in others], level=LEVEL)
        for name, survives in zip(others, kept, strict=True):
            differences[name][metric]["survives"] = survives
    return {f"{first}_minus_{_short(name)}": facts for name, facts in differences.items()}


def paired_title(key: str, first: str) -> str:
    """What a result's `paired` part is about, in words."""
    if key == "paired_codes":
        return f"{first}_codes minus each other, under ppnet"
    if key == PAIRED_BASELINES:
        return f"{first} under ppnet minus what needs no network"
    return f"{first} minus each other, under {key.removeprefix('paired').strip('_') or 'ppnet'}"


def _short(name: str) -> str:
    """adc/ppnet is adc, and item_mean/baseline is item_mean: PPNet is the ranker that is spoken of,
    and baselines have none.
    """
    return name.removesuffix("/ppnet").removesuffix(f"/{KIND}")


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
    fitted = dict.fromkeys(c.variant for c in trials if c.variant and "fit_seconds" in c.facts)
    for variant in fitted:
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
        if trial.variant is None and "vectors/ppnet" in trial.scores:
            costs["vectors"] = {"bytes_per_item": trial.facts["bytes_per_item"]["vectors"]}
    return costs
