"""What a view's Parquet files say, whatever their types: against answers that a person can read."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs
from store_world import examples
from table_world import our_stores

from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import microseconds, time_bounds, timestamps
from adc_features.pipeline.dataset_manifest import retrieval_manifest
from adc_features.store.parquet.opening import open_source
from adc_features.store.parquet.sources import Declared

DAY = 86_400_000_000
UTC_US = pa.timestamp("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


LATE = EPOCH + timedelta(days=99)


def moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


def repository(folder: Path, path: str, *, key="Int64", value="Float64", at="event_timestamp"):
    """A store with one view `v` by `id` over `folder / path`, our stores and our engine."""
    import feast.types
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType

    store = FeatureStore(config=our_stores(folder))
    kinds = {"Int64": ValueType.INT64, "String": ValueType.STRING}
    entity = Entity(name="id", join_keys=["id"], value_type=kinds[key])
    fields = [
        Field(name="id", dtype=getattr(feast.types, key)),
        Field(name="v", dtype=getattr(feast.types, value)),
    ]
    view = FeatureView(
        name="v",
        entities=[entity],
        schema=fields,
        source=FileSource(path=str(folder / path), timestamp_field=at),
        ttl=timedelta(0),
    )
    store.apply([entity, view])
    return store


def parts(folder: Path, *tables: pa.Table, name: str = "rows") -> str:
    for place, table in enumerate(tables):
        path = folder / name / f"{place}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return name


def rows(values: pa.Array, times: pa.Array, ids: pa.Array | None = None) -> pa.Table:
    ids = pa.array([1] * len(values)) if ids is None else ids
    return pa.table({"id": ids, "v": values, "event_timestamp": times})


def days(*numbers: int) -> pa.Array:
    return pa.array(numbers, pa.int32()).cast(pa.date32())


def joined(store, ids, at) -> list:
    entity = pa.table({"id": ids, "event_timestamp": pa.array(at, UTC_US)})
    return store.get_historical_features(entity, ["v:v"]).to_arrow()["v"].to_pylist()


def online(store, *ids) -> list:
    return store.get_online_features(["v:v"], [{"id": i} for i in ids]).to_dict()["v"]


def pulled(store, method="pull_all_from_table_or_query", *, start=EPOCH, end=LATE):
    from adc_features.store.lmdb.feature_values import declared_types
    from adc_features.store.offline_store import AsofOfflineStore

    view = store.get_feature_view("v")
    return getattr(AsofOfflineStore, method)(
        store.config,
        view.batch_source,
        ["id"],
        ["v"],
        "event_timestamp",
        None,
        start,
        end,
        types=declared_types(view),
    ).to_arrow()


def written(store, table: pa.Table) -> None:
    from adc_features.store.offline_store import AsofOfflineStore

    AsofOfflineStore.offline_write_batch(store.config, store.get_feature_view("v"), table, None)


# ---- the range


def test_a_materialization_stops_at_its_end_with_dates(tmp_path):
    """Forty days of dates: the row of day ten goes online, as between dates without entity rows."""
    table = rows(pa.array(np.arange(40.0)), days(*range(40)))
    store = repository(tmp_path, parts(tmp_path, table))
    store.materialize(moment(0), moment(10 * DAY))
    assert online(store, 1) == [10.0]
    found = store.get_historical_features(
        features=["v:v"], start_date=moment(3 * DAY), end_date=moment(5 * DAY)
    ).to_arrow()
    assert found["v"].to_pylist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "times", [pa.array(["1970-01-02"]), pa.array([DAY]), pa.array([1.5]), pa.array([b"x"])]
)
def test_what_is_no_event_time_is_refused_everywhere(tmp_path, times):
    """Text and numbers: the join, the pull, the range without entity rows, the manifest."""
    store = repository(tmp_path, parts(tmp_path, rows(pa.array([1.0]), days(1))))
    pq.write_table(rows(pa.array([1.0]), times), tmp_path / "rows/0.parquet")
    span = {"features": ["v:v"], "start_date": moment(0), "end_date": moment(9 * DAY)}
    for read in (
        lambda: joined(store, [1], [moment(5 * DAY)]),
        lambda: pulled(store),
        lambda: store.get_historical_features(**span).to_arrow(),
        lambda: written(store, rows(pa.array([1.0]), days(2))),
    ):
        with pytest.raises(InputError, match=r"event_timestamp is of type .* in .*0\.parquet"):
            read()
    table = pa.table({"event_timestamp": times})
    with pytest.raises(InputError, match="event_timestamp is of type"):
        retrieval_manifest([table], table.schema)


KINDS = [
    pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "Asia/Tokyo")
]
KINDS += [pa.date32(), pa.date64()]


def ticks_of(us: int, kind: pa.DataType) -> int:
    if pa.types.is_date32(kind):
        return us // DAY
    if pa.types.is_date64(kind):
        return us // DAY * 86_400_000
    return {"s": us // 1_000_000, "ms": us // 1_000, "us": us, "ns": us * 1_000 - 1}[kind.unit]


def us_of(ticks: int, kind: pa.DataType) -> int:
    if pa.types.is_date32(kind):
        return ticks * DAY
    if pa.types.is_date64(kind):
        return ticks * 1_000
    return {"s": ticks * 1_000_000, "ms": ticks * 1_000, "us": ticks, "ns": ticks // 1_000}[
        kind.unit
    ]


def column_of(ticks: list[int | None], kind: pa.DataType) -> pa.Array:
    return pa.array(ticks, pa.int32() if pa.types.is_date32(kind) else pa.int64()).cast(kind)


near = st.sampled_from([-DAY, 0, DAY, 3 * DAY]).flatmap(
    lambda base: st.sampled_from([-1_000_001, -1_000, -1, 0, 1, 999, 1_000, 1_000_000]).map(
        lambda more: base + more
    )
)
ENDS = [None, datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
bounds = st.sampled_from(ENDS) | near.map(moment)


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.none() | near, max_size=8), bounds, bounds)
def test_bounds_are_right_on_every_type(tmp_path_factory, kind, moments, start, end):
    """Timestamps of every unit, with a zone and without,
    and dates: a filter keeps what a person would.
    """
    ticks = [None if us is None else ticks_of(us, kind) for us in moments]
    column = column_of(ticks, kind)
    path = tmp_path_factory.getbasetemp() / "bounds.parquet"
    pq.write_table(pa.table({"t": column}), path, row_group_size=2, coerce_timestamps=None)
    files = open_source(str(path), declared=Declared({}, times=("t",)))
    in_file = files.runs[0].kind("t")  # Parquet has no seconds
    known = [None if t is None else us_of(t, kind) for t in ticks]

    def inside(us):
        if us is None:
            return start is None and end is None
        return (start is None or moment(us) >= start) and (end is None or moment(us) <= end)

    want = [us for us in known if inside(us)]
    got = files.table(["t"], start=start, end=end)["t"]
    assert got.cast(pa.int64()).to_pylist() == want
    keep = time_bounds(in_file, "t", start=start, end=end)
    raw = ds.dataset(path).to_table(filter=keep)["t"]
    assert timestamps(raw, name="t").cast(pa.int64()).to_pylist() == want


def test_times_that_microseconds_do_not_hold_are_refused():
    """Seconds and days of a far future would wrap to a time in the past."""
    for column in (pa.array([2**62], pa.timestamp("s")), pa.array([2**31 - 1], pa.date32())):
        with pytest.raises(InputError, match="further from 1970"):
            microseconds(column)


# ---- files of several types


def test_no_row_sees_the_future_when_the_first_file_holds_dates(tmp_path):
    """A timestamp in the second file stays a timestamp: three hours later is not known at noon."""
    first = rows(pa.array([0.0]), pa.array([date(2024, 1, 1)]))
    second = rows(pa.array([1.0]), pa.array([datetime(2024, 1, 2, 15)], pa.timestamp("us")))
    store = repository(tmp_path, parts(tmp_path, first, second))
    noon = datetime(2024, 1, 2, 12, tzinfo=UTC)
    assert joined(store, [1, 1], [noon, noon + timedelta(hours=3)]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("value", "first", "second"),
    [
        ("Float64", pa.array([1.0], pa.float32()), pa.array([123456789.123])),
        ("Int64", pa.nulls(1), pa.array([7], pa.int64())),
        ("Int64", pa.array([1], pa.int32()), pa.array([2**40], pa.int64())),
        ("Int64", pa.array([1], pa.int8()), pa.array([7.0])),
        ("String", pa.array(["a"]).dictionary_encode(), pa.array(["b"], pa.large_string())),
        ("Float64", None, pa.array([2.5])),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_declared_type_decides_and_not_the_first_file(tmp_path, value, first, second, order):
    """Narrow and wide, null and absent, in either order: offline, online and written back alike."""
    tables = [
        rows(pa.nulls(1) if first is None else first, days(1)),
        rows(second, days(2), pa.array([2])),
    ]
    if first is None:
        tables[0] = tables[0].drop_columns("v")
    store = repository(tmp_path, parts(tmp_path, *tables[::order]), value=value)
    want = [None if first is None else first[0].as_py(), second[0].as_py()]
    assert joined(store, [1, 2], [moment(9 * DAY)] * 2) == want
    store.materialize(moment(0), moment(9 * DAY))
    assert online(store, 1, 2) == want
    written(store, rows(second, days(3)))
    assert joined(store, [1], [moment(9 * DAY)]) == want[1:]


def test_a_single_file_written_anew_takes_the_declared_type(tmp_path):
    """A fraction of 64 bits added to a file of 32 keeps its digits, and the old row its value."""
    pq.write_table(rows(pa.array([0.5], pa.float32()), days(1)), tmp_path / "rows.parquet")
    store = repository(tmp_path, "rows.parquet")
    more = rows(pa.array([123456789.123]), pa.array([moment(2 * DAY + 1)], UTC_US))
    written(store, more)
    at = [moment(DAY), moment(2 * DAY), moment(2 * DAY + 1)]
    assert joined(store, [1] * 3, at) == [0.5, 0.5, 123456789.123]


@pytest.mark.parametrize(
    ("value", "second", "words"),
    [
        ("Int32", pa.array([2**40]), r"v is int64 in .*1\.parquet and int32 in the view"),
        ("Float32", pa.array([1e300]), r"v is double in .*1\.parquet and float in the view"),
        ("Int64", pa.array(["x"]), r"v is string in .*1\.parquet and int64 in the view"),
    ],
)
def test_values_that_do_not_fit_name_their_file(tmp_path, value, second, words):
    """The file, the column and both types are said, for joins, pulls and writes."""
    tables = rows(pa.array([1], pa.int8()), days(1)), rows(second, days(2))
    store = repository(tmp_path, parts(tmp_path, *tables), value=value)
    for read in (lambda: joined(store, [1], [moment(9 * DAY)]), lambda: pulled(store)):
        with pytest.raises(InputError, match=words):
            read()


def test_a_part_without_its_key_or_time_is_refused(tmp_path):
    """Rows that could never be found are not left out in silence."""
    store = repository(tmp_path, parts(tmp_path, rows(pa.array([1.0]), days(1))))
    for name in ("id", "event_timestamp"):
        parts(
            tmp_path,
            rows(pa.array([1.0]), days(1)),
            rows(pa.array([2.0]), days(2)).drop_columns(name),
        )
        for read in (lambda: joined(store, [1], [moment(9 * DAY)]), lambda: pulled(store)):
            with pytest.raises(InputError, match=rf"1\.parquet has no column {name}"):
                read()


def test_entity_files_of_two_time_types_are_refused(tmp_path):
    """A dataset of entity rows whose schema would turn times into dates is named, not changed."""
    store = repository(tmp_path, parts(tmp_path, rows(pa.array([1.0]), days(1))))
    noon = pa.array([moment(DAY + DAY // 2)], UTC_US)
    asked = [pa.table({"id": [1], "event_timestamp": t}) for t in (days(1), noon)]
    parts(tmp_path, *asked, name="asked")
    with pytest.raises(InputError, match=r"event_timestamp as timestamp.* in .*1\.parquet"):
        store.get_historical_features(ds.dataset(tmp_path / "asked"), ["v:v"]).to_arrow()


# ---- partitions


def partitioned(folder: Path, name: str, *values: str) -> str:
    for place, value in enumerate(values):
        path = folder / "rows" / f"{name}={value}" / "0.parquet"
        path.parent.mkdir(parents=True)
        table = rows(pa.array([float(place)]), days(1)).drop_columns(name)
        pq.write_table(table, path)
    return "rows"


def test_names_of_directories_keep_their_zeros(tmp_path):
    """As a key declared text: found offline and online, and written to a directory of its own."""
    store = repository(tmp_path, partitioned(tmp_path, "id", "01234", "94110"), key="String")
    assert joined(store, ["01234", "94110", "1234"], [moment(9 * DAY)] * 3) == [0.0, 1.0, None]
    store.materialize(moment(0), moment(9 * DAY))
    assert online(store, "01234", "94110", "1234") == [0.0, 1.0, None]
    written(store, rows(pa.array([5.0]), days(2), pa.array(["03333"])))
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == [
        "id=01234",
        "id=03333",
        "id=94110",
    ]
    assert joined(store, ["03333"], [moment(9 * DAY)]) == [5.0]


def test_names_of_directories_are_features_of_the_declared_type(tmp_path):
    """Text as it stands, also where every name would be a number;
    numbers where they are declared.
    """
    name = partitioned(tmp_path, "v", "0042")
    assert joined(repository(tmp_path, name, value="String"), [1], [moment(9 * DAY)]) == ["0042"]
    assert joined(repository(tmp_path, name, value="Int64"), [1], [moment(9 * DAY)]) == [42]


def test_undeclared_names_of_directories_are_numbers_only_when_nothing_is_lost(tmp_path):
    """One zero in front makes all of them text."""
    for values, want in ((["7", "12"], [12, 7]), (["07", "12"], ["07", "12"])):
        folder = tmp_path / values[0]
        partitioned(folder, "v", *values)
        assert open_source(str(folder / "rows")).table(["v"])["v"].to_pylist() == want


# ---- tables of other formats


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "Delta"),
        ("metadata/v1.metadata.json", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
@pytest.mark.parametrize("inside", ["", "/0.parquet", "/data", "/day=1", "/day=1/0.parquet"])
def test_tables_of_other_formats_are_refused(tmp_path, mark, kind, inside):
    """The table, a file, the data directory or a partition of it:
    no deleted row is served or added to.
    """
    table = rows(pa.array([1.0]), days(1))
    parts(tmp_path, table)
    path = tmp_path / ("rows" + inside)
    file = path if path.suffix else path / "0.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    store = repository(tmp_path, "rows" + inside)
    (tmp_path / "rows" / mark).parent.mkdir()
    (tmp_path / "rows" / mark).write_text("{}")
    for use in (
        lambda: joined(store, [1], [moment(9 * DAY)]),
        lambda: pulled(store),
        lambda: written(store, table),
    ):
        with pytest.raises(InputError, match=f"is a {kind} table"):
            use()


def test_a_directory_called_metadata_is_no_table(tmp_path):
    """Only Iceberg's own files in it make it one."""
    name = parts(tmp_path, rows(pa.array([1.0]), days(1)))
    (tmp_path / name / "_notes" / "metadata").mkdir(parents=True)
    assert joined(repository(tmp_path, name), [1], [moment(9 * DAY)]) == [1.0]


