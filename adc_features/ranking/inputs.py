"""A frame as the arrays that rankers read. Reads: Frame, CodeTimeline, VectorTimeline. Writes:
InputEncoder, Inputs.

Everything that is fitted (vocabularies, scales) is fitted on training rows only. Everything that
ages is derived here, at row time, by the same code for training rows and for requests.

Legend: N rows, F item features, G user features, L positions, H history items, D dims.
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
from adc_features.codes.sids import CodeTimeline, find_rows
from adc_features.data.statistics import SMOOTHING
from adc_features.errors import InputError
from adc_features.loader.frame import Frame

ID_COLUMNS = ("user_id", "item_id", "item_brand", "item_category")
ITEM_COLUMNS = (
    "log item_event_count",
    "item_label_mean",
    "item_rating_mean",
    "item_residual_mean",
    "age item_last_time",
    "log item_event_count_30d",
    "item_label_mean_30d",
    "log item_event_count_120d",
    "item_label_mean_120d",
    "log brand_event_count",
    "brand_label_mean",
    "brand_residual_mean",
    "log category_event_count",
    "category_label_mean",
    "category_residual_mean",
    "log path_event_count",
    "path_residual_mean",
)
USER_COLUMNS = (
    "log user_event_count",
    "user_label_mean",
    "user_rating_mean",
    "user_residual_mean",
    "age user_last_time",
    "known user_event_count",
)
"""Features by name: `log x` is log(1 + x), `age x` log(1 + days since x), `known x` whether x is
there; otherwise the column itself.
"""

KINDS = {"item_brand": "user_recent_brands", "item_path": "user_recent_paths"}
"""Kinds of items that a user may like or dislike: the item's column, and the same of the user's
recent items.
"""

RECENT_COLUMNS = (
    "user_recent_items",
    "user_recent_labels",
    "user_recent_residuals",
    "user_recent_times",
    *KINDS.values(),
)
"""The lists of a user's recent events that inputs are derived from."""

SETTLED_DAYS = 60
"""A user's settled state leaves out the last 60 days: within one user and a window of some weeks it
hardly varies.
"""


HASH_BUCKETS = 64
_DAY = 86_400_000_000


