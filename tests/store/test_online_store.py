"""Our online store beyond the contract: ttl, columns without protos, versions, a delegate,
materialization in Arrow.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import types
from online_world import ENGINE, HOUR, LMDB, NOW, VALUES, item, store, view, world

from adc_features.errors import InputError
from adc_features.store.lmdb.incoming import as_protos
from adc_features.store.lmdb.response import ColumnarResponse
from adc_features.store.online_store import LmdbOnlineStore, LmdbOnlineStoreConfig

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> feast.FeatureStore:
    repository = world(tmp_path_factory.mktemp("ours"), LMDB, engine=ENGINE)
    write(repository, "pair", {"item_id": [1, 2, 3], "user_id": ["u", "v", "w"], "n": [1, 2, None]})
    return repository


def write(
    repository: feast.FeatureStore, name: str, columns: dict, *, event: datetime = NOW
) -> int:
    table = pa.table(
        {
            **columns,
            "event_timestamp": [event] * len(next(iter(columns.values()))),
            "created": [NOW] * len(next(iter(columns.values()))),
        }
    )
    return online(repository).write_arrow(
        repository.config,
        repository.get_feature_view(name),
        table,
        event="event_timestamp",
        created="created",
    )


def online(repository: feast.FeatureStore) -> LmdbOnlineStore:
    return repository._get_provider().online_store


def test_a_row_past_its_ttl_is_marked_and_not_served(repository, monkeypatch):
    """The boundary itself is served; with enforce_ttl off everything is; a clock that steps back
    serves it again.
    """
    write(repository, "brief", {"item_id": [1], "m": [5]})
    shown = {}
    for late in (timedelta(0), HOUR, HOUR + timedelta(microseconds=1), -HOUR):
        monkeypatch.setattr(online(repository), "clock", lambda late=late: NOW + late)
        response = repository.get_online_features(["brief:m"], [{"item_id": 1}, {"item_id": 2}])
        statuses = list(response.proto.results[1].statuses)
        shown[late] = (
            response.to_dict()["m"],
            statuses,
            response.to_dict(include_event_timestamps=True)["m__ts"][0] == NOW.timestamp(),
        )
    present, expired = ([5, None], [1, 3], True), ([None, None], [4, 3], True)
    assert list(shown.values()) == [present, present, expired, present]
    monkeypatch.setattr(online(repository), "clock", lambda: NOW + 9 * HOUR)
    monkeypatch.setattr(repository.config.online_store, "enforce_ttl", False)
    assert repository.get_online_features(["brief:m"], [{"item_id": 1}]).to_dict()["m"] == [5]


@pytest.mark.parametrize("full_names", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize(
    ("refs", "rows"),
    [
        (
            ["pair:n"],
            [
                {"item_id": 1, "user_id": "u"},
                {"item_id": 9, "user_id": "u"},
                {"item_id": 1, "user_id": "u"},
                {"item_id": 3, "user_id": "w"},
            ],
        ),
        (
            ["everything:int32", "pair:n", "everything:texts"],
            {"item_id": [1, 2], "user_id": ["u", "v"]},
        ),
        (
            ["everything:moments", "everything:int32s", "everything:json"],
            [{"item_id": 2}, {"item_id": 1}],
        ),
        ("service", {"item_id": [2, 2], "user_id": ["v", "u"]}),
    ],
)
def test_columns_answer_as_feasts_own_response_does(repository, refs, rows, full_names, metadata):
    """to_dict, to_df, to_arrow and the proto of a request equal those that Feast's own code makes
    of the same rows.
    """
    write_everything(repository)
    asked = repository.get_feature_service("both") if refs == "service" else refs
    ours = repository.get_online_features(
        asked, rows, full_feature_names=full_names, include_feature_view_version_metadata=metadata
    )
    theirs = feast.infra.online_stores.online_store.OnlineStore.get_online_features(
        online(repository),
        repository.config,
        asked,
        rows,
        repository.registry,
        repository.project,
        full_names,
        metadata,
    )
    assert isinstance(ours, ColumnarResponse)
    assert not isinstance(theirs, ColumnarResponse)
    for timestamps in (False, True):
        assert ours.to_dict(timestamps) == theirs.to_dict(timestamps)
        assert list(ours.to_dict(timestamps)) == list(theirs.to_dict(timestamps))
        assert ours.to_arrow(timestamps).equals(theirs.to_arrow(timestamps))
        pd.testing.assert_frame_equal(ours.to_df(timestamps), theirs.to_df(timestamps))
    assert ours.proto == theirs.proto


def write_everything(repository: feast.FeatureStore) -> None:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.type_map import python_values_to_proto_values

    protos = {
        name: python_values_to_proto_values([value], kind.to_value_type())[0]
        for name, (kind, value) in VALUES.items()
    }
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=1)])
    online(repository).online_write_batch(
        repository.config,
        repository.get_feature_view("everything"),
        [(key, protos, NOW, NOW)],
        None,
    )


def test_ids_as_numpy_arrays_and_a_hundred_thousand_of_them(repository):
    """Feast refuses arrays; they are what a ranker has. The order and the unknown hold for many."""
    n = 100_000
    write(
        repository,
        "brief",
        {"item_id": list(range(n)), "m": list(range(n))},
        event=datetime.now(UTC),
    )
    asked = np.random.default_rng(0).permutation(2 * n)
    got = np.array(
        repository.get_online_features(["brief:m"], {"item_id": asked}).to_dict()["m"], object
    )
    assert (got[asked < n] == asked[asked < n]).all()
    assert set(got[asked >= n]) == {None}


def test_a_feature_whose_proto_is_of_another_type_is_kept_as_it_came(repository):
    """A writer that sends an int32 for an int64 gets its value back;
    it is not read as other bits.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=77)])
    now = datetime.now(UTC)
    online(repository).online_write_batch(
        repository.config,
        repository.get_feature_view("brief"),
        [(key, {"m": Value(int32_val=5)}, now, None)],
        None,
    )
    assert repository.get_online_features(["brief:m"], [{"item_id": 77}]).to_dict()["m"] == [5]


