"""A market's own Feast repository and its label log, on any stores: nothing in it is named as ours.

Customers are text, products are whole numbers beyond 2**53, a candidate is a product of a merchant,
and a request is made on the page of another product (the anchor). Some have no rows, some rows have
nulls, some have expired by the end. A click depends on segment and kind, price, budget and device;
an order follows a click within three days.

Its files are those of a user: `definitions.py` and `rankers.py`, applied twice, so that one view
has two versions. N rows, C customers, P products, M merchants.
"""

import contextlib
import importlib
import io
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

START = datetime(2026, 2, 1, tzinfo=UTC)
DAYS = 24
END = START + timedelta(days=DAYS)
BIG = 2**53 + 1
CUSTOMERS, PRODUCTS, MERCHANTS, SLATE = 60, 40, 2, 8
SEGMENTS, KINDS, DEVICES = ["new", "loyal", "deal"], ["books", "games", "food"], ["phone", "desk"]
UTC_US = pa.timestamp("us", tz="UTC")

STORES: dict[str, dict[str, Any]] = {
    "duckdb": {
        "offline_store": {"type": "duckdb"},
        "online_store": {"type": "sqlite", "path": "online.db"},
    },
    "ours": {
        "offline_store": {"type": "adc_features.store.offline_store.AsofOfflineStore"},
        "online_store": {
            "type": "adc_features.store.online_store.LmdbOnlineStore",
            "path": "online",
        },
        "batch_engine": {"type": "adc_features.store.compute_engine.ArrowComputeEngine"},
    },
}

DEFINITIONS = """
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, Set, String, UnixTimestamp

HERE = Path(__file__).parent
SOURCE
buyer = Entity(name="buyer", join_keys=["customer_id"], value_type=ValueType.STRING)
article = Entity(name="article", join_keys=["sku"], value_type=ValueType.INT64)
seller = Entity(name="seller", join_keys=["merchant"], value_type=ValueType.STRING)
KEYS = {"customer_id": String, "sku": Int64, "merchant": String}


def view(name, entities, ttl=0, table=None, **fields):
    keys = [Field(name=e.join_key, dtype=KEYS[e.join_key]) for e in entities]
    return FeatureView(
        name=name, entities=entities, ttl=timedelta(days=ttl), source=source(table or name),
        schema=keys + [Field(name=n, dtype=t) for n, t in fields.items()],
    )


profile = view(
    "profile", [buyer], segment=String, budget=Float64, joined=UnixTimestamp, visits=Int64,
    vip=Bool, taste=Array(Float32), recent=Array(Int64), recent_at=Array(UnixTimestamp),
)
goods = view(
    "goods", [article], ttl=9, price=Float32, stars=Float64, shelf=Int64, kind=String,
    words=Array(String), materials=Set(String), look=Array(Float32),
)
offer = view("offer", [article, seller], discount=Float32, delivery=Int32)
affinity = view("affinity", [buyer, article], score=Float32)
TREND
ask = RequestSource(name="ask", schema=[Field(name="limit", dtype=Float64)])


@on_demand_feature_view(
    sources=[profile[["budget"]], ask], schema=[Field(name="headroom", dtype=Float64)],
    mode="python",
)
def spend(inputs):
    pairs = zip(inputs["budget"], inputs["limit"])
    return {"headroom": [None if b is None else min(b, x) / x for b, x in pairs]}


@on_demand_feature_view(
    sources=[goods[["price"]], profile[["budget", "visits"]], ask],
    schema=[Field(name="ratio", dtype=Float64), Field(name="again", dtype=Int64)], mode="pandas",
)
def worth(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "ratio": inputs["price"] / (inputs["limit"] + inputs["budget"].fillna(0)),
        "again": inputs["visits"].fillna(-1).astype("int64") + 1,
    })


@on_demand_feature_view(
    sources=[offer[["discount"]], goods[["price"]]], schema=[Field(name="cheap", dtype=Bool)],
    mode="python", singleton=True,
)
def bargain(inputs):
    price, off = inputs["price"], inputs["discount"]
    return {"cheap": None if price is None or off is None else price * (1 - off) < 15}


market_v2 = FeatureService(
    name="market_v2",
    features=[
        # Feast cannot compare a service with one view both under its name and an alias
        profile, goods.with_name("article"),
        goods[["price", "kind"]].with_name("anchor").with_join_key_map({"sku": "anchor_sku"}),
        offer, affinity, spend, worth, bargain, *PINNED,
    ],
)
shelf_v1 = FeatureService(name="shelf_v1", features=[goods, offer, bargain])
"""
FILE_SOURCE = """
from feast import FileSource


def source(name):
    return FileSource(
        name=f"{name}_rows", path=str(HERE / f"{name}.parquet"), timestamp_field="happened_at"
    )

"""
PINNED = '["trend@v0", "trend@v1"]'
TRENDS = [
    'trend = view("trend", [article], table="trend_old", sales=Float64)',
    'trend = view("trend", [article], table="trend_new", sales=Float64, returns=Int64)',
]

