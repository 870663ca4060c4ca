"""How a candidate meets a list of a user's. Reads: keys of elements and candidates. Writes: sums.

Legend: n rows of lists, n = N or 1; N candidates, T elements of all rows' lists, P positions.
"""

from collections.abc import Iterator, Sequence

import numpy as np


def sums_of_equal(
    elements: np.ndarray,
    offsets: np.ndarray,
    candidates: np.ndarray,
    *,
    worths: Sequence[np.ndarray],
    weights: np.ndarray | None = None,
) -> list[np.ndarray]:
    """For each worth its sum over a row's elements that equal its candidate: float64 [N, P] each.

    The sum for one user of N candidates has the same bits as for N rows that repeat the user.

    Parameters
    ----------
    elements : ndarray
        int64 [T, P], >= 0; 0 is no key and equals nothing.
    offsets : ndarray
        int64 [n + 1].
    candidates : ndarray
        int64 [N, P], >= 0.
    worths : sequence of ndarray
        float64 [T] each.
    weights : ndarray, optional
        float32 [T, P] by which every worth is multiplied.
    """
    if not len(elements):
        return [np.zeros(candidates.shape) for _ in worths]
    if len(offsets) == 2:
        return list(_sums_of_one(elements, candidates, worths, weights))
    out = [np.zeros(candidates.shape) for _ in worths]
    for place in range(candidates.shape[1]):
        weight = None if weights is None else weights[:, place]
        sums = _sums_of_many(elements[:, place], offsets, candidates[:, place], worths, weight)
        for whole, part in zip(out, sums, strict=True):
            whole[:, place] = part
    return out


def _sums_of_one(
    keys: np.ndarray,
    wanted: np.ndarray,
    worths: Sequence[np.ndarray],
    weights: np.ndarray | None,
) -> Iterator[np.ndarray]:
    """What each key of the one user is worth, at each position, is added up once and read by every
    candidate."""
    top, positions = int(keys.max()) + 1, keys.shape[1]
    first = np.arange(positions) * top  # of the keys of a position
    held = np.where(wanted < top, wanted, 0) + first
    flat = (keys + first).ravel()
    for worth in worths:
        each = np.broadcast_to(worth[:, None], keys.shape)
        each = each if weights is None else each * weights
        total = np.bincount(flat, each.ravel(), top * positions)
        total[first] = 0
        yield total[held]


def _sums_of_many(
    keys: np.ndarray,
    offsets: np.ndarray,
    wanted: np.ndarray,
    worths: Sequence[np.ndarray],
    weight: np.ndarray | None,
) -> Iterator[np.ndarray]:
    """Each row's elements beside its candidate."""
    theirs = np.repeat(wanted, np.diff(offsets))
    same = np.flatnonzero((keys == theirs) & (keys > 0))
    row = np.searchsorted(offsets, same, side="right") - 1
    for worth in worths:
        chosen = worth[same] if weight is None else worth[same] * weight[same]
        yield np.bincount(row, chosen, len(wanted))


def smoothed_mean(
    values: np.ndarray, row: np.ndarray, sizes: np.ndarray, *, smoothing: float, prior: float
) -> np.ndarray:
    """The mean of each row's values with `smoothing` more that are `prior`: float64 [n].

    values: float64 [T]; row: int64 [T]; sizes: int64 [n].
    """
    total = np.bincount(row, values, len(sizes))
    return (total + smoothing * prior) / np.maximum(sizes + smoothing, 1e-12)
