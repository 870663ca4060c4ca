"""Rows made in partitions against those of the whole history, bit for bit."""

import json
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aggregate_shop import FEATURES, SECOND, STREAM, events, examples, raw_table, row, with_times
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.aggregates import partitioned
from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import (
    AggregateView,
    EventStream,
    Grid,
    count,
    last_time,
    residual_mean,
    smoothed_mean,
    total,
)
from adc_features.aggregates.event_files import event_pieces
from adc_features.aggregates.events import Events
from adc_features.aggregates.partitioned import partitions_for, write_rows
from adc_features.errors import ArtifactError, InputError

BASE = 1_700_000_000 * SECOND // (86_400 * SECOND) * 86_400 * SECOND
HOUR = {"window": timedelta(hours=6), "hop": timedelta(hours=1)}
MORE = {
    "everybody_residual": residual_mean("rating", against="user_id", by=()),
    "everybody_cents": total("cents", by=()),
    "group_of_two": residual_mean("label", against=("user_id", "brand"), by=("brand", "item_id")),
    "against_brand": residual_mean("cents", against="brand", smoothing=2.5, bits=20),
    "tiles": smoothed_mean("rating", at="read", **HOUR),
}
FROM_FIRST = {
    "first_mean": smoothed_mean("rating", initial=None),
    "first_residual": residual_mean("label", against="item_id", initial=None),
}
KEYS = [("user_id",), ("item_id",), ("brand",), ("user_id", "brand"), ("item_id", "user_id")]


@st.composite
def views(draw):
    known = draw(st.sampled_from(["sealed", "resolution"]))
    offered = FEATURES | MORE | (FROM_FIRST if known == "resolution" else {})
    names = draw(st.sets(st.sampled_from(sorted(offered)), min_size=1, max_size=8))
    features = {name: offered[name] for name in sorted(names)} | {"last_time": last_time()}
    return AggregateView("some", STREAM, draw(st.sampled_from(KEYS)), features, known)


@st.composite
def histories(draw):
    rows = draw(st.lists(row, min_size=1, max_size=25))
    seconds = st.sampled_from([0, 1, 60, 600, 660, 661, 3_600, 7_200, 21_600, 21_601, 90_000])
    times = draw(st.lists(seconds, min_size=len(rows), max_size=len(rows)))
    ids = draw(st.permutations(range(len(rows))))
    return with_times(rows, [BASE + s * SECOND for s in times], ids=list(ids))


def written(view, files, target, **options):
    write_rows(view, files, target, **options)
    return pa.concat_tables([pq.read_table(f) for f in sorted((target / "rows").glob("*.parquet"))])


def in_order(view, table):
    return table.sort_by([(c, "ascending") for c in ("event_timestamp", *view.key)])


@given(
    view=views(),
    rows=histories(),
    partitions=st.integers(1, 5),
    piece_rows=st.integers(1, 30),
    range_events=st.integers(1, 30),
    cut=st.integers(0, 25),
)
@settings(max_examples=examples(60), deadline=None)
def test_rows_of_partitions_equal_those_of_the_whole_history(
    tmp_path_factory, view, rows, partitions, piece_rows, range_events, cut
):
    """Whatever is declared, and however events are cut, each row is the same bit for bit; sums that
    may not fit are refused by both.
    """
    where = tmp_path_factory.mktemp("history")
    files = [where / "a.parquet", where / "b.parquet"]
    for file, some in zip(files, [rows[:cut], rows[cut:]], strict=True):
        pq.write_table(raw_table(some), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitioned, "RANGE_EVENTS", range_events)
        options = {"partitions": partitions, "piece_rows": piece_rows}
        try:
            wanted = batch_rows(view, events(rows))
        except InputError as refused:
            with pytest.raises(InputError, match=re.escape(str(refused))):
                written(view, files, where / "rows", **options)
            return
        got = written(view, files, where / "rows", **options)
    assert in_order(view, got).equals(wanted)


def many(size: int = 400) -> list[dict]:
    rng = np.random.default_rng(3)
    rows = [
        {
            "user_id": f"u{rng.integers(30)}",
            "item_id": int(rng.integers(20)),
            "brand": "xyz"[rng.integers(3)],
            "label": float(rng.random()),
            "rating": None if rng.random() < 0.2 else float(rng.random()),
            "cents": int(rng.integers(100)),
        }
        for _ in range(size)
    ]
    return with_times(rows, [BASE + int(s) * SECOND for s in rng.integers(0, 50_000, size)])


def everything() -> AggregateView:
    return AggregateView("everything", STREAM, ("user_id",), FEATURES)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    pq.write_table(raw_table(many()), tmp_path / "events.parquet")
    return tmp_path / "events.parquet"