RANKERS = """
from adc_features.inputs.declaration import (
    Ranker, Task, category, category_set, flag, infer, item_history, number, skip, time, vector,
)

COMMON = dict(
    service="market_v2",
    tasks=[
        Task("click"),
        Task("order", weight=0.3, known_at="ordered_at", delay="3d", given="click"),
    ],
    user=["customer_id", "anchor_sku"],
    item=["sku", "merchant"],
    request="page",
    inputs=infer() | {
        "article__price": number(log=True, bins=8),
        "article__words": category_set(min_count=5),
        "profile__recent": item_history(times="recent_at", candidate="sku", last=4, min_count=5),
        "merchant": category(min_count=5),
        "device": category(request=True, min_count=5),
        "hour": number(request=True, optional=True),
        "sent_at": time(request=True),
        "position": category(request=True, train_only=True, default=0, min_count=1),
    },
    score={"click": 1.0, "order": 0.5},
)
market = Ranker(name="market", gates=["profile__segment", "device"], **COMMON)
trees = Ranker(name="trees", model="xgboost", **COMMON)
shelf = Ranker(
    name="shelf", service="shelf_v1", tasks=[Task("click")], item=["sku", "merchant"],
)
"""


@dataclass(frozen=True)
class Market:
    """Where it lies. labels: the log, as `adc train --labels` takes it; end: of the log, as of
    which the online store holds values."""

    repo: Path
    labels: Path
    end: datetime = END


Source = Callable[[str, pa.Table], None]
"""Puts rows where the definitions look for them."""


def make_market(
    repo: Path,
    stores: Mapping[str, Any],
    *,
    source: str = FILE_SOURCE,
    put: Source | None = None,
    rows: int = 4_000,
    seed: int = 0,
) -> Market:
    """Write the repository and its label log, apply and materialize it.

    stores: blocks of feature_store.yaml. source: text of the definitions that declares `source`;
    put: how its rows come there, by default as Parquet files.
    """
    repo.mkdir(parents=True)
    config = {
        "project": "market",
        "provider": "local",
        "registry": {
            "path": "registry.db",
            "enable_online_feature_view_versioning": True,
        },
        "entity_key_serialization_version": 3,
        **stores,
    }
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tables, log = market_rows(rows, np.random.default_rng(seed))
    for name, table in tables.items():
        if put is None:
            pq.write_table(table, repo / f"{name}.parquet")
        else:
            put(name, table)
    pq.write_table(log, repo / "shown.parquet")
    (repo / "rankers.py").write_text(RANKERS, encoding="utf-8")
    text = DEFINITIONS.replace("SOURCE", source)
    # Feast pins a version only once it is in the registry, and an apply that changes nothing makes
    # it forget which version is the newest: each is materialized before the next apply
    for trend, pinned in zip((*TRENDS, TRENDS[1]), ("[]", "[]", PINNED), strict=True):
        written = text.replace("TREND", trend).replace("PINNED", pinned)
        (repo / "definitions.py").write_text(written, encoding="utf-8")
        feast_apply(repo)
        if pinned != PINNED:
            materialize(repo, ["trend"])
    materialize(repo, ["profile", "goods", "offer", "affinity"])
    return Market(repo, repo / "shown.parquet")


def feast_apply(repo: Path) -> None:
    """`FeatureStore.apply` of what the folder's files declare.

    Not `feast apply`: its plan (Feast 0.67) makes no online table for a new version of a view.
    """
    import feast
    from feast.repo_operations import parse_repo

    with contextlib.chdir(repo), _fresh_modules(repo), _quiet():
        found = parse_repo(repo)
        declared = [*found.entities, *found.feature_views, *found.on_demand_feature_views]
        feast.FeatureStore(repo_path=str(repo)).apply([*declared, *found.feature_services])


