"""Fewer negatives to train on, without a bias. Reads: labels of a training window. Writes: rows and
weights.

Rows without a positive of any task are kept with probability `keep`. Either a kept one counts
1 / keep in the loss, which is unbiased for every task, or (for one task) probabilities are brought
back afterwards, q = p / (p + (1 - p) / keep) (He et al. 2014, Practical Lessons from Predicting
Clicks on Ads at Facebook).

Legend: T tasks, n rows of the window, m rows that are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.hashing import hashes, splitmix64
from training.ranker.labels import LabelLog, encoded_column
from training.ranker.splits import LabelWindow

Correction = Literal["weights", "formula"]
TRAINED = ("train", "final_train")


class Sampled(NamedTuple):
    """rows: int64 [m], places in the window, increasing. weights: float32 [m], what each counts for
    beside its own weight.
    """

    rows: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class NegativeSampling:
    """How negatives were sampled; a ranker's manifest keeps it, as serving corrects by it.

    Parameters
    ----------
    keep : float
        Share of rows without a positive that are kept, in (0, 1].
    seed : int
        Of the decisions. A row's decision depends on the seed and on its keys, time and request
        alone: it is the same in a longer log.
    correction : str
        "weights" (the loss) or "formula" (afterwards, of one task): one of them, never both.
    slates : bool
        Requests without any positive are dropped as a whole, and others kept whole: for a listwise
        loss.
    """

    keep: float
    seed: int = 0
    correction: Correction = "weights"
    slates: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise InputError(f"the kept share of negatives is {self.keep}; expected 0 < keep <= 1")
        if self.correction not in get_args(Correction):
            raise InputError(
                f"the correction is {self.correction!r}; expected one of"
                f" {', '.join(get_args(Correction))}"
            )
        if self.slates and self.correction == "formula":
            raise InputError(
                "the formula is exact only where a row's own label decides; with whole slates use"
                " correction='weights'"
            )

    def sample(self, log: LabelLog, window: LabelWindow) -> Sampled:
        """The rows of a training window that are kept, and what they count.

        Raises InputError for a window that is not trained on, for the formula with several tasks,
        and for slates without a column of requests.
        """
        if window.name not in TRAINED:
            raise InputError(
                f"the window is {window.name!r}: metrics are those of all rows; sample"
                f" {' or '.join(map(repr, TRAINED))} only"
            )
        self._check_tasks(len(window.labels))
        if self.slates and (log.requests is None or log.request is None):
            raise InputError(
                "whole slates are to be kept, but the ranker names no request column; give it,"
                " Ranker(request=...)"
            )
        if self.keep == 1:
            return Sampled(np.arange(len(window)), np.ones(len(window), np.float32))
        positive = np.asarray((window.mask & (window.labels > 0)).any(axis=0))
        rows = log.table.take(pa.array(window.rows))
        if self.slates:
            assert log.requests is not None
            assert log.request is not None
            requests = log.requests[window.rows]
            chosen = np.zeros(int(log.requests.max()) + 1, bool)
            chosen[requests[positive]] = True
            positive, unit = chosen[requests], row_hashes(rows, [log.request])
        else:
            request = [log.request] if log.request else []
            names = dict.fromkeys([*log.keys, "event_timestamp", *request])
            unit = row_hashes(rows, list(names))
        kept = np.flatnonzero(positive | (uniform(unit, self.seed) < self.keep))
        weights = np.ones(len(kept), np.float32)
        if self.correction == "weights":
            weights[~positive[kept]] = 1 / self.keep
        return Sampled(kept, weights)

    def corrected(self, probabilities: np.ndarray) -> np.ndarray:
        """What a model that was trained on the sample predicts, [T, N], for all rows. With weights
        nothing is left to correct.
        """
        if self.correction == "weights":
            return probabilities
        self._check_tasks(len(probabilities))
        p = probabilities.astype(np.float64)
        return (p / (p + (1 - p) / self.keep)).astype(probabilities.dtype)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "NegativeSampling":
        return cls(**facts)

    def _check_tasks(self, tasks: int) -> None:
        if self.correction == "formula" and tasks != 1:
            raise InputError(
                f"the formula corrects one task, there are {tasks}: rows are kept for another"
                " task's positives too; use correction='weights'"
            )


def row_hashes(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """A hash of each row's values in these columns: uint64 [n], the same in every process."""
    hashed = np.zeros(len(rows), np.uint64)
    for name in columns:
        encoded = encoded_column(rows[name])
        values = hashes(_hashable(encoded.dictionary))
        hashed = splitmix64(hashed ^ values[encoded.indices.to_numpy()])
    return hashed


def uniform(hashed: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each hash and a seed: float64 [n], multiples of 2 ** -53."""
    start = splitmix64(np.array([seed % 2**64], np.uint64))
    return (splitmix64(hashed ^ start) >> np.uint64(11)) * 2.0**-53


def _hashable(values: pa.Array) -> pa.Array:
    """Values of any type as integers or text."""
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.int64())
    return values if pa.types.is_integer(values.type) else values.cast(pa.string())
