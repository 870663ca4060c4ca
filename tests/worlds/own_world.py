"""A shop's own Feast repository with rows in it: its entities, keys and views, on any stores.

Customers c0..c5 (c5 has no rows), products 1..6 and one beyond 2**53 (7 has no rows).
"""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import FunctionType
from typing import Any

import feast
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import types
from feast.on_demand_feature_view import on_demand_feature_view

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
BIG = 2**53 + 1
SKUS = [1, 2, 3, 4, 5, 6, BIG]
STORES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "file": ({"type": "file"}, {"type": "sqlite", "path": "online.db"}),
    "duckdb": ({"type": "duckdb"}, {"type": "sqlite", "path": "online.db"}),
    "ours": (
        {"type": "adc_features.store.offline_store.AsofOfflineStore"},
        {"type": "adc_features.store.online_store.LmdbOnlineStore", "path": "online"},
    ),
}

customer = feast.Entity(
    name="customer", join_keys=["customer_id"], value_type=feast.ValueType.STRING
)
product = feast.Entity(name="product", join_keys=["sku"], value_type=feast.ValueType.INT64)
KEYS = {"customer_id": types.String, "sku": types.Int64}

PROFILE: dict[str, tuple[Any, pa.DataType]] = {
    "segment": (types.String, pa.string()),
    "vip": (types.Bool, pa.bool_()),
    "joined": (types.UnixTimestamp, pa.timestamp("us", "UTC")),
    "visits": (types.Int32, pa.int32()),
    "budget": (types.Float64, pa.float64()),
    "recent": (types.Array(types.Int64), pa.list_(pa.int64())),
    "tags": (types.Array(types.String), pa.list_(pa.string())),
}
STOCK: dict[str, tuple[Any, pa.DataType]] = {
    "price": (types.Float32, pa.float64()),
    "stars": (types.Float64, pa.float64()),
    "shelf": (types.Int64, pa.int64()),
    "vector": (types.Array(types.Float32), pa.list_(pa.float64())),
    "added": (types.Array(types.UnixTimestamp), pa.list_(pa.timestamp("us", "UTC"))),
}
RARE: dict[str, tuple[Any, pa.DataType]] = {
    "cost": (types.Decimal, pa.string()),
    "number": (types.Uuid, pa.string()),
    "labels": (types.Set(types.String), pa.list_(pa.string())),
    "whole": (types.Set(types.Int64), pa.list_(pa.int64())),
}


def profile_rows() -> pa.Table:
    """Two rows of each customer but c5, the second nearly as of NOW; c3 has nulls."""
    rows = []
    for n in range(5):
        for age in (9 * DAY, DAY):
            late = age == DAY
            rows.append(
                {
                    "customer_id": f"c{n}",
                    "event_timestamp": NOW - age,
                    "segment": None if n == 3 and late else f"s{n}",
                    "vip": None if n == 3 and late else n % 2 == 0,
                    "joined": None if n == 3 and late else NOW - n * DAY - timedelta(0, 0, 123),
                    "visits": None if n == 3 and late else n + late,
                    "budget": None if n == 3 and late else 10.5 * n,
                    "recent": None if n == 3 and late else [1, BIG] * n,
                    "tags": None if n == 3 and late else ["é"] * (n % 3),
                }
            )
    return _table(rows, {"customer_id": pa.string()}, PROFILE)


def stock_rows() -> pa.Table:
    """A row of each product; that of 2 has expired at NOW (ttl of five days), 4 has nulls."""
    rows = [
        {
            "sku": sku,
            "event_timestamp": NOW - (6 * DAY if sku == 2 else DAY) + timedelta(seconds=i),
            "price": None if sku == 4 else 0.1 + i,
            "stars": None if sku == 4 else 0.1 * i,
            "shelf": 100 + i,
            "vector": None if sku == 4 else [0.1, i / 3],
            "added": None if sku == 4 else [NOW - DAY] * (i % 3),
        }
        for i, sku in enumerate(SKUS)
    ]
    return _table(rows, {"sku": pa.int64()}, STOCK)


def rare_rows() -> pa.Table:
    """Types that few stores hold as such; product 4 has nulls."""
    rows = [
        {
            "sku": sku,
            "event_timestamp": NOW - DAY,
            "cost": None if sku == 4 else str(Decimal("1.50") + i),
            "number": None if sku == 4 else str(uuid.UUID(int=i)),
            "labels": None if sku == 4 else ["b", "a"][: 1 + i % 2],
            "whole": None if sku == 4 else [3, 5],
        }
        for i, sku in enumerate(SKUS)
    ]
    return _table(rows, {"sku": pa.int64()}, RARE)


def affinity_rows() -> pa.Table:
    """Of c0..c2 with products 1..3."""
    rows = [
        {
            "customer_id": f"c{n}",
            "sku": sku,
            "event_timestamp": NOW - DAY,
            "score": n + sku / 10,
        }
        for n in range(3)
        for sku in (1, 2, 3)
    ]
    keys = {"customer_id": pa.string(), "sku": pa.int64()}
    return _table(rows, keys, {"score": (types.Float32, pa.float64())})


def calendar_rows() -> pa.Table:
    rows = [{"event_timestamp": NOW - DAY, "holiday": True}]
    return _table(rows, {}, {"holiday": (types.Bool, pa.bool_())})


def _table(rows: list[dict], keys: dict[str, pa.DataType], fields: dict) -> pa.Table:
    schema = {
        **keys,
        "event_timestamp": pa.timestamp("us", "UTC"),
        **{name: kind for name, (_, kind) in fields.items()},
    }
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _asked_in_frames(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ratio": inputs["price"] / inputs["limit"],
            "shelf_next": inputs["shelf"].fillna(-1).astype("int64") + 1,
        }
    )


