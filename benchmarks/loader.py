"""How many rows a CPU second reach torch, 12 scalars and two lists of 6?
Reads: nothing. Writes: JSON.

    python benchmarks/loader.py --rows 1000000 --json -

Systems, each in a process of its own, batches of 4,096, one epoch after a warm-up of imports:
`adc_parquet` streams the frame's row groups, shuffled; `adc_memory` the same from a table in
memory; `adc_late` reads 12 scalars, item and time from Parquet and gathers the codes of 100,000
items from four snapshots; `pandas` is the peer: the frame read by pandas, lists stacked, a
TensorDataset in a plain shuffling DataLoader. CPU seconds include reading.
"""

import argparse
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import apart, measured, write_report

BATCH, LENGTH, ITEMS, GROUP = 4_096, 6, 100_000, 131_072
SCALARS = tuple(f"x{i}" for i in range(12))
START = datetime(2026, 1, 1, tzinfo=UTC)
LISTS = {"sid": LENGTH, "sid_weight": LENGTH}


def write_frame(directory: Path, rows: int) -> None:
    """frame.parquet, and labels.parquet without its lists."""
    rng = np.random.default_rng(0)
    columns = {name: pa.array(rng.random(rows, np.float32)) for name in SCALARS}
    item = rng.integers(0, ITEMS, rows)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * LENGTH)
    codes, weights = (
        rng.integers(0, 100, rows * LENGTH, np.int32),
        rng.random(rows * LENGTH, np.float32),
    )
    lists = {
        "sid": pa.ListArray.from_arrays(offsets, pa.array(codes)),
        "sid_weight": pa.ListArray.from_arrays(offsets, pa.array(weights)),
    }
    pq.write_table(pa.table(columns | lists), directory / "frame.parquet", row_group_size=GROUP)
    times = pa.array(
        rng.integers(0, 40 * 86_400_000_000, rows) + int(START.timestamp() * 1e6)
    ).cast(pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table(columns | {"item_id": item, "event_timestamp": times}),
        directory / "labels.parquet",
        row_group_size=GROUP,
    )


def adc(directory: Path, kind: str) -> dict[str, float]:
    import torch

    from adc_features.codes.sids import SidTable, SidTimeline
    from adc_features.loader.batches import Columns, Order
    from adc_features.loader.row_groups import CodedGroups, ParquetGroups, RowGroups, TableGroups
    from adc_features.loader.torch_batches import TrainingLoader

    torch.set_num_threads(1)
    source: RowGroups
    if kind == "late":
        n, tables = np.arange(ITEMS), []
        for s in range(4):
            sid = np.stack([(n * (place + 3) + s) % 100 for place in range(LENGTH)], axis=1).astype(
                np.int32
            )
            ones = np.ones(ITEMS, np.float32)
            whole, count = np.ones(ITEMS, bool), np.ones(ITEMS, np.int32)
            tables.append(
                SidTable(
                    n,
                    sid,
                    np.ones((ITEMS, LENGTH), np.float32),
                    ones,
                    ones,
                    ~whole,
                    count,
                    whole,
                    "g1",
                    100,
                    START + timedelta(days=10 * s),
                )
            )
        source = CodedGroups(
            ParquetGroups(directory / "labels.parquet"),
            SidTimeline(tables, [t.as_of for t in tables]),
        )
    elif kind == "memory":
        source = TableGroups(pq.read_table(directory / "frame.parquet"), group_rows=GROUP)
    else:
        source = ParquetGroups(directory / "frame.parquet")
    loader = TrainingLoader(source, Columns(SCALARS, LISTS, codes=("sid",)), Order(BATCH))
    return measured(lambda: sum(len(batch["x0"]) for batch in loader))


def pandas(directory: Path) -> dict[str, float]:
    import pandas as pd
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)

    def work() -> int:
        frame = pd.read_parquet(directory / "frame.parquet")
        tensors = [torch.from_numpy(frame[name].to_numpy()) for name in SCALARS] + [
            torch.from_numpy(np.stack(frame[name].to_numpy())) for name in LISTS
        ]
        loader = DataLoader(TensorDataset(*tensors), batch_size=BATCH, shuffle=True)
        return sum(len(batch[0]) for batch in loader)

    return measured(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        write_frame(directory, asked.rows)
        for _ in range(asked.repeats):
            for kind in ("parquet", "memory", "late"):
                runs.setdefault(f"adc_{kind}", []).append(apart(adc, directory, kind))
            runs.setdefault("pandas", []).append(apart(pandas, directory))
    systems = {
        name: {key: median(run[key] for run in all_runs) for key in all_runs[0]}
        for name, all_runs in runs.items()
    }
    for system in systems.values():
        system["rows_per_cpu_s"] = system["rows"] / system["cpu_s"]
    ratios = {
        f"{name}_rows_per_cpu_s_over_pandas": (
            s["rows_per_cpu_s"] / systems["pandas"]["rows_per_cpu_s"]
        )
        for name, s in systems.items()
        if name != "pandas"
    }
    write_report(
        asked.json,
        systems=systems,
        ratios=ratios,
        rows=asked.rows,
        scalars=len(SCALARS),
        lists=LISTS,
        batch=BATCH,
    )


if __name__ == "__main__":
    main()
