"""A feed of a shop with a known truth: its own Feast repository and its label log.

A click depends on the customer's segment and the product's category together, on the product's
quality, the customer's activity, the device of the request and the position. A purchase follows a
click within three days, and depends on quality and price. All of it is drawn from the seed.

Legend: N rows, C customers, P products.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CONFIG = """\
project: feed
provider: local
registry: registry.db
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 40
SEGMENTS, CATEGORIES = ["new", "loyal", "deal"], ["books", "games", "food", "tools"]
DEVICES = ["phone", "desktop", "tablet"]

DEFINITIONS = """
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp

HERE = Path(__file__).parent

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.INT64)


def source(name):
    path = str(HERE / f"{name}.parquet")
    return FileSource(name=name, path=path, timestamp_field="event_timestamp")


profile = FeatureView(
    name="profile", entities=[customer], ttl=timedelta(0), source=source("profile"),
    schema=[Field(name="customer_id", dtype=String), Field(name="segment", dtype=String),
            Field(name="activity", dtype=Float64), Field(name="joined", dtype=UnixTimestamp),
            Field(name="recent", dtype=Array(Int64),
                  tags={"adc.kind": "history", "adc.group": "h"})],
)
stock = FeatureView(
    name="stock", entities=[product], ttl=timedelta(0), source=source("stock"),
    schema=[Field(name="sku", dtype=Int64), Field(name="category", dtype=String),
            Field(name="price", dtype=Float32, tags={"adc.log": "true"}),
            Field(name="quality", dtype=Float64), Field(name="labels", dtype=Array(String))],
)
affinity = FeatureView(
    name="affinity", entities=[customer, product], ttl=timedelta(0), source=source("affinity"),
    schema=[Field(name="customer_id", dtype=String), Field(name="sku", dtype=Int64),
            Field(name="visits", dtype=Int64)],
)
feed_v1 = FeatureService(name="feed_v1", features=[profile, stock, affinity])
"""

RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, category, infer, skip

