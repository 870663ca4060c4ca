"""How fresh are online features, and are they right? Reads: nothing. Writes: JSON.

    python benchmarks/fresh.py --json fresh.json
    python benchmarks/fresh.py --only ingest kills --json -

`ingest`: events a CPU second, from the bytes of requests of 500 events to durable rows of two views
(every statistic that this project serves of users and items), over --events events of --users users
and --items items; beside it the rows a CPU second that Feast's own `write_to_online_store` writes
of the same views into its SQLite and Redis stores, from frames of the same size. Redis is left out
where no server is installed.
`equality`: states and values that were compared with the batch after that, and how many differ.
`kills`: kills of the process that takes events, each at another moment.
`service_kills`: the same of `adc serve --events` under load, in turn of its process that takes
events, of its process that answers and of both; what was acknowledged by HTTP must be there once.
`freshness` and `rank`: --rate events a second come to `adc serve`, --workers processes, in requests
of ten, while it ranks 500 candidates --asked times a second by the same live features and codes.
From the moment a request was due to its answer, in ms: that of events says that they are durable
and visible. `probes_seen_ms` are of events that Feast read after that in another process.
`new_item`, `promotion`: those of benchmarks/new_items.py and promotion.py.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _fresh_kills import survive_service
from _fresh_service import busy
from _live import declared, events, feast_objects, make_shop, survive
from _measure import apart, peak_rss_bytes, write_report

PARTS = ("ingest", "feast", "kills", "service_kills", "freshness", "new_item", "promotion")
AT_ONCE = 500
_PART = 200_000


def ingest(scratch: Path, *, count: int, users: int, items: int) -> dict[str, Any]:
    """Events a CPU second, and whether everything is right afterwards."""
    from adc_features.live.incoming import events_of, incoming
    from adc_features.live.repository import open_live
    from adc_features.live.verify import verify_online

    views = make_shop(scratch / "shop")
    live = open_live(scratch / "shop", declared=views)
    stream = next(iter(live.ledger.streams.values()))
    cpu = wall = accepted = 0.0
    for part in range(0, count, _PART):  # of the sender, bodies of so many events at a time
        size = min(_PART, count - part)
        made = list(events(size, users=users, items=items, seconds=100, seed=part))
        bodies = [json.dumps(made[at : at + AT_ONCE]).encode() for at in range(0, size, AT_ONCE)]
        del made
        began = time.process_time(), time.perf_counter()
        for at, body in enumerate(bodies):
            (receipt,) = live.ledger.commit([incoming(stream, events_of(body), size=len(body))])
            accepted += receipt.accepted
            if at % 100 == 99:
                live.histories.drain()
        cpu, wall = cpu + time.process_time() - began[0], wall + time.perf_counter() - began[1]
    live.histories.drain()
    if accepted != count:
        raise SystemExit(f"{accepted} of {count} events were accepted: the measure is void")
    peak = peak_rss_bytes()  # before the comparison, which holds all events
    data = (scratch / "shop/data/live/lmdb/data.mdb").stat()
    report = verify_online(live.histories, sample=None if count <= 1_000_000 else 10_000)
    compared = sum(one["keys"] for one in report.states.values())
    compared += sum(one.keys for one in report.features)
    keys = {}
    for view in live.ledger.views:
        with live.ledger.environment.reading(view.table) as rows:
            keys[view.declared.name] = sum(1 for _ in rows.cursor().iternext(values=False))
    return {
        "ingest": {
            "events": count,
            "events_per_cpu_s": count / cpu,
            "events_per_s": count / wall,
            "peak_rss_bytes": peak,
            "lmdb_bytes_per_key": data.st_blocks * 512 / sum(keys.values()),
            "keys": keys,
        },
        "equality": {"checked": compared, "different": report.different},
    }


def feast_writes(scratch: Path, store: dict[str, Any], *, batches: int) -> float:
    """Rows a CPU second of Feast's own write path, of the same two views."""
    from feast import FeatureStore

    from adc_features.aggregates.events import Events
    from adc_features.aggregates.incremental import Incremental, MemoryStates
    from adc_features.live.incoming import incoming

    stream, views = declared()
    repo = scratch / "feast"
    repo.mkdir(parents=True)
    config = {
        "project": "shop",
        "registry": {"path": str(repo / "registry.db"), "cache_ttl_seconds": 600},
        "provider": "local",
        "entity_key_serialization_version": 3,
        "offline_store": {"type": "file"},
        "online_store": store,
    }
    (repo / "feature_store.yaml").write_text(json.dumps(config))
    objects = feast_objects(views, repo)
    for one in objects:
        one.tags = {}
    opened = FeatureStore(str(repo))
    opened.apply(objects)
    engine, memory, frames = Incremental(views), MemoryStates(), []
    made = list(events(batches * AT_ONCE, users=100_000, items=50_000, seconds=500))
    for at in range(0, len(made), AT_ONCE):
        batch = Events.of(stream, incoming(stream, made[at : at + AT_ONCE]).table)
        step = engine.advance(memory, batch)
        memory.keep(step, batch)
        frames += [(name, rows.to_pandas()) for name, rows in step.rows.items()]
    opened.write_to_online_store(*frames[0])  # connections and caches
    cpu, rows = time.process_time(), 0
    for name, frame in frames[1:]:
        opened.write_to_online_store(name, frame)
        rows += len(frame)
    return rows / (time.process_time() - cpu)


