"""Changes to the feed of `feed_world`: its definitions, its label log. Reads, writes: the folder of
its repository.
"""

import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feed_world import START


def apply(folder: Path) -> None:
    """As `feast apply` does."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView

    found = runpy.run_path(str(folder / "definitions.py")).values()
    kinds = (Entity, FeatureView, FeatureService)
    FeatureStore(repo_path=str(folder)).apply([f for f in found if isinstance(f, kinds)])


def redefine(folder: Path, old: str, new: str) -> None:
    """Change the definitions and apply them."""
    path = folder / "definitions.py"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    apply(folder)


def changed_log(folder: Path, **columns: object) -> Path:
    """The label log with some of its columns replaced."""
    log = pq.read_table(folder / "events.parquet")
    for name, values in columns.items():
        log = log.set_column(log.column_names.index(name), name, pa.array(values))
    pq.write_table(log, folder / "newer.parquet")
    return folder / "newer.parquet"


def with_new_customers(folder: Path) -> Path:
    """From the 26th day on, a tenth of the requests are those of customers not seen before."""
    log = pq.read_table(folder / "events.parquet")
    request = np.array([int(r[1:]) for r in log["request_id"].to_pylist()])
    new = (request % 10 == 0) & (days(folder) >= 26)
    customers = np.array(log["customer_id"].to_pylist(), dtype=object)
    customers[new] = [f"n{n % 4}" for n in request[new] // 10]
    return changed_log(folder, customer_id=customers.tolist())


def days(folder: Path) -> np.ndarray:
    """Days of each row of the log since the beginning, float64 [N]."""
    times = pq.read_table(folder / "events.parquet")["event_timestamp"].to_numpy()
    return (times - np.datetime64(START.replace(tzinfo=None))) / np.timedelta64(1, "D")
