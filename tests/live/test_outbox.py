"""Rows leave the live directory for files once, whenever the process dies."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.live import outbox as module
from adc_features.live.outbox import Outbox
from adc_features.live.tables import time_key
from adc_features.store.lmdb.environment import environment
from adc_features.store.parquet.segments import times_of, uncovered


class Killed(BaseException):
    """In place of a kill."""


def joined(paths, file):
    """Lines of files as one file."""
    file.write(b"\n".join(path.read_bytes() for path in paths))


def lines(box):
    """Every row that files hold, in order."""
    return [row for _, _, path in box.segments() for row in path.read_bytes().split()]


@pytest.mark.parametrize("place", ["before the file", "after the file", "after the sync"])
def test_a_kill_at_any_point_loses_and_repeats_nothing(tmp_path, monkeypatch, place):
    """The next drain ends what the killed one began."""
    live = environment(tmp_path / "lmdb", map_size=1 << 24)
    box = Outbox("rows", tmp_path / "files", "txt", b"\n".join, joined)
    live.write("rows", lambda txn: [txn.put(time_key(t), b"r%d" % t) for t in (5, 7, 9)])

    def killed(*arguments):
        raise Killed

    def written_then_killed(path, content):
        path.write_bytes(content)
        raise Killed

    patches = {
        "before the file": ("write_atomically", killed),
        "after the file": ("write_atomically", written_then_killed),
        "after the sync": ("sync_directory", killed),
    }
    with monkeypatch.context() as patch:
        patch.setattr(module, *patches[place])
        with pytest.raises(Killed):
            box.drain(live)
    waiting = [value for _, value in box.waiting(live)]
    assert sorted(lines(box) + waiting) == [b"r5", b"r7", b"r9"]
    live.write("rows", lambda txn: txn.put(time_key(11), b"r11"))
    box.drain(live)
    assert lines(box) == [b"r5", b"r7", b"r9", b"r11"]
    assert box.waiting(live) == []


def test_segments_are_bounded(tmp_path, monkeypatch):
    """A long outbox becomes several files, named by what they hold."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    live = environment(tmp_path / "lmdb", map_size=1 << 24)
    box = Outbox("rows", tmp_path / "files", "txt", b"\n".join, joined)
    live.write("rows", lambda txn: [txn.put(time_key(t), b"r%d" % t) for t in range(5)])
    assert box.drain(live) == 5
    assert [(first, last) for first, last, _ in box.segments()] == [(0, 1), (2, 3), (4, 4)]
    assert box.drain(live) == 0


@pytest.fixture
def pieces(tmp_path):
    """An outbox whose six rows lie in six segments, the last of them large."""
    live = environment(tmp_path / "lmdb", map_size=1 << 24)
    box = Outbox("rows", tmp_path / "files", "txt", b"\n".join, joined)
    for time in range(5, 11):
        row = b"r%d" % time + b" " * (1000 if time == 10 else 0)
        live.write("rows", lambda txn, t=time, row=row: txn.put(time_key(t), row))
        box.drain(live)
    return box


ROWS = [b"r%d" % time for time in range(5, 11)]


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("before the merged one is written", 6),
        ("after it is written", 6),
        ("after its name is there", 2),
        ("while those it covers are removed", 2),
    ],
)
def test_a_kill_while_segments_are_merged_leaves_every_row_once(pieces, monkeypatch, place, count):
    """At any point readers see the small ones or the merged one; the next merge ends it, and
    leaves one file in place of five beside the large one.
    """
    monkeypatch.setattr(module, "LARGE", 500)

    def killed(*arguments, **how):
        raise Killed

    def written_then_killed(paths, file):
        joined(paths, file)
        raise Killed

    with monkeypatch.context() as patch:
        if place == "before the merged one is written":
            patch.setattr(module, "fresh_file", killed)
        elif place == "after it is written":
            box = Outbox("rows", pieces.directory, "txt", pieces.segment, written_then_killed)
        elif place == "after its name is there":
            patch.setattr(module, "sync_directory", killed)
        else:
            pieces.tidy(most=4, grace=0)
            unlink, gone = module.Path.unlink, []

            def twice(path, **how):
                if len(gone) == 2:
                    raise Killed
                gone.append(path)
                unlink(path, **how)

            patch.setattr(module.Path, "unlink", twice)
        with pytest.raises(Killed):
            (box if place == "after it is written" else pieces).tidy(most=4, grace=0)
    assert lines(pieces) == ROWS
    assert len(pieces.segments()) == count
    for _ in range(2):
        pieces.tidy(most=4, grace=0)
    assert lines(pieces) == ROWS
    assert len(list(pieces.directory.iterdir())) == 2


def test_few_segments_stay_and_merged_ones_lie_there_for_readers(pieces):
    """Up to the stated number nothing is merged; what a merged segment covers is not counted, and
    is removed when the time for its readers is over.
    """
    assert pieces.tidy(most=6, grace=3600) == 0
    assert pieces.tidy(most=5, grace=3600) == 6
    assert pieces.tidy(most=5, grace=3600) == 0
    assert len(list(pieces.directory.iterdir())) == 7
    assert [(first, last) for first, last, _ in pieces.segments()] == [(5, 10)]
    assert lines(pieces) == ROWS
    assert pieces.tidy(most=5, grace=0) == 0
    assert len(list(pieces.directory.iterdir())) == 1


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
def test_however_segments_are_merged_each_time_is_counted_once(sizes, data):
    """Neighbours merged at random, again and again, the covered ones removed or still there."""
    ends = list(accumulate(sizes))
    now = [(end - size, end - 1) for end, size in zip(ends, sizes, strict=True)]
    there = set(now)
    for _ in range(data.draw(st.integers(0, 4))):
        first = data.draw(st.integers(0, len(now) - 1))
        last = data.draw(st.integers(first, len(now) - 1))
        now[first : last + 1] = [(now[first][0], now[last][1])]
        there.add(now[first])
    kept = {one for one in there if one in now or data.draw(st.booleans())}
    names = [f"place/{first:020d}-{last:020d}.parquet" for first, last in kept]
    others = ["other/" + name.partition("/")[2] for name in names] + ["place/part-0.parquet"]
    counted = [name for name in uncovered([*names, *others]) if name.startswith("place/0")]
    assert [times_of(name) for name in counted] == now
    assert "place/part-0.parquet" in uncovered(others)
