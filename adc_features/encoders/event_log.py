"""Interactions as SASRec reads them: by user, then time.
Reads: interactions. Writes: Events, Sequences.

Legend: E events, K items known at a cut-off.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import check_unique_ids, id_array
from adc_features.encoders.sasrec import Sequences
from adc_features.errors import InputError


@dataclass(frozen=True)
class Events:
    """Events ordered by user, then time, then input row: `users`, `items` (catalogue rows) int64
    [E], `times` datetime64[us] [E].
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray

    def select(self, mask: np.ndarray) -> "Events":
        return Events(self.users[mask], self.items[mask], self.times[mask])

    def before(self, as_of: datetime) -> "Events":
        return self.select(self.times < instant(as_of))


def event_log(interactions: pa.Table, item_ids: np.ndarray) -> Events:
    """The interactions in order. Raises InputError when they are empty, name items that the
    catalogue lacks, or have times without a zone.
    """
    missing = {"user_id", "item_id", "time"} - set(interactions.column_names)
    if missing:
        raise InputError(
            f"interactions lack the columns {sorted(missing)}; they have"
            f" {interactions.column_names}"
        )
    if interactions.num_rows == 0:
        raise InputError("interactions are empty; expected at least two users with two events")
    kind = interactions["time"].type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InputError(
            f"interaction times are of type {kind}; expected timestamps with a time zone, cast them"
            " to timestamp[us, tz=UTC]"
        )
    if interactions["time"].null_count:
        raise InputError(
            f"{interactions['time'].null_count} interaction times are null; drop these rows"
        )
    if len(item_ids) == 0:
        raise InputError("item_ids is empty; expected the catalogue that the interactions speak of")
    check_unique_ids(item_ids)
    users = np.unique(id_array(interactions["user_id"]), return_inverse=True)[1]
    ids = id_array(interactions["item_id"])
    order = np.argsort(item_ids, kind="stable")
    items = order[np.minimum(np.searchsorted(item_ids, ids, sorter=order), len(order) - 1)]
    unknown = np.flatnonzero(item_ids[items] != ids)
    if len(unknown):
        raise InputError(
            f"{len(unknown)} interactions are with items that the catalogue lacks (first"
            f" {ids[unknown[0]]!r}); add the items or drop the rows"
        )
    times = (
        interactions["time"].cast(pa.timestamp("us", tz="UTC")).to_numpy().astype("datetime64[us]")
    )
    by_user = np.lexsort((times, users))
    return Events(users[by_user], items[by_user], times[by_user])


def check_trainable(past: Events, as_of: datetime, every: Events) -> None:
    """Raise InputError when the events before `as_of` are too few for a sequence model."""
    users, items = len(np.unique(past.users)), len(np.unique(past.items))
    if len(past.items) == 0:
        raise InputError(
            f"no event before {as_of.isoformat()}, the first is at {every.times.min()}; choose a"
            " later cut-off"
        )
    if users < 2 or items < 2 or len(past.users) == users:
        raise InputError(
            f"before {as_of.isoformat()} there are {len(past.items)} events of {users} users with"
            f" {items} items; expected two users, two items and a user with two events: choose a"
            " later cut-off or bring more interactions"
        )


def sequences_of(events: Events, known: np.ndarray) -> Sequences:
    """The users with at least two events, items as row numbers among `known`."""
    starts = np.flatnonzero(np.diff(events.users, prepend=-1))
    counts = np.diff(starts, append=len(events.users))
    kept = np.repeat(counts > 1, counts)
    return Sequences(np.searchsorted(known, events.items[kept]), np.cumsum(counts[counts > 1]))
