"""Does the service answer whoever asks well while others attack it? Reads: a finished run, or
nothing. Writes: JSON.

    python benchmarks/attack.py --json -                       # makes a catalogue first
    python benchmarks/attack.py --json - --run runs/beauty
    python benchmarks/attack.py --json - --requests 500 --seconds 2 --flips 50

Everything is on loopback, in processes that this one starts and ends: a server, a good client that
opens a connection for each of its 20 requests a second, and the attacks, one after the other:
silent connections, trickled requests, connections opened and dropped, endless heads, heavy bodies,
and at last mixed requests, good ones and every kind of bad ones. The good client's latency counts
from the moment a request was due; refused is every answer of it that is not 200. Then bits are
flipped in artefacts, where benchmarks/flips.py is there.
"""

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import machine
from serve import adc_server

RATE = 20
"""Good requests a second."""
ENDS = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)
"""How a connection ends that the service closed."""


class World(NamedTuple):
    """What is served, and what good requests ask."""

    pair: Any
    now: datetime
    good: list[bytes]


def opened(directory: Path, *, items: int) -> World:
    """The world of a finished run."""
    from adc_features.pipeline.pairs import promotion_of
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import dataset_of, id_array, known_interactions, serving_time

    run, rng = Run.open(directory), np.random.default_rng(0)
    users, known = (
        np.unique(id_array(known_interactions(run)["user_id"])),
        id_array(dataset_of(run).items["item_id"]),
    )
    asked = [
        (
            rng.choice(users).item(),
            rng.choice(known, min(items, len(known)), replace=False).tolist(),
        )
        for _ in range(24)
    ]
    good = [json.dumps({"user": user, "items": ids}).encode() for user, ids in asked]
    return World(promotion_of(run, promoted_at=datetime.now(UTC)), serving_time(run), good)


def generated(directory: Path, *, items: int) -> World:
    from adc_features.pipeline.run import Run, RunSettings
    from adc_features.pipeline.stages import STAGES
    from training.stages import DATASET, RANKERS

    run = Run.start(
        directory / "run",
        RunSettings(source="synthetic", codebook_size=32, snapshots=2, seeds=1, steps=100),
    )
    for stage in (*STAGES, DATASET, RANKERS["codes_weights"]):
        run.ensure(stage)
    return opened(run.directory, items=items)


