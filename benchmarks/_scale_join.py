"""A point-in-time join of the workload of point_in_time.py on Spark, from Parquet to Parquet, for
`scale.py`.

    python benchmarks/_scale_join.py --rows 100000 --without-feast

`adc_spark`: our store over Feast's Spark sources, paths whose files the tasks read themselves;
`adc_spark_query`: the same over queries, whose rows Spark reads; `adc_spark_files`: over file
sources; `feast_spark`: Feast's own Spark store; `adc`: AsofOfflineStore in one process. Each runs
in a process of its own on two cores, and its CPU seconds and memory are those of the process and of
all that it started: Java's start and the workers' imports count, Feast's import and the registry do
not. Rows out must be rows in. `equal`: ours on Spark, order included, have the values of the one
process.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from _measure import tree
from point_in_time import NUMBERS, TTL, feature_store, write_workload

FILES_CONF = {"spark.sql.codegen.wholeStage": "false"}
"""Over files Java only passes pieces on."""
ON_SPARK = "adc_features.store.spark.SparkAsofOfflineStore"
SPARK_CONF = {
    "spark.master": "local[2]",
    "spark.ui.enabled": "false",
    "spark.log.level": "ERROR",
    "spark.driver.memory": "2g",
    # a short job: most of what Java would compile again, and better, has run by then
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.adaptive.enabled": "false",
    "spark.shuffle.compress": "false",  # features are numbers that hardly get smaller
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.session.timeZone": "UTC",
}


def measure(
    directory: Path, *, rows: int, items: int | None = None, with_feast: bool = True
) -> dict[str, Any]:
    """What each system costs, and whether the answers are the same."""
    directory.mkdir(exist_ok=True, parents=True)
    write_workload(directory, rows, items or rows)
    on_spark = ["adc_spark", "adc_spark_query", "adc_spark_files"]
    systems = ["adc", *on_spark, *(["feast_spark"] if with_feast else [])]
    found = {system: in_its_process(system, directory) for system in systems}
    for system, facts in found.items():
        if facts["rows"] != rows:
            raise RuntimeError(f"{system} gave {facts['rows']} rows for {rows}")
    ours = [directory / f"{name}.parquet" for name in on_spark]
    equal = all(same_table(directory / "adc.parquet", path) for path in ours)
    return {**found, "equal": equal}


def in_its_process(system: str, directory: Path) -> dict[str, Any]:
    """One system in a fresh process; an error there ends the benchmark."""
    command = [sys.executable, __file__, "--system", system, "--directory", str(directory)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(system: str, directory: Path) -> dict[str, Any]:
    """One system, once, in this process."""
    import feast  # noqa: F401  (before the clock starts)
    import pyarrow.dataset  # noqa: F401

    out = directory / f"{system}.parquet"
    work = globals()[system](directory, out)
    with tree() as cost:
        work()
    return {**cost, "rows": sum(len(part) for part in parts_of(out))}


def parts_of(path: Path) -> list[pa.Table]:
    """The files of an answer, in order."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return [pq.read_table(file) for file in files]


def same_table(ours: Path, theirs: Path) -> bool:
    """The same rows in the same order, whatever the names of lists' elements."""
    first, second = (pa.concat_tables(parts_of(path)) for path in (ours, theirs))
    return first.column_names == second.column_names and second.cast(first.schema).equals(first)


def adc(directory: Path, out: Path) -> Callable[[], Any]:
    from point_in_time import adc as one_process

    return one_process(directory, out)


def adc_spark(directory: Path, out: Path) -> Callable[[], Any]:
    store, features = spark_store(directory, {"type": ON_SPARK, "spark_conf": SPARK_CONF})
    return ours(store, features, directory, out, SPARK_CONF)


def adc_spark_query(directory: Path, out: Path) -> Callable[[], Any]:
    store, features = spark_store(
        directory, {"type": ON_SPARK, "spark_conf": SPARK_CONF}, queries=True
    )
    return ours(store, features, directory, out, SPARK_CONF)


def adc_spark_files(directory: Path, out: Path) -> Callable[[], Any]:
    store, features = feature_store(directory, ON_SPARK)
    return ours(store, features, directory, out, SPARK_CONF | FILES_CONF)


def ours(
    store: Any, features: list[str], directory: Path, out: Path, settings: dict[str, str]
) -> Callable[[], Any]:
    """The entity rows are given as their file, which the tasks read."""
    import pyarrow.dataset as ds
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
    )

    from adc_features.store.spark.session import spark_session

    def work() -> None:
        spark_session(settings)
        job = store.get_historical_features(ds.dataset(directory / "entity.parquet"), features)
        job.persist(SavedDatasetSparkStorage(path=str(out), file_format="parquet"))

    return work


def feast_spark(directory: Path, out: Path) -> Callable[[], Any]:
    # it keeps far more in memory, and leaves far more to Java: with Spark's own defaults for that
    java = {"spark.driver.extraJavaOptions": "-XX:+UseParallelGC", "spark.driver.memory": "6g"}
    defaults = {"spark.sql.adaptive.enabled": "true", "spark.shuffle.compress": "true"}
    settings = SPARK_CONF | java | defaults
    store, features = spark_store(directory, {"type": "spark", "spark_conf": settings})

    def work() -> None:
        from feast.infra.offline_stores.contrib.spark_offline_store import spark
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
            SavedDatasetSparkStorage,
        )

        session = spark.get_spark_session_or_start_new_with_repoconfig(store.config.offline_store)
        entity = session.read.parquet(str(directory / "entity.parquet"))
        job = store.get_historical_features(entity, features)
        job.persist(SavedDatasetSparkStorage(path=str(out), file_format="parquet"))

    return work


def spark_store(
    directory: Path, offline: dict[str, Any], *, queries: bool = False
) -> tuple[Any, list[str]]:
    """A Feast store over the workload whose sources are Spark's, and the features to ask for.
    queries: the sources are queries of the files, and not their paths.
    """
    from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from feast.types import Array, Float32, Float64, Int32, Int64

    def view(name: str, schema: list[Any], ttl: timedelta) -> Any:
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        file = directory / f"{name}.parquet"
        path = {"path": str(file), "file_format": "parquet"}
        source = SparkSource(
            name=name,
            **({"query": f"SELECT * FROM parquet.`{file}`"} if queries else path),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        )
        schema = [Field(name=f"{name}_id", dtype=Int64), *schema]
        made = FeatureView(name=name, entities=[entity], schema=schema, source=source, ttl=ttl)
        return [entity, made]

    numbers = [Field(name=f"n{i}", dtype=Float64) for i in range(NUMBERS)]
    lists = [Field(name="sid", dtype=Array(Int32)), Field(name="sid_weight", dtype=Array(Float32))]
    registry = f"registry_{offline['type'].rsplit('.', 1)[-1]}{'_query' if queries else ''}.db"
    config = RepoConfig(
        project="join",
        provider="local",
        registry=str(directory / registry),
        offline_store=offline,
        online_store={"type": "sqlite", "path": str(directory / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([*view("user", numbers, TTL), *view("item", lists, timedelta(0))])
    return store, [f"user:{f.name}" for f in numbers] + [f"item:{f.name}" for f in lists]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=None)
    parser.add_argument("--without-feast", action="store_true")
    parser.add_argument("--directory", type=Path, default=None, help="kept; default: a scratch one")
    parser.add_argument("--system", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.system:
        print(json.dumps(run(given.system, given.directory)))
        return
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = measure(
            given.directory or Path(scratch),
            rows=given.rows,
            items=given.items,
            with_feast=not given.without_feast,
        )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
