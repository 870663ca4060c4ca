"""A frame as the arrays that rankers of the former format read. Reads: Frame, ranker directories.
Writes: InputEncoder, Inputs.

Legend: N rows, F item features, G user features, L positions, M matches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adc_features.loader.frame import Frame
from adc_features.ranking.legacy.features import (
    ID_COLUMNS,
    USER_COLUMNS,
    item_features,
    named_features,
    settled_features,
)

HASH_BUCKETS = 64
"""Rows that the ids without one of their own share."""


@dataclass(frozen=True)
class Inputs:
    """What one recipe shows to a ranker; what it does not show has width 0.

    Parameters
    ----------
    label : ndarray
        float32 [N], 0 or 1.
    user : ndarray
        int64 [N], row of the user's free bias while training; 0 for a user who has none.
    ids : ndarray
        int64 [N, 4], vocabulary rows of ID_COLUMNS.
    item : ndarray
        float32 [N, F], standardised: ITEM_COLUMNS and the taste for KINDS.
    user_state, settled : ndarray
        float32 [N, G] and [N, 2], standardised: USER_COLUMNS and `settled_features`.
    sid : ndarray
        int64 [N, L] in 0..K, stored code + 1; 0 = no code.
    weight : ndarray
        float32 [N, L], >= 0.
    reliability : ndarray
        float32 [N, 1] in [0, 1].
    match : ndarray
        float32 [N, M], likeness of the item to the user's recent ones.
    """

    label: np.ndarray
    user: np.ndarray
    ids: np.ndarray
    item: np.ndarray
    user_state: np.ndarray
    settled: np.ndarray
    sid: np.ndarray
    weight: np.ndarray
    reliability: np.ndarray
    match: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class InputEncoder:
    """What is learned from training rows before any model: vocabularies and scales.

    Parameters
    ----------
    vocabulary : mapping of str to ndarray
        Column of ID_COLUMNS -> sorted ids with at least `min_count` training rows. An id in it has
        an embedding row of its own; any other falls into one of HASH_BUCKETS shared rows, so that
        rare ids cannot be learned by heart.
    users : ndarray
        Sorted ids of the users who have a free bias while training.
    item_scale, user_scale, settled_scale : ndarray
        Mean and standard deviation of each feature: float64 [2, F], [2, G], [2, 2].

    Examples
    --------
    >>> scale = np.array([[0.0], [1.0]])
    >>> encoder = InputEncoder({name: np.array(["a"]) for name in ID_COLUMNS}, np.array(["u"]),
    ...                        scale, scale, scale)
    >>> encoder.id_rows
    (65, 65, 65, 65)
    """

    vocabulary: Mapping[str, np.ndarray]
    users: np.ndarray
    item_scale: np.ndarray
    user_scale: np.ndarray
    settled_scale: np.ndarray

    def _rows(self, name: str, values: np.ndarray) -> np.ndarray:
        """int64 [N]: place of each value in a vocabulary, -1 where it has none."""
        return np.fromiter(
            map(self._places[name].get, values.tolist(), repeat(-1)), np.int64, len(values)
        )

    @cached_property
    def _places(self) -> dict[str, dict[Any, int]]:
        """Id -> place, hashed once: a request looks up thousands, and a search costs it more than a
        hash.
        """
        return {
            name: {value: place for place, value in enumerate(ids.tolist())}
            for name, ids in {**self.vocabulary, "users": self.users}.items()
        }

    @property
    def id_rows(self) -> tuple[int, ...]:
        """Embedding rows that each column of `ids` needs."""
        return tuple(HASH_BUCKETS + len(self.vocabulary[name]) for name in ID_COLUMNS)

    def ids(self, frame: Frame, user: Frame | None = None) -> np.ndarray:
        """int64 [N, 4]: buckets first, then the vocabulary. user: one row that names the user of
        all rows of `frame`.
        """
        columns = []
        for name in ID_COLUMNS:
            values = (user if user is not None and name == "user_id" else frame).texts(name)
            row = HASH_BUCKETS + self._rows(name, values)
            rare = np.flatnonzero(row < HASH_BUCKETS)
            row[rare] = pd.util.hash_array(values[rare], categorize=False) % HASH_BUCKETS
            columns.append(row)
        return np.stack(np.broadcast_arrays(*columns), axis=1)

    def user_rows(self, frame: Frame) -> np.ndarray:
        """int64 [N]: 1 + place among the training users, 0 for others."""
        return 1 + self._rows("users", frame.texts("user_id"))

    def item(self, frame: Frame, user: Frame | None = None) -> np.ndarray:
        """float32 [N, F]; user as in `ids`."""
        return _standardised(item_features(frame, frame if user is None else user), self.item_scale)

    def user_state(self, frame: Frame) -> np.ndarray:
        return _standardised(named_features(frame, USER_COLUMNS), self.user_scale)

    def settled(self, frame: Frame) -> np.ndarray:
        return _standardised(settled_features(frame), self.settled_scale)

    @classmethod
    def read(cls, path: Path) -> "InputEncoder":
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                {name: arrays[f"vocabulary {name}"] for name in ID_COLUMNS},
                *(arrays[k] for k in ("users", "item_scale", "user_scale", "settled_scale")),
            )


def _standardised(features: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Unknown values become the training mean, 0; outliers are held at five deviations."""
    return np.clip(np.nan_to_num((features - scale[0]) / scale[1], nan=0.0), -5.0, 5.0).astype(
        np.float32
    )
