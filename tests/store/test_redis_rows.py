"""Rows in Redis by Arrow against those that Feast itself writes, byte for byte."""

import math
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import start
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.lmdb.columns import KINDS, OPAQUE
from adc_features.store.redis_rows import takes_rows, write_rows
from adc_features.store.redis_values import key_bytes, time_bytes, time_of, value_bytes

redis = pytest.importorskip("redis")
NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
LISTS = {
    "bool_list_val": feast.BoolList,
    "int32_list_val": feast.Int32List,
    "int64_list_val": feast.Int64List,
    "unix_timestamp_list_val": feast.Int64List,
    "float_list_val": feast.FloatList,
    "double_list_val": feast.DoubleList,
    "string_list_val": feast.StringList,
    "bytes_list_val": feast.BytesList,
}
ELEMENTS = {
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63) + 1, 2**63 - 1),
    "unix_timestamp": st.integers(-(2**40), 2**40),
    "float": st.floats(width=32),
    "double": st.floats(),
    "string": st.text(max_size=9),
    "bytes": st.binary(max_size=200),
}


def proto(kind, value):
    """What Feast makes of a value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        lost = feast.ValueProto(unix_timestamp_val=-(2**63))
        return (lost if kind == "unix_timestamp_val" else feast.ValueProto()).SerializeToString()
    held = LISTS[kind](val=value) if kind in LISTS else value
    return feast.ValueProto(**{kind: held}).SerializeToString()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {OPAQUE}))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_values_are_the_bytes_of_feasts_messages(kind, data):
    """Every plain type: nulls, negative numbers, empty lists and texts, slices."""
    one = ELEMENTS[kind.removesuffix("_val").removesuffix("_list")]
    value = st.none() | (st.lists(one, max_size=5) if kind in LISTS else one)
    values = data.draw(st.lists(value, max_size=8))
    skip = data.draw(st.integers(0, len(values)))
    array = pa.array(values, KINDS[kind].arrow).slice(skip)
    got = value_bytes(array, kind, name="feature").to_pylist()
    assert got == [proto(kind, value) for value in values[skip:]]


def test_a_null_inside_of_a_list_is_refused():
    """Feast's messages do not hold one."""
    with pytest.raises(InputError, match="sid holds 1 nulls inside of lists"):
        value_bytes(pa.array([[1, None]], pa.list_(pa.int64())), "int64_list_val", name="sid")


@given(times=st.lists(st.integers(-(2**53), 2**53), max_size=5))
def test_times_are_the_bytes_of_timestamps(times):
    """To the microsecond, before 1970 too, and back."""
    made = time_bytes(np.array(times, np.int64)).to_pylist()
    for time, message in zip(times, made, strict=True):
        stamp = feast_timestamp(time)
        assert (message, time_of(message)) == (stamp.SerializeToString(), time)


def feast_timestamp(microseconds):
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp()
    stamp.FromDatetime(datetime(1970, 1, 1) + timedelta(microseconds=microseconds))
    return stamp


def test_keys_are_those_of_feast():
    """One or two join keys, sorted by name, whole numbers and text."""
    from feast.infra.online_stores.helpers import _redis_key

    columns = {"user": pa.array(["u", "Ünï"]), "item": pa.array([1, -(2**62)])}
    kinds = {"user": "string_val", "item": "int64_val"}
    keys = key_bytes(columns, kinds, project="shop").to_pylist()
    for row, key in enumerate(keys):
        values = [
            feast.ValueProto(**{kinds[n]: column[row].as_py()}) for n, column in columns.items()
        ]
        entity = feast.EntityKeyProto(join_keys=list(columns), entity_values=values)
        assert key == _redis_key("shop", entity)


@pytest.fixture(scope="module")
def address():
    if shutil.which("redis-server") is None:
        pytest.skip("needs a Redis server (apt-get install redis-server)")
    with start.redis() as variables:
        yield f"{variables['ADC_REDIS_HOST']}:{variables['ADC_REDIS_PORT']}"


ENGINES = {
    "ours": {"type": "adc_features.store.compute_engine.ArrowComputeEngine"},
    "feast": {"type": "local"},
}


