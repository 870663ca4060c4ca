"""Datasets, their windows and where they come from. Reads: adc_features.data.dataset."""

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.artifact import MANIFEST
from adc_features.clock import instant
from adc_features.data.dataset import (
    DAY,
    TIME,
    Dataset,
    Windows,
    dataset_from_tables,
    quantile_windows,
    read_dataset,
    read_table,
    snapshot_times,
    time_resolution,
    write_dataset,
)
from adc_features.errors import ArtifactError, InputError

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS = Windows(START + 8 * DAY, START + 9 * DAY, START + 9 * DAY)
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c"],
        "title": ["one", "two", None],
        "vector_image": [[1.0, 0.0], [0.0, 1.0], None],
    }
)


def events(times=None, *, kind=TIME):
    """Ten ratings by two users of two items, one a day unless `times` says otherwise."""
    times = [START + n * DAY for n in range(10)] if times is None else times
    n = len(times)
    return pa.table(
        {
            "user_id": [f"u{i % 2}" for i in range(n)],
            "item_id": ["ab"[i // 2 % 2] for i in range(n)],
            "time": pa.array(times, kind),
            "label": pa.array([i % 3 == 0 for i in range(n)]),
        }
    )


def dataset(times=None):
    return Dataset("small", ITEMS, events(times), DAY, WINDOWS, {"title": ("title",)})


# ---- time


def test_before_is_exclusive():
    """An event exactly at the cut-off was not seen: every stamp of the data is a midnight, as the
    cut-offs are.
    """
    assert dataset().before(START + 3 * DAY)["time"].to_pylist() == [
        START,
        START + DAY,
        START + 2 * DAY,
    ]
    assert len(dataset().before(START)) == 0


@given(
    st.lists(st.integers(0, 9), min_size=1), st.integers(-1, 11), st.integers(-1, 11) | st.none()
)
@settings(max_examples=60, deadline=None)
def test_windows_equal_a_filter(days, first, last):
    """before and within are the rows that a filter over
    the time column would keep, in stable time order.
    """
    times = [START, START + 9 * DAY, *(START + d * DAY for d in days)]
    data = dataset(times)
    rows = sorted(events(times).to_pylist(), key=lambda row: row["time"])
    start, end = START + first * DAY, None if last is None else START + last * DAY
    plain = [(r["user_id"], r["item_id"], r["time"]) for r in rows]
    assert [(r["user_id"], r["item_id"], r["time"]) for r in data.before(start).to_pylist()] == [
        r for r in plain if r[2] < start
    ]
    expected = (
        [r for r in plain if r[2] >= start and (end is None or r[2] < end)]
        if end is None or end >= start
        else []
    )
    assert [
        (r["user_id"], r["item_id"], r["time"]) for r in data.within(start, end).to_pylist()
    ] == expected


def test_the_test_rows_open_only_with_final():
    """Without `final` training ends, and scoring begins, at the validation window."""
    assert WINDOWS.split() == (START + 8 * DAY, START + 8 * DAY, START + 9 * DAY)
    assert WINDOWS.split(final=True) == (START + 9 * DAY, START + 9 * DAY, None)


def test_windows_out_of_order_are_refused():
    """Validation ends before the test rows begin; a time without a zone is no window."""
    with pytest.raises(InputError, match="validation_start < validation_end <= test_start"):
        Windows(START, START + 2 * DAY, START + DAY)
    with pytest.raises(InputError, match=r"test_start is .* without a time zone"):
        Windows(START, START + DAY, datetime(2024, 1, 3))


@pytest.mark.parametrize(
    ("step", "resolution"),
    [
        (DAY, DAY),
        (timedelta(hours=5), timedelta(seconds=1)),
        (timedelta(microseconds=3), timedelta(microseconds=1)),
    ],
)
def test_resolution_is_read_off_the_stamps(step, resolution):
    """Stamps that are all midnights mean that only the day is known."""
    times = np.array([instant(START + n * step) for n in range(4)])
    assert time_resolution(times) == resolution


def test_default_windows_are_days():
    """Validation starts at the day of the 80 % row, the test at the day of the 90 % row; too short
    a span is refused.
    """
    times = np.array([instant(START + timedelta(hours=20 * n)) for n in range(100)])
    windows = quantile_windows(times)
    assert windows.validation_start == START + 66 * DAY  # row 80 falls at 1,600 hours
    assert windows.test_start == START + 75 * DAY
    with pytest.raises(InputError, match="too little time"):
        quantile_windows(times[:2])


@pytest.mark.parametrize("hour", range(24))
def test_a_history_of_six_days_has_windows_at_every_hour(hour):
    """Where no midnight lies between the 80 % and the 90 % row, windows start at full hours."""
    times = np.array([instant(START + timedelta(hours=hour + n, minutes=25)) for n in range(144)])
    windows = quantile_windows(times)  # rows 115 and 129: 14 hours apart
    between = hour + 115 < 120 <= hour + 129 or hour + 115 < 144 <= hour + 129
    unit = DAY if between else timedelta(hours=1)
    assert windows.validation_start == START + (hour + 115) * timedelta(hours=1) // unit * unit
    assert windows.test_start == START + (hour + 129) * timedelta(hours=1) // unit * unit


def test_cut_offs_lie_at_quantiles_of_the_rows():
    """Half of the rows on the last days pull the cut-offs there;
    the split comes last; equal days merge.
    """
    days = np.array([0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 7, 9])
    times = np.array([instant(START + int(d) * DAY) for d in days])
    assert snapshot_times(times, split=START + 8 * DAY, count=3) == [
        START + 3 * DAY,
        START + 6 * DAY,
        START + 8 * DAY,
    ]
    assert snapshot_times(times, split=START + 8 * DAY, count=0) == [START + 8 * DAY]


def test_a_cut_off_before_the_first_event_is_refused():
    """Nothing can be learnt from no rows; the message names both times."""
    times = np.array([instant(START)])
    with pytest.raises(
        InputError,
        match=r"before the cut-off 2024-01-01T00:00:00\+00:00; the first is at 2024-01-01",
    ):
        snapshot_times(times, split=START, count=8)


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        (pa.date32(), [date(2024, 1, 1) + n * DAY for n in range(10)]),
        (pa.date64(), [date(2024, 1, 1) + n * DAY for n in range(10)]),
        (pa.timestamp("s", tz="UTC"), None),
        (pa.timestamp("ms", tz="Europe/Berlin"), None),
        (pa.timestamp("ns", tz="UTC"), None),
        (pa.string(), [f"2024-01-{n + 1:02d}" for n in range(10)]),
        (pa.string(), [f"2024-01-{n + 1:02d} 01:00:00+01:00" for n in range(10)]),
        (
            pa.dictionary(pa.int32(), pa.string()),
            [f"2024-01-{n + 1:02d}T00:00Z" for n in range(10)],
        ),
    ],
)
def test_every_form_of_a_day_is_the_same_day(kind, times, tmp_path):
    """Days as dates, text or timestamps of any unit
    and zone reach the dataset as the same microseconds.

    pyarrow 26.0.1 corrupts stamps of day resolution on some conversions, so each form is read
    through a file.
    """
    pq.write_table(events(times, kind=kind), tmp_path / "interactions.parquet")
    data = dataset_from_tables("small", ITEMS, read_table(str(tmp_path / "interactions.parquet")))
    assert data.interactions["time"].type == TIME
    assert data.interactions["time"].to_pylist() == [START + n * DAY for n in range(10)]
    assert data.interactions["time"].to_numpy().tolist() == [
        (START + n * DAY).replace(tzinfo=None) for n in range(10)
    ]
    assert data.resolution == DAY


