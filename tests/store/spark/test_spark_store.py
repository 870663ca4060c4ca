"""Feast over our store on Spark, against AsofOfflineStore on the same files."""

import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import start

from adc_features.errors import ArtifactError, InputError, MissingExtraError
from adc_features.store.parquet.sources import Declared

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ASOF = "adc_features.store.offline_store.AsofOfflineStore"
ON_SPARK = "adc_features.store.spark.SparkAsofOfflineStore"
START = datetime(2014, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", "UTC")
SHUFFLED, SENT_WHOLE = {"partitions": 3, "broadcast_bytes": 0}, {"partitions": 2}


def second(n: float) -> datetime:
    return START + timedelta(seconds=n)


def times(seconds) -> pa.Array:
    return pa.array([None if s is None else second(s) for s in seconds], UTC_US)


def some(rng, values, rows: int, *, missing: float = 0.1) -> list:
    """Random values, some of them missing."""
    chosen = rng.choice(len(values), rows)
    return [None if rng.random() < missing else values[int(place)] for place in chosen]


def clicks(rng, rows: int) -> pa.Table:
    """Few keys and times: ties of time, of created time, null keys, null and empty lists."""
    return pa.table(
        {
            "user_id": pa.array(some(rng, [1, 2, 11], rows), pa.int64()),
            "item_id": pa.array(some(rng, [12, 2, 1], rows), pa.int64()),
            "event_timestamp": times(some(rng, range(20), rows)),
            "created": times(some(rng, range(20), rows)),
            "count": pa.array(some(rng, range(99), rows), pa.int64()),
            "sid": pa.array(some(rng, [[1, 2], [3], []], rows), pa.list_(pa.int64())),
            "seen": times(some(rng, [0.5, 7.25], rows)),
        }
    )


def declared(folder: Path) -> list:
    """Views by user, by user and item, and of all, over files and over what Spark reads."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Array, Float32, Float64, Int32, Int64, String, UnixTimestamp

    user, item = (
        Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        for name in ("user", "item")
    )
    features = [
        Field(name="count", dtype=Int32),
        Field(name="sid", dtype=Array(Int32)),
        Field(name="seen", dtype=UnixTimestamp),
    ]
    keys = {name: Field(name=f"{name}_id", dtype=Int64) for name in ("user", "item")}
    stamps = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created"}
    path, where = str(folder / "clicks"), {"file_format": "parquet"}
    glob = f"{path}/*.parquet"  # which Spark reads by itself
    query = f"SELECT * FROM parquet.`{folder / 'one.parquet'}`"

    def view(name, entities, source, ttl, schema=features):
        mine = [keys[entity.name] for entity in entities]
        ttl = timedelta(seconds=ttl)
        return FeatureView(
            name=name, entities=entities, schema=[*mine, *schema], source=source, ttl=ttl
        )

    level = [Field(name="level", dtype=Float32)]
    mapped = {"u": "user_id", "when": "event_timestamp", "w": "word"}
    files = view("files", [user], FileSource(name="files", path=path, **stamps), 4)
    views = [
        files,
        view("paths", [user], SparkSource(name="paths", path=path, **where, **stamps), 4),
        view("pairs", [user, item], FileSource(name="pairs", path=path, **stamps), 0),
        view("spairs", [user, item], SparkSource(name="spairs", path=glob, **where, **stamps), 6),
        view("asked", [user], SparkSource(name="asked", query=query, **stamps), 0),
        view(
            "everyone",
            [],
            SparkSource(
                name="everyone",
                path=str(folder / "everyone.parquet"),
                timestamp_field="event_timestamp",
                **where,
            ),
            0,
            level,
        ),
        view(
            "words",
            [user],
            SparkSource(
                name="words",
                path=str(folder / "words.parquet"),
                timestamp_field="when",
                field_mapping=mapped,
                **where,
            ),
            0,
            [Field(name="word", dtype=String)],
        ),
    ]

    @on_demand_feature_view(
        sources=[files], schema=[Field(name="double", dtype=Float64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["count"] * 2.0})

    return [user, item, *views, doubled]


def as_files(objects: list) -> list:
    """The same views with files as their sources."""
    from feast import FeatureView, FileSource

    folder = next(Path(o.batch_source.path).parent for o in objects if hasattr(o, "batch_source"))
    paths = {"asked": folder / "one.parquet", "spairs": folder / "clicks"}
    changed = []
    for found in objects:
        if isinstance(found, FeatureView) and not isinstance(found.batch_source, FileSource):
            source = found.batch_source
            found.batch_source = FileSource(
                name=source.name,
                path=str(paths.get(source.name, source.path)),
                timestamp_field=source.timestamp_field,
                created_timestamp_column=source.created_timestamp_column,
                field_mapping=source.field_mapping,
            )
        changed.append(found)
    return changed


@pytest.fixture(scope="module")
def world(spark, tmp_path_factory):
    """Stores over the same files: AsofOfflineStore, and ours on Spark in two settings."""
    from feast import FeatureStore, RepoConfig

    folder = tmp_path_factory.mktemp("on spark")
    rng = np.random.default_rng(0)
    (folder / "clicks").mkdir()
    for name, rows in (("b é", 150), ("a", 40), ("c", 0), ("d", 90)):
        pq.write_table(clicks(rng, rows), folder / "clicks" / f"{name}.parquet", row_group_size=64)
    pq.write_table(clicks(rng, 80), folder / "one.parquet")
    level = pa.table({"event_timestamp": times([0, 4]), "level": pa.array([1, 2], pa.float32())})
    pq.write_table(level, folder / "everyone.parquet")
    words = pa.table({"u": [1, 2, 1], "when": times([3, 4, 2]), "w": ["one", "two", "old"]})
    pq.write_table(words, folder / "words.parquet")

    def store(registry, offline, objects=None):
        config = RepoConfig(
            project="offline",
            provider="local",
            registry=str(folder / f"{registry}.db"),
            offline_store=offline,
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
        made = FeatureStore(config=config)
        if objects:
            made.apply(objects)
        return made

    stores = {
        "asof": store("asof", {"type": ASOF}, as_files(declared(folder))),
        "shuffled": store("spark", {"type": ON_SPARK, **SHUFFLED}, declared(folder)),
        "sent whole": store("spark", {"type": ON_SPARK, **SENT_WHOLE}),
    }
    return folder, stores


ALL = [
    *(f"{view}:{name}" for view in ("files", "paths", "pairs") for name in ("count", "sid")),
    *("files:seen", "spairs:count", "spairs:seen", "asked:count", "everyone:level", "words:word"),
]
CREATED = [name for name in ALL if not name.startswith(("everyone", "words"))]


def questions(rows: int = 200, *, seed: int = 1) -> pa.Table:
    """Slates: many rows of one time, null keys, unknown keys, duplicates."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "label": pa.array(rng.integers(0, 2, rows), pa.uint8()),
            "user_id": pa.array(some(rng, [1, 1, 1, 1, 2, 11, 77], rows), pa.int32()),
            "event_timestamp": times(rng.integers(-2, 25, rows).tolist()),
            "item_id": pa.array(some(rng, [12, 2, 1, 5], rows), pa.int64()),
        }
    )


