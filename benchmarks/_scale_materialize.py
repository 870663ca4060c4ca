"""How many rows a CPU second does a materialization move into LMDB and into Redis, and how many
does Feast's own? Reads: generated rows, a Redis server of its own. Writes: numbers.

    python benchmarks/_scale_materialize.py --keys 100000

Three rows a key, from Parquet: an integer id, lists of 6 int32 and 6 float32, two numbers. Counted
are the rows that are read; every key must be there afterwards. `from_spark`: our store on Spark
reads them; its processes count too. Feast's own engine (DuckDB, its local engine, its Redis store)
gets a tenth of the keys: its rate does not depend on their number, its time does. The CPU of the
Redis server, the same for all, is not counted.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from _measure import apart, tree
from _scale_join import ON_SPARK, SPARK_CONF
from materialize import NOW, OURS, SQLITE, piece, repository

sys.path.append(str(Path(__file__).parents[1] / "docs/servers"))
import start

ROWS = 3
PIECE = 500_000


def source(path: str, keys: int) -> None:
    """`ROWS` rows of each key, an hour apart."""
    with pq.ParquetWriter(path, piece(0, 1).schema) as writer:
        for start_key in range(0, keys, PIECE):
            rows = piece(start_key, min(PIECE, keys - start_key))
            place = rows.column_names.index("event_timestamp")
            for hours in range(ROWS):
                time = pa.array([NOW - timedelta(hours=hours)] * len(rows))
                writer.write_table(
                    rows.set_column(place, "event_timestamp", time.cast(rows.schema.types[place]))
                )


def materialized(directory: str, path: str, stores: dict[str, Any], keys: int) -> dict[str, Any]:
    """What a materialization costs; every key must be found afterwards."""
    store = repository(Path(directory), Path(path), stores)

    def work() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            store.materialize(NOW - timedelta(days=1), NOW)

    with tree() as cost:
        work()
    found = 0
    for begin in range(0, keys, 10_000):
        ids = list(range(begin, min(keys, begin + 10_000)))
        values = store.get_online_features(["items:events"], {"item_id": ids}).to_dict()["events"]
        found += sum(value is not None for value in values)
    if found != keys:
        raise RuntimeError(f"{keys} keys in, {found} found: the figures are void")
    return {**cost, "rows": keys * ROWS, "rows_per_cpu_s": keys * ROWS / cost["cpu_s"]}


def measure(directory: Path, *, keys: int) -> dict[str, dict[str, Any]]:
    """Of LMDB and Redis by our engine, in one process and from Spark, and of Redis by Feast's:
    rates, CPU seconds, peak memory.
    """
    directory, few = Path(directory), max(1, keys // 10)
    names = ("lmdb", "lmdb_from_spark", "redis", "redis_from_spark", "feast_redis")
    on_spark = OURS | {"offline_store": {"type": ON_SPARK, "spark_conf": SPARK_CONF}}
    for name in (*names, "rows"):
        (directory / name).mkdir()
    all_rows, few_rows = (str(directory / "rows" / name) for name in ("all.parquet", "few.parquet"))
    apart(source, all_rows, keys)
    apart(source, few_rows, few)
    found = {
        name: apart(materialized, str(directory / name), all_rows, stores, keys)
        for name, stores in (("lmdb", OURS), ("lmdb_from_spark", on_spark))
    }
    for name, base, path, count in (
        ("redis", OURS, all_rows, keys),
        ("redis_from_spark", on_spark, all_rows, keys),
        ("feast_redis", SQLITE, few_rows, few),
    ):
        with start.redis() as server:
            address = f"{server['ADC_REDIS_HOST']}:{server['ADC_REDIS_PORT']}"
            stores = base | {"online_store": {"type": "redis", "connection_string": address}}
            found[name] = apart(materialized, str(directory / name), path, stores, count)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--keys", type=int, default=100_000)
    with tempfile.TemporaryDirectory(prefix="adc-materialize-") as scratch:
        found = measure(Path(scratch), keys=arguments.parse_args().keys)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