def repository(where: Path, address: str, engine: str, **settings):
    """A repository on one Redis, and its features of every sort."""
    where.mkdir(exist_ok=True)
    config = feast.RepoConfig(
        project="shop",
        provider="local",
        registry=str(where / "registry.db"),
        offline_store={"type": "adc_features.store.offline_store.AsofOfflineStore"},
        online_store={"type": "redis", "connection_string": address, **settings},
        batch_engine=ENGINES[engine],
        entity_key_serialization_version=3,
        repo_path=where,
    )
    store = feast.FeatureStore(config=config)
    item = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.INT64)
    source = feast.FileSource(
        name="rows",
        path=str(where / "rows.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    types = {
        "item_id": feast.Int64,
        "price": feast.Float64,
        "name": feast.String,
        "events": feast.Int64,
        "sid": feast.Array(feast.Int32),
        "words": feast.Array(feast.String),
    }
    view = feast.FeatureView(
        name="items",
        entities=[item],
        schema=[feast.Field(name=name, dtype=kind) for name, kind in types.items()],
        source=source,
        ttl=timedelta(0),
    )
    pq.write_table(rows(), where / "rows.parquet")
    store.apply([item, view])
    return store


def rows(count: int = 50) -> pa.Table:
    """Two rows of each item at most; some at one time, of which the later created counts."""
    rng = np.random.default_rng(1)
    item = rng.permutation(np.arange(count) // 2)
    place = np.arange(count)
    return pa.table(
        {
            "item_id": item,
            "price": pa.array(rng.random(count), mask=place % 7 == 0),
            "name": [f"n{k}" if k % 5 else None for k in place.tolist()],
            "events": rng.integers(-5, 1 << 60, count),
            "sid": pa.array(
                [None if k % 6 == 0 else list(range(k % 4)) for k in place.tolist()],
                pa.list_(pa.int32()),
            ),
            "words": pa.array([["a", ""][: k % 3] for k in place.tolist()], pa.list_(pa.string())),
            "event_timestamp": pa.array(
                [NOW - timedelta(hours=k % 3, microseconds=k % 2) for k in item.tolist()]
            ),
            "created": pa.array([NOW + timedelta(seconds=k) for k in place.tolist()]),
        }
    )


def held(address: str) -> dict[bytes, dict[bytes, bytes]]:
    """Everything that Redis has."""
    host, port = address.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        return {key: client.hgetall(key) for key in client.scan_iter()}


@pytest.fixture
def empty(address):
    host, port = address.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.flushall()
    return address


@pytest.mark.servers
def test_materialization_writes_the_bytes_of_feasts_engine(empty, tmp_path):
    """Keys, fields, times and values are equal, and Feast reads them."""
    found = {}
    for engine in ("feast", "ours"):
        store = repository(tmp_path / engine, empty, engine)
        store.materialize(NOW - timedelta(days=1), NOW)
        found[engine] = held(empty)
        asked = {"item_id": [0, 7, 24, 999]}
        features = ["items:price", "items:sid", "items:words", "items:name"]
        found[f"{engine} reads"] = store.get_online_features(features, asked).to_dict()
        redis.Redis(host=empty.split(":")[0], port=int(empty.split(":")[1])).flushall()
    assert len(found["feast"]) == 25
    assert found["ours"] == found["feast"]
    assert found["ours reads"] == found["feast reads"]


@pytest.mark.servers
def test_a_row_that_is_not_newer_is_left_out(empty, tmp_path):
    """As with Feast: older or of the same time it changes nothing; newer it replaces the row."""
    store = repository(tmp_path / "repo", empty, "ours", key_ttl_seconds=1_000)
    online, view = store._get_provider().online_store, store.get_feature_view("items")
    assert takes_rows(online, store.config, view)
    times = {"event": "event_timestamp", "created": "created"}
    table = rows()
    assert write_rows(online, store.config, view, table, **times) == 25
    before = held(empty)
    assert write_rows(online, store.config, view, table, **times) == 0
    assert held(empty) == before
    place = table.column_names.index("event_timestamp")
    some = table.slice(0, 10).set_column(
        place, "event_timestamp", pa.array([NOW + timedelta(days=1)] * 10)
    )
    changed = len(set(some["item_id"].to_pylist()))
    assert write_rows(online, store.config, view, some, **times) == changed
    assert sum(before[key] != row for key, row in held(empty).items()) == changed
    host, port = empty.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        assert 0 < client.ttl(next(iter(before))) <= 1_000


@pytest.mark.servers
def test_a_refused_command_is_raised_and_leaves_no_replies_behind(empty, tmp_path):
    """The server says no: the error is Redis's, and the next write works."""
    store = repository(tmp_path / "repo", empty, "ours", skip_dedup=True)
    online, view = store._get_provider().online_store, store.get_feature_view("items")
    times = {"event": "event_timestamp", "created": "created"}
    write_rows(online, store.config, view, rows(), **times)
    key = next(iter(held(empty)))
    host, port = empty.split(":")
    with redis.Redis(host=host, port=int(port)) as client:
        client.delete(key)
        client.set(key, "no hash")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            write_rows(online, store.config, view, rows(), **times)
        client.delete(key)
    assert write_rows(online, store.config, view, rows(), **times) == 25


def test_other_stores_and_types_are_left_to_feast(tmp_path):
    """A store that is not Feast's Redis is not written so."""
    store = repository(tmp_path / "repo", "localhost:1", "ours")
    view = store.get_feature_view("items")
    assert not takes_rows(object(), store.config, view)
    online = store._get_provider().online_store
    assert takes_rows(online, store.config, view)
    cluster = store.config.online_store.model_copy(update={"redis_type": type_of("redis_cluster")})
    object.__setattr__(store.config, "_online_store", cluster)
    assert not takes_rows(online, store.config, view)


def type_of(name):
    from feast.infra.online_stores.redis import RedisType

    return RedisType(name)