def test_a_row_is_replaced_as_a_whole_and_deleted_as_a_whole(repository):
    """A feature that a newer row does not have is NOT_FOUND, not left over from the older row."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    write_everything(repository)
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=1)])
    everything = repository.get_feature_view("everything")
    online(repository).online_write_batch(
        repository.config, everything, [(key, {"int32": Value(int32_val=8)}, NOW, NOW)], None
    )
    response = repository.get_online_features(
        ["everything:int32", "everything:text"], [{"item_id": 1}]
    )
    statuses = dict(
        zip(
            response.proto.metadata.feature_names.val,
            (list(result.statuses) for result in response.proto.results),
            strict=True,
        )
    )
    assert (response.to_dict()["int32"], response.to_dict()["text"], statuses) == (
        [8],
        [None],
        {"item_id": [1], "int32": [1], "text": [3]},
    )
    assert online(repository).delete_rows(repository.config, everything, [key]) == 1
    assert repository.get_online_features(["everything:int32"], [{"item_id": 1}]).to_dict()[
        "int32"
    ] == [None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"n": pa.array([1.5])},
            r"view pair: n is double in the rows and int64 in the view.*value 1.5",
        ),
        (
            {"n": pa.array(["x"])},
            r"view pair: n is string in the rows and int64 in the view.*value 'x'",
        ),
        ({"item_id": pa.array([None], pa.int64())}, "1 values of join key 'item_id' are null"),
        (
            {"event_timestamp": pa.array([None], pa.timestamp("us"))},
            "view pair: 1 values of 'event_timestamp' are null",
        ),
        ({"n": None}, "view pair: the rows have no column n; they have"),
    ],
)
def test_arrow_rows_that_do_not_fit_are_refused_before_anything_is_written(
    repository, change, message
):
    """The column is named, and the old row is still there."""
    columns = {
        "item_id": pa.array([1]),
        "user_id": pa.array(["u"]),
        "n": pa.array([9]),
        "event_timestamp": pa.array([NOW]),
    }
    table = pa.table(
        {name: column for name, column in {**columns, **change}.items() if column is not None}
    )
    with pytest.raises(InputError, match=message):
        online(repository).write_arrow(
            repository.config, repository.get_feature_view("pair"), table, event="event_timestamp"
        )
    assert repository.get_online_features(["pair:n"], [{"item_id": 1, "user_id": "u"}]).to_dict()[
        "n"
    ] == [1]


def test_async_reads_and_writes_and_the_feature_server(repository):
    """The calls that Feast's server awaits answer as the others do, and its JSON holds the values
    and statuses.
    """
    from feast.feature_server import get_app
    from starlette.testclient import TestClient

    assert online(repository).async_supported.read
    rows = [{"item_id": 2, "user_id": "v"}, {"item_id": 9, "user_id": "v"}]
    expected = repository.get_online_features(["pair:n"], rows).to_dict()
    assert asyncio.run(repository.get_online_features_async(["pair:n"], rows)).to_dict() == expected
    frame = pd.DataFrame(
        {"item_id": [50], "user_id": ["u"], "n": [5], "event_timestamp": [NOW], "created": [NOW]}
    )
    asyncio.run(repository.write_to_online_store_async("pair", df=frame))
    with TestClient(get_app(repository)) as client:
        asked = {
            "features": ["pair:n"],
            "entities": {"item_id": [2, 50, 9], "user_id": ["v", "u", "v"]},
        }
        answer = client.post("/get-online-features", json=asked).json()
    assert answer["metadata"]["feature_names"] == ["item_id", "user_id", "n"]
    assert (answer["results"][2]["values"], answer["results"][2]["statuses"]) == (
        [2, 5, None],
        ["PRESENT", "PRESENT", "NOT_FOUND"],
    )


def test_versions_of_a_view_are_served_side_by_side(tmp_path):
    """A changed schema is a new table; the pinned old version keeps its rows, and deleting the view
    drops both.
    """
    repository = store(tmp_path, LMDB, versions=True)
    pq.write_table(
        pa.table({"item_id": [1], "a": [1], "b": [2], "event_timestamp": [NOW], "created": [NOW]}),
        tmp_path / "rows.parquet",
    )
    for version, fields in enumerate(({"a": types.Int64}, {"a": types.Int64, "b": types.Int64})):
        repository.apply([item, view("v", [item], fields, tmp_path / "rows.parquet")])
        write(repository, "v", {"item_id": [1], "a": [version], "b": [7]})
    got = repository.get_online_features(
        ["v@v0:a", "v@v1:a"], [{"item_id": 1}], full_feature_names=True
    ).to_dict()
    assert (got["v@v0__a"], got["v@v1__a"]) == ([0], [1])
    assert online(repository).environment(repository.config).tables() == ["world/v", "world/v@v1"]
    repository.apply([], objects_to_delete=[repository.get_feature_view("v")], partial=False)
    assert online(repository).environment(repository.config).tables() == []


def test_views_named_in_the_settings_live_in_the_delegate(tmp_path):
    """They are written, read and dropped there;
    the others stay here, and one request reads both.
    """
    delegate = {"type": "sqlite", "path": "delegate.db"}
    repository = world(
        tmp_path, {**LMDB, "delegate": delegate, "delegate_views": ["brief"]}, engine=ENGINE
    )
    theirs = store(tmp_path, delegate)
    pq.write_table(
        pa.table({"item_id": [1], "m": [5], "event_timestamp": [NOW], "created": [NOW]}),
        tmp_path / "rows.parquet",
    )
    repository.materialize(LONG_AGO, datetime.now(UTC), feature_views=["brief"])
    write(repository, "pair", {"item_id": [1], "user_id": ["u"], "n": [3]})
    got = repository.get_online_features(
        ["brief:m", "pair:n"], [{"item_id": 1, "user_id": "u"}]
    ).to_dict()
    assert (got["m"], got["n"]) == ([5], [3])
    assert theirs.get_online_features(["brief:m"], [{"item_id": 1}]).to_dict()["m"] == [5]
    assert online(repository).environment(repository.config).tables() == ["world/pair"]
    repository.teardown()
    assert not (tmp_path / "delegate.db").exists()
    with pytest.raises(ValueError, match="describe that online store under `delegate:`"):
        LmdbOnlineStoreConfig(delegate_views=["brief"])


def materialized(
    directory: Path,
    table: pa.Table,
    online_store: dict = LMDB,
    *,
    chunk: int | None = None,
    offline_store: dict | None = None,
) -> tuple[feast.FeatureStore, list]:
    """A repository with `table` as the source of view `v`, its source column `value_at_source`
    mapped to `n`; what it serves of items 1 to 3.
    """
    repository, path = (
        store(directory, online_store, engine=ENGINE, offline_store=offline_store),
        directory / "rows.parquet",
    )
    pq.write_table(table, path, row_group_size=chunk)
    declared = view("v", [item], {"n": types.Int64}, path)
    declared.batch_source.field_mapping = {"value_at_source": "n"}
    repository.apply([item, declared])
    repository.materialize(LONG_AGO, NOW)
    return repository, served(repository)


def served(repository: feast.FeatureStore) -> list:
    return repository.get_online_features(["v:n"], [{"item_id": i} for i in (1, 2, 3)]).to_dict()[
        "n"
    ]


def source(rows: list[tuple[int, int, datetime, datetime]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    kinds = (pa.int64(), pa.int64(), pa.timestamp("us", tz="UTC"), pa.timestamp("us", tz="UTC"))
    names = ("item_id", "value_at_source", "event_timestamp", "created")
    return pa.table(
        {
            name: pa.array(list(column), kind)
            for name, column, kind in zip(names, columns, kinds, strict=True)
        }
    )


ROWS = [(1, 10, NOW - HOUR, NOW), (1, 11, NOW, NOW), (2, 20, NOW, NOW), (3, 30, NOW + HOUR, NOW)]


@pytest.mark.parametrize(
    "online_store", [LMDB, {"type": "sqlite", "path": "online.db"}], ids=["lmdb", "sqlite"]
)
def test_materializing_serves_the_newest_row_up_to_the_end(tmp_path, online_store):
    """Renamed columns, later rows left out, then incrementally the rest; the same engine serves a
    store that takes no Arrow.
    """
    repository, got = materialized(tmp_path, source(ROWS), online_store)
    assert got == [11, 20, None]
    repository.materialize_incremental(NOW + HOUR)
    assert served(repository) == [11, 20, 30]


@pytest.mark.parametrize("pull_latest", [True, False])
def test_a_table_of_many_chunks_arrives_whole_and_an_empty_one_is_no_error(
    tmp_path, monkeypatch, pull_latest
):
    """Whether the offline store pulls the newest rows or all of them."""
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStore

    for name in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
        pull = getattr(DuckDBOfflineStore, name)
        monkeypatch.setattr(
            DuckDBOfflineStore,
            name,
            staticmethod(lambda *a, pull=pull, **k: Chunked(pull(*a, **k).to_arrow())),
        )
    (tmp_path / "empty").mkdir()
    assert materialized(tmp_path / "empty", source([]))[1] == [None, None, None]
    repository, got = materialized(tmp_path, source(ROWS))
    assert got == [11, 20, None]
    repository.config.materialization_config.pull_latest_features = pull_latest
    repository.materialize(LONG_AGO, NOW + HOUR)
    assert served(repository) == [11, 20, 30]


def test_a_source_that_streams_is_loaded_piece_by_piece_in_one_transaction(tmp_path, monkeypatch):
    """One row in memory at a time gives what the whole table gives, and one bad piece at the end
    leaves nothing of the others.
    """
    monkeypatch.setattr("adc_features.store.compute_engine.PIECE_ROWS", 1)
    streaming = {"type": "adc_features.store.offline_store.AsofOfflineStore"}
    repository, got = materialized(tmp_path, source(ROWS), chunk=1, offline_store=streaming)
    assert got == [11, 20, None]
    pq.write_table(
        source([(1, 77, NOW, NOW), (2, 1, NOW, NOW)]).set_column(
            1, "value_at_source", pa.array([77.0, 0.5])
        ),
        tmp_path / "rows.parquet",
        row_group_size=1,
    )
    with pytest.raises(
        InputError, match=r"value_at_source is double in .* and int64 in the view.*value 0.5"
    ):
        repository.materialize(LONG_AGO, NOW)
    assert served(repository) == got


class Chunked:
    """A retrieval job whose table has a chunk for every row."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def to_arrow(self) -> pa.Table:
        return (
            pa.concat_tables([self._table.slice(i, 1) for i in range(len(self._table))])
            if len(self._table)
            else self._table
        )


