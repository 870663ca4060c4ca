"""How fast do aggregates follow a stream, and how large are their states? Reads: generated events.
Writes: JSON.

    python benchmarks/aggregates.py --events 200000 --users 50000 --json aggregates.json

The statistics pack (`user_activity`, `item_profile`, sealed) is advanced by batches; each batch
reads and keeps its states in memory. Timed is the CPU time of `advance` alone, over the second half
of the batches, when most keys have a state. Afterwards the newest rows are compared with those of
the whole history, and `different` must be 0.
"""

import argparse
import json
import platform
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.events import Events
from adc_features.aggregates.incremental import Incremental, MemoryStates, newest_rows
from adc_features.data.statistics_views import (
    interaction_stream,
    item_profile_view,
    user_activity_view,
)

MILLISECOND = 1_000


def generated(events: int, users: int) -> pa.Table:
    """Interactions at 1,000 a second of users and items of which few are popular."""
    rng = np.random.default_rng(0)
    user = (users * rng.random(events) ** 2).astype(np.int64)
    item = (users // 5 * rng.random(events) ** 3).astype(np.int64)
    times = 1_700_000_000_000_000 + np.arange(events) * MILLISECOND
    return pa.table(
        {
            "user_id": [f"user-{k:08d}" for k in user],
            "item_id": [f"item-{k:08d}" for k in item],
            "brand": [f"brand {k % 500}" for k in item],
            "category": [f"category {k % 50}" for k in item],
            "path": [f"category {k % 50} > part {k % 300}" for k in item],
            "label": rng.integers(0, 2, events).astype(np.float64),
            "rating": rng.integers(1, 6, events).astype(np.float64),
            "time": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )


def arrivals(times: np.ndarray, late: float) -> np.ndarray:
    """The events in the order in which they come: some are up to 9 minutes late."""
    rng = np.random.default_rng(1)
    delay = np.where(rng.random(len(times)) < late, rng.random(len(times)) * 540e6, 0)
    return np.argsort(times + delay.astype(np.int64), kind="stable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--late", type=float, default=0.05, help="share that arrives late")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stream = interaction_stream(resolution=timedelta(microseconds=1), rating=5.0)
    views = [user_activity_view(stream), item_profile_view(stream)]
    events = Events.of(stream, generated(options.events, options.users))
    arrived = arrivals(events.times, options.late)
    engine, memory = Incremental(views), MemoryStates()
    seconds, latest = [], {view.name: [] for view in views}
    for start in range(0, len(events), options.batch):
        part = pa.array(np.sort(arrived[start : start + options.batch]))
        batch = Events(stream, events.table.take(part).combine_chunks())
        before = time.process_time()
        step = engine.advance(memory, batch)
        seconds.append((time.process_time() - before, len(batch)))
        memory.keep(step, batch)
        memory.accepted.clear()
        for name, rows in step.rows.items():
            latest[name].append((rows, step.row_keys[name]))
    different = 0
    for view in views:
        online = {}
        for number, (_, keys) in enumerate(latest[view.name]):
            online |= {key: (number, place) for place, key in enumerate(keys)}
        starts = np.cumsum([0, *(len(rows) for rows, _ in latest[view.name])])
        places = [int(starts[number]) + place for _, (number, place) in sorted(online.items())]
        rows = pa.concat_tables([rows for rows, _ in latest[view.name]]).take(pa.array(places))
        history = newest_rows(view, batch_rows(view, events))
        different += (
            0
            if rows.equals(history)
            else sum(a != b for a, b in zip(rows.to_pylist(), history.to_pylist(), strict=True))
        )
    timed = seconds[len(seconds) // 2 :]
    found = {
        "machine": platform.processor() or platform.machine(),
        "events": len(events),
        "batch": options.batch,
        "late": options.late,
        "events_per_cpu_s": round(sum(n for _, n in timed) / sum(s for s, _ in timed)),
        "state_bytes": {
            name: {
                "keys": len(kept),
                "bytes_a_key": round(sum(map(len, kept.values())) / len(kept)),
            }
            for name, kept in sorted(memory.kept.items())
        },
        "different": different,
    }
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