def test_ticks_below_a_microsecond_are_cut_off():
    """Nanosecond stamps, which pandas writes, are no reason to stop."""
    ticks = pa.array(
        [1_700_000_000_000_000_001 + n * 86_400_000_000_000 for n in range(10)],
        pa.timestamp("ns", tz="UTC"),
    )
    table = events().set_column(2, "time", ticks)
    assert dataset_from_tables("small", ITEMS, table).resolution == timedelta(seconds=1)


# ---- on disk


def test_a_dataset_is_read_as_it_was_written(tmp_path):
    """Tables, windows, views and resolution come back,
    rows in time order, the order of ties kept.
    """
    days = [3, 0, 9, 3, 3, 1, 9, 9, 2, 0]
    wrote = dataset([START + d * DAY for d in days])
    write_dataset(wrote, tmp_path / "data")
    read = read_dataset(tmp_path / "data")
    assert read.interactions.equals(wrote.interactions)
    assert read.interactions["label"].to_pylist() == [
        float(i % 3 == 0) for i in np.argsort(days, kind="stable")
    ]
    assert read.items.equals(wrote.items)
    assert (read.windows, read.resolution, read.text_views, read.vector_modalities) == (
        WINDOWS,
        DAY,
        {"title": ("title",)},
        ("image",),
    )