def test_a_materialization_that_fails_raises_and_leaves_what_was_served(tmp_path):
    """Feast gets our error, by name; readers see the old rows,
    also while a view is being materialized.
    """
    repository, got = materialized(tmp_path, source(ROWS))
    bad = source([(1, 99, NOW, NOW)])
    pq.write_table(bad.set_column(1, "value_at_source", pa.array([0.5])), tmp_path / "rows.parquet")
    with pytest.raises(
        InputError, match=r"n is double in the rows and int64 in the view.*value 0.5"
    ):
        repository.materialize(LONG_AGO, NOW)
    assert served(repository) == got


def test_views_with_several_kinds_of_keys(repository):
    """Two join keys of two types, ids as 32-bit numbers:
    the bulk path and the client mean the same entity.
    """
    table = pa.table(
        {
            "item_id": pa.array([60, 61], pa.int32()),
            "user_id": pa.array(["a", "é"], pa.large_string()),
            "n": [1, 2],
            "event_timestamp": [NOW, NOW],
        }
    )
    assert (
        online(repository).write_arrow(
            repository.config, repository.get_feature_view("pair"), table, event="event_timestamp"
        )
        == 2
    )
    got = repository.get_online_features(
        ["pair:n"], [{"item_id": 61, "user_id": "é"}, {"item_id": 60, "user_id": "a"}]
    ).to_dict()
    assert got["n"] == [2, 1]


