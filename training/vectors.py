"""Raw vectors of items through time, as columns of joined rows. Reads: EmbeddingTables, a
TrainingFrame. Writes: VectorTimeline, columns.

Vectors are no features of a run's repository: they are joined to its rows, as of each row's time,
before the rows are encoded.

Legend: N rows, T elements of all rows' recent items, R rows of a matrix, D dims.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.sids import find_rows
from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame

SMOOTHING = 2
"""Recent items that are like none, in every mean likeness."""


class VectorColumns(NamedTuple):
    """Names of a modality's columns: the vector, its mean likeness to those of the user's recent
    items, and the same weighted by how each was liked."""

    vector: str
    match: str
    liking: str


def column_names(modality: str) -> VectorColumns:
    """The columns of a modality."""
    return VectorColumns(
        f"vector_{modality}", f"vector_match_{modality}", f"vector_liking_{modality}"
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

    def columns(self, frame: TrainingFrame) -> dict[str, pa.Array]:
        """The columns of every modality for the rows of a frame, as of each row's time."""
        found: dict[str, pa.Array] = {}
        for modality in self.modalities:
            names = column_names(modality)
            matrix = self.matrices[modality]
            row = self.rows(modality, frame.item_ids, frame.times)
            match, liking = vector_match(frame, self, modality)
            flat = pa.array(matrix[row].ravel())
            vectors = pa.FixedSizeListArray.from_arrays(
                flat, matrix.shape[1], mask=pa.array(row == 0)
            )
            found |= {names.vector: vectors, names.match: match, names.liking: liking}
        return found


def vector_match(
    frame: TrainingFrame, timeline: VectorTimeline, modality: str, *, chunk: int = 100_000
) -> tuple[pa.Array, pa.Array]:
    """How the item's vector meets those of the user's recent items: the mean cosine, and the mean
    cosine times (label - the user's mean label); means are smoothed by SMOOTHING items of cosine 0.
    """
    size = frame.sizes("user_recent_items")
    row = np.repeat(np.arange(len(frame)), size)
    items, label = frame.flat("user_recent_items"), frame.flat("user_recent_labels")
    if not len(row):
        return pa.array(np.zeros(len(frame))), pa.array(np.zeros(len(frame)))
    liking = label.astype(np.float64) - frame.numbers("user_label_mean")[row]
    matrix = timeline.matrices[modality]
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    mine = timeline.rows(modality, frame.item_ids, frame.times)[row]
    ids = items.astype(str) if items.dtype == object else items
    theirs = timeline.rows(modality, ids, frame.times[row])
    cosine = np.concatenate(
        [
            np.einsum("nd,nd->n", unit[mine[s : s + chunk]], unit[theirs[s : s + chunk]])
            for s in range(0, len(row), chunk)
        ]
    )
    return (
        pa.array(np.bincount(row, cosine, len(frame)) / (size + SMOOTHING)),
        pa.array(np.bincount(row, cosine * liking, len(frame)) / (size + SMOOTHING)),
    )


def _same_vectors(a: EmbeddingTable, b: EmbeddingTable, modality: str) -> bool:
    return np.array_equal(a.item_ids, b.item_ids) and np.array_equal(
        a.vectors[modality], b.vectors[modality]
    )


def _stacked(matrices: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros((1, matrices[0].shape[1]), np.float32), *matrices])
