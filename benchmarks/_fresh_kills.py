"""Does an acknowledged event survive the death of what took it? Reads: nothing. Writes: folders.

`adc serve --events` takes events by HTTP while it ranks, and is killed again and again: the process
that takes events, the process that answers, or both at once. Every event is sent until it is
acknowledged.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _fresh_service import MAIN, fresh_feed, live_events, ranking_bodies
from _wide_feed import WideFeed

AT_ONCE = 7
"""Events of a request: parts of a batch."""
KILLED = ("events", "answers", "both")


def survive_service(scratch: Path, *, kills: int, seed: int = 0) -> dict[str, int]:
    """Kills of a service under load: what was acknowledged and is not there (lost), what is there
    twice (doubled), and what differs from the batch afterwards.
    """
    feed, rng, log = fresh_feed(scratch), random.Random(seed), scratch / "serve.log"
    load, done = _Load(feed, seed), 0
    while done < kills:
        with _service(feed.repo, log) as (port, server), load.running(port):
            while done < kills:
                time.sleep(rng.uniform(0.2, 1.5))
                what = KILLED[done % len(KILLED)]
                _kill(server, what)
                done += 1
                if what != "events":  # the service starts that one again itself
                    break
    with _service(feed.repo, log) as (port, _), load.running(port):
        load.drain()
    return {"kills": kills, **_compared(feed.repo, load), "ranked": load.ranked}


def _kill(server: psutil.Process, what: str) -> None:
    children = server.children(recursive=True)
    taking = [child for child in children if _commits(child)]
    for process in {"events": taking, "answers": [server], "both": [server, *children]}[what]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _commits(process: psutil.Process) -> bool:
    """Whether it is the process that takes events: of those that multiprocessing spawned."""
    with suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def _compared(repo: Path, load: "_Load") -> dict[str, int]:
    from adc_features.live.incoming import incoming
    from adc_features.live.repository import open_live
    from adc_features.live.verify import verify_online

    live = open_live(repo)
    (stream,) = live.ledger.streams.values()
    accepted = live.histories.accepted_rows(stream)["event_id"].to_pylist()
    told = list(load.acknowledged.values())
    acknowledged = set(incoming(stream, told).table["event_id"].to_pylist())
    report = verify_online(live.histories)
    return {
        "sent": load.sent,
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged.difference(accepted)),
        "doubled": len(accepted) - len(set(accepted)),
        "different": report.different,
    }


@contextmanager
def _service(repo: Path, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The service, once it answers; afterwards nothing of it is left."""
    told = log.with_suffix(".json")
    told.unlink(missing_ok=True)
    command = [sys.executable, "-c", MAIN, "serve", "--repo", str(repo), "--events", "--port", "0"]
    with log.open("a") as out:
        process = subprocess.Popen(
            [*command, "--json", str(told)], stdout=out, stderr=out, start_new_session=True
        )
    server = psutil.Process(process.pid)
    try:
        until = time.monotonic() + 180
        while not told.is_file():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the service did not start again:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield int(json.loads(told.read_text())["url"].rpartition(":")[2]), server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Load:
    """Senders of events and of rankings: threads, for as long as a service runs."""

    def __init__(self, feed: WideFeed, seed: int) -> None:
        self.acknowledged, self.sent, self.ranked = dict[str, Any](), 0, 0
        self._feed, self._rng = feed, np.random.default_rng(seed)
        self._rankings = ranking_bodies(feed, np.random.default_rng(seed), candidates=50)
        self._backlog: list[dict[str, Any]] = []
        self._stopped, self._draining = threading.Event(), False

    @contextmanager
    def running(self, port: int) -> Iterator[None]:
        self._stopped.clear()
        threads = [
            threading.Thread(target=self._send, args=(port,)),
            threading.Thread(target=self._rank, args=(port,)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def drain(self) -> None:
        """Until every event that was sent is acknowledged."""
        self._draining, until = True, time.monotonic() + 120
        while self._backlog and time.monotonic() < until:
            time.sleep(0.05)
        if self._backlog:
            raise SystemExit(f"{len(self._backlog)} events were never taken: the measure is void")

    def _send(self, port: int) -> None:
        while not self._stopped.is_set():
            if not self._draining and len(self._backlog) < 20 * AT_ONCE:
                fresh = live_events(self._feed, 5 * AT_ONCE, self._rng, first=self.sent)
                self._backlog += fresh
                self.sent += len(fresh)
            part = self._backlog[:AT_ONCE]
            if not part:
                time.sleep(0.01)
            elif _answered(port, "/events", json.dumps(part).encode()):
                self.acknowledged |= {one["event_id"]: one for one in part}
                del self._backlog[:AT_ONCE]
            else:  # tried again with others, as a sender of many streams does
                self._backlog = self._backlog[AT_ONCE:] + part
                time.sleep(0.02)

    def _rank(self, port: int) -> None:
        while not self._stopped.is_set():
            body = self._rankings[self.ranked % len(self._rankings)]
            self.ranked += _answered(port, "/rank", body)
            time.sleep(0.05)


def _answered(port: int, path: str, body: bytes) -> bool:
    """Whether the service answered with 200: it may be dead, or without its other half."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, timeout=10) as answer:
            return bool(answer.status == 200 and answer.read())
    except (OSError, urllib.error.HTTPError, ConnectionError):
        return False
    except Exception as error:
        if type(error).__module__ == "http.client":  # the answer was cut off
            return False
        raise