class Stop(Exception):
    pass


def test_a_stopped_run_goes_on_and_shows_nothing_before_its_end(history, tmp_path):
    """Stopped after each step in turn, it does no finished step again, and ends with the rows."""
    target, told = tmp_path / "rows", []

    def stop_at(number):
        def progress(label, done, total):
            told.append((label, done, total))
            if len(told) == number:
                raise Stop

        return progress

    for number in range(1, 400):
        told.clear()
        try:
            write_rows(everything(), [history], target, partitions=4, progress=stop_at(number))
        except Stop:
            assert not target.exists()
            continue
        break
    assert [label for label, *_ in told] == ["rows"] * 4  # all passes were finished before
    got = pa.concat_tables([pq.read_table(f) for f in sorted((target / "rows").glob("*.parquet"))])
    assert in_order(everything(), got).equals(batch_rows(everything(), events(many())))
    assert {path.name for path in tmp_path.iterdir()} == {"events.parquet", "rows"}


def test_what_a_run_left_is_not_used_for_other_events(history, tmp_path):
    """A stopped run over a file that was replaced since begins anew."""

    def stop(label, done, total):
        if label == "rows":
            raise Stop

    with pytest.raises(Stop):
        write_rows(everything(), [history], tmp_path / "rows", partitions=4, progress=stop)
    pq.write_table(raw_table(many(200)), history)
    got = written(everything(), [history], tmp_path / "rows", partitions=4)
    assert in_order(everything(), got).equals(batch_rows(everything(), events(many(200))))


def test_events_that_change_meanwhile_make_no_rows(history, tmp_path):
    """A file that is replaced between two passes voids them all."""

    def changes(label, done, total):
        if label == "rows" and done == 1:
            pq.write_table(raw_table(many(200)), history)

    with pytest.raises(ArtifactError, match=r"events\.parquet changed while it was read"):
        write_rows(everything(), [history], tmp_path / "rows", partitions=4, progress=changes)
    assert not (tmp_path / "rows").exists()


def test_rows_of_another_format_are_made_again(history, tmp_path, monkeypatch):
    """What an earlier version of the code left is neither kept nor gone on with."""
    write_rows(everything(), [history], tmp_path / "rows", partitions=3)
    monkeypatch.setattr(partitioned, "FORMAT", partitioned.FORMAT + 1)
    told: list[str] = []
    write_rows(
        everything(),
        [history],
        tmp_path / "rows",
        partitions=3,
        progress=lambda label, done, total: told.append(label),
    )
    assert set(told) > {"events", "rows"}


@pytest.mark.slow
def test_jobs_change_no_byte(history, tmp_path):
    """Two processes that make rows leave the files of one, and tell how far they are."""
    told: list[tuple[str, int]] = []
    for jobs in (1, 2):
        write_rows(
            everything(),
            [history],
            tmp_path / f"rows-{jobs}",
            partitions=3,
            jobs=jobs,
            progress=lambda label, done, total: told.append((label, done)),
        )
    one, two = (
        {f.name: f.read_bytes() for f in (tmp_path / f"rows-{jobs}/rows").iterdir()}
        for jobs in (1, 2)
    )
    assert one == two
    assert told[-3:] == [("rows", 1), ("rows", 2), ("rows", 3)]


def test_a_finished_directory_is_kept(history, tmp_path):
    """The same events and declaration make nothing again; the manifest counts what was made."""
    rows = write_rows(everything(), [history], tmp_path / "rows", partitions=3)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").rglob("*")}
    told: list[str] = []
    again = write_rows(
        everything(),
        [history],
        tmp_path / "rows",
        partitions=3,
        progress=lambda label, *_: told.append(label),
    )
    assert (again, told) == (rows, [])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").rglob("*")} == before
    manifest = json.loads((tmp_path / "rows/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["events"], manifest["rows"]) == (400, rows)


def test_files_are_the_same_whatever_the_pieces(history, tmp_path):
    """The number of partitions alone decides what stands in which file, byte for byte."""
    for name, pieces in (("one", 10_000), ("two", 7)):
        write_rows(everything(), [history], tmp_path / name, partitions=3, piece_rows=pieces)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "rows").iterdir()}
        for name in ("one", "two")
    )
    assert len(one) == 3
    assert one == two


