"""How fresh is what a busy service reads? Reads: nothing. Writes: folders.

`adc serve --events` on our LMDB store, with a ranker that reads the live statistics
of users and items, the items' semantic IDs and the device of the request. A process apart sends
events, another asks for rankings, both in open loops, and a third asks now and then for what it has
just been told is accepted.
"""

import inspect
import json
import multiprocessing
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import _live
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import apart
from _wide_feed import DEVICES, WideFeed, make_wide_feed, put_online
from serve import _load_apart, running, summary

PER_REQUEST = 10
"""Events of a request."""
_READY_S = 120
"""Seconds that the senders have to start."""
PROBE = 1 << 40
"""An item of which only the probe tells events."""
DEFINITIONS = '''
"""Live statistics of users and items, and a service of them and the items' codes."""
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, ValueType

from adc_features.inputs import Ranker, Task, category, infer
from adc_features.store.definitions import sid_views
from adc_features.store.live_views import live_view

HERE = Path(__file__).parent


{declared}

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
_, [by_user, by_item] = declared("user_id", "item_id", "int64")
user_live = live_view(by_user, entities=[user], repo=HERE)
item_live = live_view(by_item, entities=[item], repo=HERE)
[codes] = sid_views(HERE)
fresh = FeatureService(name="fresh", features=[user_live, item_live, codes])
ranker = Ranker(
    name="fresh", service="fresh", tasks=[Task("click")], user=["user_id"], item=["item_id"],
    request="request_id", inputs=infer() | {{"device": category(request=True)}},
)
'''


def busy(
    scratch: Path, *, rate: int, seconds: float, asked: float, candidates: int, workers: int
) -> dict[str, Any]:
    """Freshness at `rate` events a second, and the latency of /rank at `asked` requests a second;
    in ms.
    """
    feed = fresh_feed(scratch)
    told, of_repo = scratch / "served.json", ("--repo", str(feed.repo))
    command = [sys.executable, "-c", MAIN, "serve", *of_repo, "--events", "--port", "0"]
    command += ["--workers", str(workers)]
    with running(
        [*command, "--json", str(told)], told.is_file, log=scratch / "serve.log"
    ) as server:
        port = int(json.loads(told.read_text())["url"].rpartition(":")[2])
        before, began = _cpu_seconds(server), time.perf_counter()
        found = _measured(
            feed, port, rate=rate, seconds=seconds, asked=asked, candidates=candidates
        )
        wall = time.perf_counter() - began
        after = _cpu_seconds(server)
        found["cores"] = {name: (after[name] - before[name]) / wall for name in after}
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    adc("verify", "online", *of_repo)  # exits 10 where a value differs
    return found


def _cpu_seconds(server: Any) -> dict[str, float]:
    """Of the processes that answer, of the one that takes events, and of the whole machine."""
    import psutil

    spent = {"answers": 0.0, "events": 0.0}
    for process in (server, *server.children(recursive=True)):
        times = process.cpu_times()
        name = "events" if "spawn_main" in " ".join(process.cmdline()) else "answers"
        spent[name] += times.user + times.system
    machine = psutil.cpu_times()
    return {**spent, "machine": sum(machine) - machine.idle - machine.iowait}


MAIN = "from adc_features.cli.main import main; main()"


def adc(*words: str) -> None:
    """The command, which must succeed."""
    subprocess.run([sys.executable, "-c", MAIN, *words], check=True, stdout=subprocess.DEVNULL)


def fresh_feed(scratch: Path) -> WideFeed:
    """A repository with live views that hold a history, and a promoted ranker that reads them."""
    feed = make_wide_feed(scratch, users=20_000, items=20_000, rows=60_000)
    for name in ("feed.py", "rankers.py"):
        (feed.repo / name).unlink()
    text = DEFINITIONS.format(declared=inspect.getsource(_live.declared))
    (feed.repo / "fresh.py").write_text(text, encoding="utf-8")
    _recent(feed)
    put_online(feed, "lmdb")
    of_repo = ("--repo", str(feed.repo))
    adc("ingest", *of_repo, "--history", str(scratch / "history.parquet"))
    adc("train", *of_repo, "--labels", str(feed.labels), "--quick")
    adc("promote", *of_repo)
    return feed


def _recent(feed: WideFeed) -> None:
    """The label log, moved to the days before now, and the same as a history of events."""
    log = pq.read_table(feed.labels)
    shift = datetime.now(UTC) - timedelta(hours=1) - log["event_timestamp"][-1].as_py()
    moved = pa.array(
        log["event_timestamp"].to_numpy() + np.timedelta64(shift), pa.timestamp("us", "UTC")
    )
    place = log.column_names.index("event_timestamp")
    log = log.set_column(place, "event_timestamp", moved)
    pq.write_table(log, feed.labels)
    click = log["click"].to_numpy()
    history = {
        "event_id": [f"h{n}" for n in range(len(log))],
        "event_time": moved,
        "user_id": log["user_id"],
        "item_id": log["item_id"],
        "label": click.astype(np.int64),
        "rating": 1.0 + 4.0 * click,
    }
    pq.write_table(pa.table(history), feed.labels.parent / "history.parquet")


