"""Rows that a ranker learns from, encoded. Reads: JoinedRows, a window of them. Writes: Labelled.

Legend: N rows of the log, n rows that are learned from, T tasks.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.renewal import renewed
from adc_features.ranking.multitask.trained import TrainedRanker
from training.ranker.joined import JoinedRows
from training.ranker.labelled import Labelled
from training.ranker.row_files import RowFiles
from training.ranker.sampling import NegativeSampling
from training.ranker.splits import LabelWindow, request_times, ripe_times

Counts = dict[str, dict[str, int]]
"""Input -> how many rows are absent, unknown, present."""


class LearnedRows(NamedTuple):
    """Rows that are learned from: int64 [n]. labels, mask: [T, n]; weights: [n]; groups: int64 [n],
    None without requests; users: int64 [n], None where no key tells the user; times: of their
    requests, datetime64[us] [n]; known: when each label was ripe, datetime64[us] [T, n], None for
    networks, which do not ask.
    """

    rows: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None
    users: np.ndarray | None
    times: np.ndarray
    known: np.ndarray | None

    @classmethod
    def of(
        cls, joined: JoinedRows, window: LabelWindow, sampling: NegativeSampling
    ) -> "LearnedRows":
        """Those of a window that are kept."""
        kept = sampling.sample(joined.log, window)
        rows, requests = window.rows[kept.rows], joined.log.requests
        users, trees = joined.log.users, joined.ranker.model == "xgboost"
        return cls(
            rows,
            window.labels[:, kept.rows],
            window.mask[:, kept.rows],
            joined.log.weights[rows] * kept.weights,
            None if requests is None else requests[rows],
            None if users is None else users[rows],
            request_times(joined.log)[rows],
            ripe_times(joined.log, window.cutoff)[:, rows] if trees else None,
        )

    def take(self, places: np.ndarray) -> "LearnedRows":
        """Those at these places, in this order."""
        groups = None if self.groups is None else self.groups[places]
        users = None if self.users is None else self.users[places]
        return LearnedRows(
            self.rows[places],
            self.labels[:, places],
            self.mask[:, places],
            self.weights[places],
            groups,
            users,
            self.times[places],
            None if self.known is None else self.known[:, places],
        )

    def labelled(self, encoded: Encoded | RowFiles) -> Labelled:
        """With their inputs. encoded: the same rows."""
        return Labelled(
            encoded,
            self.labels,
            self.mask,
            self.weights,
            self.groups,
            self.users,
            self.times,
            self.known,
        )


class EncodedRows(Protocol):
    """Rows that are learned from with their inputs, in memory or in files.

    Attributes
    ----------
    encoder : InputEncoder
        Fitted on them.
    counts : Counts
        Of its inputs.
    """

    @property
    def encoder(self) -> InputEncoder: ...

    @property
    def counts(self) -> Counts: ...

    def whole(self) -> Labelled:
        """All of them."""
        ...

    def before(self, older: np.ndarray) -> Labelled:
        """Those at these places, int64, to learn from."""
        ...

    def held_out(self, newest: np.ndarray) -> Labelled:
        """Those at these places, int64, encoded as for a score."""
        ...


@dataclass(frozen=True)
class EncodedInMemory:
    """`EncodedRows` in memory."""

    joined: JoinedRows
    rows: LearnedRows
    encoder: InputEncoder
    encoded: Encoded
    counts: Counts

    @classmethod
    def of(
        cls,
        joined: JoinedRows,
        rows: LearnedRows,
        *,
        start: TrainedRanker | None = None,
        cold: Collection[str] = (),
        seed: int = 0,
    ) -> "EncodedInMemory":
        """The encoder is fitted on these rows, or that of an older ranker, `start`, grown."""
        parts, specs = joined.parts(rows.rows), joined.resolution.inputs
        if start is None:
            encoder = InputEncoder.fit(specs, parts, weights=rows.weights, seed=seed)
        else:
            older = start.encoder
            encoder = renewed(older, specs, parts, anew=cold, weights=rows.weights, seed=seed)
        encoded = encoder.encode(parts, training=True, seed=seed)
        return cls(joined, rows, encoder, encoded, encoder.counts(parts, encoded))

    def whole(self) -> Labelled:
        return self.rows.labelled(self.encoded)

    def before(self, older: np.ndarray) -> Labelled:
        return self.rows.take(older).labelled(self.encoded.take(older))

    def held_out(self, newest: np.ndarray) -> Labelled:
        held = self.rows.take(newest)
        return held.labelled(self.encoder.encode(self.joined.parts(held.rows)))


def summed_counts(each: Iterable[Mapping[str, Mapping[str, int]]]) -> Counts:
    """The counts of all pieces of some rows, added up."""
    found: Counts = {}
    for counts in each:
        for name, states in counts.items():
            own = found.setdefault(name, {})
            for state, count in states.items():
                own[state] = own.get(state, 0) + count
    return found
