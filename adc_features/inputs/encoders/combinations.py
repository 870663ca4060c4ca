"""Pairs of positions and frequent combinations of codes. Reads: codes of items. Writes: rows of a
table.

Codes of several positions say more together than one by one, and prefixes mean something for few
tokenizers only, so combinations are sets: byte-pair encoding without an order. What is frequent is
counted over the distinct lists of codes of the training rows, so that a popular item counts once.

Legend: U distinct lists, n rows, P positions, K codes per position, R pairs, M merges.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations as pairs_of
from typing import Self

import numpy as np

LEAST = 5
"""Distinct lists that must hold a pair or a combination for a row of its own."""


@dataclass(frozen=True)
class Combinations:
    """What has a row of its own: 0 for nothing, then each code of each position, pairs, merges.

    Parameters
    ----------
    positions, size : int
        P and K.
    pairs : ndarray
        int64 [R], sorted: token * (P * K + 1) + token of two codes; the token of code c of position
        p is 1 + p * K + c.
    merges : ndarray
        int64 [M, 2], tokens that become one, in this order; the m-th makes token 1 + P * K + m.

    Source
    ------
    Byte-pair encoding: Sennrich et al., arXiv 1508.07909; of sets of an item's features:
    ActionPiece, arXiv 2502.13581.
    """

    positions: int
    size: int
    pairs: np.ndarray
    merges: np.ndarray

    @classmethod
    def fit(cls, codes: np.ndarray, size: int, most: int) -> Self:
        """The most frequent pairs, and as many merges. codes: int32 [N, P], -1 for none."""
        tokens = _tokens(np.unique(codes, axis=0), size)
        base = codes.shape[1] * size + 1
        keys, counts = np.unique(np.concatenate([*_keys(tokens, base)]), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        pairs = np.sort(keys[order[counts[order] >= LEAST]])
        merges: list[tuple[int, int]] = []
        base += most
        for new in range(codes.shape[1] * size + 1, base):
            keys, counts = np.unique(np.concatenate([*_keys(tokens, base)]), return_counts=True)
            if not len(keys) or counts.max() < LEAST:
                break
            one, two = divmod(int(keys[counts.argmax()]), base)
            merges.append((one, two))
            _merge(tokens, one, two, new)
        return cls(codes.shape[1], size, pairs, np.array(merges, np.int64).reshape(-1, 2))

    @property
    def rows(self) -> int:
        """Of the table."""
        return 1 + self.positions * self.size + len(self.pairs) + len(self.merges)

    def encode(
        self, codes: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows int64 [T], offsets int64 [n + 1] and weights float32 [T] of what each list of codes
        holds: a pair or combination weighs what the least of its codes does.

        codes: int32 [n, P]; weights: float32 [n, P].
        """
        tokens, singles = _tokens(codes, self.size), self.positions * self.size
        merged, least = tokens.copy(), weights.copy()
        for place, (one, two) in enumerate(self.merges.tolist()):
            _merge(merged, one, two, singles + 1 + place, least)
        columns, weighed = [tokens], [weights]
        for left, right in pairs_of(range(self.positions), 2):
            keys = tokens[:, left] * (singles + 1) + tokens[:, right]
            place = np.searchsorted(self.pairs, keys)
            known = np.append(self.pairs, -1)[place] == keys
            columns.append(np.where(known, singles + 1 + place, 0)[:, None])
            weighed.append(np.minimum(weights[:, left], weights[:, right])[:, None])
        columns.append(np.where(merged > singles, merged + len(self.pairs), 0))
        weighed.append(least)
        every = np.concatenate(columns, axis=1)
        there = every > 0
        offsets = np.concatenate([[0], there.sum(axis=1).cumsum()])
        return every[there], offsets, np.concatenate(weighed, axis=1)[there].astype(np.float32)


def _tokens(codes: np.ndarray, size: int) -> np.ndarray:
    """int64, 0 for no code."""
    starts = 1 + np.arange(codes.shape[1], dtype=np.int64) * size
    return np.where(codes >= 0, codes + starts, 0)


def _keys(tokens: np.ndarray, base: int) -> Iterator[np.ndarray]:
    """Pairs of tokens of one row, the lower one first, as numbers."""
    for left, right in pairs_of(range(tokens.shape[1]), 2):
        both = tokens[(tokens[:, left] > 0) & (tokens[:, right] > 0)][:, [left, right]]
        yield both.min(axis=1) * base + both.max(axis=1)


def _merge(
    tokens: np.ndarray, one: int, two: int, new: int, weights: np.ndarray | None = None
) -> None:
    """In rows that hold both, the first becomes the new token and the second nothing; in place."""
    first, second = tokens == one, tokens == two
    both = np.flatnonzero(first.any(axis=1) & second.any(axis=1))
    if not len(both):
        return
    at, gone = first[both].argmax(axis=1), second[both].argmax(axis=1)
    tokens[both, at], tokens[both, gone] = new, 0
    if weights is not None:
        weights[both, at] = np.minimum(weights[both, at], weights[both, gone])
