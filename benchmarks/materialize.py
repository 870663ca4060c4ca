"""How many rows a CPU second does `feast materialize`
move into an online store, and in how much memory?

Feast's own way (DuckDB, its engine, SQLite) against ours (as-of store, Arrow engine, LMDB); beside
them the same load from an Arrow table without Feast, and a second materialization over what is
there. Rows: an integer id, lists of 6 int32 and 6 float32, two numbers.

    python benchmarks/materialize.py --items 1000000 --sqlite-items 100000 --json materialize.json
"""

import argparse
import contextlib
import io
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import apart, measured, write_report

NOW = datetime(2024, 1, 1, tzinfo=UTC)
PIECE = 1_000_000
SQLITE = {
    "offline_store": {"type": "duckdb"},
    "online_store": {"type": "sqlite", "path": "online.db"},
}
OURS = {
    "offline_store": {"type": "adc_features.store.offline_store.AsofOfflineStore"},
    "online_store": {"type": "adc_features.store.online_store.LmdbOnlineStore", "path": "online"},
    "batch_engine": {"type": "adc_features.store.compute_engine.ArrowComputeEngine"},
}


def piece(start: int, n: int) -> pa.Table:
    rng = np.random.default_rng(start)
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * 6)
    return pa.table(
        {
            "item_id": pa.array(rng.permutation(n) + start),
            "sid": pa.ListArray.from_arrays(
                offsets, pa.array(rng.integers(0, 100, 6 * n, dtype=np.int32))
            ),
            "sid_weight": pa.ListArray.from_arrays(
                offsets, pa.array(rng.random(6 * n, dtype=np.float32))
            ),
            "score": pa.array(rng.random(n, dtype=np.float32)),
            "events": pa.array(rng.integers(0, 1000, n)),
            "event_timestamp": pa.array(
                np.full(n, np.datetime64(NOW.replace(tzinfo=None), "us")),
                pa.timestamp("us", tz="UTC"),
            ),
        }
    )


def source(directory: Path, items: int) -> Path:
    path = directory / "rows.parquet"
    with pq.ParquetWriter(path, piece(0, 1).schema) as writer:
        for start in range(0, items, PIECE):
            writer.write_table(piece(start, min(PIECE, items - start)))
    return path


def repository(directory: Path, path: Path, stores: dict[str, Any]) -> Any:
    from adc_features.store import _compat as feast

    settings = {
        "project": "bench",
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{directory}/registry.db"},
        "materialization": {"pull_latest_features": True, "online_write_batch_size": 10_000},
        "entity_key_serialization_version": 3,
        **stores,
    }
    store = feast.FeatureStore(
        repo_path=str(directory), config=feast.RepoConfig(**settings, repo_path=directory)
    )
    item = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.INT64)
    types = {
        "item_id": feast.Int64,
        "sid": feast.Array(feast.Int32),
        "sid_weight": feast.Array(feast.Float32),
        "score": feast.Float32,
        "events": feast.Int64,
    }
    rows = feast.FileSource(
        name="rows",
        path=str(path),
        file_format=feast.ParquetFormat(),
        timestamp_field="event_timestamp",
    )
    view = feast.FeatureView(
        name="items",
        entities=[item],
        schema=[feast.Field(name=name, dtype=kind) for name, kind in types.items()],
        source=rows,
        ttl=timedelta(0),
    )
    store.apply([item, view])
    return store


def materialized(directory: str, path: str, stores: dict[str, Any], items: int) -> dict[str, float]:
    store = repository(Path(directory), Path(path), stores)

    def work() -> int:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            store.materialize(NOW - timedelta(days=1), NOW)
        return items

    facts = measured(work)
    last = store.get_online_features(
        ["items:events"], {"item_id": [0, items - 1, items]}
    ).to_dict()["events"]
    assert [value is None for value in last] == [False, False, True]
    return {**facts, "rows_per_cpu_s": items / facts["cpu_s"]}


def bulk_load(directory: str, path: str, items: int) -> dict[str, float]:
    store = repository(Path(directory), Path(path), OURS)
    online, view, table = (
        store._get_provider().online_store,
        store.get_feature_view("items"),
        pq.read_table(path),
    )
    facts = measured(lambda: online.write_arrow(store.config, view, table, event="event_timestamp"))
    return {**facts, "rows_per_cpu_s": items / facts["cpu_s"]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--items", type=int, default=1_000_000)
    arguments.add_argument(
        "--sqlite-items",
        type=int,
        default=100_000,
        help="fewer: its rate does not depend on the number, its time does",
    )
    arguments.add_argument("--json", default="-", metavar="FILE|-")
    asked = arguments.parse_args()
    systems: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="adc-materialize-") as scratch:
        folders = {
            name: Path(scratch) / name
            for name in ("rows", "few", "feast_sqlite", "feast_adc", "bulk_load")
        }
        for folder in folders.values():
            folder.mkdir()
        rows, few = (
            str(source(folders["rows"], asked.items)),
            str(source(folders["few"], asked.sqlite_items)),
        )
        systems["feast_adc"] = apart(
            materialized, str(folders["feast_adc"]), rows, OURS, asked.items
        )
        systems["feast_adc_again"] = apart(
            materialized, str(folders["feast_adc"]), rows, OURS, asked.items
        )
        systems["bulk_load"] = apart(bulk_load, str(folders["bulk_load"]), rows, asked.items)
        systems["feast_sqlite"] = apart(
            materialized, str(folders["feast_sqlite"]), few, SQLITE, asked.sqlite_items
        )
        size = sum(file.stat().st_size for file in folders["bulk_load"].glob("online/data.mdb"))
    rate = {name: facts["rows_per_cpu_s"] for name, facts in systems.items()}
    ratios = {"feast_adc_over_feast_sqlite": rate["feast_adc"] / rate["feast_sqlite"]}
    write_report(
        asked.json,
        systems=systems,
        ratios=ratios,
        items=asked.items,
        sqlite_items=asked.sqlite_items,
        bytes_per_item=size / asked.items,
    )


if __name__ == "__main__":
    main()
