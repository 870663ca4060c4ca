"""How long does a request's lookup take? The packed snapshot beside a bare memory map, LMDB, Redis
and Feast's clients, on the same rows.

1M items of ten codes (K = 300) and ten weights, four of which vary, two scalars. The systems take
turns request by request, so that a busy machine is busy for all of them. A request asks for random
items, and a fifth of a percent of unknown ones.

    python benchmarks/online.py --items 1000000 --json -
    python benchmarks/online.py --snapshot-only --items 10000000 --json -

The floors do less than the snapshot: `memmap_floor` finds rows by searchsorted and copies records,
`lmdb_floor` and `redis_mget_floor` fetch packed records; none of them takes a record apart, checks
a value or follows publications.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from _measure import write_report

from adc_features import store
from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.packed.writer import write_snapshot

SPEC = SidSpec(content={"text": 2, "image": 2}, shared=2, behavior=4, codebook_size=300)
SIZES = (1, 100, 500, 1000)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = Generation("bench", "adc", SPEC, {}, {}, {}, NOW, "00" * 32)
FEAST_ROWS = 100_000
"""Rows in Feast's SQLite and Redis: filling them takes minutes for 1M, and a key-value read costs
the same; stated in the report.
"""


def catalogue(items: int, seed: int = 0) -> SidTable:
    """Random codes and weights; ids are every seventh integer, shuffled."""
    rng = np.random.default_rng(seed)
    weight = np.ones((items, SPEC.length), np.float32)
    weight[:, -SPEC.behavior :] = rng.random((items, SPEC.behavior), np.float32)
    x = (np.log1p(np.minimum(rng.zipf(1.5, items), 10_000)) / np.log1p(10_000)).astype(np.float32)
    return SidTable(
        item_ids=rng.permutation(items).astype(np.int64) * 7 + 3,
        sid=rng.integers(0, SPEC.codebook_size, (items, SPEC.length), dtype=np.int32),
        sid_weight=weight,
        reliability=x,
        alignment=x * x,
        is_cold=np.zeros(items, bool),
        collision_count=np.minimum(rng.geometric(0.5, items), 50).astype(np.int32),
        found=np.ones(items, bool),
        generation="bench",
        codebook_size=SPEC.codebook_size,
        as_of=NOW,
    )


def published(folder: Path, table: SidTable) -> Path:
    """A repository with this one snapshot, applied."""
    store.create_repository(folder, project="bench")
    store.publish(folder, GENERATION, [table], servable_at=[NOW], computed_at=NOW)
    return folder


@dataclass
class System:
    """`read` answers for ids, `ids` are those it holds, `rows_per_cpu_s` says what writing them
    cost the client.
    """

    read: Callable[[np.ndarray], Any]
    rows_per_cpu_s: float
    ids: np.ndarray


def written(work: Callable[[], Any], rows: int) -> float:
    """Rows a second of this process's CPU."""
    began = time.process_time()
    work()
    return rows / (time.process_time() - began)


# ---- systems: each a function of the table and a folder


def snapshot(table: SidTable, folder: Path, stack: ExitStack) -> System:
    """`OnlineSids`: codes, weights and scalars as checked arrays, following what is published."""
    rate = written(lambda: pack(folder / "alone.sids", table), len(table))
    return System(
        store.OnlineSids(published(folder / "repo", table), "bench").lookup, rate, table.item_ids
    )


def memmap_floor(table: SidTable, folder: Path, stack: ExitStack) -> System:
    """Sorted ids and records of the snapshot's size in two files: searchsorted, compare, copy."""
    keys, records = folder / "keys", folder / "records"

    def write() -> None:
        order = np.argsort(table.item_ids)
        table.item_ids[order].tofile(keys)
        packed_records(table)[order].tofile(records)

    rate = written(write, len(table))
    ids, rows = (
        np.memmap(keys, np.int64, "r"),
        np.memmap(records, np.uint8, "r").reshape(len(table), -1),
    )

    def read(wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        return rows.take(place, axis=0), ids.take(place) == wanted

    return System(read, rate, table.item_ids)


def lmdb_floor(table: SidTable, folder: Path, stack: ExitStack) -> System:
    """The same records under 8-byte keys in LMDB,
    sorted append, one get an item in one transaction.
    """
    import lmdb

    environment = stack.enter_context(lmdb.open(str(folder / "lmdb"), map_size=1 << 34, sync=False))
    order = np.argsort(table.item_ids)
    records, width = packed_records(table)[order].tobytes(), packed_records(table).shape[1]
    keys = [k.to_bytes(8, "big") for k in table.item_ids[order].tolist()]

    def write() -> None:
        pairs = ((key, records[i * width : (i + 1) * width]) for i, key in enumerate(keys))
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs, append=True)

    def read(wanted: np.ndarray) -> list[bytes | None]:
        with environment.begin() as transaction:
            return [transaction.get(key.to_bytes(8, "big")) for key in wanted.tolist()]

    return System(read, written(write, len(table)), table.item_ids)


