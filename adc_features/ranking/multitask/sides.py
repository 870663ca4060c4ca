"""Values of rows that are held once for all of them, and of each row. Reads, writes: arrays.

A product with weights is made of the single values once, and added to that of each row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Sides(NamedTuple):
    """Values of the columns with one row, [1, X1], and of those with N rows, [N, XN]."""

    one: np.ndarray
    many: np.ndarray


class Product(NamedTuple):
    """A linear layer split by sides: weights [X1, W] and [XN, W]."""

    one: np.ndarray
    many: np.ndarray

    @classmethod
    def split(cls, weights: np.ndarray, single: np.ndarray) -> "Product":
        """single: bool [X], columns with one row."""
        one, many = np.ascontiguousarray(weights[single]), np.ascontiguousarray(weights[~single])
        return cls(one, many if many.any() else many[:0])

    def of(self, values: Sides) -> np.ndarray:
        """[N, W]; [1, W] where no column with N rows counts."""
        if not self.many.size:
            return values.one @ self.one
        product: np.ndarray = values.many @ self.many
        if self.one.size:
            product += values.one @ self.one
        return product


def side_by_side(embedded: Sides, dense: Sides) -> Sides:
    """Embeddings and numbers side by side; a domain's gate may have spread those with one row."""
    one, numbers = embedded.one, dense.one
    if len(one) > len(numbers):
        numbers = np.repeat(numbers, len(one), axis=0)
    return Sides(beside([one, numbers], 1), beside([embedded.many, dense.many], 1))


def scaled(embedded: Sides, gate: np.ndarray) -> Sides:
    """Embeddings times their gate, [1 or N, embeddings]: those with one row get N rows where their
    gate has."""
    width = embedded.one.shape[1]
    return Sides(embedded.one * gate[:, :width], embedded.many * gate[:, width:])


def beside(parts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Arrays of as many rows side by side; without any, [count, 0]."""
    return np.concatenate(parts, 1) if parts else np.empty((count, 0), np.float32)