# ---- everything at once

REFUSED = [pa.string(), pa.int64()]
VALUES = [pa.float32(), pa.float64(), pa.int32(), pa.int64(), pa.null(), pa.string()]


@st.composite
def files(draw):
    """Files of (id, us, value, time type, value type); ids are text in a partition or a column."""
    made = []
    hive = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(KINDS * 2 + REFUSED))
        held = draw(st.sampled_from([*VALUES * 2, None]))
        some = st.tuples(
            st.sampled_from(["1", "2"] if not hive else ["01", "2"]), near, st.integers(0, 9)
        )
        lines = draw(st.lists(some, min_size=1, max_size=4))
        if hive:
            lines = [(lines[0][0], us, value) for _, us, value in lines]
        made.append((kind, held, lines))
    return hive, made


def put(folder: Path, hive: bool, made: list) -> list:
    """The files, and every row (id, us, value) in their order."""
    held = []
    for place, (kind, value, lines) in enumerate(made):
        names, at, values = zip(*lines, strict=True)
        if kind in REFUSED:
            times = pa.array([str(us) if kind == pa.string() else us for us in at], kind)
        else:
            ticks = [ticks_of(us, kind) for us in at]
            times, at = column_of(ticks, kind), [us_of(t, kind) for t in ticks]
        columns = {"event_timestamp": times}
        if not hive:
            columns["id"] = pa.array(names)
        if value is not None:
            shown = [str(v) for v in values] if value == pa.string() else list(values)
            shown = [None] * len(shown) if value == pa.null() else shown
            columns["v"] = pa.array(shown, value)
        if value in (None, pa.null()):
            values = [None] * len(values)
        under = f"id={names[0]}" if hive else "."
        path = folder / "rows" / under / f"{place}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        held.append((str(path.resolve()), list(zip(names, at, values, strict=True))))
    return [row for _, lines in sorted(held) for row in lines]


