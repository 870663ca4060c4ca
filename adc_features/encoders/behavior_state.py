"""Behaviour vectors and what the next cut-off continues from. Reads and writes: state files (.npz).

Legend: N items of a catalogue, K items known at a cut-off, D dims.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from adc_features.artifact import fresh_file
from adc_features.clock import instant, moment
from adc_features.codes.sids import find_rows
from adc_features.errors import ArtifactError

PARAMETER = "parameter "


@dataclass(frozen=True)
class BehaviorVectors:
    """The vectors as of one time.

    as_of: aware UTC, exclusive. vectors: float32 [N, D], rows as the catalogue's, not normalised,
    zero where absent. present: bool [N], at least one event with time < as_of. interaction_count:
    int64 [N], those events. alignment_residual: what the rotation onto the cut-off before left of
    the learned table, ||A - B|| / ||B|| on common items; 0 for the first cut-off.
    """

    as_of: datetime
    vectors: np.ndarray
    present: np.ndarray
    interaction_count: np.ndarray
    alignment_residual: float = 0.0


@dataclass(frozen=True)
class BehaviorState:
    """The vectors of the K known items as of a cut-off, and the encoder as it was left there.

    item_ids: [K]. vectors: float32 [K, D]. interaction_count: int64 [K]. parameters: the encoder's
    arrays by name, `table` [K, D] among them: what was learned, in the encoder's own axes.
    """

    as_of: datetime
    item_ids: np.ndarray
    vectors: np.ndarray
    interaction_count: np.ndarray
    parameters: Mapping[str, np.ndarray]
    alignment_residual: float = 0.0

    def over(self, item_ids: np.ndarray) -> BehaviorVectors:
        """The vectors in the order of a catalogue [N]; items that it lacks are left out, items not
        known here are absent.
        """
        rows, found = find_rows(self.item_ids, item_ids)
        vectors = np.zeros((len(item_ids), self.vectors.shape[1]), np.float32)
        counts = np.zeros(len(item_ids), np.int64)
        vectors[found] = self.vectors[rows[found]]
        counts[found] = self.interaction_count[rows[found]]
        return BehaviorVectors(self.as_of, vectors, found, counts, self.alignment_residual)


def write_state(path: Path, state: BehaviorState) -> None:
    """Write the state: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {PARAMETER + name: array for name, array in state.parameters.items()}
    arrays |= {"as_of": instant(state.as_of), "alignment_residual": state.alignment_residual}
    with fresh_file(path) as file:
        np.savez(
            file,
            item_ids=state.item_ids,
            vectors=state.vectors,
            interaction_count=state.interaction_count,
            **arrays,
        )


def read_state(path: Path) -> BehaviorState:
    """The inverse. Raises ArtifactError naming the file when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return BehaviorState(
                as_of=moment(arrays["as_of"]),
                item_ids=arrays["item_ids"],
                vectors=arrays["vectors"],
                interaction_count=arrays["interaction_count"],
                parameters={
                    name.removeprefix(PARAMETER): arrays[name]
                    for name in arrays.files
                    if name.startswith(PARAMETER)
                },
                alignment_residual=float(arrays["alignment_residual"]),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ArtifactError(
            f"behaviour state {path} cannot be read ({error}); delete it and run again"
        ) from error
