"""Feast over our offline store: against a join that a person can read, against Feast's DuckDB
store, and every form that Feast offers.
"""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_world import examples

from adc_features.errors import AdcError, ArtifactError, InputError

OURS = "adc_features.store.offline_store.AsofOfflineStore"
START = datetime(2014, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", "UTC")
TTL = 3
FILES = {
    "clicks": "clicks.parquet",
    "pairs": "pairs.parquet",
    "everyone": "everyone.parquet",
    "parts": "parts",
    "absent": "absent.parquet",
}


def second(n: float) -> datetime:
    return START + timedelta(seconds=n)


def times(seconds) -> pa.Array:
    return pa.array([None if s is None else second(s) for s in seconds], UTC_US)


def declared(folder: Path):
    """Entities and views over files of `folder`: `clicks` by user with a ttl, `pairs` by user and
    item with mapped columns, `everyone` without a key.
    """
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Array, Float32, Float64, Int32, Int64, String

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    mapping = {"u": "user_id", "when": "event_timestamp", "p": "price"}

    def view(name, entities, schema, *, ttl=0, mapping=None, created="created"):
        source = FileSource(
            name=name,
            path=str(folder / FILES[name]),
            timestamp_field="event_timestamp",
            created_timestamp_column=created,
            field_mapping=mapping,
        )
        return FeatureView(
            name=name, entities=entities, schema=schema, source=source, ttl=timedelta(seconds=ttl)
        )

    keys = {"user": Field(name="user_id", dtype=Int64), "item": Field(name="item_id", dtype=String)}
    count, sid = Field(name="count", dtype=Int32), Field(name="sid", dtype=Array(Int32))
    clicks = view("clicks", [user], [keys["user"], count, sid], ttl=TTL)
    views = [
        clicks,
        view(
            "pairs",
            [user, item],
            [*keys.values(), Field(name="price", dtype=Float32)],
            mapping=mapping,
            created="",
        ),
        view("everyone", [], [Field(name="level", dtype=Float32)], created=""),
        view("parts", [user], [keys["user"], count, sid], ttl=TTL),
        view("absent", [user], [keys["user"], Field(name="ghost", dtype=Int32)]),
    ]

    @on_demand_feature_view(
        sources=[clicks], schema=[Field(name="double", dtype=Float64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["count"] * 2.0})

    return [user, item, *views, doubled]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Feast stores over one registry and one folder: ours and Feast's DuckDB."""
    from feast import FeatureStore, RepoConfig

    folder = tmp_path_factory.mktemp("offline")
    write_default(folder)
    (folder / "spill").mkdir()
    registry = {"path": str(folder / "registry.db"), "enable_online_feature_view_versioning": True}

    def store(offline):
        config = RepoConfig(
            project="offline",
            provider="local",
            registry=registry,
            offline_store=offline,
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
        return FeatureStore(config=config)

    stores = {
        "ours": store({"type": OURS}),
        "spilled": store(
            {
                "type": OURS,
                "memory_limit": 1,
                "spill_directory": str(folder / "spill"),
                "batch_rows": 7,
            }
        ),
        "kept": store({"type": OURS, "index_cache": {"path": "indices"}}),
        "duckdb": store({"type": "duckdb"}),
    }
    pq.write_table(
        pa.table(
            {"user_id": [1], "event_timestamp": times([0]), "created": times([0]), "ghost": [1]}
        ),
        folder / FILES["absent"],
    )
    stores["ours"].apply(declared(folder))
    (folder / FILES["absent"]).unlink()
    return folder, stores


def clicks_table(rows) -> pa.Table:
    """rows: (user, time, created, count, sid); counts wider than declared."""
    user, at, created, count, sid = zip(*rows, strict=True) if rows else ((),) * 5
    return pa.table(
        {
            "user_id": pa.array(user, pa.int64()),
            "event_timestamp": times(at),
            "created": times(created),
            "count": pa.array(count, pa.int64()),
            "sid": pa.array(sid, pa.list_(pa.int32())),
        }
    )


CLICKS = [(1, 0, 0, 10, [1, 2]), (1, 5, 9, 11, [3, 4]), (2, 5, 5, None, []), (2, 1, 1, 20, None)]


def write_default(folder: Path) -> None:
    pq.write_table(clicks_table(CLICKS), folder / FILES["clicks"])
    pq.write_table(
        pa.table(
            {
                "u": [1, 1, 2],
                "item_id": ["a", "b", "a"],
                "when": times([0, 0, 0]),
                "p": [0.5, 1.5, 2.5],
            }
        ),
        folder / FILES["pairs"],
    )
    pq.write_table(
        pa.table({"event_timestamp": times([0, 4]), "level": pa.array([1.0, 2.0], pa.float32())}),
        folder / FILES["everyone"],
    )
    (folder / FILES["parts"]).mkdir(exist_ok=True)
    for part in (folder / FILES["parts"]).rglob("*.parquet"):
        part.unlink()
    for place, rows in enumerate((CLICKS[:2], CLICKS[2:])):
        pq.write_table(clicks_table(rows), folder / FILES["parts"] / f"{place}.parquet")


@pytest.fixture
def fresh(world):
    """The world with its files as `write_default` leaves them."""
    write_default(world[0])
    return world


def asked(users, seconds, **more) -> pa.Table:
    return pa.table(
        {
            "row": pa.array(range(len(users)), pa.int64()),
            "user_id": pa.array(users, pa.int64()),
            "event_timestamp": times(seconds),
            **more,
        }
    )


def clicks_of(store, entity, **options) -> list:
    table = store.get_historical_features(
        entity, ["clicks:count", "clicks:sid"], **options
    ).to_arrow()
    return table.select(["row", "count", "sid"]).to_pylist()


# ---- the join


def by_hand(rows, user, at, *, known_only):
    """The count and sid that a row sees: newest event, then newest created, then last position;
    nothing older than TTL, that included.
    """
    seen = [
        (t, c, place)
        for place, (u, t, c, *_) in enumerate(rows)
        if u is not None and u == user and t <= at and (not known_only or c <= at)
    ]
    if not seen or max(seen)[0] < at - TTL:
        return None, None
    *_, count, sid = rows[max(seen)[2]]
    return count, sid


user_ids = st.none() | st.integers(1, 3)
moment = st.integers(0, 9)
lists = st.none() | st.lists(st.integers(0, 9), max_size=3)


@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(user_ids, moment, moment, st.none() | st.integers(0, 99), lists),
        min_size=1,
        max_size=15,
    ),
    questions=st.lists(st.tuples(user_ids, st.integers(-1, 14)), min_size=1, max_size=20),
    known_only=st.booleans(),
    kind=st.sampled_from(["arrow", "pandas", "polars"]),
)
def test_every_row_sees_what_was_known(world, rows, questions, known_only, kind):
    """Ties, ttl, slates, null keys, null and empty lists, unsorted rows, created times: each row in
    its place has the value found by hand.
    """
    folder, stores = world
    pq.write_table(clicks_table(rows), folder / FILES["clicks"])
    entity = asked(*zip(*questions, strict=True))
    given_as = {
        "arrow": lambda: entity,
        "pandas": lambda: entity.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get),
        "polars": lambda: pl.from_arrow(entity),
    }
    expected = [by_hand(rows, user, at, known_only=known_only) for user, at in questions]
    for name in ("ours", "spilled", "kept", "kept"):
        got = clicks_of(stores[name], given_as[kind](), filter_by_created_timestamp=known_only)
        assert [r["row"] for r in got] == list(range(len(questions)))
        assert [(r["count"], r["sid"]) for r in got] == expected
    assert not list((folder / "spill").iterdir())


