"""A Feast repository for the tests of online stores: one view with every value type, one with two
join keys, one without any.
"""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import feast
import pandas as pd
from feast import types
from feast.on_demand_feature_view import on_demand_feature_view

NOW = datetime(2024, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LMDB = {"type": "adc_features.store.online_store.LmdbOnlineStore", "path": "online"}
ENGINE = {"type": "adc_features.store.compute_engine.ArrowComputeEngine"}

VALUES: dict[str, tuple[Any, Any]] = {
    "bool": (types.Bool, True),
    "int32": (types.Int32, -7),
    "int64": (types.Int64, 2**62),
    "float32": (types.Float32, 0.5),
    "float64": (types.Float64, 0.1),
    "text": (types.String, "é"),
    "blob": (types.Bytes, b"\x00\xff"),
    "moment": (types.UnixTimestamp, NOW),
    "zoned": (types.ZonedTimestamp, NOW.astimezone()),
    "bools": (types.Array(types.Bool), [True, False]),
    "int32s": (types.Array(types.Int32), [1, -2]),
    "int64s": (types.Array(types.Int64), [1, 2**62]),
    "float32s": (types.Array(types.Float32), [0.5, -1.0]),
    "float64s": (types.Array(types.Float64), [0.1]),
    "texts": (types.Array(types.String), ["", "b"]),
    "blobs": (types.Array(types.Bytes), [b"", b"\xff"]),
    "moments": (types.Array(types.UnixTimestamp), [NOW, NOW + HOUR]),
    "set_of_int64": (types.Set(types.Int64), {1, 2}),
    "set_of_text": (types.Set(types.String), {"a", "b"}),
    "uuid": (types.Uuid, uuid.UUID(int=5)),
    "uuids": (types.Array(types.Uuid), [uuid.UUID(int=5)]),
    "decimal": (types.Decimal, Decimal("1.50")),
    "map": (types.Map, {"a": 1, "b": {"c": "d"}}),
    "maps": (types.Array(types.Map), [{"a": 1}]),
    "json": (types.Json, {"a": [1, None]}),
    "nested": (types.Array(types.Array(types.Int64)), [[1], [2, 3]]),
}
"""Feature -> its declared type and one value as Feast shows it in Python."""

item = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.INT64)
user = feast.Entity(name="user", join_keys=["user_id"], value_type=feast.ValueType.STRING)


def view(
    name: str,
    entities: list[feast.Entity],
    fields: dict[str, Any],
    path: Path,
    *,
    ttl: timedelta = timedelta(0),
    **options: Any,
) -> feast.FeatureView:
    keys = {"item": ("item_id", types.Int64), "user": ("user_id", types.String)}
    schema = [feast.Field(name=keys[e.name][0], dtype=keys[e.name][1]) for e in entities] + [
        feast.Field(name=n, dtype=t) for n, t in fields.items()
    ]
    source = feast.FileSource(
        name=f"{name}_source",
        path=str(path),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    return feast.FeatureView(
        name=name, entities=entities, schema=schema, source=source, ttl=ttl, **options
    )


def store(
    directory: Path,
    online: dict[str, Any],
    *,
    project: str = "world",
    versions: bool = False,
    engine: dict[str, Any] | None = None,
    offline_store: dict[str, Any] | None = None,
) -> feast.FeatureStore:
    registry = {
        "registry_type": "sql",
        "path": f"sqlite:///{directory}/registry.db",
        "enable_online_feature_view_versioning": versions,
    }
    config = feast.RepoConfig(
        project=project,
        provider="local",
        registry=registry,
        offline_store=offline_store or {"type": "duckdb"},
        online_store=online,
        **({"batch_engine": engine} if engine else {}),
        materialization={"pull_latest_features": True},
        entity_key_serialization_version=3,
        repo_path=directory,
    )
    return feast.FeatureStore(repo_path=str(directory), config=config)


def world(directory: Path, online: dict[str, Any], **options: Any) -> feast.FeatureStore:
    """Views `everything` (item), `pair` (item and user), `total` (no entity), `brief` (ttl of an
    hour), `doubled` (on demand); applied.
    """
    path = directory / "rows.parquet"
    columns = {
        "item_id": [1],
        "user_id": ["u"],
        "n": [1],
        "event_timestamp": [NOW],
        "created": [NOW],
    }
    pd.DataFrame(columns).to_parquet(path)
    everything = view(
        "everything", [item], {name: kind for name, (kind, _) in VALUES.items()}, path
    )
    pair, brief = (
        view("pair", [item, user], {"n": types.Int64}, path),
        view("brief", [item], {"m": types.Int64}, path, ttl=HOUR),
    )
    total = view("total", [], {"sum": types.Int64}, path)

    @on_demand_feature_view(sources=[pair], schema=[feast.Field(name="twice", dtype=types.Int64)])
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["n"] * 2})

    service = feast.FeatureService(name="both", features=[everything[["int32", "texts"]], pair])
    repository = store(directory, online, **options)
    repository.apply([item, user, everything, pair, total, brief, doubled, service])
    return repository
