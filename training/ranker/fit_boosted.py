"""Grow boosted trees of several tasks. Reads: Encoded, labels. Writes: BoostedScorer, its curve.

Each task has a booster of its own, grown on the rows whose label of that task counts. All read the
mean labels of all tasks: a value that is often clicked says something of purchases too.

Legend: N rows, T tasks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xgboost as xgb

from adc_features.devices import resolve_device
from adc_features.errors import InputError
from adc_features.inputs.encoded import Encoded
from adc_features.ranking.base import Progress, Round
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted import BoostedScorer, dmatrix
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns, BoostedMatrix
from training.ranker.label_means import earlier_means, final_means, task_means
from training.ranker.labelled import Labelled, weighed

ROUND_COST = 0.0
"""Held-out nats that each further tree must save to be taken."""


def fit_boosted(
    encoded: Encoded,
    labels: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    *,
    tasks: Sequence[str],
    columns: BoostedColumns,
    settings: BoostedSettings,
    seed: int,
    rounds: int | Sequence[int] | None = None,
    holdout: Labelled | None = None,
    times: np.ndarray | None = None,
    known: np.ndarray | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> tuple[BoostedScorer, list[Round]]:
    """Grow trees.

    Parameters
    ----------
    encoded : Encoded
        N training rows.
    labels, mask, weights : ndarray
        As in `Labelled`.
    tasks : sequence of str
        In the order of the labels.
    columns : BoostedColumns
        What trees read of the inputs.
    settings : BoostedSettings
        XGBoost's parameters.
    seed : int
        The same seed gives the same trees.
    rounds : int or sequence of int, optional
        Trees, of all tasks or of each. None: the most that the settings allow; with `holdout` as
        many of each task as score its held-out rows best (`BoostedScorer.rounds` tells).
    holdout : Labelled, optional
        Rows that are scored after each round.
    times, known : ndarray, optional
        As in `Labelled`; needed where a table has more than `boosted_matrix.CATEGORIES` rows.
        Without `known` each label was known at the time of its row.
    progress : callable, optional
        Told after each task.
    device : {"cpu", "auto", "cuda"}
        Where XGBoost grows them; see `adc_features.devices`.

    Returns
    -------
    tuple of BoostedScorer and list of Round
        The trees, and the mean log loss of the tasks by round. There is no warm start: an older
        ranker's splits are on older rows of the tables.

    Raises
    ------
    InputError
        Labels that do not fit the rows, a task whose labels that count are all equal, or no times
        where they are needed.
    """
    place = _place(device)
    rows = Labelled(encoded, labels, mask, weights, times=times, known=known)
    counted = weighed(rows, tasks)
    _require_two_classes(tasks, labels, counted)
    held_weights = None if holdout is None else weighed(holdout, tasks)
    numbers = [rounds] * len(tasks) if rounds is None or isinstance(rounds, int) else list(rounds)
    if len(numbers) != len(tasks):
        raise InputError(f"rounds of {len(numbers)} tasks; expected {len(tasks)}: {list(tasks)}")
    columns, matrix = _with_means(columns, rows, counted)
    held = None if holdout is None else columns.matrix(holdout.in_memory)
    boosters, curves = [], []
    for n in range(len(tasks)):
        watched = [_counted(matrix, labels[n], counted[n], settings)]
        if holdout is not None and held is not None and held_weights is not None:
            if not held_weights[n].any():
                raise InputError(f"no held-out label of {tasks[n]!r} counts; give later rows too")
            watched.append(_counted(held, holdout.labels[n], held_weights[n], settings))
        booster, curve = _grown(watched, settings, rounds=numbers[n], seed=seed, device=place)
        boosters.append(booster)
        curves.append(curve)
        if progress is not None:
            progress("train xgboost", n + 1, len(tasks))
    scorer = BoostedScorer(tasks, settings=settings, columns=columns, boosters=boosters)
    return scorer, _mean_curve(curves)


def _with_means(
    columns: BoostedColumns, rows: Labelled, weights: np.ndarray
) -> tuple[BoostedColumns, BoostedMatrix]:
    """The columns with the mean labels of these rows, and what the rows themselves are shown.

    The mean label of a task, to which the others are smoothed, is that of all rows: it is the same
    number for each of them, and so tells nothing of one.
    """
    if not (large := columns.large):
        return columns, columns.matrix(rows.in_memory)
    if (times := rows.times) is None:
        raise InputError(
            f"the categories {[lookup.input for lookup in large]} have too many values to enter"
            " trees by their number, and the rows have no times, by which labels of earlier rows"
            " are told from later ones; pass `times`"
        )
    known = np.broadcast_to(times, weights.shape) if rows.known is None else rows.known
    labels, priors = rows.labels, task_means(rows.labels, weights)
    means, earlier = {}, {}
    for lookup in large:
        found = columns.table_rows(rows.in_memory, lookup)
        found = np.broadcast_to(found, len(rows.in_memory))
        means[lookup.key] = final_means(
            found, labels, weights, size=lookup.size, own=lookup.own, priors=priors
        )
        earlier[lookup.key] = earlier_means(
            found, labels, weights, times=times, known=known, own=lookup.own, priors=priors
        )
    columns = replace(columns, means=means)
    return columns, columns.matrix(rows.in_memory, earlier=earlier)


def _counted(
    matrix: BoostedMatrix, labels: np.ndarray, weights: np.ndarray, settings: BoostedSettings
) -> Any:
    """The rows whose label counts, as XGBoost reads them."""
    rows = np.flatnonzero(weights)
    return dmatrix(
        matrix._replace(values=matrix.values[rows]),
        labels=np.asarray(labels)[rows],
        weights=weights[rows],
        threads=settings.threads,
    )


def _place(device: str) -> str:
    """XGBoost's name of a device. Raises InputError where it is built without it."""
    if device == "cpu":
        return device
    place = str(resolve_device(device))
    if place != "cpu" and not xgb.build_info()["USE_CUDA"]:
        raise InputError(
            f"device is {device!r}, and xgboost {xgb.__version__} is built without CUDA; install"
            " xgboost in the place of xgboost-cpu, or give device='cpu'"
        )
    return place