def joined(store, entity, features=("files:count", "paths:sid"), **options):
    return store.get_historical_features(entity, list(features), full_feature_names=True, **options)


# ---- the join


@pytest.mark.parametrize("name", ["shuffled", "sent whole"])
@pytest.mark.parametrize("known_only", [False, True])
def test_rows_are_those_of_one_process(world, name, known_only):
    """Ties, null keys and values, composite keys that collide as texts, ttl edges, slates, lists,
    hot keys, empty files: row by row, in order and type what AsofOfflineStore gives.
    """
    _, stores = world
    features, entity = CREATED if known_only else ALL, questions()
    options = {"filter_by_created_timestamp": known_only}
    found = joined(stores[name], entity, features, **options).to_arrow()
    assert found.equals(joined(stores["asof"], entity, features, **options).to_arrow())
    assert found["pairs__count"].null_count < len(entity)


@pytest.mark.parametrize("kind", ["spark", "sql", "dataset", "pandas", "one row", "none"])
def test_entity_rows_come_in_every_form(world, spark, kind):
    """A frame of Spark's in many partitions, SQL that Spark runs, files, pandas, and no rows at all
    join like the same rows in a table.
    """
    folder, stores = world
    entity = questions(60, seed=2).drop_columns("label")
    entity = {"one row": entity.slice(7, 1), "none": entity.slice(0, 0)}.get(kind, entity)
    path = folder / f"{kind}.parquet"
    pq.write_table(entity, path, row_group_size=16)
    given_as = {
        "spark": lambda: (
            spark.createDataFrame(entity)
            .repartition(5, "event_timestamp")
            .sortWithinPartitions("event_timestamp", "user_id", "item_id")
        ),
        "sql": lambda: f"SELECT * FROM parquet.`{path}` WHERE user_id IS NULL OR user_id > 0",
        "dataset": lambda: ds.dataset(path),
        "pandas": lambda: entity.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get),
    }.get(kind, lambda: entity)()
    if kind == "spark":  # its own order is that of its partitions
        entity = given_as.toArrow().cast(entity.schema)
    alike = given_as if kind == "pandas" else entity
    found = joined(stores["sent whole"], given_as).to_arrow()
    assert found.equals(joined(stores["asof"], alike).to_arrow())