def _asked_in_lists(inputs: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(inputs["visits"], inputs["limit"], strict=True)
    return {"often": [None if v is None else v * x for v, x in pairs]}


def _asked_one_by_one(inputs: dict[str, Any]) -> dict[str, Any]:
    price, budget = inputs["price"], inputs["budget"]
    return {"affordable": None if price is None or budget is None else price <= budget}


Source = Callable[[str, pa.Table], Any]


def file_source(directory: Path) -> Source:
    """Rows as Parquet beside the repository."""

    def written(name: str, rows: pa.Table) -> Any:
        path = directory / f"{name}.parquet"
        pq.write_table(rows, path)
        return feast.FileSource(
            name=f"{name}_rows", path=str(path), timestamp_field="event_timestamp"
        )

    return written


def own_world(
    directory: Path,
    offline: dict[str, Any],
    online: dict[str, Any],
    *,
    source: Source | None = None,
    rare: bool = True,
    calendar: bool = True,
) -> Path:
    """The repository, applied and materialized; its service is "feed"."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "project": "shop",
        "provider": "local",
        "registry": {"path": "registry.db"},
        "offline_store": offline,
        "online_store": online,
        "entity_key_serialization_version": 3,
    }
    (directory / "feature_store.yaml").write_text(yaml.safe_dump(config))
    source = source or file_source(directory)

    def view(name: str, entities: list, fields: dict, rows: pa.Table, ttl=timedelta(0)) -> Any:
        schema = [feast.Field(name=k, dtype=KEYS[k]) for k in (e.join_key for e in entities)]
        schema += [feast.Field(name=n, dtype=t) for n, (t, _) in fields.items()]
        return feast.FeatureView(
            name=name, entities=entities, schema=schema, source=source(name, rows), ttl=ttl
        )

    profile = view("profile", [customer], PROFILE, profile_rows())
    stock = view("stock", [product], STOCK, stock_rows(), ttl=5 * DAY)
    score = {"score": (types.Float32, pa.float64())}
    affinity = view("affinity", [customer, product], score, affinity_rows())
    ask = feast.RequestSource(name="ask", schema=[feast.Field(name="limit", dtype=types.Float64)])
    frames = on_demand_feature_view(
        sources=[stock[["price", "shelf"]], ask],
        schema=[
            feast.Field(name="ratio", dtype=types.Float64),
            feast.Field(name="shelf_next", dtype=types.Int64),
        ],
        mode="pandas",
    )(_named(_asked_in_frames, "frames"))
    lists = on_demand_feature_view(
        sources=[profile[["visits"]], ask],
        schema=[feast.Field(name="often", dtype=types.Float64)],
        mode="python",
    )(_named(_asked_in_lists, "lists"))
    ones = on_demand_feature_view(
        sources=[profile[["budget"]], stock[["price"]]],
        schema=[feast.Field(name="affordable", dtype=types.Bool)],
        mode="python",
        singleton=True,
    )(_named(_asked_one_by_one, "ones"))
    offered: list[Any] = [
        profile,
        stock,
        stock[["price", "shelf"]].with_name("viewed").with_join_key_map({"sku": "viewed_sku"}),
        affinity,
        frames,
        lists,
        ones,
    ]
    declared: list[Any] = [customer, product, profile, stock, affinity, frames, lists, ones]
    if rare:
        offered.append(view("rare", [product], RARE, rare_rows()))
        declared.append(offered[-1])
    if calendar:
        fields = {"holiday": (types.Bool, pa.bool_())}
        offered.append(view("calendar", [], fields, calendar_rows()))
        declared.append(offered[-1])
    store = feast.FeatureStore(repo_path=str(directory))
    store.apply([*declared, feast.FeatureService(name="feed", features=offered)])
    store.materialize(NOW - 30 * DAY, NOW)
    return directory


def _named(function: Any, name: str) -> Any:
    """Feast names an on-demand view after its function, and writes into the function."""
    return FunctionType(function.__code__, function.__globals__, name)


def versioned_world(directory: Path, offline: dict[str, Any], online: dict[str, Any]) -> Path:
    """A view `v` in two versions, whose `n` is 1 and then 2, both pinned by the service "feed"."""
    config = {
        "project": "shop",
        "provider": "local",
        "registry": {"path": "registry.db", "enable_online_feature_view_versioning": True},
        "offline_store": offline,
        "online_store": online,
        "entity_key_serialization_version": 3,
    }
    (directory / "feature_store.yaml").write_text(yaml.safe_dump(config))
    source, store = file_source(directory), feast.FeatureStore(repo_path=str(directory))
    for n in (1, 2):
        row = [{"sku": 1, "event_timestamp": NOW - DAY, "n": n}]
        rows = _table(row, {"sku": pa.int64()}, {"n": (types.Int64, pa.int64())})
        # tags of a field make a new version, tags of a view do not
        fields = [
            feast.Field(name="sku", dtype=types.Int64),
            feast.Field(name="n", dtype=types.Int64, tags={"made": str(n)}),
        ]
        view = feast.FeatureView(
            name="v",
            entities=[product],
            schema=fields,
            source=source(f"v{n}", rows),
            ttl=timedelta(0),
        )
        store.apply([product, view])
        store.materialize(NOW - 9 * DAY, NOW)
    store.apply([feast.FeatureService(name="feed", features=["v@v0", "v@v1"])])
    return directory