def test_rows_without_ids_are_known_by_their_number(tmp_path):
    """Events of one time keep the order of the files, over pieces and files."""
    rows = [r | {"time": BASE} for r in many(60)]
    table = raw_table(rows).drop_columns("event_id")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file, part in zip(files, (table.slice(0, 25), table.slice(25)), strict=True):
        pq.write_table(part, file)
    got = written(everything(), files, tmp_path / "rows", partitions=2, piece_rows=7)
    wanted = batch_rows(everything(), Events.of(STREAM, table))
    assert in_order(everything(), got).equals(wanted)


def test_pieces_do_not_hold_what_was_read(tmp_path):
    """Of a file of many row groups the buffers of one are in memory."""
    rng = np.random.default_rng(0)
    schema = raw_table([]).drop_columns("event_id").schema
    path, size = tmp_path / "events.parquet", 2_000
    with pq.ParquetWriter(path, schema) as writer:
        for _ in range(40):
            cents = rng.integers(0, 10**11, size)
            columns = [pa.array(c) for c in (cents.astype(str), cents, cents.astype(str))]
            numbers = [pa.array(rng.random(size)), pa.array(rng.random(size)), pa.array(cents)]
            times = pa.array(cents, pa.timestamp("us", tz="UTC"))
            writer.write_table(pa.table([*columns, *numbers, times], schema=schema))
    before, most = pa.total_allocated_bytes(), 0
    for _piece in event_pieces([path], STREAM, 500):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < path.stat().st_size / 4


def test_no_events_are_no_rows(tmp_path):
    """A history without events makes a directory without rows."""
    pq.write_table(raw_table([]), tmp_path / "events.parquet")
    assert write_rows(everything(), [tmp_path / "events.parquet"], tmp_path / "rows") == 0
    assert pq.read_table(tmp_path / "rows/rows/part-00000.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: [*rows, rows[0] | {"user_id": "elsewhere"}], "1 events have the id"),
        (lambda rows: [*rows, rows[0] | {"event_id": b"9" * 16, "label": 2.0}], "label holds 1"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(tmp_path, change, words):
    """An id twice, in whatever partitions, and a value out of bounds leave nothing to be seen."""
    pq.write_table(raw_table(change(many())), tmp_path / "events.parquet")
    with pytest.raises(InputError, match=words):
        write_rows(
            everything(),
            [tmp_path / "events.parquet"],
            tmp_path / "rows",
            partitions=5,
            piece_rows=50,
        )
    assert not (tmp_path / "rows").exists()


def test_files_must_agree_about_ids(history, tmp_path):
    """Ids in one file and none in another one could give an event two ids."""
    other = tmp_path / "other.parquet"
    pq.write_table(raw_table(many(5)).drop_columns("event_id"), other)
    with pytest.raises(InputError, match="do not agree whether there is a column event_id"):
        write_rows(everything(), [history, other], tmp_path / "rows")


def test_settings_that_cannot_be_are_refused(history, tmp_path):
    """No files, no time, and more partitions than files can be open."""
    with pytest.raises(InputError, match="no files"):
        write_rows(everything(), [], tmp_path / "rows")
    with pytest.raises(InputError, match="partitions is 701; expected 1 to 700"):
        write_rows(everything(), [history], tmp_path / "rows", partitions=701)
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="lacks the column time"):
        write_rows(everything(), [tmp_path / "bad.parquet"], tmp_path / "rows")


def test_sums_over_everybody_are_refused_before_they_overflow(tmp_path):
    """A sum over all events that 64 bits might not hold is refused, as over the whole history."""
    stream = EventStream("big", {"user_id": "string"}, {"value": Grid(bits=0, bound=2.0**61)})
    view = AggregateView(
        "big",
        stream,
        ("user_id",),
        {"n": count(), "mean": smoothed_mean("value"), "last_time": last_time()},
        "resolution",
    )
    table = pa.table(
        {
            "user_id": [f"u{k}" for k in range(9)],
            "value": np.arange(9),
            "time": pa.array(np.arange(9), pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    with pytest.raises(InputError, match="its sums hold 3 for certain"):
        batch_rows(view, Events.of(stream, table))
    with pytest.raises(InputError, match="its sums hold 3 for certain"):
        write_rows(view, [tmp_path / "events.parquet"], tmp_path / "rows", partitions=4)


def test_partitions_follow_from_the_memory():
    """Half of the memory holds the rows of one partition, more of them where lists are long."""
    plain = AggregateView("plain", STREAM, ("user_id",), {"last_time": last_time()})
    assert partitions_for(plain, 1_000, memory=1 << 30) == 1
    few = partitions_for(plain, 100_000_000, memory=8 << 30)
    assert 1 < few < partitions_for(everything(), 100_000_000, memory=8 << 30)
    assert partitions_for(plain, 100_000_000_000, memory=1 << 30) == 700