@pytest.mark.parametrize("one_batch", [True, False])
@pytest.mark.parametrize("order", [(None, 1), (1, None), (2, 1), (None, None), (1, 1)])
@pytest.mark.parametrize("as_protos", [True, False])
def test_ties_do_not_depend_on_batches(tmp_path, one_batch, order, as_protos):
    """Rows of one event time: a null created time comes first, then the last written; in one write
    or two, protos or Arrow.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    repository = world(tmp_path, LMDB)
    view, key = (
        repository.get_feature_view("brief"),
        EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=1)]),
    )
    event = datetime.now(UTC)
    rows = [(n, None if born is None else NOW + born * HOUR) for n, born in enumerate(order)]
    for batch in [rows] if one_batch else [rows[:1], rows[1:]]:
        if as_protos:
            data = [(key, {"m": Value(int64_val=n)}, event, born) for n, born in batch]
            online(repository).online_write_batch(repository.config, view, data, None)
        else:
            stamp = pa.timestamp("us", "UTC")
            columns = {
                "item_id": [1] * len(batch),
                "m": [n for n, _ in batch],
                "event": pa.array([event] * len(batch), stamp),
            }
            table = pa.table({**columns, "created": pa.array([born for _, born in batch], stamp)})
            online(repository).write_arrow(
                repository.config, view, table, event="event", created="created"
            )
    newest = max(range(2), key=lambda n: (-1 if order[n] is None else order[n], n))
    assert repository.get_online_features(["brief:m"], [{"item_id": 1}]).to_dict()["m"] == [newest]


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("engine", [None, ENGINE])
@pytest.mark.parametrize("order", [(None, 1), (1, None), (None, None), (1, 1)])
def test_ties_are_the_same_offline_and_materialized(tmp_path, files, engine, order):
    """One file or two, the join, the newest row of each key and what goes online agree: null
    created first, then position.
    """
    offline = {"type": "adc_features.store.offline_store.AsofOfflineStore"}
    repository = store(tmp_path, LMDB, engine=engine, offline_store=offline)
    stamp = pa.timestamp("us", "UTC")
    born = [None if c is None else NOW + c * HOUR for c in order]
    table = pa.table(
        {
            "item_id": [1, 1],
            "m": [0, 1],
            "event_timestamp": pa.array([NOW] * 2, stamp),
            "created": pa.array(born, stamp),
        }
    )
    (tmp_path / "rows").mkdir()
    for part in range(files):
        pq.write_table(
            table.slice(part, 1) if files == 2 else table, tmp_path / "rows" / f"{part}.parquet"
        )
    ties = view("ties", [item], {"m": types.Int64}, tmp_path / "rows")
    repository.apply([item, ties])
    newest = max(range(2), key=lambda n: (-1 if order[n] is None else order[n], n))
    asked = pa.table({"item_id": [1], "event_timestamp": pa.array([NOW], stamp)})
    assert repository.get_historical_features(asked, ["ties:m"]).to_arrow()["m"].to_pylist() == [
        newest
    ]
    repository.materialize(NOW - HOUR, NOW + HOUR)
    assert repository.get_online_features(["ties:m"], [{"item_id": 1}]).to_dict()["m"] == [newest]


@pytest.mark.parametrize("engine", [None, ENGINE])
@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_the_ends_of_time_are_read_or_refused_in_words(tmp_path, unit, engine):
    """A ttl of a million days, bounds of the years 1 and 9999, entity rows at datetime.max:
    answers, whatever unit the files have.
    """
    offline = {"type": "adc_features.store.offline_store.AsofOfflineStore"}
    repository = store(tmp_path, LMDB, engine=engine, offline_store=offline)
    table = pa.table(
        {
            "item_id": [1],
            "m": [5],
            "event_timestamp": pa.array([NOW.replace(tzinfo=None)], pa.timestamp(unit, "UTC")),
        }
    )
    pq.write_table(
        table.append_column("created", table["event_timestamp"]), tmp_path / "rows.parquet"
    )
    brief = view(
        "brief",
        [item],
        {"m": types.Int64},
        tmp_path / "rows.parquet",
        ttl=timedelta(days=1_000_000),
    )
    endless = view(
        "endless", [item], {"m": types.Int64}, tmp_path / "rows.parquet", ttl=timedelta.max
    )
    repository.apply([item, brief, endless])
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    assert repository.get_historical_features(
        None, ["endless:m"], start_date=first, end_date=last
    ).to_arrow()["m"].to_pylist() == [5]
    for name in ("brief", "endless"):
        repository.materialize(first, last, feature_views=[name])
        assert repository.get_online_features([f"{name}:m"], [{"item_id": 1}]).to_dict()["m"] == [5]
    for end in (datetime.max, datetime.max.replace(tzinfo=UTC)):
        for asked in (
            pd.DataFrame({"item_id": [1], "event_timestamp": [end]}),
            pa.table({"item_id": [1], "event_timestamp": [end]}),
        ):
            got = repository.get_historical_features(
                asked, ["brief:m", "endless:m"], full_feature_names=True
            ).to_arrow()
            assert (got["brief__m"].to_pylist(), got["endless__m"].to_pylist()) == ([None], [5])
    far = pa.table(
        {"item_id": [1], "event_timestamp": pa.array([2**63 - 1], pa.timestamp("us", "UTC"))}
    )
    with pytest.raises(InputError, match="outside of the years 1 to 9999"):
        repository.get_historical_features(far, ["brief:m"]).to_arrow()


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, -(2**63) - 1])
def test_whole_numbers_beyond_64_bits_are_refused_by_the_name_of_the_key(repository, value):
    """Such a key is nobody's: the join key and the value are named, for lists, rows and arrays."""
    forms = [{"item_id": [1, value]}, [{"item_id": value}]]
    forms += [{"item_id": np.array([value], np.uint64)}] if value > 0 else []
    for asked in forms:
        with pytest.raises(InputError, match=f"join key 'item_id' is {value}"):
            repository.get_online_features(["brief:m"], asked)


