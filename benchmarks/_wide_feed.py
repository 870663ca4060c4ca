"""A Feast repository with a feed of 40 features and its label log. Reads: nothing. Writes: folders.

The service `feed` has, as the inputs of a ranker: 27 numbers (12 of the user, 13 of the item, 2 of
both), 10 categories (4, 5 and the device of the request; both ids are among them), 2 sequences (the
user's recent items, read as their codes, and recent topics) and the item's semantic IDs with
weights and reliability.
"""

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 40
NOW = START + timedelta(days=DAYS)
DEVICES = ("phone", "desktop", "tablet")
RECENT = 20
FEATURES = {"numbers": 27, "categories": 10, "sequences": 2, "semantic_ids": 1}
ONLINE: Mapping[str, dict[str, Any]] = {
    "lmdb": {
        "type": "adc_features.store.online_store.LmdbOnlineStore",
        "path": "data/online.lmdb",
    },
    "sqlite": {"type": "sqlite", "path": "data/online.db"},
    "redis": {"type": "redis", "connection_string": "${ADC_REDIS_HOST}:${ADC_REDIS_PORT}"},
    "postgres": {
        "type": "postgres",
        "host": "${ADC_POSTGRES_HOST}",
        "port": "${ADC_POSTGRES_PORT}",
        "database": "${ADC_POSTGRES_DATABASE}",
        "db_schema": "public",
        "user": "${ADC_POSTGRES_USER}",
        "password": "${ADC_POSTGRES_PASSWORD}",
        "sslmode": "prefer",
    },
}
SERVERS = ("redis", "postgres")
"""Stores that are processes of their own; docs/servers starts them and tells the variables."""

DEFINITIONS = '''
"""The entities, views and the service of a feed."""
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Float64, Int64, String

from adc_features.store.definitions import sid_views

HERE = Path(__file__).parent
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
HISTORY = {"adc.kind": "history", "adc.group": "recent"}


def view(name, entities, fields):
    source = FileSource(
        name=name, path=str(HERE / f"{name}.parquet"), timestamp_field="event_timestamp"
    )
    return FeatureView(
        name=name, entities=entities, ttl=timedelta(0), source=source, schema=fields
    )


def numbers(prefix, count):
    return [Field(name=f"{prefix}_{n}", dtype=(Float32, Float64)[n % 2]) for n in range(count)]


def texts(prefix, count):
    return [Field(name=f"{prefix}_{n}", dtype=String) for n in range(count)]


profile = view("profile", [user], [
    Field(name="user_id", dtype=Int64), *numbers("user_number", 12), *texts("user_text", 3),
    Field(name="recent_items", dtype=Array(Int64), tags=HISTORY),
    Field(name="recent_topics", dtype=Array(String), tags={"adc.order": "newest_last"}),
])
stock = view("stock", [item], [
    Field(name="item_id", dtype=Int64), *numbers("item_number", 13), *texts("item_text", 4),
])
affinity = view("affinity", [user, item], [
    Field(name="user_id", dtype=Int64), Field(name="item_id", dtype=Int64),
    *numbers("pair_number", 2),
])
[codes] = sid_views(HERE)
feed = FeatureService(name="feed", features=[profile, stock, affinity, codes])
'''

RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, category, infer