def test_without_entity_rows_every_key_and_time_is_asked(world):
    """Between two dates, both included, each event of each key is a row, once."""
    _, stores = world
    dates = {"start_date": second(3), "end_date": second(9)}
    tables = [
        stores[name].get_historical_features(features=["files:count"], **dates).to_arrow()
        for name in ("sent whole", "asof")
    ]
    order = [("event_timestamp", "ascending"), ("user_id", "ascending")]
    ours, theirs = (table.sort_by(order) for table in tables)
    assert ours.select(theirs.column_names).equals(theirs)


def test_a_frame_of_spark_has_the_rows_in_order(world):
    """`to_spark_df` gives the same values, unsigned labels widened; `to_batches` gives the same
    table.
    """
    _, stores = world
    entity = questions()
    whole = joined(stores["asof"], entity).to_arrow()
    job = joined(stores["shuffled"], entity)
    assert pa.concat_tables(job.to_batches()).equals(whole)
    frame = job.to_spark_df()
    kinds = dict(frame.dtypes)
    assert (kinds["label"], kinds["files__count"]) == ("smallint", "int")
    found = frame.toArrow()
    assert (
        found.select(["user_id", "files__count", "paths__sid"]).to_pylist()
        == whole.select(["user_id", "files__count", "paths__sid"]).to_pylist()
    )


def test_on_demand_features_are_computed(world):
    """In the driver, on the whole result; frames of Spark's without them are refused."""
    _, stores = world
    features = ["doubled:double", "files:count"]
    entity = questions(30).to_pandas()
    job = joined(stores["sent whole"], entity, features)
    assert job.to_arrow().equals(joined(stores["asof"], entity, features).to_arrow())
    with pytest.raises(InputError, match="use to_arrow"):
        job.to_spark_df()


# ---- who reads a path


@pytest.mark.parametrize(
    ("change", "by_tasks"),
    [
        (lambda folder: None, True),
        (lambda folder: pq.write_table(pa.table({"n": [2]}), folder / "b.parquet"), True),
        (lambda folder: pq.write_table(pa.table({"n": ["x"]}), folder / "b.parquet"), False),
        (lambda folder: pq.write_table(pa.table({"m": [2]}), folder / "b.parquet"), False),
        (
            lambda folder: pq.write_table(
                pa.table({"n": pa.array([1], pa.uint8())}), folder / "a.parquet"
            ),
            False,
        ),
        (
            lambda folder: pq.write_table(
                pa.table({"n": times([1])}),
                folder / "a.parquet",
                use_deprecated_int96_timestamps=True,
            ),
            False,
        ),
    ],
)
def test_tasks_read_a_path_where_spark_would_give_the_same(spark, tmp_path, change, by_tasks):
    """Files of one schema whose types mean one thing; else Spark reads them."""
    from adc_features.store.spark.plain_files import read_by_tasks
    from adc_features.store.spark.sources import arrow_schema

    folder = tmp_path / "with blank"
    folder.mkdir()
    pq.write_table(pa.table({"n": [1]}), folder / "a.parquet")
    change(folder)
    frame = spark.read.parquet(str(folder))
    files = frame.inputFiles()
    options = {"of": "source", "declared": Declared({})}
    found = read_by_tasks(files, str(folder), arrow_schema(frame), **options)
    assert (found is not None) == by_tasks
    assert read_by_tasks(["s3a://b/a.parquet"], "s3a://b", arrow_schema(frame), **options) is None