@pytest.mark.parametrize("value", [None, float("nan"), pd.NA, [1]], ids=str)
def test_a_key_that_is_no_single_value_is_refused_by_its_name(repository, value):
    """Neither a null nor a list is an id; another id beside it changes nothing."""
    for asked in ([{"item_id": value}], [{"item_id": 1}, {"item_id": value}]):
        with pytest.raises(InputError, match=r"join key 'item_id' is .*; no row can have it"):
            repository.get_online_features(["brief:m"], asked)


def test_pandas_columns_are_keys_online(repository):
    """Categoricals and series are asked for as their values,
    also on the way through Feast's own code.
    """
    asked = {"item_id": pd.Series([1, 2]), "user_id": pd.Categorical(["u", "v"])}
    assert repository.get_online_features(["pair:n"], asked).to_dict()["n"] == [1, 2]
    assert repository.get_online_features(["pair:n", "doubled:twice"], asked).to_dict()[
        "twice"
    ] == [2, 4]


def test_large_whole_numbers_beside_nulls_are_kept_where_feast_converts():
    """A table of a view with a set is converted by way of pandas, which rounds 2**53 + 1."""
    big = 2**53 + 1
    fields = {"n": types.Int64, "labels": types.Set(types.String)}
    rows = {
        "item_id": [1, 2],
        "n": [big, None],
        "labels": [["a"], ["b"]],
        "event_timestamp": [NOW, NOW],
        "created": [NOW, NOW],
    }
    found = as_protos(
        view("v", [item], fields, Path("rows.parquet")),
        pa.table(rows),
        event="event_timestamp",
        created="created",
    )
    numbers = [values["n"] for _, values, *_ in found]
    assert [n.int64_val for n in numbers] == [big, 0]
    assert [n.WhichOneof("val") for n in numbers] == ["int64_val", None]