def _grown(
    watched: Sequence[Any],
    settings: BoostedSettings,
    *,
    rounds: int | None,
    seed: int,
    device: str,
) -> tuple[Any, np.ndarray]:
    """A booster, and its log losses on the rows watched: [rounds, 1 or 2]."""
    parameters = settings.parameters(seed=seed) | {"device": device}
    names = ("train", "holdout")[: len(watched)]
    history: dict[str, dict[str, list[float]]] = {}
    booster = xgb.train(
        parameters,
        watched[0],
        rounds or settings.max_rounds,
        evals=list(zip(watched, names, strict=True)),
        evals_result=history,
        verbose_eval=False,
    )
    losses = np.array([history[name]["logloss"] for name in names]).T
    if rounds is None and len(names) > 1:
        costs = losses[:, 1] + ROUND_COST * np.arange(len(losses))
        booster = booster[: int(costs.argmin()) + 1]
    return booster, losses


def _require_two_classes(tasks: Sequence[str], labels: np.ndarray, weights: np.ndarray) -> None:
    for name, label, weight in zip(tasks, labels, weights, strict=True):
        seen = np.unique(label[weight > 0])
        if len(seen) < 2:
            raise InputError(
                f"the labels of {name!r} that count are {seen.tolist() or 'none'}; expected both 0"
                " and 1: take a longer training window, or leave the task out"
            )


def _mean_curve(curves: Sequence[np.ndarray]) -> list[Round]:
    """The mean over tasks, as far as every task has rounds."""
    rounds = min(len(curve) for curve in curves)
    mean = np.mean([curve[:rounds] for curve in curves], axis=0)
    return [
        Round(n, float(loss[0]), float(loss[1]) if len(loss) > 1 else None)
        for n, loss in enumerate(mean, start=1)
    ]
