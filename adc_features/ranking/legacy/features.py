"""Features that age, derived at row time. Reads: Frame. Writes: arrays that are not yet scaled.

The same code derives them for training rows and for requests.

Legend: N rows, T recent events of all rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from adc_features.data.statistics import SMOOTHING
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
_DAY = 86_400_000_000


def taste(frame: Frame, user: Frame) -> np.ndarray:
    """How the user rated earlier items of this item's brand and of its path, beside how they rate:
    float64 [N, 2], one for each of KINDS.

    The mean, smoothed by two events of 0, over the recent items of the same kind of residual - the
    user's mean residual (smoothed likewise); items of no brand share none. user: the frame itself,
    or one row that stands for the user of all rows.
    """
    row, size = recent_rows(user)
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
    row, _ = recent_rows(frame)
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
    row, size = recent_rows(frame)
    items = frame.flat("user_recent_items")
    return Recent(
        row,
        items.astype(str) if items.dtype == object else items,
        frame.flat("user_recent_labels").astype(np.float64),
        size,
    )


def recent_rows(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Of the flattened recent lists: the row of each entry, int64 [T], and the entries of each row,
    int64 [N].
    """
    size = frame.sizes("user_recent_items")
    return np.repeat(np.arange(len(frame)), size), size


def item_features(frame: Frame, user: Frame) -> np.ndarray:
    """ITEM_COLUMNS, then the user's taste for KINDS: float64 [N, F], NaN where unknown."""
    return np.concatenate([named_features(frame, ITEM_COLUMNS), taste(frame, user)], axis=1)


def named_features(frame: Frame, names: Sequence[str]) -> np.ndarray:
    """Features by their names in ITEM_COLUMNS or USER_COLUMNS: float64 [N, len(names)], NaN where
    unknown.
    """
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
