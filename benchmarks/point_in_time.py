"""What does a point-in-time join cost, from Parquet to Parquet? Ours and Feast's DuckDB store,
polars, and the floor of reading and writing.

The workload: 200k users with 18 feature rows each (10 numbers, 90 days to live), items with one to
five snapshots of two lists of six, 2 % of feature rows tied in time and told apart by created time;
entity rows ask for random users and items at random times.

    python benchmarks/point_in_time.py --rows 1000000 --items 1000000 --json -
    python benchmarks/point_in_time.py --rows 1000000 --items 1000000 --again --json -
    python benchmarks/point_in_time.py --rows 10000000 --items 1000000 --without feast_duckdb \\
        --json -
    python benchmarks/point_in_time.py --stream 100000000 --items 1000000 --json -
    python benchmarks/point_in_time.py --exponents --json -
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _measure import apart, measured, peak_rss_bytes, write_report

USERS, USER_ROWS, NUMBERS, CODES, TTL = 200_000, 18, 10, 6, timedelta(days=90)
YEAR = 365 * 86_400_000_000
UTC = pa.timestamp("us", "UTC")
SYSTEMS = ("floor", "floor_own_writer", "adc", "polars", "feast_duckdb")
KEPT = ("adc_keeping", "adc_again")
"""With `index_cache`: the join that keeps the indices, and one that finds them."""
OURS = "adc_features.store.offline_store.AsofOfflineStore"


# ---- the workload


def entity_rows(rows: int, items: int, rng: np.random.Generator, *, first: int = 0) -> pa.Table:
    return pa.table(
        {
            "row": np.arange(first, first + rows),
            "user_id": rng.integers(0, int(USERS * 1.02), rows),  # a few that nobody knows
            "item_id": rng.integers(0, int(items * 1.02), rows),
            "event_timestamp": pa.array(rng.integers(YEAR // 4, YEAR, rows)).cast(UTC),
        }
    )


def feature_rows(
    key: str, keys: np.ndarray, columns: dict[str, Any], rng: np.random.Generator
) -> pa.Table:
    at = rng.integers(0, YEAR, len(keys))
    tied = rng.random(len(keys)) < 0.02
    keys[1:][tied[1:]], at[1:][tied[1:]] = keys[:-1][tied[1:]], at[:-1][tied[1:]]
    created = at + rng.permutation(len(keys))  # no two alike: every tie has one answer
    stamps = {"event_timestamp": pa.array(at).cast(UTC), "created": pa.array(created).cast(UTC)}
    return pa.table({key: keys, **stamps, **columns})


def write_workload(
    folder: Path, rows: int, items: int, user_rows: int = USER_ROWS, snapshots: int = 5
) -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, USERS, USERS * user_rows)
    numbers = {f"n{i}": rng.random(len(users)) for i in range(NUMBERS)}
    pq.write_table(
        feature_rows("user_id", users, numbers, rng),
        folder / "user.parquet",
        row_group_size=1 << 19,
    )
    item = np.repeat(np.arange(items), rng.integers(1, snapshots + 1, items))
    offsets = pa.array(np.arange(len(item) + 1, dtype=np.int32) * CODES)
    lists = {
        "sid": pa.ListArray.from_arrays(
            offsets, pa.array(rng.integers(0, 100, len(item) * CODES).astype(np.int32))
        ),
        "sid_weight": pa.ListArray.from_arrays(
            offsets, pa.array(rng.random(len(item) * CODES).astype(np.float32))
        ),
    }
    pq.write_table(
        feature_rows("item_id", item, lists, rng), folder / "item.parquet", row_group_size=1 << 19
    )
    pq.write_table(entity_rows(rows, items, rng), folder / "entity.parquet", row_group_size=1 << 19)


def feature_store(
    folder: Path, kind: str, *, views: int = 1, **settings: Any
) -> tuple[Any, list[str]]:
    """A Feast store over the workload and the features to ask for; `views` copies of the
    user view. settings: of the offline store.
    """
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Array, Float32, Float64, Int32, Int64

    def view(name: str, file: str, entity: Any, schema: list[Any], ttl: timedelta) -> Any:
        source = FileSource(
            name=name,
            path=str(folder / file),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        )
        key = Field(name=f"{entity.name}_id", dtype=Int64)
        return FeatureView(
            name=name, entities=[entity], schema=[key, *schema], source=source, ttl=ttl
        )

    user, item = (
        Entity(name=n, join_keys=[f"{n}_id"], value_type=ValueType.INT64) for n in ("user", "item")
    )
    numbers = [Field(name=f"n{i}", dtype=Float64) for i in range(NUMBERS)]
    lists = [Field(name="sid", dtype=Array(Int32)), Field(name="sid_weight", dtype=Array(Float32))]
    users = [view(f"user_{i}", "user.parquet", user, numbers, TTL) for i in range(views)]
    config = RepoConfig(
        project="join",
        provider="local",
        registry=str(folder / f"registry_{kind.rsplit('.', 1)[-1]}_{views}.db"),
        offline_store={"type": kind, **settings},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([user, item, *users, view("item", "item.parquet", item, lists, timedelta(0))])
    return store, [f"{v.name}:{f.name}" for v in users for f in numbers] + [
        f"item:{f.name}" for f in lists
    ]


# ---- the systems: each reads the Parquet files and writes one


def adc(folder: Path, out: Path, **settings: Any) -> Callable[[], int]:
    """Entity rows of one batch are given as a table, more as the file, which the store streams."""
    from pyarrow.dataset import dataset

    from adc_features.store import write_parquet
    from adc_features.store.join.engine import BATCH_ROWS

    store, features = feature_store(folder, OURS, **settings)
    entity = folder / "entity.parquet"

    def work() -> int:
        frame = (
            pq.read_table(entity, memory_map=True)
            if pq.read_metadata(entity).num_rows <= BATCH_ROWS
            else dataset(entity)
        )
        return write_parquet(store.get_historical_features(frame, features).to_batches(), out)

    return work


def adc_again(folder: Path, out: Path) -> Callable[[], int]:
    """The same, with the indices that a join before it has kept."""
    return adc(folder, out, index_cache={"path": str(folder / "indices")})


def adc_keeping(folder: Path, out: Path) -> Callable[[], int]:
    """The same, where no index is kept yet: what keeping it costs besides."""
    shutil.rmtree(folder / "indices", ignore_errors=True)
    return adc_again(folder, out)


def feast_duckdb(folder: Path, out: Path) -> Callable[[], int]:
    store, features = feature_store(folder, "duckdb")

    def work() -> int:
        table = store.get_historical_features(
            pq.read_table(folder / "entity.parquet", memory_map=True).to_pandas(), features
        ).to_arrow()
        pq.write_table(table, out)
        return len(table)

    return work


def polars(folder: Path, out: Path) -> Callable[[], int]:
    import polars as pl

    def side(file: str) -> Any:
        return pl.scan_parquet(folder / file).sort("event_timestamp", "created").drop("created")

    def work() -> int:
        frame = pl.scan_parquet(folder / "entity.parquet").sort("event_timestamp")
        joined = frame.join_asof(
            side("user.parquet"),
            on="event_timestamp",
            by="user_id",
            tolerance=TTL,
            check_sortedness=False,
        )
        joined = joined.join_asof(
            side("item.parquet"), on="event_timestamp", by="item_id", check_sortedness=False
        )
        table = joined.collect(engine="streaming").sort("row")
        table.write_parquet(out)
        return len(table)

    return work


def floor(folder: Path, out: Path, *, own_writer: bool = False) -> Callable[[], int]:
    """Decode every input column once, encode the rows of an output that ours wrote; reading that
    output is not counted.

    Row group by row group out of mapped files: whole tables spend most of their time on fresh
    memory, which a join need not touch. The encoder is pyarrow's as it comes, a million rows at
    once, or with own_writer the one that ours uses.
    """
    import time

    from adc_features.store import write_parquet

    def work() -> int:
        uncounted, unseen = 0.0, 0.0

        def rows() -> Iterator[pa.Table]:
            nonlocal uncounted, unseen
            with pq.ParquetFile(folder / "adc.parquet") as source:
                for first in range(0, source.num_row_groups, 4):
                    start, began = time.process_time(), time.perf_counter()
                    table = source.read_row_groups(
                        range(first, min(first + 4, source.num_row_groups))
                    )
                    uncounted += time.process_time() - start
                    unseen += time.perf_counter() - began
                    yield table

        for name in ("entity", "user", "item"):
            with pq.ParquetFile(folder / f"{name}.parquet", memory_map=True) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
        if own_writer:
            written = write_parquet(rows(), out)
        else:
            written = 0
            with pq.ParquetWriter(out, pq.read_schema(folder / "adc.parquet")) as writer:
                for table in rows():
                    writer.write_table(table)
                    written += len(table)
        work.uncounted = (uncounted, unseen)  # type: ignore[attr-defined]
        return written

    return work


def floor_own_writer(folder: Path, out: Path) -> Callable[[], int]:
    """The floor with the encoder that ours uses."""
    return floor(folder, out, own_writer=True)


def run(system: str, folder: str) -> dict[str, float]:
    """One system once, in this process:
    everything imported and declared before the clock starts.
    """
    import pyarrow.dataset  # noqa: F401  (pandas with it: not part of anybody's join)

    work = globals()[system](Path(folder), Path(folder) / f"{system}.parquet")
    bare = peak_rss_bytes()
    facts = measured(work)
    cpu, wall = getattr(work, "uncounted", (0.0, 0.0))
    facts["cpu_s"] -= cpu
    facts["wall_s"] -= wall
    return {**facts, "peak_rss_bytes": facts["peak_rss_bytes"] - bare}


# ---- questions


def compare(rows: int, items: int, systems: list[str], repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        apart(write_workload, Path(folder), rows, items)
        apart(run, "adc", folder)  # the floor writes what this wrote
        runs: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for _ in range(repeats):
            for system in systems:
                runs[system].append(apart(run, system, folder))
        medians = {
            s: {
                **{key: statistics.median(r[key] for r in found) for key in found[0]},
                "least_cpu_s": min(r["cpu_s"] for r in found),
            }
            for s, found in runs.items()
        }
        agree = all(
            apart(same_rows, Path(folder) / "adc.parquet", Path(folder) / f"{s}.parquet")
            for s in systems
            if s != "adc" and not s.startswith("floor")
        )
    return {"systems": medians, "agree": agree}


def same_rows(ours: Path, theirs: Path) -> bool:
    """The same values for every row, whatever the order and the width of lists."""
    names = pq.read_schema(ours).names
    for name in names:
        columns = []
        for path in (ours, theirs):
            table = pq.read_table(path, columns=list(dict.fromkeys(["row", name])))
            columns.append(table.take(pa.array(np.argsort(table["row"].to_numpy())))[name])
        if columns[0].cast(columns[1].type) != columns[1]:
            return False
    return True


def stream(path: str, rows: int, items: int, batch: int = 1 << 20) -> dict[str, float]:
    """Entity rows made, joined and dropped batch by batch: nothing is as long as the frame."""
    from adc_features.store.join.engine import PreparedView, joined_batches
    from adc_features.store.offline.views import view_sources

    folder = Path(path)
    store, features = feature_store(folder, OURS)
    bare = peak_rss_bytes()
    making = [0.0]

    def entity() -> Iterator[pa.Table]:
        import time

        rng = np.random.default_rng(1)
        for first in range(0, rows, batch):
            start = time.process_time()
            table = entity_rows(min(batch, rows - first), items, rng, first=first)
            making[0] += time.process_time() - start
            yield table

    def work() -> int:
        sources = view_sources(
            store.config, store.list_feature_views(), features, full_feature_names=False
        )
        views = [PreparedView(source) for source in sources]
        return sum(
            len(joined) for joined in joined_batches(entity(), views, time="event_timestamp")
        )

    facts = measured(work)
    return {
        **facts,
        "cpu_s": facts["cpu_s"] - making[0],
        "peak_rss_bytes": facts["peak_rss_bytes"] - bare,
        "us_per_row": (facts["cpu_s"] - making[0]) / rows * 1e6,
    }


def join_only(folder: str, views: int) -> dict[str, float]:
    from adc_features.store.join.engine import PreparedView, joined_batches
    from adc_features.store.offline.views import view_sources

    store, features = feature_store(Path(folder), OURS, views=views)
    entity = pq.read_table(Path(folder) / "entity.parquet")
    sources = view_sources(
        store.config, store.list_feature_views(), features, full_feature_names=True
    )

    def work() -> int:
        return sum(
            len(t)
            for t in joined_batches(
                [entity], [PreparedView(source) for source in sources], time="event_timestamp"
            )
        )

    return measured(work)


def exponents(items: int) -> dict[str, Any]:
    """How CPU time grows when one size grows by four: the slope in log-log; 1 is linear. Rows: the
    margin beyond preparing the views.
    """
    base = {"rows": 500_000, "user_rows": 8, "views": 1, "snapshots": 4}
    found: dict[str, Any] = {}
    for name, least in base.items():
        points = []
        for factor in (1, 2, 4):
            sizes = {**base, name: least * factor}
            with tempfile.TemporaryDirectory() as folder:
                apart(
                    write_workload,
                    Path(folder),
                    sizes["rows"],
                    items,
                    sizes["user_rows"],
                    sizes["snapshots"],
                )
                points.append(
                    (
                        sizes[name],
                        statistics.median(
                            apart(join_only, folder, sizes["views"])["cpu_s"] for _ in range(3)
                        ),
                    )
                )
        (x0, y0), (x1, y1) = points[0], points[-1]
        found[name] = {"points": points, "exponent": float(np.log(y1 / y0) / np.log(x1 / x0))}
        if name == "rows":
            found[name]["us_per_row_at_the_margin"] = (y1 - y0) / (x1 - x0) * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=SYSTEMS[3:],
        help="leave a system out; Feast's DuckDB store needs 5 GB at 1M rows",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="our join once more on the same features, with kept indices, beside the floor and the"
        " first join; without the other systems",
    )
    parser.add_argument(
        "--stream",
        type=int,
        metavar="ROWS",
        help="stream this many generated rows through our join instead",
    )
    parser.add_argument(
        "--exponents",
        action="store_true",
        help="how the cost grows with rows, feature rows, views and snapshots instead",
    )
    parser.add_argument("--json", default="-")
    args = parser.parse_args()
    if args.stream:
        with tempfile.TemporaryDirectory() as folder:
            apart(write_workload, Path(folder), 1, args.items)
            facts = apart(stream, folder, args.stream, args.items)
        write_report(args.json, systems={"adc": facts}, ratios={})
    elif args.exponents:
        write_report(args.json, systems={}, ratios={}, exponents=exponents(args.items))
    else:
        asked = (*SYSTEMS[1:3], *KEPT) if args.again else SYSTEMS
        found = compare(
            args.rows, args.items, [s for s in asked if s not in args.without], args.repeats
        )
        systems = found["systems"]
        ratios = {
            f"adc_cpu_over_{s}": systems["adc"]["cpu_s"] / systems[s]["cpu_s"]
            for s in systems
            if s != "adc"
        }
        ratios |= {
            f"{s}_{fact}_over_floor_own_writer": systems[s][fact]
            / systems["floor_own_writer"][fact]
            for s in systems
            for fact in ("cpu_s", "least_cpu_s", "wall_s")
            if s.startswith("adc")
        }
        ratios |= {
            f"adc_memory_over_{s}": systems["adc"]["peak_rss_bytes"] / systems[s]["peak_rss_bytes"]
            for s in systems
            if s != "adc"
        }
        write_report(
            args.json,
            systems=systems,
            ratios=ratios,
            agree=found["agree"],
            rows=args.rows,
            items=args.items,
        )


if __name__ == "__main__":
    main()
