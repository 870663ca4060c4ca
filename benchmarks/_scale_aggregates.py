"""What do aggregates cost over a history that memory does not hold? Reads: generated events.
Writes: numbers.

    python benchmarks/_scale_aggregates.py --events 4000000

`user_activity`, the statistics of users with six lists of the last 20 events, over 120 days of
generated events, 20 a user on average and few items popular: from Parquet to Parquet, in a process
of its own. Events in must be events that were counted, and the rows of some users, taken at random,
must equal those of their events alone in every column that does not ask other keys.
"""

import argparse
import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from _measure import apart, measured

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import AggregateView
from adc_features.aggregates.events import Events
from adc_features.aggregates.partitioned import write_rows
from adc_features.data.statistics_views import interaction_stream, user_activity_view

PIECE = 1_000_000
DAYS = 120
BEGIN = 1_700_000_000_000_000
CHECKED = 200


def view() -> AggregateView:
    return user_activity_view(interaction_stream(resolution=timedelta(microseconds=1), rating=5.0))


def ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    """Text ids of whole numbers."""
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 8, padding="0")
    return pc.binary_join_element_wise(prefix, text, "")


def piece(start: int, rows: int, events: int) -> pa.Table:
    """Events number `start` and on; their times grow with the number, but not strictly."""
    rng = np.random.default_rng(start)
    users = max(1, events // 20)
    item = (max(1, users // 5) * rng.random(rows) ** 3).astype(np.int64)
    step = DAYS * 86_400_000_000 / events
    times = BEGIN + ((start + rng.integers(0, rows, rows)) * step).astype(np.int64)
    return pa.table(
        {
            "user_id": ids("user-", (users * rng.random(rows) ** 2).astype(np.int64)),
            "item_id": ids("item-", item),
            "brand": ids("brand ", item % 500),
            "category": ids("category ", item % 50),
            "path": ids("path ", item % 300),
            "label": rng.integers(0, 2, rows).astype(np.float64),
            "rating": rng.integers(1, 6, rows).astype(np.float64),
            "time": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
        }
    )


def generate(path: str, events: int) -> None:
    """A Parquet file of events, written in pieces."""
    with pq.ParquetWriter(path, piece(0, 1, events).schema) as writer:
        for start in range(0, events, PIECE):
            writer.write_table(piece(start, min(PIECE, events - start), events))


def aggregated(source: str, target: str, events: int, memory: int) -> dict[str, Any]:
    """What `write_rows` costs."""

    def work() -> int:
        return write_rows(view(), [Path(source)], Path(target), memory=memory)

    return {**measured(work), "events": events}


def different(source: str, target: str, users: int) -> int:
    """Of some users: how many rows differ, in the columns that other keys say nothing about, from
    those of their events alone.
    """
    rng = np.random.default_rng(0)
    some = pc.unique(ids("user-", (users * rng.random(CHECKED) ** 2).astype(np.int64)))
    few = ds.dataset(source).to_table(filter=pc.field("user_id").isin(some))
    declared = view()
    rows = batch_rows(declared, Events.of(declared.stream, few))
    got = ds.dataset([str(p) for p in sorted((Path(target) / "rows").glob("*.parquet"))]).to_table(
        filter=pc.field("user_id").isin(some)
    )
    own = [n for n in rows.column_names if "mean" not in n and "residual" not in n]
    order = [("user_id", "ascending"), ("event_timestamp", "ascending")]
    rows, got = rows.select(own).sort_by(order), got.select(own).sort_by(order)
    if len(rows) != len(got):
        return abs(len(rows) - len(got))
    return sum(a != b for a, b in zip(rows.to_pylist(), got.to_pylist(), strict=True))


def measure(directory: Path, *, events: int, memory: int = 2 << 30) -> dict[str, Any]:
    """CPU seconds and peak memory of a history of so many events; void where counts differ."""
    source, target = Path(directory) / "events.parquet", Path(directory) / "user_activity"
    apart(generate, str(source), events)
    found = apart(aggregated, str(source), str(target), events, memory)
    counted = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["events"]
    if counted != events:
        raise RuntimeError(f"{events} events in, {counted} counted: the figures are void")
    if wrong := apart(different, str(source), str(target), max(1, events // 20)):
        raise RuntimeError(f"{wrong} rows differ from those of their events: the figures are void")
    size = sum(f.stat().st_size for f in (target / "rows").glob("*.parquet"))
    return {
        "events": events,
        "cpu_s": found["cpu_s"],
        "wall_s": found["wall_s"],
        "peak_rss_bytes": found["peak_rss_bytes"],
        "rows": found["rows"],
        "bytes_a_row": size / found["rows"],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--events", type=int, default=4_000_000)
    arguments.add_argument("--memory", type=int, default=2 << 30, help="bytes")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="adc-aggregates-") as scratch:
        found = measure(Path(scratch), events=asked.events, memory=asked.memory)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