def test_spark_reads_folders_of_partitions(spark, tmp_path):
    """It takes the types of their names in its own way."""
    from adc_features.store.spark.plain_files import read_by_tasks
    from adc_features.store.spark.sources import arrow_schema

    (tmp_path / "day=1").mkdir()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "day=1" / "a.parquet")
    frame = spark.read.parquet(str(tmp_path))
    options = {"of": "source", "declared": Declared({})}
    assert read_by_tasks(frame.inputFiles(), str(tmp_path), arrow_schema(frame), **options) is None


# ---- files that change

FORMS = ["files", "paths", "glob", "entity"]


@pytest.fixture(params=FORMS)
def replaced(request, world, tmp_path):
    """A join, and what replaces one of the files that it reads, put back at the end."""
    folder, stores = world
    entity, features, file = questions(40), ["files:count"], folder / "clicks" / "b é.parquet"
    if request.param in ("paths", "glob"):
        features = [{"paths": "paths:sid", "glob": "spairs:sid"}[request.param]]
    if request.param == "entity":
        file = tmp_path / "entity rows.parquet"
        pq.write_table(entity, file)
        entity = ds.dataset(file)
    before = file.read_bytes()
    job = joined(stores["shuffled"], entity, features)

    def replace() -> None:
        pq.write_table(pq.read_table(file).slice(1), file, row_group_size=64)

    yield job, replace, file.name
    file.write_bytes(before)


def test_a_file_that_is_replaced_meanwhile_is_named_and_nothing_is_saved(
    replaced, tmp_path, monkeypatch
):
    """Whoever reads it, and in whatever form the rows go: at once, in batches, to files."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
    )

    from adc_features.store.spark.task_rows import TaskRows

    job, replace, name = replaced
    words = rf"{name} changed while it was read.*run it again"
    saved, folder = TaskRows.save, tmp_path / "kept"

    def then_replaced(rows, where):
        saved(rows, where)
        replace()

    monkeypatch.setattr(TaskRows, "save", then_replaced)
    with pytest.raises(ArtifactError, match=words):
        job.persist(SavedDatasetSparkStorage(path=str(folder), file_format="parquet"))
    assert [path.name for path in tmp_path.iterdir() if path.name != name] == []
    with pytest.raises(ArtifactError, match=words):
        job.to_arrow()
    with pytest.raises(ArtifactError, match=words):
        list(job.to_batches())


def test_a_table_of_rows_that_changed_meanwhile_is_dropped(replaced, spark, monkeypatch):
    """Spark's own tables are seen before they can be checked."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
    )

    from adc_features.store.spark.task_rows import TaskRows

    job, replace, name = replaced
    frame = TaskRows.frame

    def then_replaced(rows):
        made = frame(rows).cache()
        made.count()
        replace()
        return made

    monkeypatch.setattr(TaskRows, "frame", then_replaced)
    with pytest.raises(ArtifactError, match=rf"{name} changed while it was read"):
        job.persist(SavedDatasetSparkStorage(table="changed_rows"))
    assert not spark.catalog.tableExists("changed_rows")


# ---- saved datasets


