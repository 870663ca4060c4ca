"""A stream with every sort of column, views with every aggregate, and generated events of both."""

import os
from datetime import timedelta

import pyarrow as pa
from hypothesis import strategies as st

from adc_features.aggregates.declaration import (
    AggregateView,
    EventStream,
    Grid,
    Residual,
    count,
    distinct,
    first_time,
    last,
    last_distinct,
    last_time,
    maximum,
    mean,
    minimum,
    newest,
    residual_mean,
    smoothed_mean,
    total,
)
from adc_features.aggregates.events import Events

SECOND = 1_000_000


def examples(usually: int) -> int:
    """How many sequences are tried: $ADC_EXAMPLES, when that is set, for a long search."""
    return int(os.environ.get("ADC_EXAMPLES", usually))


MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
STREAM = EventStream(
    "clicks",
    keys={"user_id": "string", "item_id": "int64"},
    attributes=("brand",),
    values={
        "label": Grid(bits=20, bound=1.0),
        "rating": Grid(bits=20, bound=8.0, optional=True),
        "cents": Grid(bits=0, bound=1e12),
    },
    lateness=10 * MINUTE,
    tick=MINUTE,
    resolution=timedelta(seconds=1),
)
WINDOW = {"window": 6 * HOUR, "hop": HOUR}
AT_READ = WINDOW | {"at": "read"}
RESIDUAL = Residual("rating", ("item_id",), initial=3.0)
FEATURES = {
    "n": count(),
    "n_rated": count("rating"),
    "n_6h": count(**WINDOW),
    "n_rated_2h": count("rating", window=2 * HOUR, hop=HOUR),
    "n_10m": count(window=10 * MINUTE, hop=5 * MINUTE),
    "label_total": total("label"),
    "cents_total": total("cents"),
    "cents_total_6h": total("cents", **WINDOW),
    "rating_mean": mean("rating"),
    "rating_mean_6h": mean("rating", **WINDOW),
    "label_smoothed": smoothed_mean("label", initial=0.25),
    "rating_smoothed_6h": smoothed_mean("rating", smoothing=3, **WINDOW),
    "residual": residual_mean("rating", against="item_id", initial=3.0),
    "residual_6h": residual_mean("rating", against="item_id", initial=3.0, **WINDOW),
    "items": last(3, "item_id"),
    "brands": last(3, "brand"),
    "users": last(2, "user_id"),
    "ratings": last(3, "rating"),
    "labels": last(4, "label", **WINDOW),
    "times": last(3, "time"),
    "residuals": last(3, RESIDUAL),
    "newest_brand": newest("brand"),
    "newest_rating": newest("rating"),
    "different_items": last_distinct(2, "item_id"),
    "different_brands_6h": last_distinct(2, "brand", **WINDOW),
    "n_items": distinct("item_id", limit=3),
    "n_users_6h": distinct("user_id", **WINDOW),
    "last_time": last_time(),
    "first_time": first_time(),
    "least": minimum("rating"),
    "most": maximum("cents"),
    "least_6h": minimum("cents", **WINDOW),
    "most_6h": maximum("rating", **WINDOW),
    "brand_n": count(by="brand"),
    "brand_label": smoothed_mean("label", initial=0.5, by="brand"),
    "brand_residual": residual_mean("rating", against="user_id", by="brand"),
    "everybody": count(by=()),
}


def view(*key: str, known: str = "sealed") -> AggregateView:
    return AggregateView("_".join(key), STREAM, key, FEATURES, known)


VIEWS = [view("user_id"), view("item_id"), view("brand"), view("user_id", "brand")]

row = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u", "v", "Ünï"]),
        "item_id": st.sampled_from([1, -2, 2**62]),
        "brand": st.sampled_from(["x", "why", ""]),
        "label": st.sampled_from([0.0, 1.0, 0.1]),
        "rating": st.one_of(st.none(), st.sampled_from([1.0, 2.5, -8.0, 0.3])),
        "cents": st.sampled_from([0, 5, 10**12, -(10**12), 7]),
    }
)


def with_times(rows: list[dict], times: list[int], *, ids: list[int] | None = None) -> list[dict]:
    ids = list(range(len(rows))) if ids is None else ids
    return [
        r | {"time": t, "event_id": i.to_bytes(16, "big")}
        for r, t, i in zip(rows, times, ids, strict=True)
    ]


def raw_table(rows: list[dict]) -> pa.Table:
    """The raw rows as a table."""
    types = {
        "user_id": pa.string(),
        "item_id": pa.int64(),
        "brand": pa.string(),
        "label": pa.float64(),
        "rating": pa.float64(),
        "cents": pa.int64(),
        "time": pa.timestamp("us", tz="UTC"),
        "event_id": pa.binary(16),
    }
    return pa.table({n: pa.array([r[n] for r in rows], k) for n, k in types.items()})


def events(rows: list[dict]) -> Events:
    """The raw rows as accepted events."""
    return Events.of(STREAM, raw_table(rows))
