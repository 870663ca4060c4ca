"""Encoded rows with the labels of several tasks. Reads: arrays. Writes: Labelled.

Legend: N rows, T tasks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.encoded import Encoded
from training.ranker.row_files import RowFiles


class Labelled(NamedTuple):
    """Encoded rows and their labels.

    encoded: in memory or, for networks, in files. labels: float32 [T, N], read where mask, bool
    [T, N], is true. weights: [N], or [T, N]; >= 0. groups: int64 [N], the request of each row.
    users: int64 [N], its user, numbered from 0. times: datetime64 [N], of each row's request;
    known: datetime64 [T, N], when each label was known. Networks read no times, trees do.
    """

    encoded: Encoded | RowFiles
    labels: np.ndarray
    mask: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None = None
    users: np.ndarray | None = None
    times: np.ndarray | None = None
    known: np.ndarray | None = None

    @property
    def in_memory(self) -> Encoded:
        """The encoded rows. Raises InputError for those in files."""
        if isinstance(self.encoded, RowFiles):
            raise InputError(
                f"the rows are in files, {self.encoded.directory}, from which networks alone are"
                " trained, without `pretrain` of codes; give an Encoded"
            )
        return self.encoded


def weighed(rows: Labelled, tasks: Sequence[str]) -> np.ndarray:
    """Weight of each label, 0 where it is masked: float32 [T, N]. Raises InputError."""
    expected = (len(tasks), len(rows.encoded))
    mask, weights = np.asarray(rows.mask, bool), np.asarray(rows.weights)
    if np.shape(rows.labels) != expected or mask.shape != expected:
        raise InputError(
            f"labels {np.shape(rows.labels)} and mask {mask.shape} for {expected[0]} tasks and"
            f" {expected[1]} rows; expected {expected}"
        )
    if weights.shape not in (expected, expected[1:]):
        raise InputError(f"weights {weights.shape}; expected {expected[1:]} or {expected}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError("weights must be finite and at least 0; take out the rows that are not")
    seen = np.asarray(rows.labels)[mask]
    if not ((seen == 0) | (seen == 1)).all():
        raise InputError(
            f"a label of {seen[(seen != 0) & (seen != 1)][0]}; expected 0 or 1, and a mask that"
            " is false where there is none"
        )
    if rows.groups is not None and np.shape(rows.groups) != expected[1:]:
        raise InputError(f"groups {np.shape(rows.groups)}; expected one for each of {expected[1]}")
    if rows.users is not None and np.shape(rows.users) != expected[1:]:
        raise InputError(f"users {np.shape(rows.users)}; expected one for each of {expected[1]}")
    _check_times(rows, expected)
    return np.where(mask, weights, 0).astype(np.float32)


def _check_times(rows: Labelled, expected: tuple[int, int]) -> None:
    if rows.times is not None and np.shape(rows.times) != expected[1:]:
        raise InputError(f"times {np.shape(rows.times)}; expected one for each of {expected[1]}")
    if rows.known is None:
        return
    if np.shape(rows.known) != expected:
        raise InputError(f"known {np.shape(rows.known)}; expected {expected}")
    if rows.times is None or (rows.known < rows.times).any():
        raise InputError(
            "a label is known before the time of its row; give the times of rows, and of each label"
            " when its attribution window was over"
        )
