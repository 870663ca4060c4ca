"""Running statistics of users and items, each row valid only after the events it contains.

Reads: interactions (user_id, item_id, time, label, optionally rating) and items. Writes: the rows
of the views `user_activity` and `item_profile`.

An event stamped t is known from t + resolution on (day-stamped data: from the next day), so the row
that contains the events up to and including t carries event_timestamp = t + resolution. A join with
`<=` can then never hand an event to its own row, nor to a row of the same day. Ages are not stored:
`*_last_time` is, and the age is taken at row or request time.

Legend: N events, K keys of a group (users, items, brands), R rows, S summed values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.embeddings import check_unique_ids, id_array
from adc_features.codes.sids import find_rows
from adc_features.data.attributes import ATTRIBUTES, attribute_problem, attribute_text
from adc_features.errors import InputError

SMOOTHING = 10.0
"""Pseudo-events of the prior in every smoothed mean: mean = (sum + SMOOTHING * prior) / (count +
SMOOTHING).
"""

RECENT_DAYS = (30, 120)
"""Windows of the items' recent statistics: events in the days up to the row's newest possible
event.
"""

NO_TIME = -1
"""Stored in `item_last_time` of an item without events: a null would turn the column into floats on
its way through Feast.
"""

_TIME = pa.timestamp("us", tz="UTC")
_GROUP_VALUES = {
    "event_count": pa.int64(),
    "label_mean": pa.float32(),
    "residual_mean": pa.float32(),
}

USER_ACTIVITY_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "event_timestamp": _TIME,
        "user_event_count": pa.int64(),
        "user_label_sum": pa.float32(),
        "user_label_mean": pa.float32(),
        "user_rating_mean": pa.float32(),
        "user_residual_mean": pa.float32(),
        "user_last_time": pa.int64(),
        "user_recent_items": pa.list_(pa.string()),
        "user_recent_brands": pa.list_(pa.string()),
        "user_recent_paths": pa.list_(pa.string()),
        "user_recent_labels": pa.list_(pa.float32()),
        "user_recent_residuals": pa.list_(pa.float32()),
        "user_recent_times": pa.list_(pa.int64()),
    }
)
"""`user_id` and `user_recent_items` are int64 where the data's ids are. `*_time`, `*_times`:
microseconds since 1970, UTC.
"""

ITEM_PROFILE_SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "event_timestamp": _TIME,
        "item_event_count": pa.int64(),
        "item_label_sum": pa.float32(),
        "item_label_mean": pa.float32(),
        "item_rating_mean": pa.float32(),
        "item_residual_mean": pa.float32(),
        "item_last_time": pa.int64(),
        "item_event_count_30d": pa.int64(),
        "item_label_mean_30d": pa.float32(),
        "item_event_count_120d": pa.int64(),
        "item_label_mean_120d": pa.float32(),
        "item_brand": pa.string(),
        "item_category": pa.string(),
        "item_path": pa.string(),
        **{f"{name}_{value}": kind for name in ATTRIBUTES for value, kind in _GROUP_VALUES.items()},
    }
)
"""`item_id` is int64 where the data's ids are. `item_brand`, `item_category`, `item_path`: "" where
unknown, with count 0 and the mean over everything.
"""


def user_activity(
    interactions: pa.Table, items: pa.Table, *, resolution: timedelta, recent: int = 20
) -> pa.Table:
    """What is known of each user after each distinct time of their events: USER_ACTIVITY_SCHEMA,
    sorted by (time, user).

    Per row, over the events with time <= event_timestamp - resolution: their number and label sum;
    the smoothed means (prior: the mean over everybody, as known then) of label and rating (the
    label again where the data has no `rating`); the mean, smoothed towards 0, of rating - item's
    smoothed mean as known at each event (how generous the user is, given what they rated); the last
    event's time; the last `recent` items with their brands and paths ("" where unknown), labels,
    residuals (as above, each as known at its event) and times, oldest first. Raises InputError on
    an empty table, unsorted times, null labels, duplicate items, an event of an unknown item or
    recent < 1.
    """
    if recent < 1:
        raise InputError(f"recent is {recent}; expected at least 1 item")
    log = _Log.of(interactions, resolution)
    users, user = np.unique(log.user, return_inverse=True)
    ids, item = log.items_of(items)
    values = log.with_residual(of=item)
    rows = _running(user, log.time, values)
    first = np.maximum(rows.start, rows.last - recent + 1)
    length = rows.last - first + 1
    kept = rows.order[_spans(first, length)]
    offsets = pa.array(np.concatenate([[0], np.cumsum(length)]).astype(np.int32))
    columns = {
        "user_id": users[rows.key],
        "event_timestamp": rows.time + log.resolution,
        **_summary("user", rows.count, rows.sums, log.mean_until(rows.time)),
        "user_last_time": rows.time.astype(np.int64),
        "user_recent_items": pa.ListArray.from_arrays(offsets, pa.array(ids[item[kept]])),
        "user_recent_brands": pa.ListArray.from_arrays(
            offsets, attribute_text(items, "brand").take(pa.array(item[kept]))
        ),
        "user_recent_paths": pa.ListArray.from_arrays(
            offsets, attribute_text(items, "path").take(pa.array(item[kept]))
        ),
        "user_recent_labels": pa.ListArray.from_arrays(
            offsets, pa.array(values[kept, 0].astype(np.float32))
        ),
        "user_recent_residuals": pa.ListArray.from_arrays(
            offsets, pa.array(values[kept, 2].astype(np.float32))
        ),
        "user_recent_times": pa.ListArray.from_arrays(
            offsets, pa.array(log.time[kept].astype(np.int64))
        ),
    }
    return _table(columns, USER_ACTIVITY_SCHEMA).take(pa.array(np.lexsort((rows.key, rows.time))))


def item_profile(
    interactions: pa.Table,
    items: pa.Table,
    *,
    resolution: timedelta,
    refresh_at: Sequence[datetime],
) -> pa.Table:
    """What is known of each item after each distinct time
    of its events, and of every item at each `refresh_at`.

    Returns ITEM_PROFILE_SCHEMA sorted by (time, item). A refresh row holds the events with time +
    resolution <= refresh_at, so items without events of their own still carry the statistics of
    their brand, category and path (ATTRIBUTES, where `items` has them). `*_30d`, `*_120d`: over the
    events of the days before, at the row's own time; `*_residual_mean` is over rating - user's
    smoothed mean as known at each event, smoothed towards 0: what ratings say of an item, or of its
    kind, given who gave them. Raises InputError on an empty table, duplicate items, or an event of
    an unknown item.
    """
    log = _Log.of(interactions, resolution)
    ids, item = log.items_of(items)
    values = log.with_residual(of=np.unique(log.user, return_inverse=True)[1])
    own = _running(item, log.time, values)
    moments = (
        np.unique(np.array([instant(t) for t in refresh_at], "datetime64[us]")) - log.resolution
    )
    key = np.concatenate([own.key, np.tile(np.arange(len(ids)), len(moments))])
    time = np.concatenate([own.time, np.repeat(moments, len(ids))])
    order = np.lexsort((key, time))
    key, time = key[order], time[order]
    # a refresh at an event's own time adds nothing
    fresh = np.concatenate([[True], (key[1:] != key[:-1]) | (time[1:] != time[:-1])])
    key, time = key[fresh], time[fresh]
    count, sums, last = own.at(key, time)
    prior = log.mean_until(time)
    columns: dict[str, np.ndarray | pa.Array] = {
        "item_id": ids[key],
        "event_timestamp": time + log.resolution,
        **_summary("item", count, sums, prior),
        "item_last_time": np.where(count > 0, last.astype(np.int64), NO_TIME),
    }
    for days in RECENT_DAYS:
        old_count, old_sums, _ = own.at(key, time - np.timedelta64(days, "D"))
        columns[f"item_event_count_{days}d"] = count - old_count
        columns[f"item_label_mean_{days}d"] = _smoothed(
            (sums - old_sums)[:, 0], count - old_count, prior[:, 0]
        )
    for name in ATTRIBUTES:
        text = attribute_text(items, name)
        names, group = np.unique(
            text.to_numpy(zero_copy_only=False).astype(str), return_inverse=True
        )
        count, sums, _ = _running(group[item], log.time, values).at(group[key], time)
        known = (names != "")[group[key]]
        count, sums = np.where(known, count, 0), np.where(known[:, None], sums, 0.0)
        columns |= {f"item_{name}": text.take(pa.array(key)), f"{name}_event_count": count}
        columns |= {
            f"{name}_label_mean": _smoothed(sums[:, 0], count, prior[:, 0]),
            f"{name}_residual_mean": _smoothed(sums[:, 2], count, 0.0),
        }
    return _table(columns, ITEM_PROFILE_SCHEMA)


@dataclass(frozen=True)
class _Log:
    """The interactions, sorted by time. values: float64 [N, 2], label and rating."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    values: np.ndarray
    resolution: np.timedelta64

    @classmethod
    def of(cls, interactions: pa.Table, resolution: timedelta) -> "_Log":
        if not len(interactions):
            raise InputError("the interaction table is empty; statistics need at least one event")
        if resolution <= timedelta(0):
            raise InputError(
                f"resolution is {resolution}; expected the smallest step of the data's time stamps,"
                " above 0"
            )
        time = interactions["time"].cast(_TIME).to_numpy().astype("datetime64[us]")
        names = ("label", "rating" if "rating" in interactions.column_names else "label")
        values = np.stack(
            [interactions[name].to_numpy().astype(np.float64) for name in names], axis=1
        )
        if np.isnan(values).any() or np.isnat(time).any():
            raise InputError("labels, ratings or times hold nulls; drop these rows")
        if (np.diff(time) < np.timedelta64(0)).any():
            raise InputError("interactions are not sorted by time; sort them first (stable)")
        return cls(
            id_array(interactions["user_id"]),
            id_array(interactions["item_id"]),
            time,
            values,
            np.timedelta64(resolution, "us"),
        )

    def items_of(self, items: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the item table [I], and of each event the row of its item there, int64 [N]."""
        ids = id_array(items["item_id"])
        check_unique_ids(ids)
        for name in ATTRIBUTES:
            if problem := attribute_problem(items, name):
                raise InputError("items.{}: {}; {}".format(*problem))
        row, known = find_rows(ids, self.item)
        if not known.all():
            raise InputError(
                f"{(~known).sum()} interactions name items that the item table lacks (first"
                f" {self.item[~known][0]!r}); add these items or drop the interactions"
            )
        return ids, row

    def mean_until(self, time: np.ndarray) -> np.ndarray:
        """Mean label and rating of all events with event time <= time, float64 [len(time), 2];
        before the first event those of the first.
        """
        seen = np.maximum(np.searchsorted(self.time, time, side="right"), 1)
        return np.cumsum(self.values, axis=0)[seen - 1] / seen[:, None]

    def with_residual(self, *, of: np.ndarray) -> np.ndarray:
        """float64 [N, 3]: label, rating, and rating less the smoothed mean rating of the event's
        key `of` [N] as known at its time.
        """
        before = self.time - self.resolution
        count, sums, _ = _running(of, self.time, self.values).at(of, before)
        expected = _smoothed(sums[:, 1], count, self.mean_until(before)[:, 1])
        return np.column_stack([self.values, self.values[:, 1] - expected])


@dataclass(frozen=True)
class _Running:
    """Sums so far per key, one row for each (key, distinct time), sorted by (key, time).

    key, time, count: [R]; sums: float64 [R, S]; over the key's events up to and including time.
    order: int64 [N], the events sorted by (key, time). start, last: int64 [R], places in `order` of
    the key's first event and of the row's last one.
    """

    key: np.ndarray
    time: np.ndarray
    count: np.ndarray
    sums: np.ndarray
    order: np.ndarray
    start: np.ndarray
    last: np.ndarray

    def at(self, key: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(count [M], sums [M, S], last event's time [M]) of keys [M] over events with time <= time
        [M]; zeros where there are none.
        """
        times = np.unique(self.time)
        place = self.key * (len(times) + 1) + np.searchsorted(times, self.time, side="right")
        wanted = key * (len(times) + 1) + np.searchsorted(times, time, side="right")
        row = np.searchsorted(place, wanted, side="right") - 1
        found = (row >= 0) & (self.key[row] == key)
        return (
            np.where(found, self.count[row], 0),
            np.where(found[:, None], self.sums[row], 0.0),
            self.time[row],
        )


def _running(key: np.ndarray, time: np.ndarray, values: np.ndarray) -> _Running:
    """Sums of values [N, S] per key [N]; events sorted by time."""
    order = np.argsort(key, kind="stable")
    key, time = key[order], time[order]
    opens = np.concatenate([[True], key[1:] != key[:-1]])
    last = np.flatnonzero(np.concatenate([opens[1:] | (time[1:] != time[:-1]), [True]]))
    start = np.flatnonzero(opens)[np.cumsum(opens) - 1][last]
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values[order], axis=0)])
    return _Running(
        key[last], time[last], last - start + 1, total[last + 1] - total[start], order, start, last
    )


