"""Ranges of sorted events: places, sums, extremes, different values. Reads: arrays. Writes: arrays.

Legend: N events, R ranges.
"""

import numpy as np


def extremes(
    values: np.ndarray,
    valid: np.ndarray | None,
    begin: np.ndarray,
    end: np.ndarray,
    *,
    least: bool,
) -> np.ndarray:
    """int64 [R]: the least or greatest valid value at the places begin to end; 0 over none.

    A sparse table: level k holds the extremes of 2^k values from each place on.
    """
    limit = np.iinfo(np.int64).max if least else np.iinfo(np.int64).min
    pick = np.minimum if least else np.maximum
    table = values if valid is None else np.where(valid, values, limit)
    length = end - begin
    level = np.where(length > 0, np.frexp(np.maximum(length, 1))[1] - 1, -1)
    found = np.zeros(len(begin), np.int64)
    for k in range(int(level.max(initial=-1)) + 1):
        rows = np.flatnonzero(level == k)
        found[rows] = pick(table[begin[rows]], table[end[rows] - (1 << k)])
        half = 1 << k
        table = pick(table[: max(0, len(table) - half)], table[half:])
    return np.where(found == limit, 0, found)


def newest_different(
    code: np.ndarray, begin: np.ndarray, end: np.ndarray, *, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the newest event of each of the `most` newest different codes in begin to end.

    code: int64 [N], -1 for no value. Ranges of one key follow its events. Returns (places, ordered
    by range and then by place; int64 [R], how many each range has).
    """
    found: dict[int, list[int]] = {}
    seen: dict[int, int] = {}  # code -> its newest place, in the order of places
    codes, at = code.tolist(), 0
    for row in np.lexsort((begin, end)).tolist():
        first, stop = int(begin[row]), int(end[row])
        for place in range(max(at, first), stop):
            if codes[place] >= 0:
                seen.pop(codes[place], None)
                seen[codes[place]] = place
        at = max(at, stop)
        kept: list[int] = []
        for place in reversed(seen.values()):
            if place < first or len(kept) == most:
                break
            kept.append(place)
        found[row] = kept[::-1]
    lists = [found[row] for row in range(len(begin))]
    places = np.fromiter((place for one in lists for place in one), np.int64)
    return places, np.array([len(one) for one in lists], np.int64)


def range_sums(values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """int64 [R]: the sum of the values at the places begin to end."""
    whole = np.concatenate([[0], np.cumsum(values)])
    return whole[end] - whole[begin]


def spans(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... over length[0] places, then those of the next span."""
    ends = np.cumsum(length)
    whole = int(ends[-1]) if len(ends) else 0
    return np.arange(whole) - np.repeat(ends - length - first, length)