@settings(
    max_examples=examples(8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 3), moment, moment, st.integers(0, 99), lists),
        min_size=1,
        max_size=15,
        unique_by=lambda r: r[:3],
    ),
    questions=st.lists(st.tuples(st.integers(1, 4), st.integers(-1, 14)), min_size=1, max_size=20),
    known_only=st.booleans(),
)
def test_ours_equals_feasts_duckdb_store(world, rows, questions, known_only):
    """Where DuckDB's answer is defined (no equal ties) both stores give the same rows; only the
    order is ours alone.
    """
    folder, stores = world
    pq.write_table(clicks_table(rows), folder / FILES["clicks"])
    entity = asked(*zip(*questions, strict=True)).to_pandas()
    ours = clicks_of(stores["ours"], entity, filter_by_created_timestamp=known_only)
    assert ours == sorted(
        clicks_of(stores["duckdb"], entity, filter_by_created_timestamp=known_only),
        key=lambda r: r["row"],
    )


def test_values_come_in_declared_types(fresh):
    """int64 in the files, Int32 in the view: int32 comes back, with and without misses; lists are
    `list`, times UTC microseconds.
    """
    _, stores = fresh
    for users in ([1], [9], [1, 9]):
        schema = (
            stores["ours"]
            .get_historical_features(asked(users, [1] * len(users)), ["clicks:count", "clicks:sid"])
            .to_arrow()
            .schema
        )
        assert (schema.field("count").type, schema.field("sid").type) == (
            pa.int32(),
            pa.list_(pa.int32()),
        )
        assert schema.field("event_timestamp").type == UTC_US


def test_entity_rows_may_be_a_dataset(fresh):
    """Entity rows in Parquet, larger than a batch or none at all, are streamed through the store
    and join like the same rows in memory.
    """
    folder, stores = fresh
    entity = asked([1, 2, 3] * 9, [0, 1, 5, 9, 3, 4, 2, 7, 8] * 3)
    for name, rows in (("rows", entity), ("none", entity.slice(0, 0))):
        pq.write_table(rows, folder / f"{name}.parquet", row_group_size=4)
        for store in ("ours", "spilled"):
            job = stores[store].get_historical_features(
                ds.dataset(folder / f"{name}.parquet"), ["clicks:count", "clicks:sid"]
            )
            assert job.to_arrow().equals(
                stores[store]
                .get_historical_features(rows, ["clicks:count", "clicks:sid"])
                .to_arrow()
            )
            assert max(len(table) for table in job.to_batches()) <= (
                7 if store == "spilled" else 27
            )