def _smoothed(total: np.ndarray, count: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
    return (total + SMOOTHING * prior) / (count + SMOOTHING)


def _summary(
    name: str, count: np.ndarray, sums: np.ndarray, prior: np.ndarray
) -> dict[str, np.ndarray]:
    """Columns over `count` [R] events; sums [R, 3] of label, rating and residual; prior [R, 2] of
    label and rating.
    """
    columns = {f"{name}_event_count": count, f"{name}_label_sum": sums[:, 0]}
    for place, value in enumerate(("label", "rating")):
        columns[f"{name}_{value}_mean"] = _smoothed(sums[:, place], count, prior[:, place])
    return columns | {f"{name}_residual_mean": _smoothed(sums[:, 2], count, 0.0)}


def _spans(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... over length[0] places,
    then those of the next span: int64 [sum of lengths].
    """
    ends = np.cumsum(length)
    return np.arange(ends[-1]) - np.repeat(ends - length - first, length)


def _table(columns: dict[str, np.ndarray | pa.Array], schema: pa.Schema) -> pa.Table:
    """The columns cast to the schema; id columns keep the type of the data's ids."""
    arrays = {}
    for field in schema:
        column = columns[field.name]
        array = column if isinstance(column, pa.Array) else pa.array(column)
        arrays[field.name] = (
            array
            if field.name in ("user_id", "item_id", "user_recent_items")
            else array.cast(field.type)
        )
    return pa.table(arrays)
