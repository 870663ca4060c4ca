"""Codes through time and for requests: the late join, and readers that follow what is published.
Reads: store.timeline, store.online_sids.
"""

import shutil
import tempfile
import threading
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import DAY, ITEMS, day, generation, snapshot

from adc_features import store
from adc_features.clock import instant
from adc_features.codes.sids import SidTable, SidTimeline
from adc_features.errors import ArtifactError, InputError
from adc_features.store import OnlineSids, online_sids
from adc_features.store.packed.timeline import PackedTimeline
from adc_features.store.repository import publication_path


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    store.create_repository(tmp_path, project="world")
    return tmp_path


def publish(repo: Path, *tables, made=None) -> Path:
    return store.publish(
        repo,
        made or generation(),
        tables,
        servable_at=[t.as_of + DAY for t in tables],
        computed_at=day(90),
    )


def code(sids: OnlineSids, item="a", **asked) -> int:
    return int(sids.lookup([item], **asked).sid[0, 0])


# ---- the late join


@st.composite
def histories(draw):
    """Snapshots of few items in the order in which they are published (not that of time), each a
    full one or a delta, some with removals.
    """
    days = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True))
    history = []
    for cut in days:
        ids = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
        gone = draw(st.lists(st.sampled_from(ids), unique=True, max_size=len(ids) - 1))
        history.append(
            snapshot(
                day(cut),
                draw(st.integers(0, 9)),
                items=[i for i in ids if i not in gone],
                removed=gone,
            )
        )
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from("abcdx"), st.integers(-1, 15), st.sampled_from([-1, 0, 1])),
            max_size=12,
        )
    )
    return history, [(item, day(at) + timedelta(microseconds=off)) for item, at, off in rows]


