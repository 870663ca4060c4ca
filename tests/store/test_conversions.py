"""What fits a declared type: the table of docs/guides/offline_joins.md, the same offline, online
and on push.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import feast
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import types
from feast.data_source import PushMode
from hypothesis import given, settings
from hypothesis import strategies as st
from online_world import ENGINE, LMDB, NOW, item, store

from adc_features.errors import InputError
from adc_features.store.casts import MISFITS, fitted

INF, NAN, LARGE = float("inf"), float("nan"), 2**53
REFUSED = object()
US = pa.timestamp("us", "UTC")
NS = pa.array([1_704_067_200_123_456_789], pa.int64()).cast(pa.timestamp("ns", "UTC"))
LATE = datetime(2023, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
BEFORE = datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC)
SECOND = datetime(2024, 1, 1, tzinfo=UTC)

TABLE = {
    "whole float": (types.Int64, pa.array([3.0]), 3),
    "NaN for an integer": (types.Int64, pa.array([NAN]), None),
    "fraction for an integer": (types.Int64, pa.array([2.5]), REFUSED),
    "infinite integer": (types.Int64, pa.array([INF]), REFUSED),
    "float beyond int64": (types.Int64, pa.array([2.0**63]), REFUSED),
    "beyond int32": (types.Int32, pa.array([2**31]), REFUSED),
    "uint64 beyond int64": (types.Int64, pa.array([2**63], pa.uint64()), REFUSED),
    "whole decimal": (types.Int64, pa.array([Decimal("7.00")]), 7),
    "decimal fraction": (types.Int64, pa.array([Decimal("7.50")]), REFUSED),
    "decimal for int32": (types.Int32, pa.array([Decimal("7")]), 7),
    "text for an integer": (types.Int64, pa.array(["7"]), REFUSED),
    "truth value for an integer": (types.Int64, pa.array([True]), 1),
    "time for an integer": (types.Int64, pa.array([NOW], US), REFUSED),
    "large int for float64": (types.Float64, pa.array([2**60]), float(2**60)),
    "inexact int for float64": (types.Float64, pa.array([LARGE + 1]), REFUSED),
    "inexact int for float32": (types.Float32, pa.array([2**24 + 1]), REFUSED),
    "fraction for float32": (types.Float32, pa.array([0.5]), 0.5),
    "1e300 for float32": (types.Float32, pa.array([1e300]), REFUSED),
    "infinity for float32": (types.Float32, pa.array([INF]), INF),
    "decimal for float64": (types.Float64, pa.array([Decimal("0.25")]), 0.25),
    "one as a truth value": (types.Bool, pa.array([1]), True),
    "0.0 as a truth value": (types.Bool, pa.array([0.0]), False),
    "two as a truth value": (types.Bool, pa.array([2]), REFUSED),
    "half as a truth value": (types.Bool, pa.array([0.5]), REFUSED),
    "NaN as a truth value": (types.Bool, pa.array([NAN]), None),
    "text as a truth value": (types.Bool, pa.array(["true"]), REFUSED),
    "digits as text": (types.String, pa.array([12]), "12"),
    "fraction as text": (types.String, pa.array([1.5]), REFUSED),
    "category": (types.String, pa.array(["a"]).dictionary_encode(), "a"),
    "integer as a time": (types.UnixTimestamp, pa.array([1]), REFUSED),
    "text as a time": (types.UnixTimestamp, pa.array(["2024-01-01"]), REFUSED),
    "date as a time": (types.UnixTimestamp, pa.array([SECOND.date()], pa.date32()), SECOND),
    "nanoseconds": (types.UnixTimestamp, NS, SECOND),
    "microseconds": (types.UnixTimestamp, pa.array([LATE], US), LATE.replace(microsecond=0)),
    "milliseconds without a zone": (
        types.UnixTimestamp,
        pa.array([LATE], US).cast(pa.timestamp("ms"), safe=False),
        LATE.replace(microsecond=0),
    ),
    "half a second before 1970": (
        types.UnixTimestamp,
        pa.array([BEFORE], US),
        BEFORE.replace(microsecond=0),
    ),
    "no time": (types.UnixTimestamp, pa.array([None], US), None),
    "times in a list": (
        types.Array(types.UnixTimestamp),
        pa.array([[LATE, BEFORE]], pa.list_(US)),
        [t.replace(microsecond=0) for t in (LATE, BEFORE)],
    ),
    "dates in a large list": (
        types.Array(types.UnixTimestamp),
        pa.array([[SECOND.date()]], pa.large_list(pa.date32())),
        [SECOND],
    ),
    "text in a list of times": (
        types.Array(types.UnixTimestamp),
        pa.array([["2024-01-01"]]),
        REFUSED,
    ),
    "list of whole floats": (types.Array(types.Int64), pa.array([[1.0, 2.0]]), [1, 2]),
    "list with a fraction": (types.Array(types.Int64), pa.array([[1.5]]), REFUSED),
    "list with NaN for an integer": (types.Array(types.Int64), pa.array([[1.0, NAN]]), REFUSED),
    "list with a null": (types.Array(types.String), pa.array([["1", None]]), REFUSED),
    "list of floats with a null": (types.Array(types.Float32), pa.array([[1.0, None]]), REFUSED),
    "list beyond float32": (types.Array(types.Float32), pa.array([[1e300]]), REFUSED),
    "list of twos as truth values": (types.Array(types.Bool), pa.array([[2]]), REFUSED),
    "null list": (types.Array(types.Int64), pa.array([None], pa.list_(pa.int64())), None),
    "empty list": (types.Array(types.Int64), pa.array([[]], pa.list_(pa.int32())), []),
    "fixed list": (types.Array(types.Int64), pa.array([[1, 2]], pa.list_(pa.int32(), 2)), [1, 2]),
}
"""What it is -> (declared type, what came, the right answer or REFUSED)."""


def world(directory, kind, column: pa.Array, *, key: pa.Array | None = None) -> feast.FeatureStore:
    """A view `v` with the feature `value` and `other`, one row in its file, and a push source."""
    rows = {
        "item_id": pa.array([1]) if key is None else key,
        "value": column,
        "other": pa.array([5]),
        "event_timestamp": pa.array([NOW]),
        "created": pa.array([NOW]),
    }
    pq.write_table(pa.table(rows), directory / "rows.parquet")
    repository = store(
        directory,
        LMDB,
        engine=ENGINE,
        offline_store={"type": "adc_features.store.offline_store.AsofOfflineStore"},
    )
    batch = feast.FileSource(
        name="rows",
        path=str(directory / "rows.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )
    fields = [("item_id", types.Int64), ("value", kind), ("other", types.Int64)]
    view = feast.FeatureView(
        name="v",
        entities=[item],
        schema=[feast.Field(name=name, dtype=dtype) for name, dtype in fields],
        source=feast.PushSource(name="push", batch_source=batch),
        ttl=timedelta(0),
    )
    repository.apply([item, view])
    return repository


def offline(repository, key=1):
    entity = pa.table({"item_id": pa.array([key]), "event_timestamp": pa.array([NOW])})
    return (
        repository.get_historical_features(entity, ["v:value"]).to_arrow()["value"].to_pylist()[0]
    )


def online(repository, key=1):
    return repository.get_online_features(["v:value"], [{"item_id": key}]).to_dict()["value"][0]


def pushed(column: pa.Array) -> pd.DataFrame:
    """A frame whose `value` is the Arrow column itself."""
    frame = pd.DataFrame({"item_id": [1], "other": [5], "event_timestamp": [NOW], "created": [NOW]})
    return frame.assign(value=pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([column]))))


@pytest.mark.parametrize("cell", TABLE)
def test_a_cell_is_the_same_in_joins_materialization_push_and_write_back(tmp_path, cell):
    """The answer is the table's everywhere, or everywhere an InputError that names view and column,
    before any write.
    """
    kind, column, right = TABLE[cell]
    repository = world(tmp_path, kind, column)
    ways = {
        "join": lambda: offline(repository),
        "materialize": (
            lambda: repository.materialize(NOW - timedelta(days=1), NOW) or online(repository)
        ),
        "push": lambda: repository.push("push", pushed(column)) or online(repository),
    }
    if right is REFUSED:
        for way, run in ways.items():
            with pytest.raises(InputError, match=r"v.*value|rows.*value") as error:
                run()
            assert "value" in str(error.value), way
        assert online(repository) is None
        return
    assert {way: run() for way, run in ways.items()} == dict.fromkeys(ways, right)
    repository.write_to_offline_store(
        "v", pushed(column)[["item_id", "value", "other", "event_timestamp", "created"]]
    )
    assert offline(repository) == right
    written = pq.read_table(tmp_path / "rows.parquet")["value"].to_pylist()[-1]
    assert (
        written in (right, right and right.replace(tzinfo=None))
        if isinstance(right, datetime)
        else written == right
    )


@pytest.mark.parametrize(
    "ids", [pa.array([1.0]), pa.array([Decimal("1.00")]), pa.array([1], pa.uint64())]
)
def test_whole_numbers_of_any_type_are_one_entity(tmp_path, ids):
    """In files, entity rows, pushes and requests alike."""
    repository = world(tmp_path, types.Int64, pa.array([7]), key=ids)
    repository.materialize(NOW - timedelta(days=1), NOW)
    for key in (1, 1.0, Decimal(1)):
        assert (offline(repository, key), online(repository, key)) == (7, 7)
    repository.push("push", pushed(pa.array([8])).assign(item_id=ids.to_pandas()))
    assert online(repository) == 8


def test_a_fraction_is_no_entity(tmp_path):
    """2.5 is neither 2 nor unknown:
    the key is refused where it is asked for and where it is written.
    """
    repository = world(tmp_path, types.Int64, pa.array([7]))
    for refused in (
        lambda: offline(repository, 2.5),
        lambda: online(repository, 2.5),
        lambda: repository.push("push", pushed(pa.array([8])).assign(item_id=[2.5])),
    ):
        with pytest.raises(InputError, match=r"item_id.*2\.5"):
            refused()


@pytest.mark.parametrize("column", ["event_timestamp", "value", "item_id"])
def test_a_pushed_frame_without_a_column_is_refused_by_its_name(tmp_path, column):
    """No raw KeyError, and nothing is written."""
    repository = world(tmp_path, types.Int64, pa.array([7]))
    with pytest.raises(InputError, match=f"view v: the rows have no column {column}"):
        repository.push("push", pushed(pa.array([8])).drop(columns=column))
    assert online(repository) is None


def test_a_row_without_event_time_is_refused_on_every_write(tmp_path):
    """By push, by value protos, and written back: a later read meets no such row."""
    repository = world(tmp_path, types.Int64, pa.array([7]))
    frame = pushed(pa.array([8])).assign(event_timestamp=pd.to_datetime([None], utc=True))
    with pytest.raises(InputError, match="view v: 1 values of 'event_timestamp' are null"):
        repository.push("push", frame)
    with pytest.raises(InputError, match="view v: 1 values of event_timestamp are null"):
        repository.write_to_offline_store("v", frame)
    view, provider = repository.get_feature_view("v"), repository._get_provider()
    for time in (pd.NaT, None):
        with pytest.raises(InputError, match="view v: 1 rows have no event time"):
            provider.online_write_batch(
                repository.config, view, [(*proto(int64_val=8), time, None)], None
            )
    assert online(repository) is None


def proto(**value):
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=1)]), {
        "value": Value(**value)
    }


def test_value_protos_of_another_type_follow_the_table(tmp_path):
    """A whole double is that integer, a fraction is refused by view, column and value."""
    repository = world(tmp_path, types.Int64, pa.array([7]))
    view, provider = repository.get_feature_view("v"), repository._get_provider()
    provider.online_write_batch(
        repository.config, view, [(*proto(double_val=3.0), NOW, None)], None
    )
    assert online(repository) == 3
    with pytest.raises(InputError, match=r"view v: value is double.*value 2\.5"):
        provider.online_write_batch(
            repository.config, view, [(*proto(double_val=2.5), NOW, None)], None
        )


def test_rows_are_written_back_through_a_field_mapping(tmp_path):
    """Feast hands over the view's names; the file keeps those of the source, and the join reads the
    new row.
    """
    repository = world(tmp_path, types.Int64, pa.array([7]))
    rows = pq.read_table(tmp_path / "rows.parquet")
    pq.write_table(
        rows.rename_columns(["item_id", "raw", "other", "event_timestamp", "created"]),
        tmp_path / "rows.parquet",
    )
    view = repository.get_feature_view("v")
    view.batch_source.field_mapping = {"raw": "value"}
    repository.apply([item, view])
    frame = pd.DataFrame(
        {"item_id": [2], "raw": [9.0], "other": [5], "event_timestamp": [NOW], "created": [NOW]},
        index=[4],
    )
    repository.write_to_offline_store("v", frame)
    assert pq.read_table(tmp_path / "rows.parquet").column_names == [
        "item_id",
        "raw",
        "other",
        "event_timestamp",
        "created",
    ]
    assert (offline(repository, 1), offline(repository, 2)) == (7, 9)


@pytest.mark.parametrize("to", list(PushMode), ids=str)
@pytest.mark.parametrize("time", ["event_timestamp", "at"])
@pytest.mark.parametrize("named_by", ["view", "source"])
def test_a_push_through_a_field_mapping_takes_either_name(tmp_path, named_by, time, to):
    """Feature, key and time are mapped, the time is declared by either of its names: the row is
    found in every store that it was pushed to.
    """
    old = {"item_id": "sku", "value": "raw", "event_timestamp": "at"}
    repository = world(tmp_path, types.Int64, pa.array([7]))
    rows = pq.read_table(tmp_path / "rows.parquet")
    pq.write_table(
        rows.rename_columns([old.get(name, name) for name in rows.column_names]),
        tmp_path / "rows.parquet",
    )
    view = repository.get_feature_view("v")
    view.batch_source.field_mapping = {there: name for name, there in old.items()}
    view.batch_source.timestamp_field = time
    view.stream_source = feast.PushSource(name="push", batch_source=view.batch_source)
    repository.apply([item, view])
    frame = pd.DataFrame(
        {"item_id": [2], "value": [9], "other": [5], "event_timestamp": [NOW], "created": [NOW]}
    )
    repository.push("push", frame if named_by == "view" else frame.rename(columns=old), to=to)
    assert online(repository, 2) == (None if to == PushMode.OFFLINE else 9)
    assert offline(repository, 2) == (None if to == PushMode.ONLINE else 9)


@pytest.mark.parametrize("to", list(PushMode), ids=str)
def test_a_pushed_frame_names_its_view_when_columns_are_amiss(tmp_path, to):
    """A column that lacks and one that is there twice are named, and nothing is written."""
    repository = world(tmp_path, types.Int64, pa.array([7]))
    frame = pushed(pa.array([8]))
    for wrong, words in (
        (frame.drop(columns="value"), "value"),
        (pd.concat([frame, frame[["value"]]], axis=1), r"columns \['value'\] more than once"),
    ):
        with pytest.raises(InputError, match=f"view v: .*{words}"):
            repository.push("push", wrong, to=to)
    assert (offline(repository), online(repository)) == (7, None)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.none() | st.floats() | st.integers(-(2**63), 2**63 - 1).map(float), max_size=5),
    st.sampled_from([pa.int32(), pa.int64(), pa.bool_()]),
)
def test_what_fits_is_the_same_number_and_the_rest_is_refused(values, kind):
    """Floats as whole numbers and truth values, against the rule in one line of Python."""
    least, most = {
        pa.int32(): (-(2**31), 2**31 - 1),
        pa.int64(): (-(2**63), 2**63 - 1),
        pa.bool_(): (0, 1),
    }[kind]
    known = [None if value is None or value != value else value for value in values]
    fits = all(
        v is None or (abs(v) != INF and v == int(v) and least <= int(v) <= most) for v in known
    )
    column = pa.chunked_array([pa.array(values, pa.float64())])
    if fits:
        assert fitted(column, kind, name="x").to_pylist() == known
    else:
        with pytest.raises(MISFITS, match="value "):
            fitted(column, kind, name="x")


MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.none() | MOMENTS, max_size=5),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Asia/Tokyo"]),
)
def test_features_of_times_are_floored_to_the_second(moments, unit, zone):
    """Of every unit and zone, before and after 1970,
    alone and in lists, against Python's own second.
    """
    whole = [
        (
            None
            if moment is None
            else (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        )
        for moment in moments
    ]
    ticks = {"s": 1_000_000, "ms": 1_000, "us": 1}.get(unit)
    came = pa.array(
        [n if n is None else n // ticks if ticks else 1_000 * n for n in whole], pa.int64()
    ).cast(pa.timestamp(unit, zone))
    right = [None if moment is None else moment.replace(microsecond=0) for moment in moments]
    for column, kind, cut in (
        (came, US, right),
        (
            pa.array([came.drop_null().to_pylist()], pa.list_(came.type)),
            pa.list_(US),
            [[moment for moment in right if moment]],
        ),
    ):
        answer = fitted(pa.chunked_array([column]), kind, name="x", seconds=True)
        assert (answer.type, answer.to_pylist()) == (kind, cut)


def test_times_of_rows_stay_microseconds_where_they_are_features_too(tmp_path):
    """A view that declares its event time as a feature serves it
    to the second, and joins by the microsecond.
    """
    rows = pa.table(
        {
            "item_id": [1, 1],
            "event_timestamp": pa.array([LATE - timedelta(microseconds=1), LATE], US),
            "value": [1, 2],
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    repository = store(
        tmp_path,
        LMDB,
        engine=ENGINE,
        offline_store={"type": "adc_features.store.offline_store.AsofOfflineStore"},
    )
    source = feast.FileSource(
        name="rows", path=str(tmp_path / "rows.parquet"), timestamp_field="event_timestamp"
    )
    fields = [
        feast.Field(name=name, dtype=kind)
        for name, kind in (("value", types.Int64), ("event_timestamp", types.UnixTimestamp))
    ]
    view = feast.FeatureView(
        name="v", entities=[item], schema=fields, source=source, ttl=timedelta(0)
    )
    repository.apply([item, view])
    entity = pa.table(
        {"item_id": [1, 1], "time": pa.array([LATE - timedelta(microseconds=1), LATE], US)}
    ).rename_columns(["item_id", "event_timestamp"])
    assert repository.get_historical_features(entity, ["v:value"]).to_arrow()[
        "value"
    ].to_pylist() == [1, 2]
    joined = repository.get_historical_features(
        entity, ["v:event_timestamp"], full_feature_names=True
    ).to_arrow()
    assert joined["v__event_timestamp"].to_pylist() == [LATE.replace(microsecond=0)] * 2
    repository.materialize(LATE - timedelta(days=1), LATE + timedelta(days=1))
    shown = repository.get_online_features(
        ["v:value", "v:event_timestamp"], [{"item_id": 1}]
    ).to_dict()
    assert (shown["value"], shown["event_timestamp"]) == ([2], [LATE.replace(microsecond=0)])


def two_views(directory) -> feast.FeatureStore:
    """`first` and `second`, both fed by `push`; `second` declares `value` as an integer and has a
    file of its own.
    """
    repository = store(
        directory,
        LMDB,
        engine=ENGINE,
        offline_store={"type": "adc_features.store.offline_store.AsofOfflineStore"},
    )
    views = []
    for name, kind in (("first", types.Float64), ("second", types.Int64)):
        rows = {"item_id": [1], "value": [1.0], "event_timestamp": [NOW - timedelta(days=9)]}
        pq.write_table(pa.table(rows), directory / f"{name}.parquet")
        batch = feast.FileSource(
            name=name, path=str(directory / f"{name}.parquet"), timestamp_field="event_timestamp"
        )
        fields = [
            feast.Field(name=column, dtype=dtype)
            for column, dtype in (("item_id", types.Int64), ("value", kind))
        ]
        views.append(
            feast.FeatureView(
                name=name, entities=[item], schema=fields, source=batch, ttl=timedelta(0)
            )
        )
    for view in views:
        view.stream_source = feast.PushSource(name="push", batch_source=view.batch_source)
    repository.apply([item, *views])
    return repository


@pytest.mark.parametrize("to", list(PushMode), ids=str)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["push", "push_async"])
def test_a_push_that_one_view_refuses_is_written_to_none(tmp_path, to, asynchronous):
    """2.5 fits the first view and not the second, in whichever order and store; a value that fits
    both goes into both.
    """
    repository = two_views(tmp_path)

    def push(frame: pd.DataFrame) -> None:
        if asynchronous:
            asyncio.run(repository.push_async("push", frame, to=to))
        else:
            repository.push("push", frame, to=to)

    def state() -> list:
        shown = repository.get_online_features(
            ["first:value", "second:value"], [{"item_id": 1}], full_feature_names=True
        ).to_dict()
        return [
            shown["first__value"],
            shown["second__value"],
            *(
                pq.read_table(tmp_path / f"{name}.parquet")["value"].to_pylist()
                for name in ("first", "second")
            ),
        ]

    frame = pd.DataFrame({"item_id": [1], "value": [2.5], "event_timestamp": [NOW]})
    before = state()
    with pytest.raises(InputError, match=r"view second: value .*2\.5"):
        push(frame)
    assert state() == before == [[None], [None], [1], [1]]
    push(frame.assign(value=3.0))
    online, offline = (
        ([3], [3]) if to != PushMode.OFFLINE else ([None], [None]),
        (([1, 3], [1, 3]) if to != PushMode.ONLINE else ([1], [1])),
    )
    assert state() == [*online, *offline]