@pytest.mark.parametrize("writer", ["workers", "spark"])
def test_a_saved_dataset_is_whole_and_in_order(world, tmp_path, monkeypatch, writer):
    """Written by our workers or, on other file systems, by Spark, read back in file order: the same
    rows, aware times in microseconds, and nothing beside them; a second time it is refused unless
    overwriting is allowed.
    """
    if writer == "spark":
        monkeypatch.setattr("adc_features.store.spark.saved._Place.local", None)
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
    )

    _, stores = world
    entity = questions(50).drop_columns("label")
    job = joined(stores["sent whole"], entity)
    storage = SavedDatasetSparkStorage(path=str(tmp_path / "kept"), file_format="parquet")
    job.persist(storage)
    saved = pq.read_table(tmp_path / "kept")
    assert saved.schema.field("event_timestamp").type == UTC_US
    assert saved.equals(joined(stores["asof"], entity).to_arrow())
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    joined(stores["sent whole"], entity.slice(0, 3)).persist(storage, allow_overwrite=True)
    assert len(pq.read_table(tmp_path / "kept")) == 3
    joined(stores["sent whole"], entity.slice(0, 0)).persist(storage, allow_overwrite=True)
    assert pq.read_table(tmp_path / "kept").schema.names == saved.schema.names
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def dying_once(marker: str):
    """Rows of pieces, whose worker dies the first time after the first of them."""

    def tables(pieces):
        for piece in pieces:
            yield piece.table
            if not os.path.exists(marker):
                Path(marker).touch()
                os._exit(9)

    return tables


def test_a_worker_that_dies_while_it_writes_leaves_no_half_file(spark, tmp_path):
    """The task is run again; of what the first try wrote nothing stays."""
    from adc_features.store.spark.task_rows import TaskRows, sent_pieces

    table = pa.table({"n": range(10)})
    tables = dying_once(str(tmp_path / "died"))
    TaskRows(sent_pieces(spark, table), tables, table.schema).save(str(tmp_path / "kept"))
    assert (tmp_path / "died").exists()
    assert pq.read_table(tmp_path / "kept").equals(table)
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".parquet"}


@pytest.mark.parametrize("rows", [0, 3])
def test_files_of_workers_that_the_driver_does_not_see_are_missed(tmp_path, rows):
    """Workers that write to disks of their own: an error, instead of a dataset without rows."""
    from adc_features.store.spark.task_rows import TaskRows

    class Elsewhere:
        """A frame whose tasks wrote two rows on another machine."""

        def mapInArrow(self, task, schema):
            return self

        def collect(self):
            return [("part-00000.parquet", 2)]

    if rows:
        pq.write_table(pa.table({"n": range(rows)}), tmp_path / "part-00000.parquet")
    with pytest.raises(ArtifactError, match=f"has {rows} rows here, and a worker wrote 2; save to"):
        TaskRows(Elsewhere(), iter, pa.schema([("n", pa.int64())])).save(str(tmp_path))


def test_other_formats_are_not_saved(world, tmp_path):
    """CSV keeps no types: refused by name."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
    )

    storage = SavedDatasetSparkStorage(path=str(tmp_path / "kept"), file_format="csv")
    with pytest.raises(InputError, match="format csv are not written by this store"):
        joined(world[1]["sent whole"], questions(5)).persist(storage)


def died_once(marker: str):
    """A step of Spark's in which the worker dies the first time."""

    def step(batches):
        if not os.path.exists(marker):
            Path(marker).touch()
            os._exit(9)
        yield from batches

    return step


def test_a_worker_that_dies_changes_nothing(world, spark, tmp_path):
    """Its task is run again, and the rows are the same."""
    _, stores = world
    entity = questions(60).drop_columns("label")
    frame = spark.createDataFrame(entity).coalesce(1)
    frame = frame.mapInArrow(died_once(str(tmp_path / "died")), frame.schema)
    found = joined(stores["shuffled"], frame).to_arrow()
    assert (tmp_path / "died").exists()
    assert found.equals(joined(stores["asof"], entity).to_arrow())


