"""A feed whose users change their mood by the hour: how much a stale mood costs is known.

A user's mood is a random walk that forgets itself within hours; a click depends on the mood of its
moment alone. Moods are rows of a view, valid from the hour on; so is a taste that never changes.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 1, 1, tzinfo=UTC)
HOURS, USERS = 24 * 20, 40
CONFIG = """\
project: moody
provider: local
registry: registry.db
offline_store:
  type: adc_features.store.offline_store.AsofOfflineStore
online_store:
  type: adc_features.store.online_store.LmdbOnlineStore
  path: online
batch_engine:
  type: adc_features.store.compute_engine.ArrowComputeEngine
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

HERE = Path(__file__).parent
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)


def view(name, entity, dtype):
    return FeatureView(
        name=name, entities=[entity], ttl=timedelta(0),
        schema=[Field(name="value", dtype=Float64)],
        source=FileSource(name=name, path=str(HERE / f"{name}.parquet"),
                          timestamp_field="event_timestamp"),
    )


mood, quality = view("mood", user, String), view("quality", item, Int64)
moody = FeatureService(name="moody", features=[mood, quality])
"""
RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, infer

clicks = Ranker(name="clicks", service="moody", tasks=[Task("click")], user=["user_id"],
                item=["item_id"], inputs=infer(), model="xgboost")
"""


class Moody(NamedTuple):
    """The repository, its label log, and P(click) of each row of the log, float64 [N]."""

    folder: Path
    labels: Path
    truth: np.ndarray


def moody_world(folder: Path, *, rows: int = 6_000, seed: int = 0) -> Moody:
    """Written and applied; nothing is materialized."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    mood = np.zeros((HOURS, USERS))
    for hour in range(1, HOURS):
        mood[hour] = 0.85 * mood[hour - 1] + np.sqrt(1 - 0.85**2) * rng.normal(size=USERS)
    quality = rng.normal(size=50)
    when = np.sort(rng.integers(3_600, HOURS * 3_600, rows))
    who, what = rng.integers(0, USERS, rows), rng.integers(0, 50, rows)
    truth = 1 / (1 + np.exp(-(2.0 * mood[when // 3_600, who] + 0.5 * quality[what])))
    utc = pa.timestamp("us", "UTC")
    first = np.datetime64(START.replace(tzinfo=None), "us")
    log = {
        "user_id": [f"u{n}" for n in who],
        "item_id": what,
        "event_timestamp": pa.array(first + when.astype("timedelta64[s]")).cast(utc),
        "click": rng.random(rows) < truth,
    }
    hours = np.repeat(first + np.arange(HOURS).astype("timedelta64[h]"), USERS)
    tables = {
        "mood": {
            "user_id": [f"u{n}" for n in range(USERS)] * HOURS,
            "event_timestamp": pa.array(hours).cast(utc),
            "value": mood.ravel(),
        },
        "quality": {
            "item_id": np.arange(50),
            "event_timestamp": pa.array([START - timedelta(days=30)] * 50, utc),
            "value": quality,
        },
        "events": log,
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    for name, text in (
        ("feature_store.yaml", CONFIG), ("definitions.py", DEFINITIONS), ("rankers.py", RANKERS),
    ):  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8")
    found: dict = {"__file__": str(folder / "definitions.py")}
    exec(DEFINITIONS, found)
    kinds = (Entity, FeatureService, FeatureView)
    store = FeatureStore(repo_path=str(folder))
    store.apply([thing for thing in found.values() if isinstance(thing, kinds)])
    return Moody(folder, folder / "events.parquet", truth)
