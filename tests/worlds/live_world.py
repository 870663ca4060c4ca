"""A shop whose customers' clicks are aggregated live. Writes: a Feast repository.

Its views: `customer_activity` by customer (an Int64 key), `product_profile` by sku (text), and
`pair_activity` by both.
"""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coded_feed import feast_apply
from feast import FeatureStore

from adc_features.live.repository import Live, open_live
from adc_features.live.settings import LiveSettings
from adc_features.store.lmdb.environment import environment

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
STORE = """\
project: shop
registry: {path: data/registry.db, cache_ttl_seconds: 0}
provider: local
entity_key_serialization_version: 3
offline_store: {type: adc_features.store.offline_store.AsofOfflineStore}
"""
OURS = "{type: adc_features.store.online_store.LmdbOnlineStore}"
VIEWS = """\
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, ValueType

from adc_features.aggregates.declaration import (
    AggregateView, EventStream, Grid, count, last, last_time, residual_mean, smoothed_mean, total,
)
from adc_features.store.live_views import live_view

HERE = Path(__file__).parent
customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)
clicks = EventStream(
    "clicks",
    keys={"customer_id": "int64", "sku": "string"},
    attributes=("brand",),
    values={"label": Grid(20, 1.0), "rating": Grid(20, 10.0, optional=True)},
)
activity = AggregateView(
    "customer_activity",
    clicks,
    key=("customer_id",),
    features={
        "customer_events": count(),
        "customer_labels": total("label"),
        "customer_label_mean": smoothed_mean("label"),
        "customer_residual": residual_mean("rating", against="sku"),
        "customer_recent": last(3, "sku"),
        "customer_events_1h": count(window=timedelta(hours=1), hop=timedelta(minutes=5)),
        "customer_last_time": last_time(),
    },
)
profile = AggregateView(
    "product_profile",
    clicks,
    key=("sku",),
    features={
        "product_events": count(),
        "product_label_mean": smoothed_mean("label"),
        "product_last_time": last_time(),
    },
)
pairs = AggregateView(
    "pair_activity",
    clicks,
    key=("customer_id", "sku"),
    features={"pair_events": count(), "pair_last_time": last_time()},
)
customer_activity = live_view(activity, entities=[customer], repo=HERE)
product_profile = live_view(profile, entities=[product], repo=HERE)
pair_activity = live_view(pairs, entities=[customer, product], repo=HERE)
service = FeatureService(name="feed", features=[customer_activity, product_profile, pair_activity])
"""


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def make_shop(repo: Path, *, rankers: str = "", store: str = OURS) -> Path:
    """The repository, applied. rankers: Python that declares some, appended to the views. store:
    its online store, as YAML."""
    (repo / "data").mkdir(parents=True)
    text = f"{STORE}online_store: {store}\n"
    (repo / "feature_store.yaml").write_text(text, encoding="utf-8")
    (repo / "shop_views.py").write_text(VIEWS + rankers, encoding="utf-8")
    feast_apply(repo)
    return repo


def opened(repo: Path, clock: Clock, **settings: object) -> Live:
    """Its live directory."""
    return open_live(repo, settings=LiveSettings(**settings), clock=clock)


def click(number: int, seconds: float, **changes: object) -> dict[str, object]:
    """An event `seconds` after START."""
    return {
        "event_id": f"e{number}",
        "event_time": (START + timedelta(seconds=seconds)).isoformat(),
        "customer_id": number % 3,
        "sku": f"s{number % 2}",
        "label": number % 2,
        **changes,
    }


def online(repo: Path, features: list[str], **keys: list[object]) -> dict[str, list[object]]:
    """What Feast serves."""
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)]
    return FeatureStore(str(repo)).get_online_features(features, rows).to_dict()


def emptied(repo: Path) -> Path:
    """The repository as it was before its first event."""
    place = repo / "data/live"
    live = environment(os.path.realpath(place / "lmdb"), map_size=1 << 30)
    live.drop(live.tables())
    for folder in ("events", "dead_letters", "corrections"):
        shutil.rmtree(place / folder, ignore_errors=True)
    for segment in (place / "history").glob("*/*.parquet"):
        if not segment.name.startswith("0" * 20):
            segment.unlink()
    return repo