def test_a_failed_save_leaves_what_was_there(world, spark, tmp_path):
    """A task that fails for good: its error is raised, the old dataset stays, nothing is beside."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SavedDatasetSparkStorage,
    )

    _, stores = world
    storage = SavedDatasetSparkStorage(path=str(tmp_path / "kept"), file_format="parquet")
    pq.write_table(questions(5), tmp_path / "kept")
    entity = questions(20).drop_columns("label")
    lost = times([None, *range(19)])
    frame = spark.createDataFrame(entity.set_column(1, "event_timestamp", lost))
    with pytest.raises(InputError, match="event_timestamp: 1 values are null; drop these rows"):
        joined(stores["sent whole"], frame).persist(storage, allow_overwrite=True)
    assert len(pq.read_table(tmp_path / "kept")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


# ---- scans


@pytest.mark.parametrize("view", ["files", "paths"])
@pytest.mark.parametrize("newest", [True, False])
def test_scans_have_the_rows_of_one_process(world, view, newest):
    """The newest row of each key, and all rows of a range, both ends included."""
    from adc_features.store.offline_store import AsofOfflineStore
    from adc_features.store.spark import SparkAsofOfflineStore

    _, stores = world
    method = f"pull_{'latest' if newest else 'all'}_from_table_or_query"
    tables = []
    for kind, name in ((SparkAsofOfflineStore, "sent whole"), (AsofOfflineStore, "asof")):
        source = stores[name].get_feature_view(view).batch_source
        asked = (["user_id"], ["count", "sid"], "event_timestamp", "created")
        dates = second(2), second(15)
        table = getattr(kind, method)(stores[name].config, source, *asked, *dates).to_arrow()
        order = [(column, "ascending") for column in table.column_names if column != "sid"]
        tables.append(table.sort_by(order))
    assert tables[0].drop_columns("sid").equals(tables[1].drop_columns("sid"))
    assert sorted(map(str, tables[0]["sid"].to_pylist())) == sorted(
        map(str, tables[1]["sid"].to_pylist())
    )


# ---- materialization


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.servers)])
def online(request, tmp_path):
    """Two online stores of a kind, empty."""
    if request.param == "lmdb":
        kind = "adc_features.store.online_store.LmdbOnlineStore"
        yield [{"type": kind, "path": str(tmp_path / name)} for name in ("a", "b")]
        return
    if shutil.which("redis-server") is None:
        pytest.skip("needs a Redis server (apt-get install redis-server)")
    with start.redis() as one, start.redis() as two:
        yield [
            {
                "type": "redis",
                "connection_string": f"{found['ADC_REDIS_HOST']}:{found['ADC_REDIS_PORT']}",
            }
            for found in (one, two)
        ]


def test_an_online_store_is_filled_from_spark_as_from_one_process(world, online, monkeypatch):
    """The newest rows come to the driver one partition after another, and never as one table."""
    from feast import FeatureStore

    def never(self, timeout=None):
        raise AssertionError("the rows came as one table")

    monkeypatch.setattr("adc_features.store.spark.job.SparkRetrievalJob.to_arrow", never)
    engine = {"type": "adc_features.store.compute_engine.ArrowComputeEngine"}
    served = []
    for name, store in zip(("asof", "shuffled"), online, strict=True):
        held = world[1][name].config
        changed = {"online_store": store, "batch_engine": engine, "repo_path": None}
        fresh = {"registry": held.registry, "offline_store": held.offline_store.model_dump()}
        kept = ("project", "provider", "entity_key_serialization_version")
        config = type(held)(**{key: getattr(held, key) for key in kept}, **fresh, **changed)
        filled = FeatureStore(config=config)
        filled.materialize(second(0), second(15), feature_views=["words"])
        rows = [{"user_id": user} for user in (1, 2, 77)]
        served.append(filled.get_online_features(["words:word"], rows).to_dict()["word"])
    assert served == [["one", "two", None]] * 2


# ---- what cannot be done


def test_files_that_came_after_the_plan_are_refused():
    """A row that Spark read from a file unknown when positions were given has no position."""
    from adc_features.store.spark.readers import FILE, LINE, of_files

    batch = pa.record_batch({FILE: pa.array([7, 9]), LINE: pa.array([0, 1])})
    found = list(of_files([batch], "position", [9, 7]))
    assert found[0]["position"].to_pylist() == [1 << 40, 1]
    with pytest.raises(ArtifactError, match=r"a file that was not there .*retrieve again"):
        list(of_files([batch], "position", [9]))


@pytest.mark.parametrize(
    ("entity", "features", "words"),
    [
        (questions(3).drop_columns("user_id"), ["files:count"], "no column user_id, a key of"),
        (questions(3).drop_columns("event_timestamp"), ["files:count"], "no column 'event_time"),
        (
            questions(3).set_column(1, "user_id", pa.array(["1", "2", "3"])),
            ["paths:count"],
            "user_id is string in the entity rows and int64 in the features",
        ),
        (
            questions(3).rename_columns(["files__count", "user_id", "event_timestamp", "item_id"]),
            ["files:count"],
            r"columns \['files__count'\], which are also features",
        ),
        ("SELECT 1 AS user_id, 'soon' AS event_timestamp", ["files:count"], "is of type string"),
    ],
)
def test_entity_rows_that_cannot_be_joined_are_refused(world, entity, features, words):
    """Missing or clashing columns, times that are none, keys of another kind, also those that only
    a worker meets.
    """
    with pytest.raises(InputError, match=words):
        joined(world[1]["sent whole"], entity, features).to_arrow()


def test_sources_that_spark_does_not_read_are_named(world, spark):
    """A path without files, a column that is not there, created-time filtering without one."""
    from feast import FeatureView, Field
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
    from feast.types import Int64

    from adc_features.store.spark import SparkAsofOfflineStore

    folder, stores = world
    store = stores["sent whole"]

    def found(path, time, **options):
        source = SparkSource(
            name="new", path=str(folder / path), file_format="parquet", timestamp_field=time
        )
        schema = [Field(name="user_id", dtype=Int64), Field(name="count", dtype=Int64)]
        user = store.get_entity("user")
        view = FeatureView(name="new", entities=[user], schema=schema, source=source)
        view.entity_columns = schema[:1]
        return SparkAsofOfflineStore.get_historical_features(
            store.config, [view], ["new:count"], questions(3), store.registry, "offline", **options
        )

    with pytest.raises(ArtifactError, match="Spark does not read it"):
        found("nowhere", "event_timestamp")
    with pytest.raises(InputError, match=r"view new: .*one.parquet has no column sometime"):
        found("one.parquet", "sometime")
    with pytest.raises(InputError, match=r"count is of type int64 .*expected timestamps"):
        found("one.parquet", "count")
    with pytest.raises(InputError, match="declares no created timestamp"):
        found("one.parquet", "event_timestamp", filter_by_created_timestamp=True)


def test_a_spark_that_cannot_be_used_is_refused_in_words(monkeypatch):
    """An old version, no Java, no pyspark: what is missing, and what to do."""
    from pyspark.sql import SparkSession

    from adc_features.store.spark.session import refuse_old, spark_session

    with pytest.raises(InputError, match=re.escape("Spark is 4.0.1; this store needs 4.1")):
        refuse_old("4.0.1")
    refuse_old("4.1.0")
    monkeypatch.setattr(SparkSession, "getActiveSession", staticmethod(lambda: None))
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"needs Java 17 or newer.*'/nowhere'"):
        spark_session(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape('"adc-features[spark]"')):
        spark_session(None)


def test_what_is_written_goes_to_files_only(world):
    """Rows for a view over files become a part of them; a SparkSource is left to Spark."""
    from adc_features.store.spark import SparkAsofOfflineStore

    _, stores = world
    store = stores["sent whole"]
    with pytest.raises(InputError, match="this store does not write to; append the rows"):
        SparkAsofOfflineStore.offline_write_batch(
            store.config, store.get_feature_view("paths"), questions(1), None
        )


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/0.json", "Delta"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
    ],
)
@pytest.mark.parametrize("path", ["", "/day=1", "/day=1/part.parquet", "/day=1/*.parquet"])
def test_a_table_declared_as_parquet_is_refused_by_name(spark, tmp_path, mark, kind, path):
    """The whole, a partition, a file of it: Spark would read rows that were deleted."""
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    from adc_features.store.spark.sources import opened

    rows = pa.table({"id": [1], "event_timestamp": times([0])})
    (tmp_path / "t" / "day=1").mkdir(parents=True)
    pq.write_table(rows, tmp_path / "t" / "day=1" / "part.parquet")
    source = SparkSource(name="t", path=f"{tmp_path}/t{path}", file_format="parquet")
    frame, files = opened(spark, source, source.path, of="view v", declared=Declared({}))
    assert (len(files.table(["id"])) if frame is None else frame.count()) == 1
    (tmp_path / "t" / mark).parent.mkdir()
    (tmp_path / "t" / mark).touch()
    with pytest.raises(InputError, match=f"view v: .*/t is a {kind} table.*table_format"):
        opened(spark, source, source.path, of="view v", declared=Declared({}))
