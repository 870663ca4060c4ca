"""Kept indices: never another answer than without them, whatever happens to the files."""

import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import examples

from adc_features.store.join.engine import PreparedView, ViewSource, joined_columns
from adc_features.store.join.feature_rows import FeatureRows
from adc_features.store.join.kept_index import IndexCache
from adc_features.store.refresh import RefreshSchedule

START = datetime(2024, 1, 1, tzinfo=UTC)
US = pa.timestamp("us", "UTC")
ROOM = 1 << 20


def moments(seconds) -> pa.Array:
    return pa.array([START + timedelta(seconds=int(s)) for s in seconds], US)


INT64 = pa.int64()


def write_part(path: Path, rows, *, key=INT64, group_rows: int = 2, **options) -> None:
    """rows: (key, time, created, value). Nothing is compressed: equal counts are equal sizes."""
    keys, at, created, value = zip(*rows, strict=True)
    table = pa.table(
        {
            "k": pa.array(keys, pa.int64()).cast(key),
            "t": moments(at),
            "c": moments(created),
            "v": pa.array(value, pa.int64()),
        }
    )
    pq.write_table(
        table, path, row_group_size=group_rows, compression="none", use_dictionary=False, **options
    )


def view(folder: Path, name: str = "clicks", key: str = "k") -> ViewSource:
    return ViewSource(name, str(folder), {"k": key}, {"v": "v"}, {}, "t", created="c")


def asked(questions) -> pa.Table:
    keys, at = zip(*questions, strict=True)
    return pa.table({"k": pa.array(keys), "event_timestamp": moments(at)})


EVERY = asked([(key, at) for key in range(-1, 5) for at in range(-1, 12)])


def joined(source: ViewSource, asking: pa.Table = EVERY, **options) -> list:
    (values,) = joined_columns(
        asking, [PreparedView(source, **options)], time="event_timestamp"
    ).features.values()
    return values.to_pylist()


ROWS = [(1, 0, 0, 10), (2, 3, 3, 11), (1, 5, 9, 12), (1, 5, 8, 13), (3, 7, 7, 14)]


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "clicks"
    place.mkdir()
    write_part(place / "0.parquet", ROWS)
    return place


@pytest.fixture
def cache(tmp_path) -> IndexCache:
    return IndexCache(tmp_path / "cache", ROOM)


def kept(cache: IndexCache) -> list[Path]:
    return sorted(cache.directory.iterdir())


@pytest.fixture
def builds(monkeypatch) -> list[int]:
    """The rows of every index that was built."""
    found, built = [], FeatureRows.index

    def counted(self, *arguments, **named):
        found.append(len(self))
        return built(self, *arguments, **named)

    monkeypatch.setattr(FeatureRows, "index", counted)
    return found


# ---- used, and only where it is right


def test_an_index_is_built_once_for_unchanged_files(folder, cache, builds):
    """The second join of the same files maps the index of the first, for other entity rows too."""
    expected = joined(view(folder))
    del builds[:]
    assert joined(view(folder), index_cache=cache) == expected
    assert joined(view(folder), index_cache=cache) == expected
    assert joined(view(folder), asked([(1, 6)]), index_cache=cache) == [12]
    assert builds == [len(ROWS)]
    assert len(kept(cache)) == 1


def test_files_that_are_only_touched_keep_their_index(folder, cache, builds):
    """An index follows from bytes, not from times of change."""
    expected = joined(view(folder), index_cache=cache)
    os.utime(folder / "0.parquet", (0, 0))
    write_part(folder / "0.parquet", ROWS)
    assert joined(view(folder), index_cache=cache) == expected
    assert builds == [len(ROWS)]


row = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9), st.integers(0, 10**12))
parts = st.lists(row, min_size=1, max_size=6)
change = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 2), parts),
    st.tuples(st.just("shuffle"), st.integers(0, 2), st.randoms(use_true_random=False)),
    st.tuples(st.just("narrow"), st.integers(0, 2), st.none()),
    st.tuples(st.just("delete"), st.integers(1, 2), st.none()),
)


def changed(folder: Path, kind: str, number: int, what, **options) -> None:
    """One change of a part; what was there before sets the time of the change back."""
    path = folder / f"{number}.parquet"
    before = path.stat() if path.exists() else None
    if kind == "write":
        write_part(path, what, **options)
    elif before is None:
        return
    elif kind == "delete":
        path.unlink()
        return
    else:
        columns = pq.read_table(path).to_pylist()
        rows = [
            (r["k"], *((r[n] - START).total_seconds() for n in ("t", "c")), r["v"]) for r in columns
        ]
        if kind == "shuffle":  # the same size, often the same statistics
            what.shuffle(rows)
        write_part(path, rows, key=pa.int32() if kind == "narrow" else INT64, **options)
    if before is not None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@settings(max_examples=examples(40), deadline=None)