@dataclass(frozen=True)
class Inputs:
    """What one recipe shows to a ranker.

    label: float32 [N]. user: int64 [N], row of the user's free bias while training (0: a user who
    has none). ids: int64 [N, 4], vocabulary rows of ID_COLUMNS. item: float32 [N, F], ITEM_COLUMNS
    and taste of KINDS; user_state: float32 [N, G], settled: float32 [N, 2] (settled_features),
    standardised. sid: int64 [N, L] in 0..K, stored code + 1, 0 = no code. weight: float32 [N, L].
    reliability: float32 [N, 1]. match: float32 [N, M], likeness of the item to the user's recent
    ones. vectors: modality -> VectorRows, looked up batch by batch. What a recipe does not show has
    width 0.
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
    """What was learned from training rows before any model: vocabularies and scales.

    vocabulary: column -> sorted ids with at least `min_count` training rows. An id in it has a row
    of its own; any other falls into one of HASH_BUCKETS shared rows, so that rare ids cannot be
    learned by heart. users: sorted ids with a free bias. item_scale, user_scale, settled_scale:
    float64 [2, F], [2, G], [2, 2], mean and standard deviation.
    """

    vocabulary: Mapping[str, np.ndarray]
    users: np.ndarray
    item_scale: np.ndarray
    user_scale: np.ndarray
    settled_scale: np.ndarray

    @classmethod
    def fit(cls, frame: Frame, *, min_count: int) -> "InputEncoder":
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
            item_scale=_scale(_item_features(frame, frame)),
            user_scale=_scale(_features(frame, USER_COLUMNS)),
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
        return _standardised(
            _item_features(frame, frame if user is None else user), self.item_scale
        )

    def user_state(self, frame: Frame) -> np.ndarray:
        return _standardised(_features(frame, USER_COLUMNS), self.user_scale)

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


def code_match(
    frame: Frame, timeline: CodeTimeline, sid: np.ndarray, weight: np.ndarray, *, weighted: bool
) -> np.ndarray:
    """How the item's codes meet those of the user's recent items, codes as of the row's time:
    float32 [N, 2L].

    sid: int32 [N, L], -1 = none; weight: float32 [N, L]. Per position first the share of recent
    items with the same code, then the same weighted by label - the user's mean (liked above,
    disliked below). `weighted` counts a match by the product of both weights. Shares are smoothed
    by two items that do not match. A frame of one row stands for the user of every row of `sid`.
    """
    row, items, label, size = recent_items(frame)
    length = sid.shape[1]
    out = np.zeros((len(sid), 2 * length), np.float32)
    if not len(row):
        return out
    their_sid, their_weight, _ = timeline.gather(items, frame.times[row])
    liking = label - frame.numbers("user_label_mean")[row]
    # one user: what each code of theirs counts is added up once, and then read by every candidate
    if len(frame) == 1:
        codes = max(int(sid.max(initial=0)), int(their_sid.max(initial=0))) + 2
        start = 1 + np.arange(length) * codes
        ours, theirs = sid + start, (their_sid + start).reshape(-1)
        counted = np.where(their_sid >= 0, their_weight if weighted else 1.0, 0.0)
        for half, worth in (
            (slice(length), counted),
            (slice(length, None), counted * liking[:, None]),
        ):
            out[:, half] = (
                np.bincount(theirs, worth.reshape(-1), length * codes)[ours]
                * (weight if weighted else 1.0)
                / (size + 2)
            )
        return out
    same = ((their_sid == sid[row]) & (their_sid >= 0)).astype(np.float64)
    if weighted:
        same *= their_weight * weight[row]
    for place in range(length):
        out[:, place] = np.bincount(row, same[:, place], len(frame)) / (size + 2)
        out[:, length + place] = np.bincount(row, same[:, place] * liking, len(frame)) / (size + 2)
    return out


def vector_match(frame: Frame, timeline: VectorTimeline, *, chunk: int = 100_000) -> np.ndarray:
    """The same for raw vectors: float32 [N, 2 * modalities], cosine in the place of equality."""
    row, items, label, size = recent_items(frame)
    out = np.zeros((len(frame), 2 * len(timeline.modalities)), np.float32)
    if not len(row):
        return out
    level = frame.numbers("user_label_mean")[row]
    for place, modality in enumerate(timeline.modalities):
        matrix = timeline.matrices[modality]
        unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        mine = timeline.rows(modality, frame.item_ids, frame.times)[row]
        theirs = timeline.rows(modality, items, frame.times[row])
        cosine = np.concatenate(
            [
                np.einsum("nd,nd->n", unit[mine[s : s + chunk]], unit[theirs[s : s + chunk]])
                for s in range(0, len(row), chunk)
            ]
        )
        out[:, 2 * place] = np.bincount(row, cosine, len(frame)) / (size + 2)
        out[:, 2 * place + 1] = np.bincount(row, cosine * (label - level), len(frame)) / (size + 2)
    return out


def taste(frame: Frame, user: Frame) -> np.ndarray:
    """How the user rated earlier items of this item's brand and of its path, beside how they rate:
    float64 [N, 2], one for each of KINDS.

    The mean, smoothed by two events of 0, over the recent items of the same kind of residual - the
    user's mean residual (smoothed likewise); items of no brand share none. user: the frame itself,
    or one row that stands for the user of all rows.
    """
    row, size = _recent_rows(user)
    residual = user.flat("user_recent_residuals").astype(np.float64)
    liking = residual - (np.bincount(row, residual, len(user)) / (size + 2))[row]
    columns = []
    for ours, theirs in KINDS.items():
        mine = frame.texts(ours)
        kind = pd.factorize(np.concatenate([mine, user.flat(theirs)]))[0]
        mine, recent = np.where(mine == "", -1, kind[: len(frame)]), kind[len(frame) :]
        if len(user) == 1:
            shared = (mine[:, None] == recent).astype(np.float64)
            total, count = shared @ liking, shared.sum(axis=1)
        else:
            shared = mine[row] == recent
            total, count = (
                np.bincount(row, shared * liking, len(frame)),
                np.bincount(row, shared, len(frame)),
            )
        columns.append(total / (count + 2))
    return np.stack(columns, axis=1)


def settled_features(frame: Frame) -> np.ndarray:
    """What the user's events older than SETTLED_DAYS say at row time: log(1 + count) and smoothed
    mean residual, float64 [N, 2].

    The stored totals less the recent events that are younger; of a user with more young events than
    the recent list holds, the rest count as settled. A user who is not known has zeros.
    """
    row, _ = _recent_rows(frame)
    young = (
        frame.times[row].astype(np.int64) - frame.flat("user_recent_times").astype(np.int64)
        < SETTLED_DAYS * _DAY
    )
    count, mean = (
        np.nan_to_num(frame.numbers(f"user_{name}")) for name in ("event_count", "residual_mean")
    )
    total = mean * (count + SMOOTHING) - np.bincount(
        row, young * frame.flat("user_recent_residuals"), len(frame)
    )
    count = count - np.bincount(row, young, len(frame))
    return np.stack(
        [np.log1p(count), np.where(count > 0, total / (count + SMOOTHING), 0.0)], axis=1
    )


class Recent(NamedTuple):
    """Recent items of all rows, flat. row: int64 [T]; item: ids [T]; label: float64 [T]; size:
    int64 [N], items a row has.
    """

    row: np.ndarray
    item: np.ndarray
    label: np.ndarray
    size: np.ndarray


def recent_items(frame: Frame) -> Recent:
    """The lists `user_recent_items` and `user_recent_labels` of every row; a row without a user has
    none.
    """
    row, size = _recent_rows(frame)
    items = frame.flat("user_recent_items")
    return Recent(
        row,
        items.astype(str) if items.dtype == object else items,
        frame.flat("user_recent_labels").astype(np.float64),
        size,
    )


def _recent_rows(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Of the flattened recent lists: the row of each entry, int64 [T], and the entries of each row,
    int64 [N].
    """
    size = frame.sizes("user_recent_items")
    return np.repeat(np.arange(len(frame)), size), size


def _item_features(frame: Frame, user: Frame) -> np.ndarray:
    return np.concatenate([_features(frame, ITEM_COLUMNS), taste(frame, user)], axis=1)


def _features(frame: Frame, names: Sequence[str]) -> np.ndarray:
    """float64 [N, len(names)], NaN where unknown."""
    kinds, values = (
        np.array([name.rpartition(" ")[0] for name in names]),
        np.stack([frame.numbers(name.rpartition(" ")[2]) for name in names]),
    )
    values[kinds == "log"] = np.log1p(np.nan_to_num(values[kinds == "log"]))
    for row in np.flatnonzero(kinds == "age"):
        values[row] = np.log1p(
            (frame.times.astype(np.int64) - np.where(values[row] >= 0, values[row], np.nan)) / _DAY
        )
    values[kinds == "known"] = np.isfinite(values[kinds == "known"])
    return values.T


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