@given(histories(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_late_join_equals_a_brute_force_join(history, at_once):
    """Whatever was published in whatever order, a row gets its item's last row that was servable at
    its time, to the microsecond; -1 if removed.
    """
    tables, rows = history
    with tempfile.TemporaryDirectory() as folder:
        store.create_repository(Path(folder), project="world")
        for start in range(0, len(tables), at_once):
            publish(Path(folder), *tables[start : start + at_once])
        timeline = store.published_timeline(Path(folder), "g1")
        times = np.array([instant(t) for _, t in rows], "datetime64[us]")
        sid, weight, reliability = timeline.gather(np.array([i for i, _ in rows], "U1"), times)
    assert sid.shape == weight.shape == (len(rows), 3)
    for row, (item, at) in enumerate(rows):
        served = [
            t
            for t in sorted(tables, key=lambda t: t.as_of)
            if t.as_of + DAY <= at and item in t.item_ids
        ]
        expected = (
            served[-1].lookup(np.array([item]))
            if served
            else snapshot(day(0), 1).lookup(np.array(["x"]))
        )
        assert sid[row].tolist() == expected.sid[0].tolist()
        assert weight[row].tolist() == expected.sid_weight[0].tolist()
        assert reliability[row] == expected.reliability[0]


def test_many_rows_over_many_snapshots_equal_the_timeline_in_memory(repo):
    """150,000 rows over seven snapshots of integer ids, deltas among them, in blocks: what
    SidTimeline gathers from the whole tables.
    """
    rng = np.random.default_rng(0)
    tables = [
        snapshot(day(10 * n), n, items=np.sort(rng.choice(900, 300 if n else 900, replace=False)))
        for n in range(7)
    ]
    publish(repo, *tables)
    complete = tables[:1]
    for table in tables[1:]:
        everything = complete[-1].lookup(np.arange(900))
        arrays = {f.name: getattr(everything, f.name) for f in fields(SidTable)}
        for name, array in arrays.items():
            if isinstance(array, np.ndarray):
                array[table.item_ids] = getattr(table, name)
        complete.append(SidTable(**arrays | {"as_of": table.as_of}))
    items, times = (
        rng.integers(0, 1000, 150_000),
        np.datetime64("2013-12-30", "us")
        + rng.integers(0, 80 * 86_400, 150_000).astype("timedelta64[s]"),
    )
    packed = store.published_timeline(repo, "g1")
    for got, expected in zip(
        packed.gather(items, times),
        SidTimeline(complete, [t.as_of + DAY for t in tables]).gather(items, times),
        strict=True,
    ):
        assert np.array_equal(got, expected)
    assert packed.item_ids.tolist() == list(range(900))


def test_rows_that_cannot_be_looked_up_are_refused(repo):
    """No time, times of another length or type, ids of another type: one InputError each; no rows
    are no error.
    """
    publish(repo, snapshot(day(10), 1))
    timeline, now = store.published_timeline(repo, "g1"), np.array(["2014-02-01"], "datetime64[us]")
    for ids, times, words in (
        (["a"], np.array(["NaT"], "datetime64[us]"), "1 rows have no time"),
        (["a", "b"], now, "one UTC time an item"),
        (["a"], np.array([1.0]), "expected datetime64"),
        ([1], now, "the table holds string"),
    ):
        with pytest.raises(InputError, match=words):
            timeline.gather(np.array(ids), times)
    assert timeline.gather(np.array([], str), now[:0])[0].shape == (0, 3)
    with pytest.raises(InputError, match="publish at least one"):
        PackedTimeline([])
    with pytest.raises(InputError, match="must rise"):
        PackedTimeline([*timeline.snapshots, *timeline.snapshots])


def test_a_publication_without_packed_files_is_named(repo):
    """A missing packed file, and one of another codebook in its place, are refused by name."""
    path = publish(repo, snapshot(day(10), 1))
    (packed,) = (path / "packed").iterdir()
    other = publish(repo, snapshot(day(10), 1, id="g2"), made=generation("g2", codebook="22"))
    shutil.copy(other / "packed" / packed.name, packed.with_suffix(".new"))
    packed.with_suffix(".new").replace(packed)
    with pytest.raises(ArtifactError, match="codes of another codebook"):
        store.published_timeline(repo, "g1")
    packed.unlink()
    with pytest.raises(ArtifactError, match=f"{packed.name} cannot be opened"):
        store.published_timeline(repo, "g1")


# ---- readers


def test_a_lookup_serves_what_was_servable_at_now(repo):
    """The newest snapshot with servable_at <= now, to the microsecond, also when the clock steps
    back; before the first one nothing is served.
    """
    publish(repo, snapshot(day(10), 1), snapshot(day(20), 2))
    clock = [day(11)]
    sids = OnlineSids(repo, "g1", clock=lambda: clock[0])
    assert code(sids) == 1
    for now, expected in (
        (day(21), 2),
        (day(21) - timedelta(microseconds=1), 1),
        (day(300), 2),
        (day(11), 1),
    ):
        clock[0] = now
        assert code(sids) == expected
        assert sids.lookup(ITEMS, now=now).as_of == day(10 * expected)
    with pytest.raises(InputError, match="the first snapshot is served from 2014-01-12"):
        sids.lookup(ITEMS, now=day(11) - timedelta(microseconds=1))


def test_two_generations_are_read_side_by_side(repo):
    """The first is the default; an unknown or unopened one is named;
    each lookup is of one generation.
    """
    publish(repo, snapshot(day(10), 1))
    publish(repo, snapshot(day(10), 7, id="g2"), made=generation("g2", codebook="22"))
    sids = OnlineSids(repo, "g1", "g2")
    assert (sids.generations, code(sids), code(sids, generation="g2")) == (["g1", "g2"], 1, 7)
    assert sids.lookup(["a"], generation="g2").generation == "g2"
    with pytest.raises(InputError, match=r"open are \['g1'\]"):
        OnlineSids(repo, "g1").lookup(["a"], generation="g2")
    with pytest.raises(InputError, match=r"live are \['g1', 'g2'\]"):
        OnlineSids(repo, "g3")
    with pytest.raises(InputError, match="name at least one"):
        OnlineSids(repo)


def test_a_reader_outlives_three_publishes(repo):
    """Each publication is seen by the next lookup; what a request holds stays what it was, also
    after its files are gone.
    """
    publish(repo, snapshot(day(10), 1))
    sids = OnlineSids(repo, "g1")
    held = [sids.snapshot()]
    for number in (2, 3, 4):
        publish(repo, snapshot(day(10 * number), number))
        assert code(sids) == number
        held.append(sids.snapshot())
    shutil.rmtree(publication_path(repo, "g1"))
    assert [int(s.lookup(["a"]).sid[0, 0]) for s in held] == [1, 2, 3, 4]
    assert code(sids) == 4
    publish(repo, snapshot(day(60), 6))
    assert code(sids) == 6


def test_a_broken_publication_leaves_readers_on_the_one_before(repo, monkeypatch):
    """A newer publication whose packed file is cut is refused once, loudly; lookups go on, and the
    next sound one is taken.
    """
    # the logger itself: what other tests did to the handlers of the process is not the question
    said: list[str] = []
    monkeypatch.setattr(
        online_sids._log, "warning", lambda message, *facts: said.append(message % facts)
    )
    publish(repo, snapshot(day(10), 1))
    sids = OnlineSids(repo, "g1")
    path = publish(repo, snapshot(day(20), 2))
    newest = max((path / "packed").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    assert [code(sids), code(sids)] == [1, 1]
    (once,) = said
    assert "kept the snapshot before" in once
    assert str(newest) in once
    with pytest.raises(ArtifactError, match="cut or appended"):
        OnlineSids(repo, "g1")
    newest.unlink()
    assert f"{newest} is missing" in store.check_repository(repo)[0]


def test_readers_never_see_a_failed_or_mixed_read(repo):
    """Three threads read while fourteen publications replace each other: every answer is of one
    publication, none older than one seen before.
    """
    wide = np.arange(2_000)
    publish(repo, snapshot(day(1), 1, items=wide))
    sids, done, failures = OnlineSids(repo, "g1"), threading.Event(), []

    def read() -> None:
        newest = 0
        while not done.is_set():
            try:
                got = sids.lookup(wide)
                number = (got.as_of - day(0)).days
                if set(got.sid[:, 0].tolist()) != {number % 10} or number < newest:
                    failures.append((number, newest))
                newest = number
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 16):
        publish(repo, snapshot(day(number), number % 10, items=wide))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [int(c) for c in sids.lookup([5]).sid[0]] == [5, 5, -1]