def materialize(repo: Path, views: list[str] | None = None) -> None:
    """What `feast materialize` does in this folder, as of the end."""
    import feast

    with _quiet():
        store = feast.FeatureStore(repo_path=str(repo))
        store.materialize(START - timedelta(days=30), END, feature_views=views)


@contextlib.contextmanager
def _fresh_modules(repo: Path) -> Iterator[None]:
    before = set(sys.modules)
    sys.path.insert(0, str(repo))
    importlib.invalidate_caches()
    linecache.clearcache()  # Feast keeps the text of functions, and takes it from there
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.path.remove(str(repo))
        sys.dont_write_bytecode = bytecode
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(repo)):
                del sys.modules[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def market_rows(rows: int, rng: np.random.Generator) -> tuple[dict[str, pa.Table], pa.Table]:
    """The feature tables by name, and the label log."""
    buyers = [f"c-{n:03d}" for n in range(CUSTOMERS)]
    skus = (BIG + 2 * np.arange(PRODUCTS)).tolist()
    merchants = [f"m{n}" for n in range(MERCHANTS)]
    segment, kind = rng.integers(0, 3, CUSTOMERS), rng.integers(0, 3, PRODUCTS)
    price, budget = np.exp(rng.normal(2.5, 0.7, PRODUCTS)), rng.gamma(2.0, 20.0, CUSTOMERS)
    tables = {
        "profile": _table(list(_profiles(buyers, skus, segment, budget, rng)), PROFILE),
        "goods": _table(list(_goods(skus, kind, price, rng)), GOODS),
        "offer": _table(list(_offers(skus, merchants, rng)), OFFER),
        "affinity": _table(list(_affinities(buyers, skus, rng)), AFFINITY),
        "trend_old": _table(list(_trends(skus, rng, returns=False)), TREND_OLD),
        "trend_new": _table(list(_trends(skus, rng, returns=True)), TREND_NEW),
    }
    pages = rows // SLATE
    seconds = np.sort(rng.integers(3_600, DAYS * 86_400, pages))
    # the last three customers and products are strangers to the store
    who = rng.integers(0, CUSTOMERS + 3, pages)
    page = np.repeat(np.arange(pages), SLATE)
    shown = np.concatenate([rng.choice(PRODUCTS + 2, SLATE, replace=False) for _ in range(pages)])
    user, device = np.repeat(who, SLATE), np.repeat(rng.integers(0, 2, pages), SLATE)
    limit, hour = np.repeat(rng.uniform(5, 80, pages), SLATE), seconds[page] % 86_400 / 3_600
    taste = rng.normal(0, 1.2, (3, 3))
    known = (user < CUSTOMERS) & (shown < PRODUCTS)
    u, p = np.minimum(user, CUSTOMERS - 1), np.minimum(shown, PRODUCTS - 1)
    position = np.tile(np.arange(SLATE), pages)
    logit = -0.5 + known * (taste[segment[u], kind[p]] + 0.5 * (budget[u] > 2 * price[p]))
    logit = logit + 0.4 * (device - 0.5) - 0.15 * position
    click = rng.random(len(page)) < 1 / (1 + np.exp(-logit))
    order = click & (rng.random(len(page)) < 0.4)
    at = np.datetime64(START.replace(tzinfo=None), "us") + seconds[page].astype("timedelta64[s]")
    later = rng.integers(60, 2 * 86_400, len(page)).astype("timedelta64[s]")
    all_skus = np.array([*skus, 1, 2])
    log = {
        "customer_id": [[*buyers, "x1", "x2", "x3"][n] for n in user],
        "anchor_sku": all_skus[np.repeat(rng.integers(0, PRODUCTS + 2, pages), SLATE)],
        "sku": all_skus[shown],
        "merchant": [merchants[n] for n in rng.integers(0, MERCHANTS, len(page))],
        "event_timestamp": pa.array(at).cast(UTC_US),
        "page": [f"page-{n}" for n in page],
        "device": [DEVICES[n] for n in device],
        "hour": pa.array(hour, mask=np.repeat(rng.random(pages) < 0.2, SLATE)),
        "sent_at": pa.array(at - np.timedelta64(1_500_000, "us")).cast(UTC_US),
        "limit": limit,
        "position": position,
        "click": click,
        "order": order,
        "ordered_at": pa.array(at + later, mask=~order).cast(UTC_US),
    }
    return tables, pa.table(log)


_NUMBERS, _TEXTS = pa.list_(pa.float64()), pa.list_(pa.string())
_TIME = {"happened_at": UTC_US}
PROFILE = {
    "customer_id": pa.string(), **_TIME, "segment": pa.string(), "budget": pa.float64(),
    "joined": UTC_US, "visits": pa.int64(), "vip": pa.bool_(), "taste": _NUMBERS,
    "recent": pa.list_(pa.int64()), "recent_at": pa.list_(UTC_US),
}  # fmt: skip
GOODS = {
    "sku": pa.int64(), **_TIME, "price": pa.float64(), "stars": pa.float64(), "shelf": pa.int64(),
    "kind": pa.string(), "words": _TEXTS, "materials": _TEXTS, "look": _NUMBERS,
}  # fmt: skip
OFFER = {
    "sku": pa.int64(), "merchant": pa.string(), **_TIME, "discount": pa.float64(),
    "delivery": pa.int32(),
}  # fmt: skip
AFFINITY = {"customer_id": pa.string(), "sku": pa.int64(), **_TIME, "score": pa.float64()}
TREND_OLD = {"sku": pa.int64(), **_TIME, "sales": pa.float64()}
TREND_NEW = {**TREND_OLD, "returns": pa.int64()}


def _table(rows: list[dict[str, Any]], schema: dict[str, pa.DataType]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _moments(place: int) -> list[datetime]:
    """When an entity was written: before the start, in between, and (two of three) near the end."""
    moments = [START - timedelta(days=2), START + timedelta(days=11, minutes=place)]
    return [*moments, *([END - timedelta(days=2, seconds=place)] if place % 3 else [])]


def _profiles(buyers: Any, skus: Any, segment: Any, budget: Any, rng: Any) -> Iterator[dict]:
    for n, buyer in enumerate(buyers):
        for at in _moments(n):
            bare = n % 9 == 4  # nothing but the row
            seen = rng.choice(len(skus), rng.integers(0, 6), replace=False).tolist()
            times = sorted(at - timedelta(hours=int(h)) for h in rng.integers(1, 400, len(seen)))
            yield {
                "customer_id": buyer,
                "happened_at": at,
                "segment": None if bare else SEGMENTS[segment[n]],
                "budget": None if bare or n % 7 == 0 else float(budget[n]),
                "joined": None if bare else at - timedelta(days=n, microseconds=123_456),
                "visits": None if bare or n % 5 == 0 else 100 + n,
                "vip": None if bare else n % 2 == 0,
                "taste": None if bare else rng.normal(size=3).tolist(),
                "recent": None if bare else [skus[k] for k in seen],
                "recent_at": None if bare else times,
            }


def _goods(skus: Any, kind: Any, price: Any, rng: Any) -> Iterator[dict]:
    for n, sku in enumerate(skus):
        for at in _moments(n):
            bare = n % 11 == 5
            yield {
                "sku": sku,
                "happened_at": at,
                "price": None if bare else float(price[n]),
                "stars": None if bare or n % 6 == 0 else float(rng.uniform(1, 5)),
                "shelf": None if bare or n % 4 == 0 else 100 + n,
                "kind": None if bare else KINDS[kind[n]],
                "words": None if bare else [f"w{k}" for k in range(n % 4)],
                "materials": None if bare else ["wood", "iron", "silk"][n % 2 : 1 + n % 3],
                "look": None if bare else [0.1 * n, 1 / (n + 3), -2.0],
            }


def _offers(skus: Any, merchants: Any, rng: Any) -> Iterator[dict]:
    for n, sku in enumerate(skus):
        for m, merchant in enumerate(merchants):
            if (n + m) % 8 == 0:
                continue
            for at in _moments(n + m):
                yield {
                    "sku": sku,
                    "merchant": merchant,
                    "happened_at": at,
                    "discount": float(rng.uniform(0, 0.6)),
                    "delivery": None if n % 5 == 1 else int(rng.integers(1, 9)),
                }


def _affinities(buyers: Any, skus: Any, rng: Any) -> Iterator[dict]:
    for buyer in buyers:
        for n in rng.choice(len(skus), 12, replace=False).tolist():
            for at in _moments(n)[1:]:
                score = float(rng.normal())
                yield {"customer_id": buyer, "sku": skus[n], "happened_at": at, "score": score}


def _trends(skus: Any, rng: Any, *, returns: bool) -> Iterator[dict]:
    for n, sku in enumerate(skus):
        for at in _moments(n):
            row = {"sku": sku, "happened_at": at, "sales": float(rng.gamma(2.0, 10.0))}
            yield {**row, "returns": None if n % 3 == 0 else n} if returns else row
