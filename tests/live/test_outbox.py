"""Rows leave the live directory for files once, whenever the process dies."""

import pytest

from adc_features.live import outbox as module
from adc_features.live.outbox import Outbox
from adc_features.live.tables import time_key
from adc_features.store.lmdb.environment import environment


class Killed(BaseException):
    """In place of a kill."""


def lines(box):
    """Every row that files hold, in order."""
    return [row for _, _, path in box.segments() for row in path.read_bytes().split()]


@pytest.mark.parametrize("place", ["before the file", "after the file", "after the sync"])
def test_a_kill_at_any_point_loses_and_repeats_nothing(tmp_path, monkeypatch, place):
    """The next drain ends what the killed one began."""
    live = environment(tmp_path / "lmdb", map_size=1 << 24)
    box = Outbox("rows", tmp_path / "files", "txt", b"\n".join)
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
    box = Outbox("rows", tmp_path / "files", "txt", b"\n".join)
    live.write("rows", lambda txn: [txn.put(time_key(t), b"r%d" % t) for t in range(5)])
    assert box.drain(live) == 5
    assert [(first, last) for first, last, _ in box.segments()] == [(0, 1), (2, 3), (4, 4)]
    assert box.drain(live) == 0