def feast_redis(scratch: Path, *, batches: int) -> float | None:
    """The same into Redis; the server's own CPU is not counted. None without a server."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "servers"))
    import start

    if shutil.which("redis-server") is None:
        return None
    with start.redis() as variables:
        address = f"{variables['ADC_REDIS_HOST']}:{variables['ADC_REDIS_PORT']}"
        store = {"type": "redis", "connection_string": address}
        return feast_writes(scratch, store, batches=batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for the standard output")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--service-kills", type=int, default=60)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--asked", type=float, default=50, help="rankings a second beside them")
    parser.add_argument("--workers", type=int, default=1, help="processes of the service")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--work", type=Path, help="a directory for the repositories")
    asked = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=asked.work) as folder:
        scratch = Path(folder)
        if "ingest" in asked.only:
            size = {"count": asked.events, "users": asked.users, "items": asked.items}
            report |= apart(ingest, scratch / "ingest", **size)
        if "feast" in asked.only:
            found = report.setdefault("ingest", {})
            sqlite = {"type": "sqlite", "path": str(scratch / "online.db")}
            batches = max(4, asked.events // 20_000)
            found["feast_sqlite_rows_per_cpu_s"] = apart(
                feast_writes, scratch / "sqlite", sqlite, batches=batches
            )
            found["feast_redis_rows_per_cpu_s"] = apart(
                feast_redis, scratch / "redis", batches=batches
            )
        if "kills" in asked.only:
            report["kills"] = apart(_kills, scratch / "kills", asked.kills)
        if "service_kills" in asked.only:
            report["service_kills"] = apart(
                survive_service, scratch / "service_kills", kills=asked.service_kills
            )
        if "freshness" in asked.only:
            load = {"rate": asked.rate, "seconds": asked.seconds, "asked": asked.asked}
            report |= busy(scratch / "fresh", **load, candidates=500, workers=asked.workers)
        for part in {"new_item", "promotion"}.intersection(asked.only):
            report[part] = _of(part, scratch)
    write_report(asked.json, systems={}, ratios={}, **report)


def _of(part: str, scratch: Path) -> dict[str, Any]:
    """This part of the report of the benchmark that measures it."""
    name = {"new_item": "new_items.py", "promotion": "promotion.py"}[part]
    told = scratch / f"{part}.json"
    command = [sys.executable, str(Path(__file__).parent / name), "--json", str(told)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads(told.read_text())[part]


def _kills(scratch: Path, kills: int) -> dict[str, int]:
    return survive(scratch / "shop", make_shop(scratch / "shop"), kills=kills)


if __name__ == "__main__":
    main()
