"""How fast the explorer's pages are, and what it holds in memory. Reads: nothing. Writes: one JSON
document.

    python benchmarks/explore.py --json FILE                       # 1M items, 12 snapshots
    python benchmarks/explore.py --items 20000 --snapshots 3       # a smaller catalogue

The catalogue is generated: each snapshot after the first changes the codes of one item in twenty.
A ranker of codes and statistics is trained on a few thousand events and promoted; everything is
materialized. The service is a process of its own on one core, asked over one connection:
`find_while_loading` from its first answer on, beside Feast that is loaded and the health that is
looked at, the other pages after that. `peak_rss_bytes` is its anonymous memory; mapped files are
apart, in `mapped_bytes`. CPU time is the service's, wall time that of its client: on a machine that
others use they differ.
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
import pyarrow.compute as pc
from _measure import write_report

from adc_features import store
from adc_features.artifact import MANIFEST, file_hash
from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.data.statistics import item_profile, user_activity
from adc_features.explore.building import ensure_index
from adc_features.explore.place import place_of
from adc_features.loader.frame import label_table, training_frame
from adc_features.parquet_files import write_table
from adc_features.ranking.recipes import Sources
from adc_features.serving.promotion import PROMOTION, Promotion, promote
from training.fit import train

SPEC = SidSpec(content={"text": 3, "image": 3}, shared=1, behavior=3, codebook_size=300)
START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = 20_000
CHANGED = 20
"""One item in so many has other codes in each later snapshot."""
CODEBOOK = "11" * 32
DAY = timedelta(days=1)
USERS, EVENTS, CANDIDATES = 200, 4_000, 20
ASKED = 60
"""Requests of each page; the first three warm it up and are not counted."""


def made_catalogue(folder: Path, items: int, snapshots: int) -> None:
    """The repository, its table of titles and a promoted ranker."""
    rng = np.random.default_rng(0)
    repo, ids = folder / "repo", np.array([f"item-{n:07d}" for n in range(items)])
    store.create_repository(repo, project="large")
    generation = Generation("g1", "generated", SPEC, {}, {}, {}, START, CODEBOOK)
    every = np.arange(items)
    for n in range(snapshots):
        rows = every if n == 0 else np.flatnonzero(every % CHANGED == n % CHANGED)
        at = START + timedelta(days=30 * n)
        codes = _codes(rng, ids[rows], at)
        store.publish(repo, generation, [codes], servable_at=[at], computed_at=at)
    brands = [f"brand {n % 500}" for n in range(items)]
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
    log = _events(rng, ids)
    seen = pa.table({"item_id": ids, "brand": brands}).take(pc.unique(log["row"]))
    log = log.drop_columns("row")
    later = item_profile(log, seen, resolution=DAY, refresh_at=[START + DAY, START + 15 * DAY])
    store.publish_statistics(
        repo,
        item_profile=_filled(pa.table(profile), later),
        user_activity=user_activity(log, seen, resolution=DAY),
        resolution=DAY,
    )
    words = np.array([f"word{n}" for n in range(WORDS)])
    # a few words are in many titles, as in a real catalogue
    chosen = np.minimum(rng.zipf(1.3, (items, 4)), WORDS) - 1
    titles = [" ".join(words[row]) for row in chosen]
    table = folder / "items.parquet"
    _promoted(folder, repo, log)
    write_table(pa.table({"item_id": ids, "title": titles, "brand": brands}), table)


def _filled(first: pa.Table, later: pa.Table) -> pa.Table:
    """Both, one after the other; whole numbers that the first lacks are 0 there."""
    both = pa.concat_tables([first, later], promote_options="permissive")
    for n, field in enumerate(both.schema):
        if pa.types.is_integer(field.type):
            both = both.set_column(n, field, pc.fill_null(both[field.name], 0))
    return both


def _events(rng: np.random.Generator, ids: np.ndarray) -> pa.Table:
    """Events of a few users after the first snapshot, half of them positive; `row`: of the item."""
    users, items = rng.integers(0, USERS, EVENTS), rng.integers(0, len(ids), EVENTS)
    days = np.sort(rng.integers(1, 28, EVENTS))
    return pa.table(
        {
            "user_id": [f"user-{n}" for n in users],
            "row": items,
            "item_id": ids[items],
            "time": pa.array([START + int(n) * DAY for n in days], pa.timestamp("us", "UTC")),
            "label": rng.integers(0, 2, EVENTS).astype(np.float32),
        }
    )


def _promoted(folder: Path, repo: Path, log: pa.Table) -> None:
    """Materialize, train a ranker on the events, and promote it."""
    store.apply(repo)
    store.materialize(repo, now=datetime.now(UTC))
    labels = label_table(log)
    joined = store.training_features(repo, labels, service=store.service_name("g1"))
    frame = training_frame(
        joined, labels, generation="g1", codebook_size=SPEC.codebook_size, resolution=DAY
    )
    sources = Sources(sids=store.published_timeline(repo, "g1"))
    trained = train(frame, "codes_weights", sources=sources, seeds=(0,))
    ranker = folder / "ranker"
    trained.save(ranker)
    manifest = file_hash(ranker / MANIFEST)
    pair = Promotion(ranker, manifest, repo, "g1", CODEBOOK, datetime.now(UTC))
    promote(folder / PROMOTION, pair)


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
    ranked = [
        "%0A".join(f"item-{n:07d}" for n in rng.choice(items, CANDIDATES)) for _ in range(ASKED)
    ]
    found = [f"/?q={quote(f'word{n % 400} brand')}" for n in range(ASKED)]
    return {
        "find_while_loading": found,
        "health": ["/health?wait=1", *["/health"] * (ASKED - 1)],
        "find": found,
        "find_popular_word": [f"/?q=word&from={30 * n}" for n in range(ASKED)],
        "item": [f"/item?id=item-{n:07d}" for n in numbers],
        "code": [f"/code?position={c % SPEC.length}&code={c // SPEC.length}" for c in codes],
        "codes": [f"/codes?snapshot={n % snapshots}" for n in range(ASKED)],
        "collisions": [f"/collisions?snapshot={n % snapshots}&from={30 * n}" for n in range(ASKED)],
        "changes": [
            f"/changes?before=g1@{a}&after=g1@{b}"
            for a, b in (pairs[n % len(pairs)] for n in range(ASKED))
        ],
        "decision": [
            f"/decision?user=user-{n % USERS}&items={one}" for n, one in enumerate(ranked)
        ],
    }


def measured_service(place: Path, items: int, snapshots: int) -> dict[str, Any]:
    """Start it, ask it, and end it."""
    command = [sys.executable, "-c", "from adc_features.cli.main import main; main()"]
    command += ["explore", "--promotion", str(place / PROMOTION), "--port", "0"]
    command += ["--items", str(place / "items.parquet")]
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
        if not (place / "items.parquet").is_file():
            made_catalogue(place, asked.items, asked.snapshots)
        began = time.process_time()
        explored = place_of(promotion=place / PROMOTION, items=place / "items.parquet")
        ensure_index(explored)
        build = time.process_time() - began
        found = measured_service(place, asked.items, asked.snapshots)
    facts = {"items": asked.items, "snapshots": asked.snapshots, "build_cpu_s": build, **found}
    write_report(asked.json, systems={}, ratios={}, **facts)


if __name__ == "__main__":
    main()
