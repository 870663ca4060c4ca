"""How good rankers of several tasks are, task by task. Reads: probabilities, labels, masks.
Writes: RankerEvaluation.

Users are resampled, as rows of one user are not independent, and the seeds of each ranker where it
has several; all rankers see the same draws, so differences are paired.

Legend: S seeds, T tasks, N rows, n rows with a label of one task, R requests.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from adc_features.errors import InputError
from training.evaluation.metrics import DRAWS, Estimate, PairedBootstrap, gauc, user_auc
from training.ranker.results import RankerEvaluation, TaskEvaluation, TaskScores

WEIGHTED = "weighted_"


class RequestQuality(NamedTuple):
    """NDCG@k and reciprocal rank of each request, float64 [R]; NaN without both classes."""

    ndcg: np.ndarray
    mrr: np.ndarray


@dataclass(frozen=True)
class TaskRows:
    """The labelled rows of one task.

    bootstrap: their labels, users and draws. request: int64 [n] from 0, None without requests.
    weight: float64 [n], None where all count alike. top: k of NDCG@k. by_user: whether the users
    are users, and not what is resampled in their place.
    """

    bootstrap: PairedBootstrap
    request: np.ndarray | None = None
    weight: np.ndarray | None = None
    top: int = 10
    by_user: bool = True

    def estimates(
        self, scores: np.ndarray, *, only: Collection[str] | None = None
    ) -> dict[str, Estimate]:
        """Metric -> its estimate, for probabilities [S, n] or [n]. only: the metrics asked for, of
        those that the rows have."""
        rows, label, own = self.bootstrap, self.bootstrap.label, self.weight
        known: dict[str, Callable[[], Estimate]] = {
            "auc": lambda: rows.auc(scores),
            **({"gauc": lambda: rows.gauc(scores)} if self.by_user else {}),
            "logloss": lambda: rows.logloss(scores),
            "calibration": lambda: rows.over_seeds(scores, lambda s: rows.ratio(label, s)),
        }
        if self.request is not None:
            known["request_gauc"] = lambda: rows.over_seeds(scores, self._request_gauc)
            known["ndcg"] = lambda: rows.over_seeds(scores, lambda s: self._by_request(s, "ndcg"))
            known["mrr"] = lambda: rows.over_seeds(scores, lambda s: self._by_request(s, "mrr"))
        if own is not None:
            known[f"{WEIGHTED}auc"] = lambda: rows.auc(scores, row_weight=own)
            known[f"{WEIGHTED}logloss"] = lambda: rows.logloss(scores, row_weight=own)
            known[f"{WEIGHTED}calibration"] = lambda: rows.over_seeds(
                scores, lambda s: rows.ratio(own * label, own * s)
            )
        return {name: found() for name, found in known.items() if only is None or name in only}

    def _request_gauc(self, score: np.ndarray) -> Estimate:
        """AUC within each request with both classes, weighted by its rows."""
        assert self.request is not None
        auc = user_auc(self.bootstrap.label, score, self.request)[0][self.request]
        known = np.isfinite(auc)
        return self.bootstrap.ratio(np.where(known, auc, 0.0), known.astype(np.float64))

    def _by_request(self, score: np.ndarray, metric: str) -> Estimate:
        """The mean over requests, each counted at its first row, hence with its user."""
        assert self.request is not None
        quality = request_quality(self.bootstrap.label, score, self.request, top=self.top)
        values = getattr(quality, metric)
        first = np.unique(self.request, return_index=True)[1]
        known = np.isfinite(values)
        above, below = np.zeros(len(score)), np.zeros(len(score))
        above[first[known]], below[first[known]] = values[known], 1.0
        return self.bootstrap.ratio(above, below)


def evaluate_rankers(
    predictions: Mapping[str, np.ndarray],
    labels: np.ndarray,
    mask: np.ndarray,
    *,
    tasks: Sequence[str],
    user: np.ndarray | None,
    request: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    seed: int = 0,
    top: int = 10,
    draws: int = DRAWS,
) -> RankerEvaluation:
    """Every ranker on every task, and the paired differences of all pairs, the earlier named minus
    the later.

    Parameters
    ----------
    predictions : mapping of str to ndarray
        Ranker -> probabilities [T, N] or [S, T, N].
    labels, mask : ndarray
        float32 and bool [T, N].
    tasks : sequence of str
        Their names.
    user, request : ndarray, optional
        The number of each row's user and request, int64 [N]. Without users, requests are resampled,
        and without both, rows.
    weights : ndarray, optional
        Sample weights [N]: metrics are given with and without them.
    seed, draws : int
        Of the bootstrap.
    top : int
        k of NDCG@k.

    Raises
    ------
    InputError
        When a task lacks a class, naming it, or shapes disagree.
    """
    for name, scores in predictions.items():
        if scores.shape[-2:] != labels.shape or labels.shape != mask.shape:
            raise InputError(
                f"predictions of {name!r} are {list(scores.shape)}, labels {list(labels.shape)},"
                f" the mask {list(mask.shape)}; expected [tasks, rows] alike"
            )
    if top < 1:
        raise InputError(f"NDCG is asked for the top {top}; expected 1 or more")
    resampled = next((n for n in (user, request) if n is not None), np.arange(labels.shape[1]))
    found = {}
    for task, name in enumerate(tasks):
        kept = np.flatnonzero(mask[task])
        rows = _task_rows(
            labels[task, kept],
            resampled[kept],
            None if request is None else request[kept],
            None if weights is None else weights[kept],
            name=name,
            seed=seed,
            top=top,
            draws=draws,
            by_user=user is not None,
        )
        each = {k: rows.estimates(s[..., task, kept]) for k, s in predictions.items()}
        found[name] = _task_evaluation(rows, each)
    return RankerEvaluation(found)


def request_quality(
    label: np.ndarray, score: np.ndarray, request: np.ndarray, *, top: int
) -> RequestQuality:
    """NDCG@top and reciprocal rank of the first positive, for each request 0..R-1.

    Rows of equal score share the mean gain of their places (as in scikit-learn); the first positive
    among them stands at its expected place, so that constant scores gain nothing.
    """
    order = np.lexsort((-score, request))
    label, score, request = label[order].astype(np.float64), score[order], request[order]
    new = np.concatenate([[True], request[1:] != request[:-1]])
    start = np.flatnonzero(new)[np.cumsum(new) - 1]
    place = np.arange(len(label)) - start
    new_tie = np.concatenate([[True], new[1:] | (score[1:] != score[:-1])])
    tie, tie_start = np.cumsum(new_tie) - 1, np.flatnonzero(new_tie)
    size, gained = np.bincount(tie), np.bincount(tie, label)
    rows, positives = np.bincount(request), np.bincount(request, label)
    discount = np.where(place < top, 1 / np.log2(place + 2), 0.0)
    dcg = np.bincount(request, (gained / size)[tie] * discount)
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(top) + 2))])
    with_positive = np.flatnonzero(gained > 0)
    owner, first = np.unique(request[tie_start[with_positive]], return_index=True)
    tied = with_positive[first]
    rank = np.full(len(rows), np.nan)
    rank[owner] = place[tie_start[tied]] + 1 + (size - gained)[tied] / (gained[tied] + 1)
    both = (positives > 0) & (positives < rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        ndcg = dcg / best[np.minimum(positives, top).astype(np.int64)]
    return RequestQuality(np.where(both, ndcg, np.nan), np.where(both, 1 / rank, np.nan))


def _task_rows(
    label: np.ndarray,
    user: np.ndarray,
    request: np.ndarray | None,
    weight: np.ndarray | None,
    *,
    name: str,
    seed: int,
    top: int,
    draws: int,
    by_user: bool,
) -> TaskRows:
    try:
        bootstrap = PairedBootstrap(label.astype(np.float64), user, seed, draws)
    except InputError as error:
        raise InputError(f"task {name!r}: {error}") from error
    numbers = None if request is None else np.unique(request, return_inverse=True)[1]
    own = None if weight is None or (weight == weight[0]).all() else weight.astype(np.float64)
    return TaskRows(bootstrap, numbers, own, top, by_user)


def _task_evaluation(rows: TaskRows, each: Mapping[str, Mapping[str, Estimate]]) -> TaskEvaluation:
    label, score = rows.bootstrap.label, np.zeros(len(rows.bootstrap.label))
    users = gauc(label, score, rows.bootstrap.user_row).users if rows.by_user else None
    requests = None if rows.request is None else gauc(label, score, rows.request).users
    return TaskEvaluation(
        rows=len(label),
        positives=int(label.sum()),
        users=users,
        requests=requests,
        top=rows.top,
        rankers={name: _scores(estimates) for name, estimates in each.items()},
        paired={
            f"{a}_minus_{b}": _scores({m: each[a][m] - each[b][m] for m in each[a]})
            for a, b in combinations(each, 2)
        },
    )


def _scores(estimates: Mapping[str, Estimate]) -> TaskScores:
    intervals = {name: estimate.interval() for name, estimate in estimates.items()}
    weighted = {
        name.removeprefix(WEIGHTED): interval
        for name, interval in intervals.items()
        if name.startswith(WEIGHTED)
    }
    plain = {name: i for name, i in intervals.items() if not name.startswith(WEIGHTED)}
    return TaskScores(**plain, weighted=weighted or None)