def newest(held: list, key: str, low: int | None, high: int):
    """The value of the last of the newest rows of a key in a range; None without one."""
    seen = [(us, n) for n, (k, us, _) in enumerate(held) if k == key and us <= high]
    seen = [(us, n) for us, n in seen if low is None or us >= low]
    return held[max(seen)[1]][2] if seen else None


@settings(max_examples=examples(40), deadline=None)
@given(
    files(), st.lists(st.tuples(st.sampled_from(["01", "1", "2"]), near), min_size=1), near, near
)
def test_every_reader_gives_the_answer_found_by_hand_or_refuses(
    tmp_path_factory, drawn, asked, one, other
):
    """Any time type, any mixture of files, names of directories:
    join, pulls and writes, or InputError.
    """
    hive, made = drawn
    folder = tmp_path_factory.mktemp("any")
    held = put(folder, hive, [(UTC_US, pa.float64(), [("2", 0, 1)])])
    store = repository(folder, "rows", key="String")
    for path in (folder / "rows").rglob("*.parquet"):
        path.unlink()
    held = put(folder, hive, made)
    keys, at = zip(*asked, strict=True)
    low, high = sorted((one, other))
    span = {"start": moment(low), "end": moment(high)}

    def latest():
        table = pulled(store, "pull_latest_from_table_or_query", **span)
        return dict(zip(table["id"].to_pylist(), table["v"].to_pylist(), strict=True))

    def everything():
        table = pulled(store, **span).select(["id", "event_timestamp", "v"])
        table = table.set_column(1, "t", table["event_timestamp"].cast(pa.int64()))
        return sorted(map(repr, zip(*(c.to_pylist() for c in table.columns), strict=True)))

    def join():
        return joined(store, list(keys), [moment(us) for us in at])

    def write():
        written(
            store, rows(pa.array([0.125]), pa.array([moment(9 * DAY)], UTC_US), pa.array(["01"]))
        )
        return joined(store, ["01"], [moment(9 * DAY)]) + join()

    no_values = all(value is None for _, value, _ in made)
    refused = any(kind in REFUSED for kind, _, _ in made)
    # refused where they are read: a range may leave them out
    has_texts = any(value == pa.string() for _, value, _ in made)
    within = [row for row in held if low <= row[1] <= high]
    wanted = [newest(held, key, None, us) for key, us in asked]
    for read, want in (
        (join, wanted),
        (latest, {key: newest(held, key, low, high) for key, _, _ in within}),
        (everything, sorted(repr((k, us, None if v is None else float(v))) for k, us, v in within)),
        (write, [0.125, *wanted]),
    ):
        if refused or no_values:
            with pytest.raises(InputError):
                read()
            continue
        try:
            got = read()
        except InputError:
            assert has_texts
        else:
            assert got == want