@given(
    first=parts,
    changes=st.lists(change, max_size=4),
    known_only=st.booleans(),
    once=st.booleans(),
    until=st.none() | st.integers(0, 9),
    statistics=st.booleans(),
)
def test_no_change_of_the_files_gives_another_answer(
    tmp_path_factory, first, changes, known_only, once, until, statistics
):
    """Parts added, deleted, written anew in the same size or another schema, their times set back:
    every join equals that without an index, and one index of the view is kept.
    """
    here = tmp_path_factory.mktemp("changes")
    folder, cache = here / "clicks", IndexCache(here / "cache", ROOM)
    folder.mkdir()
    writing = {"write_statistics": statistics, "group_rows": 2 if statistics else 9}
    write_part(folder / "0.parquet", first, **writing)
    entity = EVERY
    if until is not None:
        end = START + timedelta(seconds=until)
        entity = EVERY.filter(pa.array([at <= end for at in EVERY["event_timestamp"].to_pylist()]))
    options = {
        "known_only": known_only,
        "until": None if until is None else end,
        "entity": entity if once else None,
        "batch_rows": len(entity),
    }
    for step in [None, *changes]:
        if step is not None:
            changed(folder, *step, **writing)
        expected = joined(view(folder), entity, **options)
        for _ in range(2):
            assert joined(view(folder), entity, **options, index_cache=cache) == expected
        assert len(kept(cache)) == 1


def test_statistics_and_size_alike_do_not_deceive(folder, cache):
    """A part with the same rows in another order has the same size, footer and, set back, time; the
    values that rows see follow the new order.
    """
    path = folder / "0.parquet"
    rows = [(1, 0, 0, 10), (2, 0, 0, 11)]
    write_part(path, rows, write_statistics=False)
    before, footer = path.stat(), path.read_bytes()[-400:]
    entity = asked([(1, 1), (2, 1)])
    assert joined(view(folder), entity, index_cache=cache) == [10, 11]
    write_part(path, [(2, 0, 0, 10), (1, 0, 0, 11)], write_statistics=False)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert path.read_bytes()[-400:] == footer
    assert joined(view(folder), entity, index_cache=cache) == [11, 10]


@pytest.mark.parametrize("key", [pa.string(), pa.large_string(), pa.decimal128(19, 0)])
def test_keys_of_any_type_are_kept(folder, cache, builds, key):
    """Keys that are numbered by their place among the distinct values come back with them."""
    write_part(folder / "0.parquet", ROWS, key=key)
    entity = asked([(1, 6), (3, 9), (4, 9)])
    entity = entity.set_column(0, "k", entity["k"].cast(key))
    for _ in range(2):
        assert joined(view(folder), entity, index_cache=cache) == [12, 14, None]
    assert builds == [len(ROWS)]


def test_a_view_without_keys_and_a_view_of_two(folder, cache, builds):
    """None or several key columns: the kept index answers like the built one."""
    nobody = ViewSource("all", str(folder), {}, {"v": "v"}, {}, "t", created="c")
    pair = ViewSource("pair", str(folder), {"k": "k", "o": "c"}, {"v": "v"}, {}, "t")
    entity = pa.table({"k": [1, 1], "o": moments([9, 8]), "event_timestamp": moments([6, 6])})
    for source, answer in ((nobody, [12, 12]), (pair, [12, 13])):
        for _ in range(2):
            assert joined(source, entity, index_cache=cache) == answer
    assert len(builds) == 2


def test_mapped_features_and_rows_by_a_time(folder, cache):
    """With features in mapped files and row groups after `until` left out, numbers of rows still
    name the rows that were read.
    """
    late = [(0, 20, 20, 1)] * 4
    write_part(folder / "0.parquet", [*late, *ROWS])
    options = {"until": START + timedelta(seconds=9), "memory_limit": 1, "batch_rows": 3}
    entity = asked([(1, 6), (3, 9), (0, 9)])
    for _ in range(2):
        assert joined(view(folder), entity, **options, index_cache=cache) == [12, 14, None]


