"""Leave-one-out over ordered item sequences, ranked against the whole catalogue. Reads: sequences.
Writes: training, validation and test parts, UserMetrics.

The last item of a user is the test item, the one before it the validation item, the rest trains
(method notes: Leave-one-out retrieval). A user of fewer than three items only trains. There is no
clock here: a place in the sequence stands for time.

Legend: U users, E events, N items of the catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.embeddings import id_array
from adc_features.codes.sids import find_rows
from adc_features.encoders.sasrec import Sequences
from adc_features.errors import InputError
from adc_features.parquet_files import read_parquet

Part = Literal["validation", "test"]
CUTOFFS = (5, 10, 50, 100)
START = datetime(2000, 1, 1, tzinfo=UTC)
"""Place 0 of every sequence on the clock that the behaviour encoder wants."""


@dataclass(frozen=True)
class LeaveOneOut:
    """The sequences of one catalogue.

    item_ids: [N] the catalogue. items: int64 [E] rows of it, user by user, oldest first. ends:
    int64 [U], where each user's events end. Raises InputError when no user has the three items that
    a training, a validation and a test item take.
    """

    item_ids: np.ndarray
    items: np.ndarray
    ends: np.ndarray

    def __post_init__(self) -> None:
        if not self.evaluated.any():
            raise InputError(
                f"none of {len(self.ends)} users has three items; expected sequences long enough"
                " for training, validation and test"
            )

    @property
    def counts(self) -> np.ndarray:
        """Events of each user, int64 [U]."""
        return np.diff(self.ends, prepend=0)

    @property
    def evaluated(self) -> np.ndarray:
        """Users with a validation and a test item, bool [U]."""
        return self.counts >= 3

    @cached_property
    def training(self) -> Sequences:
        """All that any model or tokenizer may learn from; users without a transition are
        left out.
        """
        kept = self.counts - 2 * self.evaluated
        places = np.arange(len(self.items)) - np.repeat(self.ends - self.counts, self.counts)
        users = kept > 1
        return Sequences(
            self.items[places < np.repeat(kept * users, self.counts)], np.cumsum(kept[users])
        )

    def training_counts(self) -> np.ndarray:
        """How often each item stands in the training part, int64 [N]."""
        return np.bincount(self.training.items, minlength=len(self.item_ids))

    def training_events(self) -> tuple[pa.Table, datetime]:
        """The training part as interactions whose `time` is their place, and a time after all of
        them.
        """
        counts = np.diff(self.training.ends, prepend=0)
        places = np.arange(len(self.training.items)) - np.repeat(
            self.training.ends - counts, counts
        )
        times = np.datetime64(START.replace(tzinfo=None), "us") + places.astype("timedelta64[s]")
        table = pa.table(
            {
                "user_id": np.repeat(np.arange(len(counts)), counts),
                "item_id": self.item_ids[self.training.items],
                "time": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
            }
        )
        return table, START + timedelta(seconds=int(places.max()) + 1)

    def histories(self, part: Part) -> tuple[Sequences, np.ndarray]:
        """What precedes the held-out item of each evaluated user, the validation item included
        before the test item; and those items, int64 [U].
        """
        held = 2 if part == "validation" else 1
        users = self.evaluated
        starts, counts = (self.ends - self.counts)[users], self.counts[users] - held
        source = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return Sequences(self.items[source], np.cumsum(counts)), self.items[self.ends[users] - held]


def read_sequences(path: Path, item_ids: np.ndarray) -> LeaveOneOut:
    """Read Parquet with a list column `item_ids`, a row a user, oldest first, over the catalogue
    `item_ids`.

    Raises InputError when the column is absent, a list is null, or an item is not in the catalogue.
    """
    table = read_parquet(path)
    if "item_ids" not in table.column_names or not pa.types.is_list(table["item_ids"].type):
        raise InputError(
            f"{path} has the columns {table.column_names}; expected a list column item_ids, a row a"
            " user, oldest item first"
        )
    lists = table["item_ids"]
    if lists.null_count:
        raise InputError(
            f"{lists.null_count} of {len(lists)} sequences in {path} are null; drop these rows"
        )
    wanted = id_array(pc.list_flatten(lists))
    rows, known = find_rows(item_ids, wanted)
    if not known.all():
        raise InputError(
            f"{(~known).sum()} events in {path} are with items that the catalogue lacks (first"
            f" {wanted[~known][0]!r}); add the items or drop the events"
        )
    return LeaveOneOut(
        item_ids, rows, np.cumsum(pc.list_value_length(lists).to_numpy().astype(np.int64))
    )


@dataclass(frozen=True)
class UserMetrics:
    """Recall and NDCG of each user's list at each cut-off, float64 [U, C]: the expectation
    over every order of items with equal scores.
    """

    recall: np.ndarray
    ndcg: np.ndarray
    cutoffs: Sequence[int] = CUTOFFS

    def means(self) -> dict[str, float]:
        """{recall_at_5, ndcg_at_5, ...} over the users."""
        parts = {"recall": self.recall.mean(0), "ndcg": self.ndcg.mean(0)}
        return {
            f"{name}_at_{k}": float(v)
            for name, values in parts.items()
            for k, v in zip(self.cutoffs, values, strict=True)
        }

    def difference(self, other: "UserMetrics") -> dict[str, dict[str, float]]:
        """{recall_at_5: {mean, low, high}, ...}: self minus other on the same users, with the 95 %
        interval of a paired mean over the users.
        """
        recall, ndcg = self.recall - other.recall, self.ndcg - other.ndcg
        error = {"recall": recall.std(0, ddof=1), "ndcg": ndcg.std(0, ddof=1)}
        half = {
            f"{name}_at_{k}": 1.96 * float(e) / len(recall) ** 0.5
            for name, errors in error.items()
            for k, e in zip(self.cutoffs, errors, strict=True)
        }
        means = UserMetrics(recall, ndcg, self.cutoffs).means()
        return {
            name: {"mean": mean, "low": mean - half[name], "high": mean + half[name]}
            for name, mean in means.items()
        }


def user_metrics(
    above: np.ndarray, tied: np.ndarray, *, cutoffs: Sequence[int] = CUTOFFS
) -> UserMetrics:
    """Recall and NDCG of one relevant item a user: `above` items score higher, `tied` score the
    same, itself included; int64 [U].

    Items of one semantic ID score the same, so a generator that finds a bucket of m items at the
    top earns 1/m at 1, not 1.
    """
    highest = max(cutoffs)
    # of ranks 1..r, summed
    gain = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(highest) + 2))])
    first, last = above[:, None], (above + tied)[:, None]
    limit = np.array(cutoffs)
    within = np.clip(np.minimum(last, limit) - first, 0, None)
    gained = gain[np.minimum(last, limit)] - gain[np.minimum(first, limit)]
    return UserMetrics(within / tied[:, None], gained / tied[:, None], cutoffs)


def mean_metrics(each: Sequence[UserMetrics]) -> UserMetrics:
    """Each user's mean over the seeds."""
    return UserMetrics(
        np.mean([c.recall for c in each], axis=0),
        np.mean([c.ndcg for c in each], axis=0),
        each[0].cutoffs,
    )
