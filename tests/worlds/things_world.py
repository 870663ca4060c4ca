"""A small repository of things with pictures, whose ids may be of any type."""

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from coded_feed import feast_apply

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ITEMS = 24
DEFINITIONS = """
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int32, {type}

thing = Entity(name="thing", join_keys=["code"], value_type=ValueType.{value})
pictures = FeatureView(
    name="pictures", entities=[thing], ttl=timedelta(0),
    source=FileSource(name="pictures", path=str(Path(__file__).parent / "pictures.parquet"),
                      timestamp_field="at"),
    schema=[Field(name="code", dtype={type}), Field(name="size", dtype=Int32),
            Field(name="picture", dtype=Array(Float32))],
)
things = FeatureService(name="things", features=[pictures[["size"]]])
"""
IDS = {
    "String": [f"é{n}" for n in range(ITEMS)],
    "Int32": list(range(-3, ITEMS - 3)),
    "Uuid": [str(uuid.UUID(int=n)) for n in range(ITEMS)],
}
ASOF = "adc_features.store.offline_store.AsofOfflineStore"


LMDB = {"type": "adc_features.store.online_store.LmdbOnlineStore", "path": "online"}


def make_things(folder, kind="String", offline="duckdb"):
    """Write and apply the repository."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    centres = 3 * np.eye(4)
    config = {
        "project": "things",
        "provider": "local",
        "registry": "registry.db",
        "offline_store": {"type": offline},
        "online_store": LMDB if offline == ASOF else {"type": "sqlite", "path": "online.db"},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    text = DEFINITIONS.format(type=kind, value=kind.upper())
    (folder / "definitions.py").write_text(text, encoding="utf-8")
    ids = pa.array(IDS[kind], pa.int32() if kind == "Int32" else pa.string())
    vectors = [(centres[n % 4] + rng.normal(0, 0.1, 4)).tolist() for n in range(ITEMS)]
    table = {
        "code": ids,
        "at": pa.array([START] * ITEMS, pa.timestamp("us", "UTC")),
        "size": pa.array(range(ITEMS), pa.int32()),
        "picture": pa.array(vectors, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(table), folder / "pictures.parquet")
    feast_apply(folder)
    return folder
