"""Publishing: what is written, what is refused, what a failure leaves behind."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_world import (
    DAY,
    ITEMS,
    START,
    day,
    generation,
    item_profile,
    snapshot,
    times,
    user_activity,
)

from adc_features import store
from adc_features.codes.sid_pieces import SidPieces, some_rows
from adc_features.data.statistics import NO_TIME
from adc_features.errors import ArtifactError, GenerationMismatch, InputError

PUBLISH = sys.modules["adc_features.store.publish.codes"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    store.create_repository(tmp_path, project="world")
    return tmp_path


def publish(repo: Path, *tables, made=None, lag=DAY, **changes) -> Path:
    return store.publish(
        repo,
        made or generation(),
        tables,
        **{"servable_at": [t.as_of + lag for t in tables], "computed_at": day(90), **changes},
    )


def state(repo: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(repo)): p.read_bytes()
        for p in sorted((repo / "data").rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("text", [False, True])
def test_pieces_publish_what_the_whole_does(tmp_path, monkeypatch, text):
    """A snapshot, then one with new, other, unchanged and gone items, given whole or in pieces of
    7 rows: the same rows, and packed files with the same bytes, also where nothing is other.
    """
    monkeypatch.setattr("adc_features.store.packed.writer.AT_ONCE", 16)
    monkeypatch.setattr("adc_features.store.packed.snapshot.ROWS_AT_ONCE", 5)

    def items(numbers: range) -> np.ndarray:
        return np.array([f"item {n}" for n in numbers]) if text else np.array(numbers)

    second = snapshot(day(20), 1, items=items(range(20, 80)))
    second.sid[::3, 0] = 3
    tables = [snapshot(day(10), 1, items=items(range(60))), second]
    tables.append(replace(second, as_of=day(30)))
    rows, packed = [], []
    for pieces in (False, True):
        repo = tmp_path / f"{pieces}"
        store.create_repository(repo, project="world")
        given = [_in_pieces(t, 7) if pieces else t for t in tables]
        publish(repo, given[0])
        times = {"servable_at": day(21), "computed_at": day(90)}
        counts = [store.publish_changes(repo, generation(), given[1], **times)]
        times["servable_at"] = day(31)
        counts.append(store.publish_changes(repo, generation(), given[2], **times))
        assert counts == [14 + 20 + 20, 60]  # other, new and gone; all where nothing is other
        where = repo / "data/item_sid_g1"
        rows.append([pq.read_table(f) for f in sorted(where.glob("rows/*.parquet"))])
        packed.append([f.read_bytes() for f in sorted(where.glob("packed/*.sids"))])
        assert [f.suffix for f in (where / "packed").iterdir()] == [".sids"] * 3
    assert packed[0] == packed[1]
    assert all(one.equals(other) for one, other in zip(*rows, strict=True))
    (*_, newest) = store.published_timeline(tmp_path / "True", "g1").snapshots
    assert newest.lookup(second.item_ids).sid.tolist() == second.sid.tolist()
    assert not newest.lookup(items(range(20))).found.any()


def test_a_later_snapshot_without_items_removes_them_all(repo):
    """What differs from the snapshot before is that every item is gone."""
    table = snapshot(day(10), 1, items=np.arange(5))
    publish(repo, table)
    nothing = replace(some_rows(table, slice(0)), as_of=day(20))
    times = {"servable_at": day(21), "computed_at": day(90)}
    assert store.publish_changes(repo, generation(), nothing, **times) == 5
    (*_, newest) = store.published_timeline(repo, "g1").snapshots
    assert not newest.lookup(table.item_ids).found.any()


def _in_pieces(table, rows: int) -> SidPieces:
    starts = range(0, len(table), rows)
    read = lambda: (some_rows(table, slice(n, n + rows)) for n in starts)  # noqa: E731
    return replace(SidPieces.of(table), read=read)


def test_a_publication_says_what_it_holds(repo):
    """The manifest lists each snapshot with its times, rows, and whether the tokenizer had seen
    later data.
    """
    path = publish(
        repo,
        snapshot(day(10), 1),
        snapshot(day(30), 2, removed=["x"]),
        made=generation(trained_through=day(20)),
    )
    first, second = store.published_snapshots(repo, "g1")
    assert (
        first.as_of,
        first.servable_at,
        first.computed_at,
        first.hindsight,
        first.items,
        first.removed,
    ) == (day(10), day(11), day(90), True, 3, 0)
    assert (second.hindsight, second.items, second.removed) == (False, 3, 1)
    assert {p.name for p in path.iterdir()} == {"manifest.json", "packed", "rows"}
    (live,) = store.live_generations(repo)
    assert (live.id, live.view, live.length, live.codebook_size, live.id_type) == (
        "g1",
        "item_sid_g1",
        3,
        10,
        "string",
    )


def test_publishing_again_adds_and_replaces_snapshots(repo):
    """A new cut-off joins the old ones, also before them; the same cut-off replaces its rows."""
    publish(repo, snapshot(day(10), 1))
    publish(repo, snapshot(day(20), 2), snapshot(day(5), 3))
    publish(repo, snapshot(day(10), 9))
    assert [s.as_of for s in store.published_snapshots(repo, "g1")] == [day(5), day(10), day(20)]
    sid, _, _ = store.published_timeline(repo, "g1").gather(
        np.array(["a"] * 4),
        np.array(["2014-01-05", "2014-01-07", "2014-01-12", "2014-02-01"], "datetime64[us]"),
    )
    assert sid[:, 0].tolist() == [-1, 3, 9, 2]
    assert len(store.live_generations(repo)) == 1


def test_two_generations_stay_live(repo):
    """Publishing another generation keeps the first in the list, in order of first publication
    apart from the newest.
    """
    publish(repo, snapshot(day(10), 1))
    publish(repo, snapshot(day(10), 1, id="g2"), made=generation("g2", codebook="22"))
    assert [g.id for g in store.live_generations(repo)] == ["g1", "g2"]


def test_one_id_is_one_codebook(repo):
    """Codes of another codebook under a published id, or of another generation, are refused and
    change nothing.
    """
    publish(repo, snapshot(day(10), 1))
    before = state(repo)
    with pytest.raises(GenerationMismatch, match="publish the new one under its own id"):
        publish(repo, snapshot(day(20), 1), made=generation(codebook="99"))
    with pytest.raises(GenerationMismatch, match="encode it with that generation"):
        publish(repo, snapshot(day(20), 1, id="g2"))
    assert state(repo) == before


@pytest.mark.parametrize(
    ("tables", "changes", "words"),
    [
        ((snapshot(day(10), 1),), {"lag": -DAY}, "before their data ends"),
        ((snapshot(day(10), 1),), {"servable_at": [datetime(2014, 3, 1)]}, "without a time zone"),
        (
            (snapshot(day(10), 1),),
            {"computed_at": datetime(2014, 3, 1)},
            "computed_at .* without a time zone",
        ),
        ((snapshot(day(10), 1), snapshot(day(10), 2)), {}, "same as_of"),
        (
            (snapshot(day(10), 1), snapshot(day(20), 2)),
            {"servable_at": [day(40), day(30)]},
            "must rise with as_of",
        ),
        (
            (snapshot(day(10), 1), snapshot(day(20), 2)),
            {"servable_at": [day(40), day(40)]},
            "must rise with as_of",
        ),
        ((snapshot(day(10), 1),), {"servable_at": []}, "one time each"),
        ((), {}, "at least one snapshot"),
        ((snapshot(day(10), 1, items=np.array([], str)),), {}, "is empty"),
    ],
)
def test_contradicting_times_and_empty_snapshots_are_refused(repo, tables, changes, words):
    """Each wrong input is one clear InputError, and nothing is written."""
    with pytest.raises(InputError, match=words):
        publish(repo, *tables, **changes)
    assert state(repo) == {}


@pytest.mark.parametrize("failing", ["rows", "manifest", "list"])
def test_a_failed_publish_leaves_the_previous_state(repo, monkeypatch, failing):
    """A full disk while writing rows, manifest or list: readers see the old publication, and the
    next publish works.
    """
    publish(repo, snapshot(day(10), 1))
    before, calls = state(repo), []

    def full_disk(*arguments, **keywords):
        calls.append(arguments)
        raise OSError(28, "No space left on device")

    owner, name = {
        "rows": (pq.ParquetWriter, "write_table"),
        "manifest": (PUBLISH, "seal"),
        "list": (PUBLISH, "write_live_generations"),
    }[failing]
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, full_disk)
        with pytest.raises(OSError, match="No space left"):
            publish(repo, snapshot(day(20), 2), made=generation())
    assert calls
    # the rows are complete before the list; a list that fails leaves g1 live with all of its rows
    if failing != "list":
        assert state(repo) == before
    assert store.check_repository(repo) == []
    publish(repo, snapshot(day(20), 2))
    assert len(store.published_snapshots(repo, "g1")) == 2


def test_a_new_generation_is_not_live_before_its_list_entry(repo, monkeypatch):
    """When the list cannot be written the new generation's rows exist,
    but nobody is told to read them.
    """
    publish(repo, snapshot(day(10), 1))
    monkeypatch.setattr(
        PUBLISH, "write_live_generations", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        publish(repo, snapshot(day(10), 1, id="g2"), made=generation("g2", codebook="22"))
    assert [g.id for g in store.live_generations(repo)] == ["g1"]


def test_a_publish_killed_between_its_two_renames_loses_nothing(repo):
    """The publication that was moved away is put back by the next publish, which then adds
    to it.
    """
    target = publish(repo, snapshot(day(10), 1))
    target.rename(target.parent / f".{target.name}.old")
    assert "g1 is live, but" in store.check_repository(repo)[0]
    publish(repo, snapshot(day(20), 2))
    assert [s.as_of for s in store.published_snapshots(repo, "g1")] == [day(10), day(20)]


def test_broken_publications_are_not_added_to(repo):
    """Rows that were altered on disk are refused before anything is written."""
    publish(repo, snapshot(day(10), 1))
    (rows,) = (repo / "data/item_sid_g1/rows").iterdir()
    rows.write_bytes(b"")
    with pytest.raises(ArtifactError, match="was altered"):
        publish(repo, snapshot(day(20), 2))


def test_ids_of_two_types_never_meet(repo):
    """Integer items are refused where strings are published: they would never join."""
    publish(repo, snapshot(day(10), 1))
    with pytest.raises(InputError, match="the two would never join"):
        publish(
            repo,
            snapshot(day(10), 1, items=np.arange(3), id="g2"),
            made=generation("g2", codebook="22"),
        )
    profile = item_profile(["a"], [day(5)], [0.5])
    with pytest.raises(InputError, match="the two would never join"):
        publish_statistics(repo, item_profile=profile.set_column(0, "item_id", pa.array([1])))


def publish_statistics(repo, **changes):
    tables = {
        "item_profile": item_profile(["a", "b"], [day(5), day(5)], [0.1, 0.2]),
        "user_activity": user_activity(["u"], [day(5)]),
    }
    return store.publish_statistics(repo, **{**tables, "resolution": DAY, **changes})


def test_statistics_are_replaced_together(repo):
    """Both files stand in one directory that is swapped whole."""
    publish_statistics(repo)
    path = publish_statistics(repo, user_activity=user_activity(["u", "v"], [day(5), day(6)]))
    assert json.loads((path / "manifest.json").read_text())["rows"] == {
        "item_profile": 2,
        "user_activity": 2,
    }
    assert len(pq.read_table(path / "user_activity.parquet")) == 2
    assert store.check_repository(repo) == []


def with_column(table: pa.Table, name: str, values) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, name, values)


PROFILE = item_profile(["a", "b"], [day(5), day(5)], [0.1, 0.2])


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (
            with_column(PROFILE, "event_timestamp", pa.array([datetime(2014, 1, 9)] * 2)),
            "with a time zone",
        ),
        (
            with_column(PROFILE, "event_timestamp", times([day(5), None])),
            "1 values of 'event_timestamp' are null",
        ),
        (with_column(PROFILE, "item_id", pa.array(["a", None])), "1 values of 'item_id' are null"),
        (with_column(PROFILE, "item_id", pa.array(["a", "a"])), "several rows of one item_id"),
        (with_column(PROFILE, "item_event_count", pa.array([1, None])), "would become floats"),
        (PROFILE.append_column("tags", pa.array([["x"], [None]])), "nulls inside the lists"),
        (PROFILE.append_column("mean", pa.array([0.5, float("nan")])), "would be served as null"),
        (
            PROFILE.append_column("means", pa.array([[0.5], [float("nan")]])),
            "would be served as null",
        ),
        (PROFILE.append_column("sum_y", pa.array([1, 2])), "ends with '_y'"),
        (PROFILE.append_column("user_recent_labels", pa.array([1, 2])), "unique across views"),
        (PROFILE.append_column("when", times([day(1)] * 2)), "'when' is of type timestamp"),
        (PROFILE.drop_columns("item_id"), "no column 'item_id'"),
        (PROFILE.drop_columns("item_last_time"), "a leak cannot be ruled out"),
        (PROFILE.slice(0, 0), "is empty"),
    ],
)
def test_statistics_that_feast_would_bend_are_refused(repo, profile, words):
    """Naive or null times, duplicates, nullable integers, nulls in lists, clashing names,
    unsupported types: one error each, nothing written.
    """
    with pytest.raises(InputError, match=words):
        publish_statistics(repo, item_profile=profile)
    assert state(repo) == {}


@pytest.mark.parametrize(
    ("late", "leaks"), [(timedelta(0), False), (timedelta(microseconds=1), True), (DAY, True)]
)
def test_a_row_is_valid_only_after_the_events_it_contains(late, leaks):
    """last_time + resolution <= event_timestamp passes; one microsecond more is a leak, and so is a
    row stamped at its own event.
    """
    last = int((day(5) - DAY + late).timestamp() * 1_000_000)
    rows = with_column(PROFILE, "item_last_time", pa.array([last, NO_TIME]))
    if leaks:
        with pytest.raises(InputError, match="1 rows leak: row 0 is valid from 2014-01-06"):
            store.check_validity(rows, resolution=DAY)
    else:
        store.check_validity(rows, resolution=DAY)


def test_events_before_1970_are_guarded_too():
    """The guard compares integers, so the sign
    of a time does not matter, and NO_TIME is no time.
    """
    moments = [datetime(1950, 1, 2, tzinfo=UTC), datetime(1950, 1, 3, tzinfo=UTC)]
    rows = with_column(
        item_profile(["a", "b"], moments, [0, 0]),
        "item_last_time",
        pa.array([int((moments[0] - DAY).timestamp()) * 1_000_000, NO_TIME]),
    )
    store.check_validity(rows, resolution=DAY)
    with pytest.raises(InputError, match="1 rows leak"):
        store.check_validity(rows, resolution=2 * DAY)
    with pytest.raises(InputError, match="above 0"):
        store.check_validity(rows, resolution=timedelta(0))


def test_an_unknown_generation_is_named(repo):
    """Asking for what is not live says what is."""
    publish(repo, snapshot(START, 1, items=ITEMS))
    with pytest.raises(InputError, match=r"live are \['g1'\]"):
        store.published_snapshots(repo, "g7")
