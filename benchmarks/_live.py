"""A shop for benchmarks of live views, and what kills it. Reads: nothing. Writes: a repository.

Its views are the statistics that this project serves of users and items, over a stream.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

STORE = """\
project: shop
registry: {path: data/registry.db, cache_ttl_seconds: 60}
provider: local
entity_key_serialization_version: 3
offline_store: {type: adc_features.store.offline_store.AsofOfflineStore}
online_store: {type: adc_features.store.online_store.LmdbOnlineStore}
"""


def declared(user: str = "customer_id", item: str = "sku", item_is: str = "string") -> Any:
    """The stream, and its views by customer and by item. user, item: their keys' columns."""
    from adc_features.aggregates.declaration import (
        TIME,
        AggregateView,
        EventStream,
        Grid,
        count,
        last,
        last_time,
        residual_mean,
        smoothed_mean,
        total,
    )

    stream = EventStream(
        "clicks",
        keys={user: "int64", item: item_is},
        values={"label": Grid(20, 1.0), "rating": Grid(20, 10.0)},
    )

    def common(name: str, other: str) -> dict[str, Any]:
        return {
            f"{name}_event_count": count(),
            f"{name}_label_sum": total("label"),
            f"{name}_label_mean": smoothed_mean("label"),
            f"{name}_rating_mean": smoothed_mean("rating"),
            f"{name}_residual_mean": residual_mean("rating", against=other),
            f"{name}_last_time": last_time(),
        }

    day = timedelta(days=1)
    of_user = common("user", item) | {
        "user_recent_items": last(20, item),
        "user_recent_labels": last(20, "label"),
        "user_recent_times": last(20, TIME),
    }
    of_item = common("item", user) | {
        f"item_{what}_{days}d": make(window=days * day, hop=day)
        for days in (30, 120)
        for what, make in (
            ("event_count", count),
            ("label_mean", lambda **w: smoothed_mean("label", **w)),
        )
    }
    return stream, [
        AggregateView("user_live", stream, (user,), of_user),
        AggregateView("item_live", stream, (item,), of_item),
    ]


def make_shop(repo: Path) -> list[Any]:
    """An applied repository; its declared views."""
    from feast import FeatureStore

    (repo / "data").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(STORE, encoding="utf-8")
    _, views = declared()
    FeatureStore(str(repo)).apply(feast_objects(views, repo))
    return views


def feast_objects(views: list[Any], repo: Path) -> list[Any]:
    """The entities of these views and the views themselves, as Feast has them."""
    from feast import Entity, ValueType

    from adc_features.store.live_views import live_view

    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)
    entities = {"user_live": customer, "item_live": product}
    return [
        customer,
        product,
        *(live_view(v, entities=[entities[v.name]], repo=repo) for v in views),
    ]


def events(
    count: int,
    *,
    users: int,
    items: int,
    seconds: float,
    seed: int = 0,
    now: datetime | None = None,
) -> Iterator[dict[str, Any]]:
    """Events of the last `seconds`, in order, popular users and items more often."""
    rng, now = random.Random(seed), now or datetime.now(UTC)
    start = now - timedelta(seconds=seconds)
    for i in range(count):
        yield {
            "event_id": f"{seed}-{i}",
            "event_time": (start + timedelta(seconds=seconds * i / count)).isoformat(),
            "customer_id": int(users * rng.random() ** 2),
            "sku": f"s{int(items * rng.random() ** 2)}",
            "label": rng.randrange(2),
            "rating": rng.randrange(1, 6),
        }


def survive(repo: Path, views: list[Any], *, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill the process that takes events again and again, each time at another moment.

    Every event is sent until it is acknowledged, so that many are sent twice. Counts what was
    acknowledged and is not there (lost), what is there twice (doubled), and what differs from the
    batch afterwards.
    """
    from adc_features.live.repository import open_live
    from adc_features.live.verify import verify_online

    rng, acknowledged, sent = random.Random(seed), set[str](), 0
    backlog: list[dict[str, Any]] = []
    started = datetime.now(UTC)
    open_live(repo, declared=views)  # whatever it imports, before the forks
    for killed in range(kills + 1):
        fresh = list(
            events(60, users=40, items=30, seconds=1, seed=seed * 100_000 + killed, now=started)
        )
        sent += len(fresh)
        backlog += fresh
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _take(repo, views, backlog, writing)
        os.close(writing)
        if killed < kills:
            time.sleep(rng.uniform(0.0, 0.25))
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading) as told:
            acknowledged |= {line.strip() for line in told if line.endswith("\n")}
        os.waitpid(child, 0)
        backlog = [event for event in backlog if event["event_id"] not in acknowledged]
    live = open_live(repo, declared=views)
    stream = next(iter(live.ledger.streams.values()))
    accepted = live.histories.accepted(stream)
    known = live.ledger.facts()["counts"][stream.name]["accepted"]
    report = verify_online(live.histories)
    return {
        "kills": kills,
        "sent": sent,
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged) - min(len(accepted), len(acknowledged)),
        "doubled": max(len(accepted), known) - sent,
        "different": report.different,
    }


def _take(repo: Path, views: list[Any], backlog: list[dict[str, Any]], writing: int) -> None:
    """The child: commit event by event or in small batches, tell each acknowledgement, drain."""
    from adc_features.live.incoming import incoming
    from adc_features.live.repository import open_live
    from adc_features.live.settings import LiveSettings
    from adc_features.live.writer import Writer

    try:
        often = LiveSettings(history_after=timedelta(milliseconds=20))
        live = open_live(repo, declared=views, settings=often)
        stream = next(iter(live.ledger.streams.values()))
        with Writer(live.ledger, live.histories) as writer:
            receipts = [
                (backlog[at : at + 7], writer.submit(incoming(stream, backlog[at : at + 7])))
                for at in range(0, len(backlog), 7)
            ]
            for part, receipt in receipts:
                receipt.result()
                os.write(writing, "".join(f"{e['event_id']}\n" for e in part).encode())
    finally:
        os._exit(0)