def test_a_schedule_that_loads_by_created_time_is_indexed_anew(folder, cache, builds):
    """Its refreshes decide which rows there are: no index of it is kept, and the answer is the
    same; one that reads everything uses the kept index.
    """
    expected = {}
    for mode in ("incremental", "full"):
        schedule = RefreshSchedule.parse(f"10s/{mode}")
        expected[mode] = joined(view(folder), refresh=schedule)
        del builds[:]
        for _ in range(2):
            assert joined(view(folder), refresh=schedule, index_cache=cache) == expected[mode]
        assert len(builds) == (2 if mode == "incremental" else 1)


def test_an_index_of_another_user_is_used_as_well(folder, cache, builds, monkeypatch):
    """Files are readable as the umask says; an index whose time of use cannot be set is used."""
    joined(view(folder), index_cache=cache)
    (path,) = kept(cache)
    plain = cache.directory / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode

    def refused(*_):
        raise PermissionError("not the owner")

    monkeypatch.setattr(os, "utime", refused)
    assert joined(view(folder), index_cache=cache) == joined(view(folder))
    assert builds == [len(ROWS)] * 2  # the first, and the one without a cache


# ---- damage, room, company


def test_a_damaged_index_is_built_again(folder, cache, caplog):
    """Any byte changed, an end cut off, an empty file: said in the log, and the answer is right."""
    expected = joined(view(folder), index_cache=cache)
    (path,) = kept(cache)
    whole = path.read_bytes()
    cases = [b"", whole[:7], whole[:-1], whole[16:], whole + b"x"]
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        cases.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for content in cases:
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert joined(view(folder), index_cache=cache) == expected
        assert "rebuilt=true" in caplog.text
        assert path.read_bytes() == whole


def test_a_place_that_cannot_be_written_costs_only_the_index(folder, tmp_path, caplog):
    """The directory's name is that of a file: the join answers, and the log says what is wrong."""
    (tmp_path / "file").write_text("")
    cache = IndexCache(tmp_path / "file", ROOM)
    with caplog.at_level(logging.WARNING):
        assert joined(view(folder), index_cache=cache) == joined(view(folder))
    assert "kept=false" in caplog.text


def test_room_is_made_by_what_was_unused_for_longest(tmp_path, cache):
    """The directory stays within its bytes: of three views' indices the one that was used last
    stays beside the new one, and what a killed process left is swept after an hour.
    """
    sources = []
    for name in "abc":
        (tmp_path / name).mkdir()
        write_part(tmp_path / name / "0.parquet", ROWS)
        sources.append(view(tmp_path / name, name))
    joined(sources[0], index_cache=cache)
    (first,) = kept(cache)
    small = IndexCache(cache.directory, int(2.5 * first.stat().st_size))
    old, young = f"{'0' * 32}.tmp", f"{'1' * 32}.tmp"
    mine = {"mine.tmp", "mine.index"}
    for stale, age in ((old, 7200), (young, 60), *((name, 7200) for name in mine)):
        (cache.directory / stale).write_bytes(b"x")
        os.utime(cache.directory / stale, (time.time() - age,) * 2)
    joined(sources[1], index_cache=small)
    (second,) = {path for path in kept(cache) if path.name not in {first.name, young, *mine}}
    os.utime(second, (time.time() - 60,) * 2)
    os.utime(first, (time.time() - 90,) * 2)
    joined(sources[0], index_cache=small)  # used: `second` is now unused for longest
    joined(sources[2], index_cache=small)
    left = {path.name for path in kept(cache)}
    assert len(left) == 5
    assert {first.name, young, *mine} <= left
    assert second.name not in left


def test_an_index_beyond_the_room_is_not_kept(folder, cache):
    """Features whose index is larger than all there is room for are joined as without one."""
    tiny = IndexCache(cache.directory, 10)
    assert joined(view(folder), index_cache=tiny) == joined(view(folder))
    assert not cache.directory.exists()


def _joins(folder: Path, directory: Path, times: int) -> list[list]:
    cache = IndexCache(directory, ROOM)
    return [joined(view(folder), index_cache=cache) for _ in range(times)]


def test_joins_side_by_side_share_the_directory(folder, cache):
    """Threads and processes build, map, replace and remove indices at once; all answers are right
    and nothing unfinished is left.
    """
    expected = joined(view(folder))
    with (
        ThreadPoolExecutor(4) as threads,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes,
    ):
        runs = [
            pool.submit(_joins, folder, cache.directory, 10)
            for pool in (threads, threads, threads, processes, processes)
        ]
        while not all(run.done() for run in runs):
            for path in cache.directory.glob("*.index"):
                path.unlink(missing_ok=True)
            time.sleep(0.01)
        answers = [answer for run in runs for answer in run.result()]
    assert len(answers) == 50
    assert all(answer == expected for answer in answers)
    assert not list(cache.directory.glob("*.tmp"))
