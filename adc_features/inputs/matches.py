"""How a candidate meets a list of a user's. Reads: keys of elements and candidates. Writes: sums.

Legend: n rows of lists, n = N or 1; N candidates, T elements of all rows' lists, P positions.
"""

import numpy as np


def sums_of_equal(
    elements: np.ndarray, worth: np.ndarray, offsets: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """The sum of the worth of a row's elements that equal its candidate: float64 [N, P].

    The sum for one user of N candidates has the same bits as for N rows that repeat the user.

    Parameters
    ----------
    elements : ndarray
        int64 [T, P], negative for no key, which equals nothing.
    worth : ndarray
        float64 [T, P].
    offsets : ndarray
        int64 [n + 1].
    candidates : ndarray
        int64 [N, P], negative for no key.
    """
    count, length = candidates.shape
    out = np.zeros((count, length))
    if not len(elements):
        return out
    if len(offsets) == 2:
        # what each key of the user is worth is added up once and read by every candidate
        for place in range(length):
            keys, there = elements[:, place], elements[:, place] >= 0
            wanted = candidates[:, place]
            top = int(keys.max(initial=0)) + 1
            total = np.bincount(keys[there], worth[there, place], top)
            held = (wanted >= 0) & (wanted < top)
            out[held, place] = total[wanted[held]]
        return out
    row = np.repeat(np.arange(count), np.diff(offsets))
    for place in range(length):
        keys = elements[:, place]
        same = np.flatnonzero((keys == candidates[row, place]) & (keys >= 0))
        out[:, place] = np.bincount(row[same], worth[same, place], count)
    return out


def smoothed_mean(
    values: np.ndarray, row: np.ndarray, sizes: np.ndarray, *, smoothing: float, prior: float
) -> np.ndarray:
    """The mean of each row's values with `smoothing` more that are `prior`: float64 [n].

    values: float64 [T]; row: int64 [T]; sizes: int64 [n].
    """
    total = np.bincount(row, values, len(sizes))
    return (total + smoothing * prior) / np.maximum(sizes + smoothing, 1e-12)