feed = Ranker(
    name="feed",
    service="feed",
    tasks=[Task("click"), Task("like", weight=0.3)],
    inputs=infer() | {"device": category(request=True)},
    user=["user_id"],
    item=["item_id"],
    request="request_id",
    gates=["profile__user_text_0", "sid"],
    score={"click": 1.0, "like": 0.5},
)
"""


class WideFeed(NamedTuple):
    """Where it lies. users, items: int64 ids."""

    repo: Path
    labels: Path
    users: np.ndarray
    items: np.ndarray


def make_wide_feed(folder: Path, *, users: int, items: int, rows: int, seed: int = 0) -> WideFeed:
    """Write the repository with one snapshot of codes, and its label log. Nothing is applied."""
    from adc_features import store

    repo = folder / "repo"
    store.create_repository(repo, project="feed")
    for generated in repo.glob("*.py"):  # the views of our own statistics: this feed has others
        generated.unlink()
    rng = np.random.default_rng(seed)
    feed = WideFeed(
        repo,
        folder / "events.parquet",
        np.arange(users) * 3 + 1,
        rng.permutation(items).astype(np.int64) * 7 + 3,
    )
    _publish_codes(feed, rng)
    _write_views(feed, rng)
    _write_labels(feed, rng, rows)
    (repo / "feed.py").write_text(DEFINITIONS, encoding="utf-8")
    (repo / "rankers.py").write_text(RANKERS, encoding="utf-8")
    return feed


def put_online(feed: WideFeed, online_store: str) -> None:
    """Apply the repository with one of the stores of `ONLINE`, and load it as of NOW."""
    import yaml

    path = feed.repo / "feature_store.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["online_store"] = ONLINE[online_store]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    for command in (
        ["apply", "--skip-source-validation"],
        ["materialize", (START - timedelta(days=1)).isoformat(), NOW.isoformat()],
    ):
        feast = str(Path(sys.executable).parent / "feast")
        done = subprocess.run(
            [feast, "-c", str(feed.repo), *command], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"feast {command[0]} failed:\n{done.stderr[-2000:]}")


def _publish_codes(feed: WideFeed, rng: np.random.Generator) -> None:
    from adc_features import store
    from adc_features.codes.generation import Generation
    from adc_features.codes.sids import SidTable
    from adc_features.codes.spec import SidSpec

    spec = SidSpec(content={"text": 2, "image": 2}, shared=1, behavior=3, codebook_size=256)
    count = len(feed.items)
    weight = np.ones((count, spec.length), np.float32)
    weight[:, -spec.behavior :] = rng.random((count, spec.behavior), np.float32)
    reliability = rng.random(count, np.float32)
    table = SidTable(
        item_ids=feed.items,
        sid=rng.integers(0, spec.codebook_size, (count, spec.length), dtype=np.int32),
        sid_weight=weight,
        reliability=reliability,
        alignment=reliability,
        is_cold=np.zeros(count, bool),
        collision_count=np.ones(count, np.int32),
        found=np.ones(count, bool),
        generation="g1",
        codebook_size=spec.codebook_size,
        as_of=START,
    )
    generation = Generation("g1", "adc", spec, {}, {}, {}, START, "00" * 32)
    store.publish(feed.repo, generation, [table], servable_at=[START], computed_at=START)


def _write_views(feed: WideFeed, rng: np.random.Generator) -> None:
    users, items = feed.users, feed.items
    sizes = rng.integers(0, RECENT + 1, (2, len(users)))
    topics = np.array([f"topic{n}" for n in range(300)])
    profile = {
        "user_id": users,
        **_numbers("user_number", 12, len(users), rng),
        **_texts("user_text", (8, 60, 1_000), len(users), rng),
        "recent_items": _lists(rng.choice(items, int(sizes[0].sum())), sizes[0]),
        "recent_topics": _lists(rng.choice(topics, int(sizes[1].sum())), sizes[1]),
    }
    stock = {
        "item_id": items,
        **_numbers("item_number", 13, len(items), rng),
        **_texts("item_text", (10, 50, 400, 2_000), len(items), rng),
    }
    pairs = np.unique(
        rng.integers(0, len(users) * len(items), 10 * len(users)),
    )
    affinity = {
        "user_id": users[pairs // len(items)],
        "item_id": items[pairs % len(items)],
        **_numbers("pair_number", 2, len(pairs), rng),
    }
    for name, columns in {"profile": profile, "stock": stock, "affinity": affinity}.items():
        count = len(next(iter(columns.values())))
        times = pa.array([START] * count, pa.timestamp("us", "UTC"))
        pq.write_table(
            pa.table({**columns, "event_timestamp": times}), feed.repo / f"{name}.parquet"
        )


def _write_labels(feed: WideFeed, rng: np.random.Generator, rows: int) -> None:
    slate = 8
    requests = max(1, rows // slate)
    seconds = np.repeat(np.sort(rng.integers(86_400, DAYS * 86_400, requests)), slate)
    at = np.datetime64(START.replace(tzinfo=None), "us") + seconds * np.timedelta64(1_000_000, "us")
    # no item twice in a slate
    first, step = rng.integers(0, len(feed.items), (requests, 1)), max(1, len(feed.items) // slate)
    shown = (first + step * np.arange(slate)) % len(feed.items)
    click = rng.random(requests * slate) < 0.3
    log = {
        "user_id": np.repeat(rng.choice(feed.users, requests), slate),
        "item_id": feed.items[shown.ravel()],
        "event_timestamp": pa.array(at).cast(pa.timestamp("us", "UTC")),
        "request_id": np.repeat(np.arange(requests), slate),
        "device": np.repeat(rng.choice(np.array(DEVICES), requests), slate),
        "click": click,
        "like": click & (rng.random(len(click)) < 0.4),
    }
    pq.write_table(pa.table(log), feed.labels)


def _numbers(prefix: str, count: int, rows: int, rng: np.random.Generator) -> dict[str, Any]:
    """Columns of which a twentieth of the rows is missing."""
    return {
        f"{prefix}_{n}": pa.array(
            rng.normal(size=rows).astype((np.float32, np.float64)[n % 2]),
            mask=rng.random(rows) < 0.05,
        )
        for n in range(count)
    }


def _texts(
    prefix: str, sizes: tuple[int, ...], rows: int, rng: np.random.Generator
) -> dict[str, Any]:
    return {
        f"{prefix}_{n}": np.array([f"{prefix}{v}" for v in range(size)])[
            (size * rng.random(rows) ** 2).astype(np.int64)
        ]
        for n, size in enumerate(sizes)
    }


def _lists(flat: np.ndarray, sizes: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
