"""A shop's label log and the schema of its feature service, by hand."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from adc_features.inputs.declaration import Ranker, Task, category, infer
from adc_features.inputs.schema import FeatureSchema, ServiceSchema, ViewSchema

START = datetime(2024, 1, 1, tzinfo=UTC)


def view(name, keys, **more):
    """A view of the shop."""
    facts = {"kind": "batch", "join_key_map": {}, "ttl_seconds": 0.0, "definition": "0" * 64}
    return ViewSchema(name=name, projected=name, join_keys=keys, **{**facts, **more})


SCHEMA = ServiceSchema(
    project="shop",
    service="feed_v3",
    views=(
        view("profile", ("customer_id",)),
        view("stock", ("sku",)),
        view(
            "discount",
            ("sku",),
            kind="on_demand",
            sources=("stock",),
            request_fields={"hour": "Int64"},
        ),
    ),
    features=(
        FeatureSchema("profile__segment", "profile", "segment", "String", {}),
        FeatureSchema("stock__price", "stock", "price", "Float32", {}),
        FeatureSchema("discount__share", "discount", "share", "Float64", {}),
    ),
    join_keys={"customer_id": "String", "sku": "Int64"},
)

RANKER = Ranker(
    service="feed_v3",
    tasks=[Task("click"), Task("purchase", known_at="bought_at", delay="2h", given="click")],
    inputs=infer() | {"device": category(request=True)},
    user=["customer_id"],
    item=["sku"],
    request="slate",
)


def at(hour):
    """The aware time that many hours after the start."""
    return START + timedelta(hours=hour)


def log(**changed):
    """Six rows of three slates of two customers, as Arrow columns; None drops a column."""
    columns = {
        "customer_id": ["ann", "ann", "bob", "bob", "ann", "ann"],
        "sku": pa.array([12, 13, 12, 14, 15, 16], pa.int64()),
        "event_timestamp": pa.array([at(h) for h in (0, 0, 1, 1, 9, 9)], pa.timestamp("us", "UTC")),
        "slate": ["s1", "s1", "s2", "s2", "s3", "s3"],
        "device": ["phone", "phone", None, "tv", "phone", "phone"],
        "hour": pa.array([0, 0, 1, 1, 9, 9], pa.int64()),
        "click": pa.array([1, 0, 1, 1, 0, 1], pa.int8()),
        "purchase": pa.array([1, 0, 1, 0, None, 0], pa.float64()),
        "bought_at": pa.array([at(1), None, at(7), None, None, None], pa.timestamp("us", "UTC")),
        **changed,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


KEYS_ONLY = ServiceSchema("shop", "feed_v3", (), (), {"customer_id": "String", "sku": "Int64"})
"""The schema of a service whose features do not matter."""


def generated(rng, *, rows, days, tasks, known_at=None, slate=1):
    """A log of that many days: a new customer for every `slate` rows, one request each, at even
    steps of time. tasks: name -> labels [N]; known_at: name -> hours [N] (NaN for none).
    """
    hours = np.sort(rng.integers(0, days * 24 * 60, rows)) // slate * slate / 60
    number = np.arange(rows) // slate
    hours = hours[number * slate]
    columns = {
        "customer_id": pa.array(number).cast(pa.string()),
        "sku": pa.array(np.arange(rows)),
        "event_timestamp": instants(hours),
        "slate": pa.array(number).cast(pa.string()),
        **{name: pa.array(labels, from_pandas=True) for name, labels in tasks.items()},
        **{name: instants(values) for name, values in (known_at or {}).items()},
    }
    return pa.table(columns), hours


def instants(hours):
    """UTC times that many hours after the start, null for NaN."""
    hours = np.asarray(hours, np.float64)
    micros = np.where(np.isnan(hours), 0, hours) * 3.6e9
    first = int(START.timestamp()) * 1_000_000
    whole = pa.array(micros.astype(np.int64) + first, mask=np.isnan(hours))
    return whole.cast(pa.timestamp("us", "UTC"))