def _measured(
    feed: WideFeed, port: int, *, rate: int, seconds: float, asked: float, candidates: int
) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    rankings = ranking_bodies(feed, rng, candidates=candidates)
    warm = {"seconds": 3.0, "connections": 1, "rate": None}
    apart(_load_apart, port, "/rank", rankings, warm)
    # a few more than are sent, since one that comes again would be a duplicate
    bodies = _bodies(feed, int(rate * seconds / PER_REQUEST) + 10, rng)
    # all begin together: until each has imported what it needs, it would take a core from the rest
    with (
        multiprocessing.get_context("spawn").Manager() as manager,
        ThreadPoolExecutor(3) as senders,
    ):
        ready = manager.Barrier(3, timeout=_READY_S)
        sending = {
            path: senders.submit(
                apart,
                _load_apart,
                port,
                path,
                sent,
                {
                    "seconds": seconds,
                    "connections": connections,
                    "rate": each,
                    "ready": ready,
                },
            )
            for path, sent, each, connections in (
                ("/events", bodies, rate / PER_REQUEST, 32),
                ("/rank", rankings, asked, 16),
            )
        }
        probe = feed.repo, port, int(feed.users[0]), seconds, ready
        sending["probe"] = senders.submit(apart, _probe, *probe)
        loads = {name: sent.result() for name, sent in sending.items()}
    events = summary(loads["/events"], cpu_s=1.0)
    rank = summary(loads["/rank"], cpu_s=1.0)
    accepted = sum(json.loads(h.body)["accepted"] for h in loads["/events"] if h.status == 200)
    if events["failed"] or rank["failed"] or accepted != PER_REQUEST * len(loads["/events"]):
        raise SystemExit(f"{events} {rank} {accepted}: the measure is void")
    names = ("p50_ms", "p99_ms", "max_ms")
    return {
        "freshness": {
            **{name: events[name] for name in names},
            "events": accepted,
            "rate": rate,
            "probes_seen_ms": sorted(loads["probe"]),
        },
        "rank": {
            **{name: rank[name] for name in names},
            "requests": rank["requests"],
            "rate": asked,
            "candidates": candidates,
        },
    }


def ranking_bodies(feed: WideFeed, rng: np.random.Generator, *, candidates: int) -> list[bytes]:
    """Requests to rank for some users."""
    return [
        json.dumps(
            {
                "user": int(rng.choice(feed.users)),
                "items": rng.choice(feed.items, candidates, replace=False).tolist(),
                "request": {"device": str(rng.choice(np.array(DEVICES)))},
            }
        ).encode()
        for _ in range(24)
    ]


def live_events(
    feed: WideFeed, count: int, rng: np.random.Generator, *, first: int = 0
) -> list[dict[str, Any]]:
    """Events of this moment, popular users and items more often; their ids count from `first`."""
    now = datetime.now(UTC).isoformat()
    users = feed.users[(len(feed.users) * rng.random(count) ** 2).astype(int)].tolist()
    items = feed.items[(len(feed.items) * rng.random(count) ** 2).astype(int)].tolist()
    return [
        {
            "event_id": f"live-{first + n}",
            "event_time": now,
            "user_id": users[n],
            "item_id": items[n],
            "label": n % 2,
            "rating": 1 + n % 5,
        }
        for n in range(count)
    ]


def _bodies(feed: WideFeed, count: int, rng: np.random.Generator) -> list[bytes]:
    """Requests of these events."""
    made = live_events(feed, count * PER_REQUEST, rng)
    return [
        json.dumps(made[at : at + PER_REQUEST]).encode() for at in range(0, len(made), PER_REQUEST)
    ]


def _probe(repo: Path, port: int, user: int, seconds: float, ready: Any) -> list[float]:
    """Once a second an event of an item of its own; from when it was sent, the milliseconds until
    Feast reads it online in this process.
    """
    from feast import FeatureStore

    store, seen = FeatureStore(str(repo)), list[float]()
    asked = {"features": ["item_live:item_event_count"], "entity_rows": [{"item_id": PROBE}]}
    store.get_online_features(**asked)  # imports and connections
    ready.wait()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1.0)
        began = time.perf_counter()
        event = {
            "event_id": f"probe-{len(seen)}",
            "event_time": datetime.now(UTC).isoformat(),
            "user_id": user,
            "item_id": PROBE,
            "label": 1,
            "rating": 5,
        }
        url = f"http://127.0.0.1:{port}/events"
        with urllib.request.urlopen(url, json.dumps([event]).encode(), timeout=60) as answer:
            json.load(answer)
        found = store.get_online_features(**asked).to_dict()["item_event_count"]
        if found != [len(seen) + 1]:
            raise SystemExit(f"an accepted event is not visible: {found} after {len(seen)}")
        seen.append(1000 * (time.perf_counter() - began))
    return seen
