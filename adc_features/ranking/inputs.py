"""A frame as the arrays that rankers read. Reads: Frame, EmbeddingTable. Writes: InputEncoder,
Inputs, VectorTimeline.

Everything that is fitted (vocabularies, scales) is fitted on training rows only.

Legend: N rows, F item features, G user features, L positions, M matches, D dims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from adc_features.clock import instant
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.sids import find_rows
from adc_features.errors import InputError
from adc_features.loader.frame import Frame
from adc_features.ranking.features import (
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
    vectors : mapping of str to VectorRows
        By modality, looked up batch by batch.
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
    vectors: Mapping[str, "VectorRows"]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: np.ndarray) -> "Inputs":
        """These rows, in this order."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "vectors"}
        return Inputs(
            **arrays,
            vectors={m: VectorRows(v.matrix, v.row[rows]) for m, v in self.vectors.items()},
        )


class VectorRows(NamedTuple):
    """Vectors by reference. matrix: float32 [R, D], row 0 all zeros (no vector); row: int64 [N]."""

    matrix: np.ndarray
    row: np.ndarray


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

    @classmethod
    def fit(cls, frame: Frame, *, min_count: int) -> "InputEncoder":
        """Learn from training rows alone.

        Parameters
        ----------
        frame : Frame
            The training rows.
        min_count : int
            Rows that an id needs for an embedding of its own.
        """
        vocabulary = {}
        for name in ID_COLUMNS:
            ids = frame.texts(name)
            values, counts = np.unique(
                ids if ids.dtype.kind == "i" else ids.astype(str), return_counts=True
            )
            vocabulary[name] = values[counts >= min_count]
        return cls(
            vocabulary=vocabulary,
            users=np.unique(frame.user_ids),
            item_scale=_scale(item_features(frame, frame)),
            user_scale=_scale(named_features(frame, USER_COLUMNS)),
            settled_scale=_scale(settled_features(frame)),
        )

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

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            f"vocabulary {name}": ids for name, ids in self.vocabulary.items()
        }
        np.savez(
            path,
            users=self.users,
            item_scale=self.item_scale,
            user_scale=self.user_scale,
            settled_scale=self.settled_scale,
            **arrays,
        )

    @classmethod
    def read(cls, path: Path) -> "InputEncoder":
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                {name: arrays[f"vocabulary {name}"] for name in ID_COLUMNS},
                *(arrays[k] for k in ("users", "item_scale", "user_scale", "settled_scale")),
            )


class VectorTimeline:
    """Raw vectors through time, the counterpart of CodeTimeline for the `vectors` recipe.

    tables: EmbeddingTables at increasing cut-offs; servable_at: when each could first be served. A
    modality whose vectors never change between tables (text) is held once.
    """

    def __init__(self, tables: Sequence[EmbeddingTable], servable_at: Sequence[datetime]) -> None:
        if not tables:
            raise InputError("no embedding tables given; expected one per cut-off")
        self.servable_at = np.array([instant(t) for t in servable_at], "datetime64[us]")
        if (
            len(self.servable_at) != len(tables)
            or (np.diff(self.servable_at) <= np.timedelta64(0)).any()
        ):
            raise InputError(
                "servable_at must hold one strictly increasing time per table; sort the tables by"
                " time"
            )
        self.modalities = tuple(tables[-1].vectors)
        self._ids = [t.item_ids for t in tables]
        self._present = {m: [t.present[m] for t in tables] for m in self.modalities}
        self._fixed = {
            m: all(_same_vectors(tables[0], t, m) for t in tables[1:]) for m in self.modalities
        }
        self._start = np.concatenate([[1], 1 + np.cumsum([len(t) for t in tables])])
        self.matrices = {
            m: _stacked([t.vectors[m] for t in (tables[:1] if self._fixed[m] else tables)])
            for m in self.modalities
        }

    def rows(self, modality: str, item_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Rows of `matrices[modality]` for items [M] as served at times [M]; 0 where there is no
        vector.
        """
        which = np.searchsorted(self.servable_at, times, side="right") - 1
        found = np.zeros(len(item_ids), np.int64)
        for snapshot, ids in enumerate(self._ids):
            mine = np.flatnonzero(which == snapshot)
            row, known = find_rows(ids, item_ids[mine])
            known &= self._present[modality][snapshot][row]
            found[mine] = np.where(
                known, row + self._start[0 if self._fixed[modality] else snapshot], 0
            )
        return found

    def bytes_per_item(self) -> int:
        """Bytes of one item's vectors at one time."""
        return sum(matrix.shape[1] * matrix.itemsize for matrix in self.matrices.values())


def _scale(features: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the known values of each column; 0 and 1 for a column without
    any spread.
    """
    known = np.isfinite(features)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, features, 0.0)
    mean = filled.sum(axis=0) / count
    deviation = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(axis=0) / count)
    return np.stack([mean, np.where(deviation > 1e-9, deviation, 1.0)])


def _standardised(features: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Unknown values become the training mean, 0; outliers are held at five deviations."""
    return np.clip(np.nan_to_num((features - scale[0]) / scale[1], nan=0.0), -5.0, 5.0).astype(
        np.float32
    )


def _same_vectors(a: EmbeddingTable, b: EmbeddingTable, modality: str) -> bool:
    return np.array_equal(a.item_ids, b.item_ids) and np.array_equal(
        a.vectors[modality], b.vectors[modality]
    )


def _stacked(matrices: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros((1, matrices[0].shape[1]), np.float32), *matrices])
