"""How fast the explorer's pages are, and what it holds in memory. Reads: nothing. Writes: one JSON
document.

    python benchmarks/explore.py --json FILE                       # 1M items, 12 snapshots
    python benchmarks/explore.py --items 20000 --snapshots 3       # a smaller catalogue

The catalogue is generated: each snapshot after the first changes the codes of one item in twenty.
The service is a process of its own on one core, asked over one connection. `peak_rss_bytes` is its
anonymous memory; mapped files are apart, in `mapped_bytes`. CPU time is the service's, wall time
that of its client: on a machine that others use they differ.
"""

import argparse
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from _measure import write_report

from adc_features import store
from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.explore.building import ensure_index
from adc_features.explore.place import place_of
from adc_features.parquet_files import write_table

SPEC = SidSpec(content={"text": 3, "image": 3}, shared=1, behavior=3, codebook_size=300)
START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = 20_000
CHANGED = 20
"""One item in so many has other codes in each later snapshot."""
ASKED = 60
"""Requests of each page; the first three warm it up and are not counted."""


def made_catalogue(folder: Path, items: int, snapshots: int) -> tuple[Path, Path]:
    """The repository and its table of titles."""
    rng = np.random.default_rng(0)
    repo, ids = folder / "repo", np.array([f"item-{n:07d}" for n in range(items)])
    store.create_repository(repo, project="large")
    generation = Generation("g1", "generated", SPEC, {}, {}, {}, START, "11" * 32)
    every = np.arange(items)
    for n in range(snapshots):
        rows = every if n == 0 else np.flatnonzero(every % CHANGED == n % CHANGED)
        at = START + timedelta(days=30 * n)
        table = _codes(rng, ids[rows], at)
        store.publish(repo, generation, [table], servable_at=[at], computed_at=at)
    counts = np.floor(items / (1 + rng.permutation(items))).astype(np.int64) + 1
    time_ = pa.array([START] * items, pa.timestamp("us", "UTC"))
    last = int((START - timedelta(days=1)).timestamp() * 1_000_000)
    profile = {
        "item_id": ids,
        "event_timestamp": time_,
        "item_event_count": counts,
        "item_label_sum": (counts * rng.random(items)).astype(np.float32),
        "item_last_time": np.full(items, last),
    }
    activity = {"user_id": ["u"], "event_timestamp": time_[:1], "user_last_time": [last]}
    store.publish_statistics(
        repo,
        item_profile=pa.table(profile),
        user_activity=pa.table(activity),
        resolution=timedelta(days=1),
    )
    words = np.array([f"word{n}" for n in range(WORDS)])
    # a few words are in many titles, as in a real catalogue
    chosen = np.minimum(rng.zipf(1.3, (items, 4)), WORDS) - 1
    titles = [" ".join(words[row]) for row in chosen]
    table = folder / "items.parquet"
    brands = [f"brand {n % 500}" for n in range(items)]
    write_table(pa.table({"item_id": ids, "title": titles, "brand": brands}), table)
    return repo, table


def _codes(rng: np.random.Generator, ids: np.ndarray, at: datetime) -> SidTable:
    """Codes some of which are used far more than others."""
    shape = len(ids), SPEC.length
    sid = np.minimum(rng.geometric(0.02, shape) - 1, SPEC.codebook_size - 1).astype(np.int32)
    weight = np.ones(shape, np.float32)
    weight[:, np.array(SPEC.is_behavioral)] = rng.random((len(ids), SPEC.behavior), np.float32)
    reliability = rng.integers(0, 50, len(ids)).astype(np.float32) / 50
    return SidTable(
        ids,
        sid,
        weight,
        reliability,
        reliability,
        np.zeros(len(ids), bool),
        np.ones(len(ids), np.int32),
        np.ones(len(ids), bool),
        "g1",
        SPEC.codebook_size,
        at,
    )


def addresses(items: int, snapshots: int) -> dict[str, list[str]]:
    """Page -> what is asked of it, all over the catalogue; some of what is few come again."""
    rng = np.random.default_rng(1)
    numbers = rng.choice(items, ASKED, replace=False)
    codes = rng.permutation(200 * SPEC.length)[:ASKED]
    pairs = [(a, b) for a in range(snapshots) for b in range(snapshots) if a != b]
    return {
        "find": [f"/?q={quote(f'word{n % 400} brand')}" for n in range(ASKED)],
        "find_popular_word": [f"/?q=word&from={30 * n}" for n in range(ASKED)],
        "item": [f"/item?id=item-{n:07d}" for n in numbers],
        "code": [f"/code?position={c % SPEC.length}&code={c // SPEC.length}" for c in codes],
        "codes": [f"/codes?snapshot={n % snapshots}" for n in range(ASKED)],
        "changes": [
            f"/changes?before=g1@{a}&after=g1@{b}"
            for a, b in (pairs[n % len(pairs)] for n in range(ASKED))
        ],
    }


def measured_service(repo: Path, table: Path, items: int, snapshots: int) -> dict[str, Any]:
    """Start it, ask it, and end it."""
    command = [sys.executable, "-c", "from adc_features.cli.main import main; main()"]
    command += ["explore", "--repo", str(repo), "--items", str(table), "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            port = int(re.findall(r":(\d+)\s", service.stdout.readline())[0])
            client = http.client.HTTPConnection("127.0.0.1", port)
            _asked(client, "/")
            start_s = time.perf_counter() - began
            start_cpu_s = _cpu(service.pid)
            pages, peak = {}, 0
            for page, paths in addresses(items, snapshots).items():
                told = []
                for n, path in enumerate(paths):
                    before, at = _cpu(service.pid), time.perf_counter()
                    _asked(client, path)
                    took = time.perf_counter() - at, _cpu(service.pid) - before
                    told += [took] if n >= 3 else []
                    peak = max(peak, _memory(service.pid)["Anonymous"])
                wall, cpu = np.array(told).T * 1000
                pages[page] = {
                    "p50_ms": float(np.median(wall)),
                    "p95_ms": float(np.quantile(wall, 0.95)),
                    "p95_cpu_ms": float(np.quantile(cpu, 0.95)),
                    "mean_cpu_ms": float(cpu.mean()),
                }
            mapped = _memory(service.pid)
        finally:
            service.terminate()
    return {
        "start_s": start_s,
        "start_cpu_s": start_cpu_s,
        "peak_rss_bytes": peak,
        "mapped_bytes": mapped["Rss"] - mapped["Anonymous"],
        "pages": pages,
    }


def _asked(client: http.client.HTTPConnection, path: str) -> None:
    client.request("GET", path)
    answer = client.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: {body[:200]!r}")


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process, with those of its threads that have ended."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names


def _memory(pid: int) -> dict[str, int]:
    """Bytes by kind, of /proc/PID/smaps_rollup."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: 1024 * int(kb) for name, kb in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--snapshots", type=int, default=12)
    parser.add_argument("--json", default="-", metavar="FILE")
    parser.add_argument("--keep", type=Path, help="build the catalogue here, or find it here")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        place = asked.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        repo, table = place / "repo", place / "items.parquet"
        if not table.is_file():
            repo, table = made_catalogue(place, asked.items, asked.snapshots)
        began = time.process_time()
        ensure_index(place_of(repo=repo, items=table))
        build = time.process_time() - began
        found = measured_service(repo, table, asked.items, asked.snapshots)
    facts = {"items": asked.items, "snapshots": asked.snapshots, "build_cpu_s": build, **found}
    write_report(asked.json, systems={}, ratios={}, **facts)


if __name__ == "__main__":
    main()