def test_entity_rows_may_be_sql(fresh):
    """A query that DuckDB runs, files named relative
    to the repository, joins like the frame it returns.
    """
    folder, stores = fresh
    pq.write_table(asked([1, 2], [1, 6]), folder / "asked.parquet")
    assert clicks_of(stores["ours"], "SELECT * FROM 'asked.parquet' ORDER BY row") == clicks_of(
        stores["ours"], asked([1, 2], [1, 6])
    )
    with pytest.raises(InputError, match="entity query failed"):
        stores["ours"].get_historical_features("SELEC 1", ["clicks:count"]).to_arrow()


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo", "America/New_York"])
def test_zones_name_the_same_moment(fresh, zone):
    """Naive times mean UTC; every zone finds the same values, and int32 keys meet int64 keys."""
    _, stores = fresh
    at = pd.DatetimeIndex([second(4), second(5)])
    frame = pd.DataFrame(
        {
            "row": [0, 1],
            "user_id": np.array([1, 1], np.int32),
            "event_timestamp": at.tz_convert(zone) if zone else at.tz_localize(None),
        }
    )
    assert [r["count"] for r in clicks_of(stores["ours"], frame)] == [None, 11]


def test_a_file_system_that_is_not_local_is_read_and_written(world):
    """By its address (here fsspec's memory://): join, scan, new parts, a saved dataset."""
    import fsspec
    from feast import FeatureView, Field, FileSource
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.types import Int32, Int64
    from pyarrow import fs

    from adc_features.store.offline_store import AsofOfflineStore

    _, stores = world
    memory = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory")))
    memory.create_dir("/bucket/far")
    with memory.open_output_stream("/bucket/far/0.parquet") as file:
        pq.write_table(clicks_table(CLICKS), file)
    source = FileSource(
        name="far",
        path="memory://bucket/far",
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    near = stores["ours"].get_feature_view("clicks")
    schema = [Field(name="user_id", dtype=Int64), Field(name="count", dtype=Int32)]
    view = FeatureView(
        name="far",
        entities=[stores["ours"].get_entity("user")],
        schema=schema,
        source=source,
        ttl=near.ttl,
    )
    view.entity_columns = near.entity_columns
    config = stores["ours"].config

    def found(**options):
        return AsofOfflineStore.get_historical_features(
            config,
            [view],
            ["far:count"],
            asked([1, 2, 3], [5, 1, 9]),
            stores["ours"].registry,
            "offline",
            **options,
        )

    assert found().to_arrow()["count"].to_pylist() == [11, 20, None]
    AsofOfflineStore.offline_write_batch(config, view, clicks_table([(3, 8, 8, 30, [])]), None)
    assert found().to_arrow()["count"].to_pylist() == [11, 20, 30]
    assert len(memory.get_file_info(fs.FileSelector("/bucket/far"))) == 2
    times_of = ("user_id",), ("count",), "event_timestamp", "created"
    newest = AsofOfflineStore.pull_latest_from_table_or_query(
        config, source, *map(list, times_of[:2]), *times_of[2:], second(0), second(9)
    ).to_arrow()
    assert sorted(zip(newest["user_id"].to_pylist(), newest["count"].to_pylist(), strict=True)) == [
        (1, 11),
        (2, None),
        (3, 30),
    ]
    found().persist(SavedDatasetFileStorage("memory://bucket/saved.parquet"))
    with memory.open_input_file("/bucket/saved.parquet") as file:
        assert pq.read_table(file)["count"].to_pylist() == [11, 20, 30]


def test_several_views_with_mapped_columns_and_no_key(fresh):
    """Composite keys under other names in the file, a view without entity, full names: one answer,
    no row lost.
    """
    _, stores = fresh
    entity = asked([1, 2, 2], [1, 1, 6], item_id=["b", "a", "zz"])
    table = (
        stores["ours"]
        .get_historical_features(
            entity, ["clicks:count", "pairs:price", "everyone:level"], full_feature_names=True
        )
        .to_arrow()
    )
    assert table.select(["clicks__count", "pairs__price", "everyone__level"]).to_pydict() == {
        "clicks__count": [10, 20, None],
        "pairs__price": [1.5, 2.5, None],
        "everyone__level": [1.0, 1.0, 2.0],
    }


def test_one_view_under_two_join_keys(fresh):
    """A view joined twice through entity join-key maps answers for both columns."""
    from feast import FeatureService

    _, stores = fresh
    clicks = stores["ours"].get_feature_view("clicks")
    views = [
        clicks.with_name(n).with_join_key_map({"user_id": f"{n}_id"})[["count"]]
        for n in ("buyer", "seller")
    ]
    service = FeatureService(name="twice", features=views)
    stores["ours"].apply([service])
    entity = pa.table({"buyer_id": [1, 2], "seller_id": [2, 1], "event_timestamp": times([1, 1])})
    table = (
        stores["ours"].get_historical_features(entity, service, full_feature_names=True).to_arrow()
    )
    assert table.select(["buyer__count", "seller__count"]).to_pydict() == {
        "buyer__count": [10, 20],
        "seller__count": [20, 10],
    }
    assert table.column_names[:3] == ["buyer_id", "seller_id", "event_timestamp"]


def test_on_demand_views_are_computed(fresh):
    """A transformation of joined features arrives beside them, its input not asked for included;
    batches of it are refused.
    """
    _, stores = fresh
    job = stores["ours"].get_historical_features(
        asked([1, 2], [1, 1]).to_pandas(), ["doubled:double"]
    )
    assert job.to_df()["double"].tolist() == [20.0, 40.0]
    with pytest.raises(InputError, match="use to_arrow"):
        job.to_batches()


def test_two_versions_of_a_view_in_one_query(fresh, tmp_path):
    """Each version reads its own source, and full names tell them apart."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Int32, Int64

    registry = {
        "path": str(tmp_path / "registry.db"),
        "enable_online_feature_view_versioning": True,
    }
    config = RepoConfig(
        project="versions",
        provider="local",
        registry=registry,
        offline_store={"type": OURS},
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    for version in (0, 1):
        path = tmp_path / f"{version}.parquet"
        pq.write_table(
            pa.table({"user_id": [1], "event_timestamp": times([0]), "code": [version + 5]}), path
        )
        code = Field(name="code", dtype=Int32, tags={"codebook": str(version)})
        source = FileSource(path=str(path), timestamp_field="event_timestamp")
        store.apply(
            [
                user,
                FeatureView(
                    name="sid",
                    entities=[user],
                    schema=[Field(name="user_id", dtype=Int64), code],
                    source=source,
                    ttl=timedelta(0),
                ),
            ]
        )
    entity = pd.DataFrame({"user_id": [1], "event_timestamp": [second(1)]})
    table = store.get_historical_features(
        entity, ["sid@v0:code", "sid@v1:code"], full_feature_names=True
    ).to_arrow()
    assert (table["sid@v0__code"].to_pylist(), table["sid@v1__code"].to_pylist()) == ([5], [6])


def test_without_entity_rows_every_key_and_time_is_asked(fresh):
    """Between two dates, both included, each event of each key is a row."""
    _, stores = fresh
    table = (
        stores["ours"]
        .get_historical_features(
            features=["clicks:count"], start_date=second(1), end_date=second(5)
        )
        .to_arrow()
    )
    rows = zip(
        table["user_id"].to_pylist(),
        table["event_timestamp"].to_pylist(),
        table["count"].to_pylist(),
        strict=True,
    )
    assert sorted(rows) == [(1, second(5), 11), (2, second(1), 20), (2, second(5), None)]


def test_batches_are_the_whole_in_pieces(fresh):
    """A job streams what it would return at once, at most batch_rows at a time."""
    _, stores = fresh
    users, at = zip(*itertools.product([1, 2, 9], range(10)), strict=True)
    job = stores["spilled"].get_historical_features(
        asked(users, at), ["clicks:count", "clicks:sid"]
    )
    batches = list(job.to_batches())
    assert [len(b) for b in batches] == [7, 7, 7, 7, 2]
    assert pa.concat_tables(batches).equals(
        stores["ours"]
        .get_historical_features(asked(users, at), ["clicks:count", "clicks:sid"])
        .to_arrow()
    )


# ---- scans


def pulled(
    stores, method, name="clicks", *, keys=("user_id",), features=("count",), start=None, end=None
):
    from adc_features.store.offline_store import AsofOfflineStore

    store = stores["ours"]
    source = store.get_feature_view(name).batch_source
    created = source.created_timestamp_column or None
    return getattr(AsofOfflineStore, method)(
        store.config,
        source,
        list(keys),
        list(features),
        source.timestamp_field,
        created,
        start,
        end,
    ).to_arrow()


def test_the_newest_row_of_each_key_is_pulled(fresh):
    """Both ends of the range count, ties go to the newest created time, then to the last row; a
    null in the newest row stays null.
    """
    folder, stores = fresh
    pq.write_table(
        clicks_table(
            [
                *CLICKS,
                (1, 5, 7, 12, None),
                (1, 6, 0, 13, None),
                (3, 5, 1, 1, None),
                (3, 5, 1, 2, None),
            ]
        ),
        folder / FILES["clicks"],
    )
    newest = pulled(stores, "pull_latest_from_table_or_query", start=second(1), end=second(5))
    assert dict(zip(newest["user_id"].to_pylist(), newest["count"].to_pylist(), strict=True)) == {
        1: 11,
        2: None,
        3: 2,
    }


@pytest.mark.parametrize(("name", "rows"), [("clicks", 3), ("parts", 3)])
def test_all_rows_of_a_range_are_pulled(fresh, name, rows):
    """A file or a directory, both ends included; no feature names mean all columns."""
    _, stores = fresh
    table = pulled(
        stores, "pull_all_from_table_or_query", name, features=(), start=second(1), end=second(5)
    )
    assert len(table) == rows
    assert set(table.column_names) == {"user_id", "event_timestamp", "created", "count", "sid"}


def test_a_view_without_entity_is_pulled_under_the_dummy_key(fresh):
    """Materialization stores it under the one key that Feast gives such views."""
    _, stores = fresh
    newest = pulled(
        stores,
        "pull_latest_from_table_or_query",
        "everyone",
        keys=(),
        features=("level",),
        start=second(0),
        end=second(9),
    )
    assert newest.select(["level", "__dummy_id"]).to_pylist() == [{"level": 2.0, "__dummy_id": ""}]


# ---- writes


def written(stores, name, table):
    stores["ours"].write_to_offline_store(name, table.to_pandas(), reorder_columns=False)


@pytest.mark.parametrize("name", ["clicks", "parts"])
def test_new_rows_are_added(fresh, name):
    """A directory gets one more part and its old parts stay untouched; a single file has old and
    new rows.
    """
    folder, stores = fresh
    before = {p: p.read_bytes() for p in (folder / FILES[name]).glob("*.parquet")}
    written(stores, name, clicks_table([(7, 3, 3, 70, [7])]))
    got = (
        stores["ours"].get_historical_features(asked([7, 1], [4, 1]), [f"{name}:count"]).to_arrow()
    )
    assert got["count"].to_pylist() == [70, 10]
    assert len(list(folder.rglob("*.parquet"))) == len(set(folder.rglob("*.parquet")))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list((folder / FILES[name]).glob("*.parquet"))) == (len(before) + 1 if before else 0)


@pytest.mark.parametrize("name", ["clicks", "parts"])
def test_a_failed_write_leaves_what_was_there(fresh, name, monkeypatch):
    """When the disk fails in the middle, the old rows are all there, and nothing else is."""
    folder, stores = fresh
    before = {p: p.read_bytes() for p in folder.rglob("*.parquet")}

    def broken(self, table, *_):
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        written(stores, name, clicks_table([(7, 3, 3, 70, [7])]))
    assert {p: p.read_bytes() for p in folder.rglob("*.parquet")} == before
    assert not list(folder.rglob(".*"))


def test_rows_with_other_columns_are_not_written(fresh):
    """A batch that lacks a column of the files is refused before anything is written."""
    from adc_features.store.offline_store import AsofOfflineStore

    folder, stores = fresh
    before = sorted((folder / FILES["parts"]).iterdir())
    with pytest.raises(InputError, match="bring the same columns"):
        AsofOfflineStore.offline_write_batch(
            stores["ours"].config,
            stores["ours"].get_feature_view("parts"),
            clicks_table(CLICKS).drop_columns("sid"),
            None,
        )
    assert sorted((folder / FILES["parts"]).iterdir()) == before


def test_logged_features_become_parts(fresh, tmp_path):
    """Every write of logs adds files and keeps those of the last."""
    from feast.feature_logging import LoggingConfig
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    from adc_features.store.offline_store import AsofOfflineStore

    _, stores = fresh
    logging = LoggingConfig(destination=FileLoggingDestination(path=str(tmp_path / "logs")))
    for n in (1, 2):
        AsofOfflineStore.write_logged_features(
            stores["ours"].config, pa.table({"request": [n]}), None, logging, None
        )
    assert sorted(pq.read_table(tmp_path / "logs")["request"].to_pylist()) == [1, 2]


def test_a_saved_dataset_is_what_was_retrieved(fresh, tmp_path):
    """Saved once, read back equal; a second time it is refused unless overwriting is allowed."""
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    _, stores = fresh
    job = stores["ours"].get_historical_features(
        asked([1, 2, 9], [1, 6, 6]).to_pandas(), ["clicks:count", "clicks:sid"]
    )
    for name in ("kept.parquet", "kept"):
        storage = SavedDatasetFileStorage(path=str(tmp_path / name))
        stores["ours"].create_saved_dataset(
            job, name="kept", storage=storage, allow_overwrite=False
        )
        saved = stores["ours"].get_saved_dataset("kept").to_df()
        assert saved["count"].dropna().tolist() == [10]
        assert pq.read_table(tmp_path / name).equals(job.to_arrow().replace_schema_metadata(None))
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            job.persist(storage)
        job.persist(storage, allow_overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "kept.parquet"]


# ---- where the rows are


def test_hive_partitions_are_read_and_written(fresh):
    """The column that a directory's name holds is a column like any other,
    and new rows go to their partition.
    """
    import pyarrow.dataset as ds

    folder, stores = fresh
    for part in (folder / FILES["parts"]).iterdir():
        part.unlink()
    ds.write_dataset(
        clicks_table(CLICKS),
        folder / FILES["parts"],
        format="parquet",
        partitioning=["count"],
        partitioning_flavor="hive",
    )
    assert (folder / FILES["parts"] / "count=10").is_dir()
    got = stores["ours"].get_historical_features(asked([1, 2], [1, 1]), ["parts:count"]).to_arrow()
    assert got["count"].to_pylist() == [10, 20]
    written(stores, "parts", clicks_table([(7, 3, 3, 70, [7])]))
    assert len(list((folder / FILES["parts"] / "count=70").glob("*.parquet"))) == 1
    assert stores["ours"].get_historical_features(asked([7], [4]), ["parts:count"]).to_arrow()[
        "count"
    ].to_pylist() == [70]
    for directory in (folder / FILES["parts"]).iterdir():
        for part in directory.iterdir():
            part.unlink()
        directory.rmdir()


def test_the_schema_is_discovered(fresh):
    """Names and types of a source's columns, as Feast's inference asks for them."""
    from adc_features.store.offline_store import AsofOfflineStore

    _, stores = fresh
    source = stores["ours"].get_feature_view("clicks").batch_source
    found = dict(
        AsofOfflineStore().get_table_column_names_and_types_from_data_source(
            stores["ours"].config, source
        )
    )
    assert list(found) == ["user_id", "event_timestamp", "created", "count", "sid"]
    AsofOfflineStore().validate_data_source(stores["ours"].config, source)


# ---- what cannot be joined


def truncated(folder: Path) -> None:
    path = folder / FILES["clicks"]
    path.write_bytes(path.read_bytes()[:-20])


def corrupt(folder: Path) -> None:
    path = folder / FILES["clicks"]
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)


def replaced(**columns):
    def change(folder: Path) -> None:
        table = clicks_table(CLICKS)
        for name, values in columns.items():
            place = table.column_names.index(name)
            table = (
                table.remove_column(place)
                if values is None
                else table.set_column(place, name, values)
            )
        pq.write_table(table, folder / FILES["clicks"])

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (truncated, ArtifactError, r"(?s)clicks.*clicks\.parquet.*half-written"),
        (corrupt, ArtifactError, r"(?s)clicks.*clicks\.parquet.*damaged"),
        (
            lambda folder: (folder / FILES["clicks"]).unlink(),
            ArtifactError,
            r"clicks.*no file at .*clicks\.parquet yet",
        ),
        (
            lambda folder: (folder / FILES["clicks"]).write_bytes(b""),
            ArtifactError,
            r"(?s)clicks.*not readable as Parquet",
        ),
        (
            replaced(count=None),
            InputError,
            r"clicks.*has no column count; it has .*correct the view's schema",
        ),
        (replaced(created=None), InputError, r"clicks.*has no column created"),
        (
            replaced(count=pa.array(["a", "b", "c", "d"])),
            InputError,
            r"clicks: count is string in .*clicks\.parquet and int32 in the view",
        ),
        (
            replaced(count=pa.array([2**40] * 4)),
            InputError,
            r"clicks: count is int64 in .*clicks\.parquet and int32 in the view",
        ),
        (
            replaced(user_id=pa.array(["1", "1", "2", "2"])),
            InputError,
            r"key user_id is string in .*clicks\.parquet and int64 in the view",
        ),
        (
            replaced(event_timestamp=pa.array([1.0, 2.0, 3.0, 4.0])),
            InputError,
            "event_timestamp is of type double",
        ),
    ],
)
def test_features_that_cannot_be_joined_are_named(fresh, change, error, words):
    """What is wrong, with which view and file, and what to do."""
    folder, stores = fresh
    change(folder)
    with pytest.raises(error, match=words):
        clicks_of(stores["ours"], asked([1], [1]))


@pytest.mark.parametrize("form", ["table", "dataset"])
def test_files_that_change_while_they_are_read_are_named(fresh, tmp_path, form):
    """A file of a view, or of streamed entity rows, that is replaced after it was opened."""
    folder, stores = fresh
    file, entity = folder / FILES["clicks"], asked([1], [1])
    if form == "dataset":
        file = tmp_path / "entity.parquet"
        pq.write_table(entity, file)
        entity = ds.dataset(file)
    job = stores["ours"].get_historical_features(entity, ["clicks:count"])
    pq.write_table(pq.read_table(file), file)
    with pytest.raises(
        ArtifactError, match=rf"{file.name} changed while it was read.*run it again"
    ):
        job.to_arrow()


def test_segments_that_are_merged_while_they_are_read_are_no_change(tmp_path):
    """Their rows are in the other file; new files are not read, a segment that is gone is told."""
    from adc_features.store.parquet.opening import open_source

    one, two, both, next_ = (
        tmp_path / f"{a:020d}-{b:020d}.parquet" for a, b in ((5, 7), (8, 9), (5, 9), (10, 11))
    )
    for path in (one, two):
        pq.write_table(pa.table({"n": [1]}), path)
    (inputs,) = open_source(str(tmp_path)).inputs
    for path in (both, next_):
        pq.write_table(pa.table({"n": [1, 1]}), path)
    one.unlink()
    inputs.check()
    both.unlink()
    with pytest.raises(ArtifactError, match=rf"{one.name} changed .*gone now"):
        inputs.check()


@pytest.mark.parametrize(
    ("entity", "words"),
    [
        (asked([1], [1]).drop_columns("user_id"), "no column user_id, a key of view clicks"),
        (asked([1], [1]).drop_columns("event_timestamp"), "no column 'event_timestamp'"),
        (asked([1], [None]), "1 values are null"),
        (asked([1], [1], count=[1]), r"columns \['count'\], which are also features"),
        (
            asked([1], [1]).set_column(1, "user_id", pa.array(["1"])),
            "user_id is string in the entity rows and int64 in the features",
        ),
        ([1, 2], "entity rows are a list"),
    ],
)
def test_entity_rows_that_cannot_be_joined_are_refused(fresh, entity, words):
    """Missing or clashing columns, null times, keys of another kind: one clear error."""
    with pytest.raises(InputError, match=words):
        clicks_of(fresh[1]["ours"], entity)


def test_an_empty_view_and_times_that_do_not_overlap_give_nulls(fresh):
    """A view without rows, rows before any feature and rows centuries away are kept with nulls, and
    no entity rows give none.
    """
    folder, stores = fresh
    far = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1677, 1, 1, tzinfo=UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
    ]
    entity = pa.table(
        {"row": [0, 1, 2], "user_id": [1, 1, 1], "event_timestamp": pa.array(far, UTC_US)}
    )
    nothing = [{"row": n, "count": None, "sid": None} for n in range(3)]
    assert clicks_of(stores["ours"], entity) == nothing
    assert clicks_of(stores["ours"], asked([], [])) == []
    pq.write_table(clicks_table([]), folder / FILES["clicks"])
    assert clicks_of(stores["ours"], entity) == nothing


def test_features_of_the_far_past_are_found(fresh):
    """Year 1 and 1969 are times like any other."""
    folder, stores = fresh
    past = pa.array(
        [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)], UTC_US
    )
    rows = (
        clicks_table(CLICKS[:2])
        .set_column(1, "event_timestamp", past)
        .set_column(2, "created", past)
    )
    pq.write_table(rows, folder / FILES["clicks"])
    entity = pa.table({"row": [0, 1], "user_id": [1, 1], "event_timestamp": past})
    assert [r["count"] for r in clicks_of(stores["ours"], entity)] == [10, 11]


def test_a_view_with_no_file_yet_takes_its_first_rows(fresh):
    """Reading it says so; writing makes the file."""
    folder, stores = fresh
    with pytest.raises(
        ArtifactError,
        match=r"view absent: there is no file at .*absent\.parquet yet; write the first rows",
    ):
        stores["ours"].get_historical_features(asked([1], [1]), ["absent:ghost"]).to_arrow()
    from adc_features.store.offline_store import AsofOfflineStore

    rows = pa.table(
        {"user_id": [1], "event_timestamp": times([0]), "created": times([0]), "ghost": [1]}
    )
    AsofOfflineStore.offline_write_batch(
        stores["ours"].config, stores["ours"].get_feature_view("absent"), rows, None
    )
    assert stores["ours"].get_historical_features(asked([1], [1]), ["absent:ghost"]).to_arrow()[
        "ghost"
    ].to_pylist() == [1]
    (folder / FILES["absent"]).unlink()


def test_a_hundred_views_join(fresh):
    """One frame over a hundred views, each under its own name."""
    from feast import FeatureService

    _, stores = fresh
    clicks = stores["ours"].get_feature_view("clicks")
    service = FeatureService(
        name="hundred", features=[clicks.with_name(f"v{n}")[["count"]] for n in range(100)]
    )
    stores["ours"].apply([service])
    table = (
        stores["ours"]
        .get_historical_features(asked([1, 2], [1, 6]), service, full_feature_names=True)
        .to_arrow()
    )
    assert {tuple(table[f"v{n}__count"].to_pylist()) for n in range(100)} == {(10, None)}


def test_sources_of_other_kinds_are_refused(fresh):
    """Another kind of source is named, with what to do."""
    from feast import PushSource
    from feast.infra.offline_stores.file_source import FileSource

    from adc_features.store.offline_store import AsofOfflineStore

    files = FileSource(path="somewhere", timestamp_field="event_timestamp")
    source = PushSource(name="pushed", batch_source=files)
    with pytest.raises(AdcError, match="PushSource; this store reads Parquet"):
        AsofOfflineStore.pull_all_from_table_or_query(
            fresh[1]["ours"].config, source, ["user_id"], [], "event_timestamp"
        )


def test_two_features_never_share_a_column(fresh, tmp_path):
    """With full names view a__b feature c and view a feature b__c are one column: refused by name,
    offline and online, keys too.
    """
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        RepoConfig,
        ValueType,
    )
    from feast.types import Int64

    rows = {"user_id": [1], "event_timestamp": times([0]), "c": [1], "b__c": [2]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    config = RepoConfig(
        project="names",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        offline_store={"type": OURS},
        online_store={"type": "adc_features.store.online_store.LmdbOnlineStore", "path": "online"},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field="event_timestamp")

    def view(name, *features):
        schema = [Field(name=f, dtype=Int64) for f in ("user_id", *features)]
        return FeatureView(name=name, entities=[user], schema=schema, source=source)

    long, short = view("a__b", "c"), view("a", "b__c", "c")

    store.apply(
        [user, long, short, FeatureService(name="both", features=[long[["c"]], short[["b__c"]]])]
    )
    entity = asked([1], [1])
    both = "a__b feature c and view a feature b__c would share the column 'a__b__c'"
    for refs in (["a__b:c", "a:b__c"], store.get_feature_service("both")):
        with pytest.raises(InputError, match=both):
            store.get_historical_features(entity, refs, full_feature_names=True)
        for rows in ([{"user_id": 1}], {"user_id": np.array([1])}):
            with pytest.raises(InputError, match=both):
                store.get_online_features(refs, rows, full_feature_names=True)
        assert store.get_historical_features(entity, refs).to_arrow()[
            ["c", "b__c"][0]
        ].to_pylist() == [1]
        assert set(store.get_online_features(refs, [{"user_id": 1}]).to_dict()) == {
            "user_id",
            "c",
            "b__c",
        }
    assert store.get_historical_features(
        entity, ["a__b:c", "a:c"], full_feature_names=True
    ).to_arrow()["a__c"].to_pylist() == [1]


@pytest.mark.parametrize("kind", ["sql", "arrow", "pandas", "dataset"])
def test_a_column_twice_in_the_entity_rows_is_refused(fresh, kind, tmp_path):
    """Which of the two is meant cannot be told: the column is named, whatever brings the rows."""
    rows = pa.table([[1], [2], times([1])], names=["user_id", "user_id", "event_timestamp"])
    given_as = {
        "sql": "SELECT 1 AS user_id, 2 AS user_id, TIMESTAMP '2014-01-01' AS event_timestamp",
        "arrow": rows,
        "pandas": pd.DataFrame([[1, 2, second(1)]], columns=rows.column_names),
        "dataset": ds.dataset([rows]),
    }
    with pytest.raises(InputError, match=r"columns \['user_id'\] more than once"):
        fresh[1]["ours"].get_historical_features(given_as[kind], ["clicks:count"]).to_arrow()


@pytest.mark.parametrize("store", ["ours", "spilled"])
def test_integer_keys_beyond_int64_are_refused_in_words(fresh, store):
    """uint64 keys above 2**63 name the key; those that int64 holds are found."""
    _, stores = fresh
    for users, found in (([2**63 + 1, 1], None), ([2, 1], [20, 10])):
        entity = pa.table(
            {"user_id": pa.array(users, pa.uint64()), "event_timestamp": times([1, 1])}
        )
        if found is None:
            with pytest.raises(
                InputError, match=rf"user_id is uint64 and no int64 key \(value {2**63 + 1}"
            ):
                stores[store].get_historical_features(entity, ["clicks:count"]).to_arrow()
        else:
            assert (
                stores[store]
                .get_historical_features(entity, ["clicks:count"])
                .to_arrow()["count"]
                .to_pylist()
                == found
            )


@pytest.mark.parametrize("users", [[2**64], [-(2**63) - 1], [1, "a"]], ids=str)
def test_pandas_columns_that_are_no_column_are_refused_by_their_name(fresh, users):
    """Python's integers know no end, and a column of objects no type; Arrow's columns have both."""
    frame = pd.DataFrame(
        {"user_id": pd.Series(users, dtype=object), "event_timestamp": [second(1)] * len(users)}
    )
    with pytest.raises(InputError, match="column 'user_id' holds values of no common type"):
        fresh[1]["ours"].get_historical_features(frame, ["clicks:count"])


def test_pandas_categoricals_are_keys_as_their_values(fresh):
    """Categories of numbers and of texts join like the values; a missing one is nobody."""
    _, stores = fresh
    frame = pd.DataFrame(
        {
            "user_id": pd.Categorical([1, 2, None]),
            "item_id": pd.Categorical(["a", "a", "b"]),
            "event_timestamp": [second(1)] * 3,
        }
    )
    table = (
        stores["ours"].get_historical_features(frame, ["clicks:count", "pairs:price"]).to_arrow()
    )
    assert (table["count"].to_pylist(), table["price"].to_pylist()) == (
        [10, 20, None],
        [0.5, 2.5, None],
    )


def test_texts_that_are_no_times_are_refused_in_words(fresh):
    """pandas texts are parsed; what is no time is named."""
    frame = pd.DataFrame({"user_id": [1], "event_timestamp": ["yesterday evening"]})
    with pytest.raises(InputError, match="holds what is no time"):
        fresh[1]["ours"].get_historical_features(frame, ["clicks:count"]).to_arrow()
