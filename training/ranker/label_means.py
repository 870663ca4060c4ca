"""Mean labels of categories, for trees. Reads: rows of tables, labels with their times. Writes:
smoothed means.

A category of many values says little by its number. What it says by the labels of its values may
be learned from training rows alone, and not from a row's own label: trees would find in it what
they are asked for. So a training row is shown the mean of the labels that were known before its
time, and a later row that of all training rows.

Legend: N rows, T tasks, R rows of a table.
"""

import numpy as np

SMOOTHING = 20.0
"""Weight of a task's own mean in that of each value, in rows of weight 1."""


def task_means(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean label of each task: float64 [T]. labels, weights: [T, N], 0 where no label
    counts."""
    given = np.where(weights > 0, labels, 0)
    total = weights.sum(axis=1, dtype=np.float64)
    return np.einsum("tn,tn->t", given, weights, dtype=np.float64) / np.maximum(total, 1e-12)


def final_means(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    *,
    size: int,
    own: int,
    priors: np.ndarray,
) -> np.ndarray:
    """What the value of each row of a table is worth after the training: float32 [T, R].

    Parameters
    ----------
    rows : ndarray
        int64 [N], the row of the table that each training row looks up.
    labels, weights : ndarray
        [T, N]; a label of weight 0 does not count.
    size : int
        R.
    own : int
        The first row of the table that belongs to one value alone; the rows before it get the
        priors.
    priors : ndarray
        [T], of `task_means`.
    """
    found = np.empty((len(labels), size), np.float32)
    for task, (label, weight, prior) in enumerate(zip(labels, weights, priors, strict=True)):
        sums = np.bincount(rows, np.where(weight > 0, label, 0) * weight, size)
        found[task] = _smoothed(sums, np.bincount(rows, weight, size), prior)
    found[:, :own] = priors[:, None]
    return found


def earlier_means(
    rows: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    *,
    times: np.ndarray,
    known: np.ndarray,
    own: int,
    priors: np.ndarray,
) -> np.ndarray:
    """What the value of each training row was worth at its time: float32 [T, N].

    Parameters
    ----------
    rows, labels, weights, own, priors
        As in `final_means`.
    times : ndarray
        datetime64 [N], of each row; of its request where rows are of requests.
    known : ndarray
        datetime64 [T, N], when each label was known, not before the time of its row. A label known
        at the very time of a row does not count for it, so that none counts for its own row.
    """
    moments, code = np.unique(np.concatenate([times, known.ravel()]), return_inverse=True)
    asked_at, known_at = code[: len(times)], code[len(times) :].reshape(known.shape)
    first = rows.astype(np.int64) * len(moments)
    found = np.empty(labels.shape, np.float32)
    for task, (label, weight, prior) in enumerate(zip(labels, weights, priors, strict=True)):
        counted = np.flatnonzero(weight > 0)
        events = first[counted] + known_at[task, counted]
        order = np.argsort(events, kind="stable")
        events, counted = events[order], counted[order]
        begin, end = np.searchsorted(events, first), np.searchsorted(events, first + asked_at)
        sums, weighed = (
            np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
            for values in (label[counted] * weight[counted], weight[counted])
        )
        found[task] = _smoothed(sums[end] - sums[begin], weighed[end] - weighed[begin], prior)
    found[:, rows < own] = priors[:, None]
    return found


def _smoothed(sums: np.ndarray, weights: np.ndarray, prior: float) -> np.ndarray:
    return (sums + SMOOTHING * prior) / (weights + SMOOTHING)
