"""The feed's shop with item vectors and titles: the category determines both, up to noise."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feed_world import CATEGORIES, CONFIG, DEFINITIONS, START, Feed, make_feed

LOOKS = """
looks = FeatureView(
    name="looks", entities=[product], ttl=timedelta(0), source=source("looks"),
    schema=[Field(name="sku", dtype=Int64), Field(name="vector", dtype=Array(Float32)),
            Field(name="wide", dtype=Array(Float64)), Field(name="title", dtype=String)],
)
plain_v1 = FeatureService(
    name="plain_v1", features=[profile, stock[["price", "quality"]], affinity[["visits"]]]
)
"""
RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, infer, skip

NO_ID = infer() | {"sku": skip()}
coded = Ranker(
    name="coded", service="plain_v1_g1", tasks=[Task("click")], inputs=NO_ID,
    user=["customer_id"], item=["sku"], request="request_id",
)
uncoded = Ranker(
    name="uncoded", service="plain_v1", tasks=[Task("click")],
    inputs=NO_ID | {"profile__h": skip()}, user=["customer_id"], item=["sku"], request="request_id",
)
"""
LATER = START + timedelta(days=20)
"""From here on the products of the last tenth look like the category after theirs."""


def make_coded_feed(folder: Path, *, config: str = CONFIG, **sizes: Any) -> Feed:
    """The feed with a view `looks` of its products; nothing is applied yet."""
    feed = make_feed(
        folder, config=config, definitions=DEFINITIONS + LOOKS, rankers=RANKERS, **sizes
    )
    write_looks(folder, feed)
    return feed


def categories(folder: Path) -> dict[int, str]:
    """sku -> category."""
    stock = pq.read_table(folder / "stock.parquet")
    return dict(zip(stock["sku"].to_pylist(), stock["category"].to_pylist(), strict=True))


def write_looks(folder: Path, feed: Feed, *, seed: int = 1) -> None:
    """A row of each product at the start, and of the last tenth one at LATER."""
    rng = np.random.default_rng(seed)
    category = categories(folder)
    skus = np.array(list(category))
    number = np.array([CATEGORIES.index(c) for c in category.values()])
    centres = 3 * np.eye(4, 8)
    moved = skus[-(len(skus) // 10) :]
    rows = [(s, c, START) for s, c in zip(skus, number, strict=True)]
    rows += [
        (s, (category_of + 1) % 4, LATER)
        for s, category_of in zip(moved, number[-len(moved) :], strict=True)
    ]
    vectors = [(centres[c] + rng.normal(0, 0.15, 8)).astype(np.float32) for _, c, _ in rows]
    pq.write_table(
        pa.table(
            {
                "sku": pa.array([int(s) for s, _, _ in rows], pa.int64()),
                "event_timestamp": pa.array([t for _, _, t in rows], pa.timestamp("us", "UTC")),
                "vector": pa.array([v.tolist() for v in vectors], pa.list_(pa.float32())),
                "wide": pa.array([[*v.tolist(), 1.0] for v in vectors], pa.list_(pa.float64())),
                "title": [f"one of our {CATEGORIES[c]}" for _, c, _ in rows],
            }
        ),
        folder / "looks.parquet",
    )


def feast_apply(repo: Path) -> None:
    """What `feast apply` does, in this process."""
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total, get_repo_files

    from adc_features.store import _compat as feast
    from adc_features.store.services.rankers import _imported_from

    repo, folder = repo.resolve(), os.getcwd()
    with _imported_from(repo, get_repo_files(repo)), feast.quiet():
        apply_total(load_repo_config(repo, repo / "feature_store.yaml"), repo, True)
    os.chdir(folder)


def materialize(repo: Path, until: datetime) -> None:
    """All views, online."""
    from adc_features.store import _compat as feast
    from adc_features.store.registry import open_any_store

    with feast.quiet():
        open_any_store(repo).materialize(START - timedelta(days=1), until)