# ---- one request


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    return (
        "\r\n".join(
            [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
        ).encode()
        + b"\r\n\r\n"
        + body
    )


async def asked(port: int, sent: bytes, *, seconds: float = 10) -> int:
    """The status of one request on a connection of its own, 0 where none came."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line.startswith("content-length:")
                ),
                0,
            )
            await reader.readexactly(length)
            return int(head.split(" ", 2)[1])
    except ENDS:
        return 0
    finally:
        if writer is not None:
            writer.close()


# ---- the good client, in a process of its own


def good_client(port: int, bodies: list[bytes], stop: Any, heard: Any) -> None:
    """Ask at a fixed rate until told to stop; puts (due,
    seconds since due, status, what) of each request.
    """
    asyncio.run(_good_client(port, bodies, stop, heard))


async def _good_client(port: int, bodies: list[bytes], stop: Any, heard: Any) -> None:
    start, answers, running = time.time(), [], set()

    async def one(number: int, due: float) -> None:
        health = number % RATE == 0
        sent = (
            request("GET", "/healthz")
            if health
            else request("POST", "/rank", bodies[number % len(bodies)])
        )
        status = await asked(port, sent)
        answers.append((due, time.time() - due, status, "health" if health else "rank"))

    number = 0
    while not stop.is_set():
        due = start + number / RATE
        await asyncio.sleep(max(0.0, due - time.time()))
        task = asyncio.create_task(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
    await asyncio.gather(*running)
    heard.put(answers)


# ---- attacks: each runs until `until`


async def silent(port: int, until: float) -> Counter:
    """Hold 600 connections that send nothing;
    open them again half a second after they were closed.
    """
    return await _many(600, until, lambda: _held(port, b"", until))


async def slow(port: int, until: float) -> Counter:
    """Trickle 200 requests byte by byte, in the head and in the body."""
    heads = (
        b"GET /healthz HTTP/1.1\r\nX: ",
        b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
    )
    number = iter(range(1 << 62))
    return await _many(
        200, until, lambda: _held(port, heads[next(number) % 2], until, trickle=True)
    )


async def churn(port: int, until: float) -> Counter:
    """Open connections and drop them at once, before, within and after a request."""
    sent = (b"", b"GET /heal", request("GET", "/healthz"), request("POST", "/rank", b"{}")[:-1])
    number = iter(range(1 << 62))

    async def one() -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent[next(number) % len(sent)])
        writer.close()
        await asyncio.sleep(0.02)
        return "dropped"

    return await _many(8, until, one)


async def heads(port: int, until: float) -> Counter:
    """Send headers without end on 4 connections."""

    async def one() -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(5_000):
            writer.write(b"X: " + b"a" * 60_000 + b"\r\n")
            await writer.drain()
        writer.close()
        return "300 MB taken"

    return await _many(4, until, one)


def heavy_bodies() -> list[bytes]:
    """Bodies of up to 1 MiB that cost as much as a body can."""
    return [
        request("POST", "/rank", b'{"user":"u","items":[' + b",".join([b"{}"] * 340_000) + b"]}"),
        request("POST", "/rank", b"{" + b",".join(b'"a%d":1' % n for n in range(80_000)) + b"}"),
        request("POST", "/rank", b"[" * 500_000),
        request(
            "POST",
            "/lookup",
            json.dumps({"items": ["i"] * 2_000, "features": ["item_brand"] * 3_000}).encode(),
        ),
        request("POST", "/lookup", json.dumps({"items": ["i"] * 2_000}).encode()),
        request(
            "POST", "/lookup", json.dumps({"items": ["i"], "features": ["x" * 1_000_000]}).encode()
        ),
        request("POST", "/rank", b" " * (2 << 20)),
    ]


async def heavy(port: int, until: float) -> Counter:
    """Send heavy bodies on 4 connections, each as fast as it is answered."""
    bodies, number = heavy_bodies(), iter(range(1 << 62))

    async def one() -> str:
        return str(await asked(port, bodies[next(number) % len(bodies)]))

    return await _many(4, until, one)


async def mixed(port: int, until: float, *, good: list[bytes], requests: int) -> Counter:
    """So many requests, good and bad, on 4 connections at a time."""
    kinds = [
        *(request("POST", "/rank", body) for body in good[:4]),
        request("POST", "/rank", b'{"user": "nobody", "items": ["nothing", "nothing"]}'),
        request("POST", "/lookup", b'{"items": ["nothing"], "features": ["item_brand"]}'),
        request("POST", "/lookup", b'{"items": ["nothing"], "features": ["no_such"]}'),
        *(
            request("POST", path, body)
            for path in ("/rank", "/lookup")
            for body in (
                b"",
                b"{",
                b"[]",
                b"\xff\xfe",
                b'{"items": []}',
                b'{"user": 1, "items": [null]}',
            )
        ),
        request(
            "POST", "/rank", b'{"user": "u", "items": ["i"], "now": "0001-01-01T00:00:00+01:00"}'
        ),
        *(
            request("GET", path)
            for path in ("/healthz", "/readyz", "/metrics", "/nowhere", "/rank")
        ),
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        *heavy_bodies()[:1],
    ]
    number = iter(range(requests))

    async def one() -> str:
        if (n := next(number, None)) is None:
            await asyncio.sleep(0.05)
            return "none left"
        return str(await asked(port, kinds[n % len(kinds)]))

    return await _many(4, until, one, done=lambda seen: seen["none left"] > 0)


async def _held(port: int, sent: bytes, until: float, *, trickle: bool = False) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        while time.time() < until:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(0.2, max(0.01, until - time.time()))):
                    if not await reader.read(1 << 16):
                        break
            if trickle:
                writer.write(b"a")
        else:
            return "held to the end"
    finally:
        writer.close()
    await asyncio.sleep(0.5)  # a storm of new connections is another attack, `churn`
    return "closed by the service"


async def _many(
    workers: int,
    until: float,
    one: Callable[[], Awaitable[str]],
    *,
    done: Callable[[Counter], bool] = lambda _: False,
) -> Counter:
    """What `one` came to, again and again on so many workers."""
    seen: Counter = Counter()

    async def worker() -> None:
        while time.time() < until and not done(seen):
            try:
                async with asyncio.timeout(max(0.01, until - time.time())):
                    seen[await one()] += 1
            except ENDS as error:
                seen[type(error).__name__] += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*(worker() for _ in range(workers)))
    return seen


# ---- the measurement


@contextmanager
def memory(server: Any) -> Iterator[dict[str, int]]:
    """The largest resident memory of the server and its processes while the block lasts."""
    import psutil

    seen, stop = {"before": 0, "peak": 0}, threading.Event()

    def look() -> int:
        with suppress(psutil.Error):
            return sum(p.memory_info().rss for p in (server, *server.children(recursive=True)))
        return 0

    def watch() -> None:
        while not stop.wait(0.05):
            seen["peak"] = max(seen["peak"], look())

    seen["before"] = seen["peak"] = look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def summary(answers: list[tuple[float, float, int, str]]) -> dict[str, Any]:
    ms = 1000 * np.array([seconds for _, seconds, _, _ in answers] or [0.0])
    refused = Counter(str(status) for _, _, status, _ in answers if status != 200)
    return {
        "requests": len(answers),
        "refused": sum(refused.values()),
        "refused_by_status": dict(refused),
        **{f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 99)},
        "max_ms": float(ms.max()),
    }


def attack(world: World, scratch: Path, *, requests: int, seconds: float) -> dict[str, Any]:
    from adc_features.serving.promotion import promote

    promote(scratch / "promotion.json", world.pair)
    spawn = multiprocessing.get_context("spawn")
    stop, heard, phases, outcomes = spawn.Event(), spawn.Queue(), {}, {}
    with adc_server(scratch / "promotion.json", world.now, scratch) as (port, server):
        for body in world.good:  # warm
            asyncio.run(asked(port, request("POST", "/rank", body)))
        client = spawn.Process(
            target=good_client, args=(port, world.good, stop, heard), daemon=True
        )
        client.start()
        time.sleep(3)
        with memory(server) as seen:
            for name, work in {
                "nothing": None,
                "silent": silent,
                "slow": slow,
                "churn": churn,
                "heads": heads,
                "heavy": heavy,
                "mixed": mixed,
            }.items():
                began = time.time()
                if work is None:
                    time.sleep(seconds)
                elif work is mixed:
                    outcomes[name] = asyncio.run(
                        mixed(
                            port,
                            began + max(10 * seconds, requests / 50),
                            good=world.good,
                            requests=requests,
                        )
                    )
                else:
                    outcomes[name] = asyncio.run(work(port, began + seconds))
                phases[name] = began, time.time()
        stop.set()
        answers = heard.get(timeout=60)
        client.join(30)
        alive = server.is_running()
    by_phase = {
        name: summary([a for a in answers if begin <= a[0] < end])
        for name, (begin, end) in phases.items()
    }
    during = [a for a in answers if phases["silent"][0] <= a[0] < phases["mixed"][1]]
    return {
        "good": summary(during),
        "good_by_attack": by_phase,
        "attacks": {name: dict(seen_) for name, seen_ in outcomes.items()},
        "rss_before_bytes": seen["before"],
        "peak_rss_bytes": seen["peak"],
        "alive": alive,
    }


def flipped(count: int, seed: int) -> dict[str, Any] | None:
    """What benchmarks/flips.py finds; None where it is not there."""
    if importlib.util.find_spec("flips") is None:
        return None
    import flips

    return dict(flips.flips(count, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--run", type=Path, help="a finished run; default: a generated catalogue")
    parser.add_argument("--items", type=int, default=100, help="candidates of a good request")
    parser.add_argument("--requests", type=int, default=20_000, help="mixed requests")
    parser.add_argument("--seconds", type=float, default=10, help="length of each other attack")
    parser.add_argument(
        "--flips", type=int, default=2_000, help="bits to flip, one at a time; 0 for none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the flips")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        world = (
            opened(chosen.run, items=chosen.items)
            if chosen.run
            else generated(place, items=chosen.items)
        )
        found = attack(world, place, requests=chosen.requests, seconds=chosen.seconds)
    flips = flipped(chosen.flips, chosen.seed) if chosen.flips else None
    text = json.dumps({**found, "flips": flips, "machine": machine()}, indent=2)
    if chosen.json == "-":
        print(text)
    else:
        Path(chosen.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