def test_a_column_of_a_row_group_is_the_same_mapped_and_scanned(tmp_path):
    """Lists, structs, dictionaries, nulls, and names that look like paths into another column."""
    text = pa.array(["x", None, "y"]).dictionary_encode()
    table = pa.table(
        {
            "a": pa.array([1, None, 3], pa.int32()),
            "a.b": [4, 5, 6],
            "s": [{"x": 1}, {"x": None}, None],
            "s.x": [7, 8, 9],
            "list": pa.array([[1.0], None, []], pa.list_(pa.float32())),
            "text": text,
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2, write_page_checksum=True)
    mapped = open_source(str(tmp_path / "rows.parquet"))
    below = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    scanned = open_source("rows.parquet", filesystem=below)
    for name in table.column_names:
        found = [
            pa.chunked_array([c for g in s.groups() for c in s.column(g, name).chunks])
            for s in (mapped, scanned)
        ]
        assert found[0] == found[1]
        assert found[0].to_pylist() == table[name].to_pylist()


def test_a_damaged_page_of_a_mapped_row_group_is_refused(tmp_path):
    """Its checksum does not fit: no value of it is given."""
    path = tmp_path / "rows.parquet"
    numbers = pa.table({"n": np.arange(1_000)})
    pq.write_table(
        numbers, path, write_page_checksum=True, use_dictionary=False, compression="none"
    )
    whole = bytearray(path.read_bytes())
    whole[4_000] ^= 1
    path.write_bytes(whole)
    source = open_source(str(path))
    with pytest.raises(ArtifactError, match="damaged"):
        source.column(source.groups()[0], "n")


@pytest.mark.slow
def test_a_bit_flipped_in_a_footer_gives_the_rows_or_our_error(tmp_path):
    """Arrow has many kinds of error for a footer that cannot be; each is told as damage of the
    file.
    """
    path, refused = tmp_path / "rows.parquet", 0
    times = pa.array([0, 1], pa.timestamp("us"))
    pq.write_table(pa.table({"n": pa.array([1, 2], pa.uint8()), "t": times}), path)
    whole = path.read_bytes()
    for at in range(max(0, len(whole) - 600), len(whole)):
        for bit in (4, 16, 128):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            try:
                open_source(str(path)).table(["n"])
            except (ArtifactError, InputError, KeyError):  # KeyError: another name of a column
                refused += 1
    assert refused
