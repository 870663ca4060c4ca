"""Nested groups of items, coarse to fine: who is positive to whom at each level. Reads: category
paths, frozen sentence vectors. Writes: group numbers.

Nothing here reads interactions. Legend: N items, L levels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

GROWTH = 1.5
"""A depth of the category tree is a level of its own when it has so many times more groups than the
one before.
"""
PARTNERS = 0.3
"""The share of items that need a partner at each level; else the level is as coarse as the one
before.
"""
WAYS = 4
"""Groups that a group splits into where paths end before levels do."""
SMALLEST = 8
"""Smaller groups are not split."""
NONE = -1
"""The group of an item without a path: it has no partner."""


class Granularity(NamedTuple):
    """group_NL: int64, group numbers that nest (equal at l implies equal at l - 1), -1 where an
    item has none; kinds: what each level is made of; paths: group numbers of every path at the
    levels that are made of paths alone.
    """

    group_NL: np.ndarray
    kinds: list[str]
    paths: dict[str, list[int]]

    def facts(self) -> dict[str, Any]:
        return {
            "levels": self.kinds,
            "groups": [len(set(g.tolist()) - {NONE}) for g in self.group_NL.T],
            "with_partner": [float(with_partner(g).mean()) for g in self.group_NL.T],
            "paths": self.paths,
        }


def granularity(
    paths: Sequence[Sequence[str] | None], vectors: np.ndarray, *, levels: int, seed: int
) -> Granularity:
    """Groups of items at each level.

    Parameters
    ----------
    paths : sequence of list of str, N
        Category paths, coarse first; None or empty where unknown.
    vectors : ndarray
        float32 [N, D], frozen vectors of items' texts, by which groups split further; zeros where
        unknown.
    levels : int
        How many.
    seed : int
        Of k-means.

    Returns
    -------
    Granularity
        The finest `levels` of the depths of the tree that differ, the full path last; where there
        are fewer, groups split 4 ways a level by nested k-means.
    """
    known = [tuple(path or ()) for path in paths]
    depths = _depths(known)[-levels:]
    columns = [_prefixes(known, depth) for depth in depths]
    kinds = [f"depth {d}" for d in depths]
    if kinds:
        kinds[-1] = "full path"
    by_path = {
        " > ".join(path): [int(c[row]) for c in columns]
        for path, row in {p: n for n, p in enumerate(known) if p}.items()
    }
    if not columns:
        columns, kinds = [_split(np.zeros(len(known), np.int64), vectors, seed)], ["4 ways"]
        columns[0][~vectors.any(1)] = NONE
    while len(columns) < levels:
        columns.append(_split(columns[-1], vectors, seed + len(columns)))
        kinds.append(f"{WAYS} ways")
    for level in range(1, levels):
        if with_partner(columns[level]).mean() < PARTNERS:
            columns[level], kinds[level] = columns[level - 1], kinds[level - 1]
    return Granularity(np.stack(columns, axis=1), kinds, by_path)


def with_partner(groups: np.ndarray) -> np.ndarray:
    """Whether each item shares its group, bool [N]."""
    _, where, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return (counts[where] > 1) & (groups != NONE)


def _depths(paths: Sequence[tuple[str, ...]]) -> list[int]:
    """Depths whose prefixes are a level of their own; the deepest is that of full paths."""
    deepest = max(map(len, paths), default=0)
    counts = [len({p[:d] for p in paths if p}) for d in range(deepest + 1)]
    chosen: list[int] = []
    for depth in range(1, deepest):
        before = counts[chosen[-1]] if chosen else 1
        if counts[depth] > max(before * GROWTH, 1) and counts[depth] * GROWTH < counts[deepest]:
            chosen.append(depth)
    return [*chosen, deepest] if counts[deepest] > 1 else []


def _prefixes(paths: Sequence[tuple[str, ...]], depth: int) -> np.ndarray:
    """Group numbers by the path to this depth; an item whose path ends before keeps its last."""
    numbers: dict[tuple[str, ...], int] = {}
    return np.array(
        [numbers.setdefault(p[:depth], len(numbers)) if p else NONE for p in paths], np.int64
    )


def _split(groups: np.ndarray, vectors: np.ndarray, seed: int) -> np.ndarray:
    """Each group of at least SMALLEST items in up to WAYS, by k-means of its vectors."""
    from sklearn.cluster import KMeans

    finer = np.full(len(groups), NONE, np.int64)
    used = 0
    for group in np.unique(groups[groups != NONE]):
        rows = np.flatnonzero(groups == group)
        distinct = len(np.unique(vectors[rows], axis=0)) if len(rows) >= SMALLEST else 1
        ways = min(WAYS, distinct)
        part = (
            KMeans(ways, n_init=1, random_state=seed).fit_predict(vectors[rows])
            if ways > 1
            else np.zeros(len(rows), np.int64)
        )
        finer[rows] = used + part
        used += ways
    return finer
