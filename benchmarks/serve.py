"""What does one ranked request cost, and does a promotion cost any? Reads: a finished run, or
nothing. Writes: JSON.

    python benchmarks/serve.py --json -                 # makes a catalogue first
    python benchmarks/serve.py --json - --run runs/beauty

A request is 1 user + 500 items. Client, server and peer are processes of their own on loopback;
open-loop latency counts from the moment a request was due. The peer is Feast's own feature server
(SQLite, Feast's default) reading the same features of the same user and items, without ranking
them. In the middle of the open loop another pair is promoted: every answer is compared with the
scores of the pair that it names. Served scores are compared with offline ones, row by row, at
several moments of the data.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import apart, write_report

ASKED = 24
"""Distinct requests, asked in turn."""
BUCKETS_MS = (2, 4, 6, 8, 10, 12, 16, 20, 30, 40, 60, 100, 200, 500)
PAIR = ("first", "second")


class World(NamedTuple):
    """What is served. pairs: two promotions; users, items: known ids; now: when all features are
    known; moments: past times.
    """

    pairs: tuple[Any, Any]
    users: np.ndarray
    items: np.ndarray
    now: datetime
    moments: list[datetime]


def opened(directory: Path) -> World:
    """The world of a finished run; its second pair is the XGBoost ranker."""
    from adc_features.clock import moment
    from adc_features.pipeline.pairs import promotion_of
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import dataset_of, id_array, known_interactions, serving_time

    run = Run.open(directory)
    log = known_interactions(run)
    times = np.sort(log["time"].to_numpy().astype("datetime64[us]"))
    moments = [
        moment(times[int(len(times) * share)]) + timedelta(hours=7)
        for share in (0.85, 0.9, 0.95, 0.99)
    ]
    pairs = [
        promotion_of(run, recipe=recipe, promoted_at=datetime.now(UTC))
        for recipe in ("codes_weights", "xgboost_codes_weights")
    ]
    users = np.unique(id_array(log["user_id"]))
    return World(
        (pairs[0], pairs[1]),
        users,
        id_array(dataset_of(run).items["item_id"]),
        serving_time(run),
        moments,
    )


def generated(directory: Path) -> World:
    """A generated catalogue with two generations in one repository, and a PPNet trained on each."""
    from adc_features.artifact import MANIFEST, file_hash
    from adc_features.loader.frame import training_frame
    from adc_features.pipeline.run import Run, RunSettings
    from adc_features.pipeline.stages import (
        STAGES,
        dataset_of,
        embedding_tables,
        generation_of,
        repository_of,
        servable_at,
        serving_time,
    )
    from adc_features.ranking.recipes import Sources
    from adc_features.serving.promotion import Promotion
    from adc_features.store import (
        apply,
        materialize,
        publish,
        published_timeline,
        training_features,
    )
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import RECIPES, fit
    from training.fit import train
    from training.stages import DATASET, RANKERS, frame_of, split_frame

    run = Run.start(
        directory / "run",
        RunSettings(source="synthetic", codebook_size=32, snapshots=4, seeds=1, steps=400),
    )
    for stage in (*STAGES, DATASET, RANKERS["codes_weights"], RANKERS["xgboost_codes_weights"]):
        run.ensure(stage)
    tables, spec, repo = embedding_tables(run), generation_of(run).spec, repository_of(run)
    second = fit(
        tables,
        spec,
        settings=replace(RECIPES["adc"](), steps=400),
        generation_id="g2",
        directory=directory / "g2",
        seed=1,
    )
    publish(
        repo,
        second,
        [encode(table, second) for table in tables],
        servable_at=servable_at(run),
        computed_at=datetime.now(UTC),
    )
    apply(repo)
    materialize(repo, now=serving_time(run))
    rows, _ = split_frame(run, frame_of(run))
    labels = rows.table.select(["row_id", "user_id", "item_id", "event_timestamp", "label"])
    joined = training_features(repo, labels, service="ranker_g2")
    frame = training_frame(
        joined,
        labels,
        generation="g2",
        codebook_size=spec.codebook_size,
        resolution=dataset_of(run).resolution,
    )
    train(
        frame, "codes_weights", sources=Sources(sids=published_timeline(repo, "g2")), seeds=(0,)
    ).save(directory / "second")
    manifest = file_hash(directory / "second" / MANIFEST)
    world = opened(run.directory)
    return world._replace(
        pairs=(
            world.pairs[0],
            Promotion(
                directory / "second", manifest, repo, "g2", second.codebook_hash, datetime.now(UTC)
            ),
        )
    )


# ---- served equals offline


def equality(world: World, scratch: Path, *, rows: int) -> dict[str, Any]:
    """Largest difference between a request's scores and the offline scores of the same (user, item,
    time) rows.
    """
    import pyarrow as pa

    from adc_features.loader.frame import label_table, training_frame
    from adc_features.ranking.recipes import Sources
    from adc_features.serving.opening import open_bundle
    from adc_features.store import (
        apply,
        materialize,
        published_timeline,
        service_name,
        training_features,
    )

    pair = replace(world.pairs[0], repository=scratch / "past")
    copied(world.pairs[0].repository, pair.repository)
    apply(pair.repository)
    rng, per_user, worst, compared, unknown = np.random.default_rng(0), 10, 0.0, 0, 0
    bundle = None
    for now in world.moments:
        materialize(pair.repository, now=now)
        bundle = bundle or open_bundle(pair)
        users = rng.choice(world.users, rows // per_user // len(world.moments), replace=False)
        asked = [rng.choice(world.items, per_user, replace=False) for _ in users]
        log = pa.table(
            {
                "user_id": np.repeat(users, per_user),
                "item_id": np.concatenate(asked),
                "time": pa.array([now] * (len(users) * per_user), pa.timestamp("us", tz="UTC")),
                "label": np.zeros(len(users) * per_user, np.float32),
            }
        )
        labels = label_table(log)
        joined = training_features(pair.repository, labels, service=service_name(pair.generation))
        frame = training_frame(
            joined,
            labels,
            generation=pair.generation,
            codebook_size=bundle.live.codebook_size,
            resolution=bundle.resolution,
        )
        offline = bundle.trained.predict(
            frame, Sources(sids=published_timeline(pair.repository, pair.generation))
        )[0]
        rankings = [
            bundle.score(user.item(), items.tolist(), now=now)
            for user, items in zip(users, asked, strict=True)
        ]
        worst = max(
            worst, float(np.abs(np.concatenate([r.score for r in rankings]) - offline).max())
        )
        compared += len(offline)
        unknown += sum(not r.user_known for r in rankings)
    return {
        "rows": compared,
        "moments": [m.isoformat() for m in world.moments],
        "max_difference": worst,
        "users_not_yet_known": unknown,
    }


def copied(repository: Path, to: Path, *, online_store: dict[str, str] | None = None) -> None:
    """A repository without its registry and online rows;
    with another online store where one is given.
    """
    import yaml

    shutil.copytree(repository, to, ignore=shutil.ignore_patterns("registry.db*", "online*"))
    if online_store:
        config = yaml.safe_load((to / "feature_store.yaml").read_text())
        config.pop("batch_engine", None)
        (to / "feature_store.yaml").write_text(
            yaml.safe_dump({**config, "online_store": online_store})
        )


# ---- servers


@contextmanager
def running(
    command: list[str], ready: Callable[[], bool], *, log: Path, cwd: Path | None = None
) -> Iterator[Any]:
    """A server in a process of its own; gives its psutil.Process."""
    import psutil

    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=cwd) as process,
    ):
        try:
            deadline = time.monotonic() + 180
            while not ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[:6]} did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def cpu_seconds(server: Any) -> float:
    return sum(
        p.cpu_times().user + p.cpu_times().system
        for p in (server, *server.children(recursive=True))
    )


@contextmanager
def adc_server(promotion: Path, now: datetime, scratch: Path) -> Iterator[tuple[int, Any]]:
    told = scratch / "serving.json"
    command = [
        sys.executable,
        "-c",
        "from adc_features.cli.main import main; main()",
        "serve",
        "--promotion",
        str(promotion),
        "--port",
        "0",
    ]
    with running(
        [*command, "--now", now.isoformat(), "--json", str(told)],
        told.is_file,
        log=scratch / "adc.log",
    ) as server:
        yield int(json.loads(told.read_text())["url"].rpartition(":")[2]), server


@contextmanager
def feast_server(repository: Path, scratch: Path) -> Iterator[tuple[int, Any]]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    command = [
        str(Path(sys.executable).parent / "feast"),
        "serve",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "--no-access-log",
    ]
    with running(command, ready, log=scratch / "feast.log", cwd=repository) as server:
        yield port, server


# ---- load, in a process apart


class Heard(NamedTuple):
    """One answer. seconds: since it was due; request: its number among the distinct ones."""

    request: int
    status: int
    seconds: float
    timing: str
    body: bytes


def load(
    port: int,
    path: str,
    bodies: list[bytes],
    *,
    seconds: float,
    connections: int,
    rate: float | None,
    ready: Any = None,
) -> list[Heard]:
    """Ask for some seconds: each connection as fast
    as it is answered, or all together at a fixed rate. ready: a barrier to wait at before that.
    """
    if ready is not None:
        ready.wait()
    return asyncio.run(
        _load(port, path, bodies, seconds=seconds, connections=connections, rate=rate)
    )


async def _load(
    port: int,
    path: str,
    bodies: list[bytes],
    *,
    seconds: float,
    connections: int,
    rate: float | None,
) -> list[Heard]:
    heads = [
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length:"
        f" {len(body)}\r\n\r\n".encode()
        for body in bodies
    ]
    heard: list[Heard] = []
    start, number = time.perf_counter(), iter(range(sys.maxsize))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        while (now := time.perf_counter()) < start + seconds:
            n = next(number)
            due = now
            if rate is not None:
                due = start + n / rate
                await asyncio.sleep(max(0.0, due - now))
                if due > start + seconds:
                    break
            request = n % len(bodies)
            writer.write(heads[request] + bodies[request])
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(fields["content-length"]))
            heard.append(
                Heard(
                    request,
                    int(head.split(" ", 2)[1]),
                    time.perf_counter() - due,
                    fields.get("server-timing", ""),
                    body,
                )
            )
        writer.close()

    await asyncio.gather(*(worker() for _ in range(connections)))
    return heard


def summary(heard: list[Heard], *, cpu_s: float) -> dict[str, Any]:
    ms = 1000 * np.array([h.seconds for h in heard])
    counts, _ = np.histogram(ms, [0, *BUCKETS_MS, np.inf])
    facts = {
        "requests": len(heard),
        "failed": sum(h.status != 200 for h in heard),
        "requests_per_core_s": len(heard) / cpu_s,
        "cpu_ms": 1000 * cpu_s / len(heard),
    }
    percentiles = {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 90, 99)}
    return {
        **facts,
        **percentiles,
        "max_ms": float(ms.max()),
        "histogram_ms": dict(zip([*map(str, BUCKETS_MS), "more"], counts.tolist(), strict=True)),
    }


def answered(heard: list[Heard]) -> list[Heard]:
    return [h for h in heard if h.status == 200]


def split(heard: list[Heard]) -> dict[str, float]:
    """Median milliseconds of each part; http is the rest:
    parsing, queue, answer, loopback, client.
    """
    heard = answered(heard)
    timings = [
        {
            part: float(duration)
            for part, duration in (item.split(";dur=") for item in h.timing.split(", "))
        }
        for h in heard
    ]
    parts = {part: float(np.median([t[part] for t in timings])) for part in timings[0]}
    return {
        **parts,
        "http": float(
            np.median(
                [1000 * h.seconds - sum(t.values()) for h, t in zip(heard, timings, strict=True)]
            )
        ),
    }


def mixed(heard: list[Heard], expected: dict[str, list[dict]]) -> tuple[int, dict[str, int]]:
    """Answers whose scores are not those of the pair
    that they name, and the answers of each pair.
    """
    wrong, by_pair = 0, dict.fromkeys(expected, 0)
    for h in answered(heard):
        answer = json.loads(h.body)
        wanted = expected[answer["pair"]][h.request]
        got = {row["item_id"]: row["score"] for row in answer["items"]}
        by_pair[answer["pair"]] += 1
        wrong += got.keys() != wanted.keys() or max(abs(got[i] - wanted[i]) for i in wanted) > 1e-6
    return wrong, by_pair


# ---- the measurement


def measure(
    world: World, scratch: Path, *, items: int, rate: float, seconds: float
) -> dict[str, Any]:
    from adc_features.serving.opening import open_bundle
    from adc_features.serving.promotion import promote

    rng, file = np.random.default_rng(1), scratch / "promotion.json"
    asked = [
        (
            rng.choice(world.users).item(),
            rng.choice(world.items, min(items, len(world.items)), replace=False).tolist(),
        )
        for _ in range(ASKED)
    ]
    bodies = [json.dumps({"user": user, "items": ids}).encode() for user, ids in asked]
    expected = {}
    for pair in world.pairs:
        bundle = open_bundle(pair)
        expected[pair.name] = [
            dict(zip(ids, bundle.score(user, ids, now=world.now).score.tolist(), strict=True))
            for user, ids in asked
        ]
    promote(file, world.pairs[0])
    systems, facts = {}, {}
    with adc_server(file, world.now, scratch) as (port, server):

        def loaded(**how: Any) -> tuple[list[Heard], float]:
            before = cpu_seconds(server)
            heard = apart(_load_apart, port, "/rank", bodies, how)
            return heard, cpu_seconds(server) - before

        loaded(seconds=3, connections=1, rate=None)  # warm
        for connections in (1, 4):
            heard, cpu = loaded(seconds=seconds / 2, connections=connections, rate=None)
            systems[f"closed_loop_{connections}"] = summary(heard, cpu_s=cpu)
            if connections == 1:
                facts["split_ms"] = split(heard)
        heard, cpu = loaded(seconds=seconds, connections=16, rate=rate)
        systems["open_loop"] = summary(heard, cpu_s=cpu) | {"rate": rate}
        timer = threading.Timer(3 + seconds / 2, promote, (file, world.pairs[1]))
        timer.start()
        heard, cpu = loaded(seconds=seconds + 3, connections=16, rate=rate)
        timer.join()
        wrong, by_pair = mixed(heard, expected)
        systems["open_loop_promotion"] = summary(heard, cpu_s=cpu) | {
            "rate": rate,
            "mixed": wrong,
            "answers_by_pair": by_pair,
        }
    peer, now = scratch / "peer", world.now
    copied(
        world.pairs[0].repository, peer, online_store={"type": "sqlite", "path": "data/online.db"}
    )
    apart(materialized, peer, now)
    entities = [
        {
            "feature_service": f"ranker_{world.pairs[0].generation}",
            "entities": {"user_id": [u] * len(i), "item_id": i},
        }
        for u, i in asked
    ]
    with feast_server(peer, scratch) as (port, server):
        feast_bodies = [json.dumps(e).encode() for e in entities]
        apart(
            _load_apart,
            port,
            "/get-online-features",
            feast_bodies,
            {"seconds": 3, "connections": 1, "rate": None},
        )
        before = cpu_seconds(server)
        heard = apart(
            _load_apart,
            port,
            "/get-online-features",
            feast_bodies,
            {"seconds": seconds / 2, "connections": 1, "rate": None},
        )
        systems["feast_feature_server"] = summary(heard, cpu_s=cpu_seconds(server) - before)
    return {"systems": systems, **facts}


def _load_apart(port: int, path: str, bodies: list[bytes], how: dict[str, Any]) -> list[Heard]:
    return load(port, path, bodies, **how)


def materialized(repository: Path, now: datetime) -> None:
    from adc_features.store import apply, materialize

    apply(repository)
    materialize(repository, now=now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--run", type=Path, help="a finished run; default: a generated catalogue")
    parser.add_argument("--items", type=int, default=500, help="candidates of a request")
    parser.add_argument("--rate", type=float, default=50, help="requests a second of the open loop")
    parser.add_argument("--seconds", type=float, default=20, help="length of a load")
    parser.add_argument(
        "--rows",
        type=int,
        default=1000,
        help="(user, item, time) rows compared with offline scores",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="where to keep the generated catalogue; default: removed at the end",
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.work) as scratch:
        place = Path(scratch)
        world = opened(asked.run) if asked.run else generated(place)
        equal = equality(world, place, rows=asked.rows)
        measured = measure(world, place, items=asked.items, rate=asked.rate, seconds=asked.seconds)
    systems = measured.pop("systems")
    ours, feast = systems["closed_loop_1"], systems["feast_feature_server"]
    ratios = {
        "feast_server_p50_over_ours": feast["p50_ms"] / ours["p50_ms"],
        "feast_server_cpu_over_ours": feast["cpu_ms"] / ours["cpu_ms"],
    }
    catalogue = {
        "users": len(world.users),
        "items": len(world.items),
        "pairs": [p.name for p in world.pairs],
    }
    write_report(
        asked.json,
        systems=systems,
        ratios=ratios,
        candidates=asked.items,
        served_equals_offline=equal,
        catalogue=catalogue,
        **measured,
    )


if __name__ == "__main__":
    main()