def test_a_directory_with_other_files_is_never_replaced(tmp_path):
    """--out pointing at somebody's directory is refused; a former dataset directory is replaced."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="give a new directory"):
        write_dataset(dataset(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    for _ in range(2):
        write_dataset(dataset(), tmp_path / "data")
    assert (tmp_path / "data" / MANIFEST).is_file()


def test_an_altered_dataset_is_refused(tmp_path):
    """A dataset directory whose file was exchanged is named."""
    write_dataset(dataset(), tmp_path)
    pq.write_table(ITEMS.slice(1), tmp_path / "items.parquet")
    with pytest.raises(ArtifactError, match=r"items\.parquet has sha256"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"item_id,title\n", "is not readable as Parquet"),
        (b"", "is not readable as Parquet"),
    ],
)
def test_what_is_no_parquet_is_refused(content, words, tmp_path):
    """A missing file, a CSV and an empty file are refused with their path."""
    path = tmp_path / "items.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"items\.parquet {words}"):
        read_table(str(path))


def test_dictionary_and_large_strings_become_strings(tmp_path):
    """Whatever wrote the file, ids of both tables are of one type."""
    table = pa.table(
        {
            "a": pa.array(["x", None]).dictionary_encode(),
            "b": pa.array(["x", "y"], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_table(str(tmp_path / "t.parquet"))
    assert read.schema.types == [pa.string(), pa.string()]
    assert read["a"].to_pylist() == ["x", None]


# ---- SQL


@pytest.fixture
def database(tmp_path):
    """A SQLite file as a user would have it: no times with a zone, no arrays; the times once more
    through a view.
    """
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    rows = events().to_pylist()
    statements = [
        "CREATE TABLE items (item_id TEXT, title TEXT, vector_image JSON, vector_text TEXT)",
        "CREATE TABLE naive (user_id TEXT, item_id TEXT, time TIMESTAMP, label INTEGER)",
        (
            "CREATE VIEW events AS SELECT user_id, item_id, replace(time, '.000000', '') ||"
            " '+00:00' AS time, label FROM naive"
        ),
    ]
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
        for n, row in enumerate(ITEMS.to_pylist()):
            vector = row["vector_image"] and json.dumps(row["vector_image"])
            values = {"i": row["item_id"], "t": row["title"], "v": vector, "w": json.dumps([n, 1])}
            connection.execute(sqlalchemy.text("INSERT INTO items VALUES (:i, :t, :v, :w)"), values)
        for row in rows:
            values = {
                "u": row["user_id"],
                "i": row["item_id"],
                "t": f"{row['time']:%Y-%m-%d %H:%M:%S}.000000",
                "l": int(row["label"]),
            }
            connection.execute(sqlalchemy.text("INSERT INTO naive VALUES (:u, :i, :t, :l)"), values)
    engine.dispose()
    return url


def test_a_database_gives_the_same_dataset_as_parquet(database):
    """Items with JSON vectors and events through a view that adds the offset equal the same tables
    from Parquet.
    """
    items, interactions = read_table(f"{database}#main.items"), read_table(f"{database}#events")
    data = dataset_from_tables(
        "small", items, interactions, text_views={"title": ("title",)}, windows=WINDOWS
    )
    assert data.interactions.equals(dataset().interactions)
    assert data.vector_modalities == ("image", "text")
    assert items["vector_image"].to_pylist() == ITEMS["vector_image"].to_pylist()
    assert items["vector_text"].to_pylist() == [[0, 1], [1, 1], [2, 1]]


def test_naive_times_of_a_database_are_refused_with_the_way_out(database):
    """SQLite drops time zones: the refusal says how a view gives them back."""
    with pytest.raises(
        InputError,
        match=r"interactions.time: times have no time zone; .* text with an offset \(a view does\)",
    ):
        dataset_from_tables("small", ITEMS, read_table(f"{database}#naive"))


def test_text_without_an_offset_is_refused_with_an_example(tmp_path):
    """One row without an offset, or dates among times, are refused with a row as it stands."""
    with pytest.raises(
        InputError, match=r"times are text such as '2024-01-01 00:00:00'; give every one an offset"
    ):
        dataset_from_tables(
            "small",
            ITEMS,
            events(["2024-01-01 00:00:00", "2024-01-02T00:00Z"] * 5, kind=pa.string()),
        )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{url}#orders", "table 'orders' at sqlite:///.*shop.db cannot be read .*orders"),
        ("sqlite:////nowhere/at/all.db#events", "unable to open database file"),
        (
            "nosuchdb://me:secret@host/db#events",
            r"table 'events' at nosuchdb://me:\*\*\*@host/db cannot be read",
        ),
        (
            "db2+missing_driver://me:secret@host/db#events",
            "check the URL, its driver, the table name and the rights",
        ),
        ("{url}", "names a database but no table; give '<SQLAlchemy URL>#"),
        (
            "no_such_table",
            "does not exist; give a Parquet or CSV file or '<SQLAlchemy URL>#<table>'",
        ),
    ],
)
def test_what_is_no_table_is_refused(database, source, words):
    """A missing table, database, driver or table name is refused,
    and a password is not repeated.
    """
    with pytest.raises(InputError, match=words) as refusal:
        read_table(source.format(url=database))
    assert "secret" not in str(refusal.value)