def redis_mget_floor(table: SidTable, folder: Path, stack: ExitStack) -> System | None:
    """The same records in Redis, one MGET a request."""
    import redis

    port = redis_server(folder, stack)
    if port is None:
        return None
    client = stack.enter_context(redis.Redis(port=port))
    records = packed_records(table)
    keys, values = (
        [k.to_bytes(8, "big") for k in table.item_ids.tolist()],
        [r.tobytes() for r in records],
    )

    def write() -> None:
        for start in range(0, len(keys), 10_000):
            client.mset(
                dict(zip(keys[start : start + 10_000], values[start : start + 10_000], strict=True))
            )

    return System(
        lambda wanted: client.mget([k.to_bytes(8, "big") for k in wanted.tolist()]),
        written(write, len(table)),
        table.item_ids,
    )


def feast_sqlite(table: SidTable, folder: Path, stack: ExitStack) -> System:
    """Feast's client over its SQLite store, filled by Feast's own materialize."""
    return feast_client(table, folder, {"type": "sqlite", "path": "data/online.db"}, FEAST_ROWS)


def feast_redis(table: SidTable, folder: Path, stack: ExitStack) -> System | None:
    """Feast's client over its Redis store, filled by Feast's own materialize."""
    port = redis_server(folder, stack)
    return (
        None
        if port is None
        else feast_client(
            table, folder, {"type": "redis", "connection_string": f"localhost:{port}"}, FEAST_ROWS
        )
    )


def feast_adc(table: SidTable, folder: Path, stack: ExitStack) -> System:
    """Feast's client over our LMDB store, filled by our compute engine."""
    path = str(folder / "online_lmdb")
    return feast_client(
        table,
        folder,
        {"type": "adc_features.store.online_store.LmdbOnlineStore", "path": path},
        len(table),
    )


SYSTEMS: dict[str, Callable[[SidTable, Path, ExitStack], System | None]] = {
    s.__name__: s
    for s in (
        snapshot,
        memmap_floor,
        lmdb_floor,
        redis_mget_floor,
        feast_sqlite,
        feast_redis,
        feast_adc,
    )
}


def feast_client(table: SidTable, folder: Path, online_store: dict[str, Any], rows: int) -> System:
    """A repository of the first `rows` items with Feast's local engine and this online store; reads
    end in Python lists, as users call it.
    """
    import yaml

    from adc_features.store.registry import open_store
    from adc_features.store.repository import CONFIG

    part = table.lookup(table.item_ids[:rows])
    store.create_repository(folder / "feast", project="bench")
    config = yaml.safe_load((folder / "feast" / CONFIG).read_text()) | {
        "online_store": online_store
    }
    if not str(online_store["type"]).startswith("adc_features."):
        config["batch_engine"] = {"type": "local"}
    (folder / "feast" / CONFIG).write_text(yaml.safe_dump(config))
    repo = published(folder / "feast", part)
    store.apply(repo)
    client = open_store(repo)
    view = client.list_feature_views()[0]
    names = [
        f"{view.name}:{field.name}"
        for field in view.features
        if field.name in ("sid", "sid_weight", "reliability", "collision_count")
    ]
    rate = written(lambda: store.materialize(repo, now=NOW), rows)

    def read(wanted: np.ndarray) -> dict[str, Any]:
        return client.get_online_features(
            names, entity_rows=[{"item_id": i} for i in wanted.tolist()]
        ).to_dict()

    return System(read, rate, part.item_ids)


def pack(path: Path, table: SidTable) -> None:
    zeros = np.zeros(len(table), np.int64)
    write_snapshot(
        path,
        table,
        sid_as_of=zeros,
        servable_at=NOW,
        computed_at=NOW,
        codebook_hash="00" * 32,
        weight_dtype=SPEC.weight_dtype,
    )


def packed_records(table: SidTable) -> np.ndarray:
    """Codes in two bytes, the weights that vary, reliability: uint8 [N, 40]."""
    columns = [table.sid.astype(np.int16), table.sid_weight[:, -SPEC.behavior :], table.reliability]
    return np.concatenate(
        [np.ascontiguousarray(c).view(np.uint8).reshape(len(table), -1) for c in columns], axis=1
    )


def redis_server(folder: Path, stack: ExitStack) -> int | None:
    """A private server on a free loopback port, ended with the benchmark; None, said aloud, where
    Redis is not installed.
    """
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: systems on Redis are left out", file=sys.stderr)
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stack.callback(server.wait)
    stack.callback(server.terminate)
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return port
        time.sleep(0.05)
    raise RuntimeError(f"redis-server ended with {server.returncode} before it listened")


# ---- measuring


