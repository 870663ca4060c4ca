"""What attends: a user's recent items and the candidate, and mixtures, with numpy alone. Reads: the
matrix of tables, slots. Writes: arrays.

Legend: n rows of histories, n = N or 1; N candidates, T elements of all histories, P positions, E
embedding width.
"""

import math

import numpy as np

from adc_features.inputs.encoded import Bag, History


def pooled_and_attended(
    table: np.ndarray, history: History, starts: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean element, [n, E], and what each of N candidates attends to, [N, E].

    starts: int64 [P], first rows of the history's tables in `table`.
    """
    elements = _summed(table, history.rows + starts, history.weights)
    query = _summed(table, history.query + starts, history.query_weights)
    sizes = np.diff(history.offsets)
    pooled = segment_sums(elements, history.offsets)
    pooled /= np.maximum(sizes, 1)[:, None].astype(np.float32)
    if not len(elements):
        return pooled, np.zeros((count, elements.shape[1]), np.float32)
    query *= np.float32(1 / math.sqrt(elements.shape[1]))
    if len(sizes) == 1:
        scores = query @ elements.T
        scores -= scores.max(1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(1, keepdims=True)
        return pooled, scores @ elements
    row = np.repeat(np.arange(count), sizes)
    scores = np.einsum("te,te->t", elements, query[row])
    greatest = np.zeros(count, np.float32)
    filled = sizes > 0
    greatest[filled] = np.maximum.reduceat(scores, history.offsets[:-1][filled])
    shares = np.exp(scores - greatest[row])
    sums = segment_sums(shares[:, None], history.offsets)
    return pooled, segment_sums(elements * (shares / sums[row, 0])[:, None], history.offsets)


def mixture(table: np.ndarray, bag: Bag, start: int, asked: np.ndarray) -> np.ndarray:
    """What a vector attends to among the elements of each bag, weighted: float32 [n, E].

    start: first row of the bag's table. asked: the vector, float32 [E].
    """
    sizes = np.diff(bag.offsets)
    if not len(bag.rows):
        return np.zeros((len(sizes), table.shape[1]), np.float32)
    elements = table[bag.rows + start]
    scores = elements @ (asked * np.float32(1 / math.sqrt(len(asked))))
    row, filled = np.repeat(np.arange(len(sizes)), sizes), sizes > 0
    greatest = np.zeros(len(sizes), np.float32)
    greatest[filled] = np.maximum.reduceat(scores, bag.offsets[:-1][filled])
    shares = np.exp(scores - greatest[row])
    shares /= segment_sums(shares[:, None], bag.offsets)[row, 0]
    return segment_sums(elements * (shares * bag.weights)[:, None], bag.offsets)


def similarity(table: np.ndarray, slot: History, starts: np.ndarray) -> np.ndarray:
    """How like the candidate's codes are to those of the elements, by position: float32 [N, P].

    A cosine is a product with the element's unit vector, so that the elements are pooled once for
    all candidates of a request. starts: int64 [P], first rows of the tables.
    """
    elements = _unit(table[slot.rows + starts]) * slot.weights[:, :, None]
    shape = len(starts), table.shape[1]
    pooled = segment_sums(elements.reshape(-1, shape[0] * shape[1]), slot.offsets)
    query = _unit(table[slot.query + starts])
    found: np.ndarray = np.einsum("npe,npe->np", pooled.reshape(-1, *shape), query)
    return found * slot.query_weights


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., E] at length 1, as `torch.nn.functional.normalize` has them."""
    norm = np.sqrt(np.einsum("...e,...e->...", vectors, vectors))
    return vectors / np.maximum(norm, np.float32(1e-12))[..., None]


def _summed(table: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over positions of weight * row: [n, E]; rows, weights: [n, P]."""
    if rows.shape[1] == 1:
        return table[rows[:, 0]] * weights
    return np.einsum("npe,np->ne", table[rows], weights)


def segment_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums of values [T, E] from each offset to the next: [n, E], 0 for none."""
    sums = np.zeros((len(offsets) - 1, values.shape[1]), np.float32)
    filled = offsets[1:] > offsets[:-1]
    if filled.any():
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled], axis=0)
    return sums