COMMON = dict(
    service="feed_v1",
    tasks=[Task("click"),
           Task("purchase", weight=0.3, known_at="bought_at", delay="3d", given="click")],
    user=["customer_id"],
    item=["sku"],
    request="request_id",
)
feed = Ranker(
    name="feed",
    inputs=infer() | {
        "device": category(request=True),
        "position": category(request=True, train_only=True, default=0, min_count=1),
    },
    gates=["profile__segment"],
    score={"click": 1.0, "purchase": 0.5},
    **COMMON,
)
plain = Ranker(
    name="plain",
    inputs=infer() | {name: skip() for name in (
        "profile__segment", "profile__activity", "profile__joined", "profile__recent",
        "customer_id", "affinity__visits")},
    **COMMON,
)
"""


@dataclass(frozen=True)
class Feed:
    """Where it lies, and what is true."""

    folder: Path
    labels: Path
    end: datetime
    truth: np.ndarray
    """P(click) of each row of the log, float64 [N]."""
    logit: dict[str, np.ndarray]
    """What its logit is the sum of, float64 [N] each: "base", "taste", "quality", "activity",
    "device", "position"."""
    typical: np.ndarray
    """P(click) of each row at position 0 for a customer of whom nothing is known: the mean over all
    customers, float64 [N]."""


def _sigmoid(x: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def make_feed(
    folder: Path,
    *,
    rows: int = 12_000,
    customers: int = 300,
    products: int = 120,
    seed: int = 0,
    config: str = CONFIG,
    definitions: str = DEFINITIONS,
    rankers: str = RANKERS,
    position_effect: float = 0.2,
    cheap_first: bool = False,
) -> Feed:
    """Write the repository and its label log; `feast apply` comes after.

    position_effect: how much the logit of a click falls with each position. cheap_first: slates
    show cheap products further up, by chance, so that position and price go together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    segment, category = rng.integers(0, 3, customers), rng.integers(0, 4, products)
    activity, quality = rng.normal(size=customers), rng.normal(size=products)
    price = np.exp(rng.normal(3, 1, products))
    taste = rng.normal(0, 1.0, (3, 4))
    ids = np.array([f"c{n:04d}" for n in range(customers)])
    slate = 8
    requests = rows // slate
    when = np.sort(rng.integers(86_400, DAYS * 86_400, requests))
    who, device = rng.integers(0, customers, requests), rng.integers(0, 3, requests)
    user, shown = (
        np.repeat(who, slate),
        np.concatenate([rng.choice(products, slate, replace=False) for _ in range(requests)]),
    )
    if cheap_first:
        key = (np.log(price[shown]) + rng.normal(0, 0.7, len(shown))).reshape(requests, slate)
        order = np.argsort(key, axis=1) + slate * np.arange(requests)[:, None]
        shown = shown[order.ravel()]
    position = np.tile(np.arange(slate), requests)
    logit = {
        "base": np.full(len(user), -1.0),
        "taste": taste[segment[user], category[shown]],
        "quality": 0.7 * quality[shown],
        "activity": 0.4 * activity[user],
        "device": np.array([0.5, 0.0, -0.5])[np.repeat(device, slate)],
        "position": -position_effect * position,
    }
    p = _sigmoid(sum(logit.values()))
    of_customer = taste[segment] + 0.4 * activity[:, None]  # [C, categories]
    others = logit["base"] + logit["quality"] + logit["device"]
    typical = np.mean([_sigmoid(others + row[category[shown]]) for row in of_customer], axis=0)
    click = rng.random(len(p)) < p
    buy = rng.random(len(p)) < 1 / (
        1 + np.exp(0.5 - 0.6 * quality[shown] + 0.5 * (np.log(price[shown]) - 3))
    )
    purchase = click & buy
    at = np.datetime64(START.replace(tzinfo=None), "s") + np.repeat(when, slate).astype(
        "timedelta64[s]"
    )
    delay = rng.integers(60, 3 * 86_400, len(p)).astype("timedelta64[s]")
    utc = pa.timestamp("us", tz="UTC")
    log = {
        "customer_id": ids[user],
        "sku": shown + 1_000,
        "event_timestamp": pa.array(at.astype("datetime64[us]")).cast(utc),
        "request_id": [f"r{n}" for n in np.repeat(np.arange(requests), slate)],
        "device": np.array(DEVICES)[np.repeat(device, slate)],
        "position": position,
        "click": click,
        "purchase": purchase,
        "bought_at": pa.array((at + delay).astype("datetime64[us]"), mask=~purchase).cast(utc),
    }
    pq.write_table(pa.table(log), folder / "events.parquet")
    first = pa.array([START] * customers, utc)
    recent = [
        (rng.choice(products, rng.integers(0, 6), replace=False) + 1_000).tolist() for _ in ids
    ]
    tables: dict[str, Any] = {
        "profile": {
            "customer_id": ids,
            "event_timestamp": first,
            "segment": np.array(SEGMENTS)[segment],
            "activity": activity,
            "joined": pa.array(
                [START - timedelta(days=int(d)) for d in rng.integers(1, 900, customers)], utc
            ),
            "recent": pa.array(recent, pa.list_(pa.int64())),
        },
        "stock": {
            "sku": np.arange(products) + 1_000,
            "event_timestamp": pa.array([START] * products, utc),
            "category": np.array(CATEGORIES)[category],
            "price": price.astype(np.float32),
            "quality": quality,
            "labels": pa.array(
                [[f"t{k}" for k in range(n % 4)] for n in range(products)], pa.list_(pa.string())
            ),
        },
        "affinity": {
            "customer_id": np.repeat(ids, 4),
            "sku": rng.integers(0, products, 4 * customers) + 1_000,
            "event_timestamp": pa.array([START] * (4 * customers), utc),
            "visits": rng.integers(1, 9, 4 * customers),
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    (folder / "feature_store.yaml").write_text(config, encoding="utf-8")
    (folder / "definitions.py").write_text(definitions, encoding="utf-8")
    (folder / "rankers.py").write_text(rankers, encoding="utf-8")
    end = START + timedelta(days=DAYS)
    return Feed(folder, folder / "events.parquet", end, p, logit, typical)


def apply_feed(folder: Path, end: datetime = START + timedelta(days=DAYS)) -> None:
    """As `feast apply` and `feast materialize` do, without a process of their own."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView

    found: dict[str, Any] = {"__file__": str(folder / "definitions.py")}
    exec((folder / "definitions.py").read_text(encoding="utf-8"), found)
    store = FeatureStore(repo_path=str(folder))
    kinds = (Entity, FeatureService, FeatureView)
    store.apply([thing for thing in found.values() if isinstance(thing, kinds)])
    store.materialize(START - timedelta(days=1), end)