def timed(systems: dict[str, System], size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of wall and CPU by system for requests of one size; the systems take turns."""
    rng = np.random.default_rng(size)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    for turn in range(rounds + 3):
        for name, system in systems.items():
            wanted = system.ids[rng.integers(0, len(system.ids), size)]
            wanted[rng.random(size) < 0.002] += 1  # nobody's
            wall, cpu = time.perf_counter(), time.process_time()
            system.read(wanted)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= 3:
                taken[name].append(spent)
    return {name: summary(np.array(spent) * 1e3) for name, spent in taken.items()}


def summary(spent: np.ndarray) -> dict[str, float]:
    """spent: milliseconds [rounds, 2], wall and CPU."""
    return {
        "p50_ms": float(np.median(spent[:, 0])),
        "p99_ms": float(np.quantile(spent[:, 0], 0.99)),
        "cpu_ms": float(spent[:, 1].mean()),
    }


def measured_systems(systems: dict[str, System], rounds: int) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {
        name: {"rows_per_cpu_s": s.rows_per_cpu_s, "items": len(s.ids)}
        for name, s in systems.items()
    }
    for size in SIZES:
        for name, numbers in timed(systems, size, rounds).items():
            for key, value in numbers.items():
                report[name].setdefault(key, {})[str(size)] = value
    return report


def compare(items: int, *, without: list[str], rounds: int, target: str) -> None:
    """Every system at one size of catalogue."""
    table = catalogue(items)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        systems = {}
        for name, build in SYSTEMS.items():
            if name not in without:
                (place := Path(folder) / name).mkdir()
                print(f"filling {name}", file=sys.stderr)
                if built := build(table, place, stack):
                    systems[name] = built
        report = measured_systems(systems, rounds)
    ours = report["snapshot"]["p50_ms"]["500"]
    ratios = {
        f"snapshot_over_{name}_500": ours / r["p50_ms"]["500"]
        for name, r in report.items()
        if name != "snapshot"
    }
    write_report(target, systems=report, ratios=ratios, items=items, rounds=rounds)


def snapshot_only(items: int, *, rounds: int, target: str) -> None:
    """Size, opening, lookups and the late join at `items`, beside the same at 1M in turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        systems, facts = {}, {}
        for name, count in (("snapshot_1m", 1_000_000), ("snapshot", items)):
            (place := Path(folder) / name).mkdir()
            print(f"filling {name}", file=sys.stderr)
            table = catalogue(count)
            systems[name] = snapshot(table, place, stack)
            facts[name] = sizes(place / "alone.sids") | {
                "late_join_rows_per_cpu_s": late_join(place / "repo", table)
            }
        report = measured_systems(systems, rounds)
    report = {name: report[name] | facts[name] for name in report}
    big, small = (report[name]["p50_ms"]["500"] for name in ("snapshot", "snapshot_1m"))
    write_report(
        target, systems=report, ratios={"p50_500_over_1m": big / small}, items=items, rounds=rounds
    )


def sizes(path: Path) -> dict[str, float]:
    """Bytes an item, of the record alone and of the whole file; milliseconds to open it and seconds
    to verify it.
    """
    opened = []
    for _ in range(20):
        began = time.perf_counter()
        packed = PackedSnapshot(path)
        opened.append((time.perf_counter() - began) * 1e3)
    began = time.perf_counter()
    packed.verify()
    facts = {
        "record_bytes": packed.record.itemsize,
        "file_bytes_per_item": path.stat().st_size / len(packed),
    }
    return facts | {"open_ms": float(np.median(opened)), "verify_s": time.perf_counter() - began}


def late_join(repo: Path, table: SidTable, rows: int = 2_000_000) -> float:
    """Rows a CPU second of codes, weights and reliability gathered by (item, time), over two
    snapshots, the second a delta of a fifth.
    """
    later = replace(table.lookup(table.item_ids[: len(table) // 5]), as_of=NOW + timedelta(days=1))
    store.publish(repo, GENERATION, [later], servable_at=[later.as_of], computed_at=NOW)
    timeline, rng = store.published_timeline(repo, "bench"), np.random.default_rng(0)
    items = table.item_ids[rng.integers(0, len(table), rows)]
    times = np.datetime64("2025-12-31", "us") + rng.integers(0, 3 * 86_400, rows).astype(
        "timedelta64[s]"
    )
    timeline.gather(items, times)  # the pages are in memory, as in the second epoch
    return written(lambda: timeline.gather(items, times), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument(
        "--rounds", type=int, default=300, help="requests of each size to each system"
    )
    parser.add_argument(
        "--snapshot-only",
        action="store_true",
        help="size, opening and late join at --items beside 1M",
    )
    parser.add_argument("--without", nargs="*", default=[], choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    if asked.snapshot_only:
        snapshot_only(asked.items, rounds=asked.rounds, target=asked.json)
    else:
        compare(asked.items, without=asked.without, rounds=asked.rounds, target=asked.json)


if __name__ == "__main__":
    main()
