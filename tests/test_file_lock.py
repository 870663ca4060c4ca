"""One holder at a time. Reads: adc_features.file_lock."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from adc_features.file_lock import file_lock, until_taken

HOLDER = """
import sys, time
from pathlib import Path
from adc_features.file_lock import file_lock
with file_lock(Path(sys.argv[1])) as taken:
    print(taken, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["file", "directory"])
def place(request, tmp_path):
    path = tmp_path / "lock"
    if request.param == "directory":
        path.mkdir()
    return path


def test_a_second_holder_is_told_and_a_killed_one_lets_go(place):
    """While one process holds the lock another does not get it;
    it is free once the holder was killed.
    """
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with file_lock(place) as taken:
            assert not taken
        os.kill(holder.pid, signal.SIGKILL)
    with file_lock(place, wait=5) as taken:
        assert taken


def test_waiting_without_a_limit_ends_when_the_holder_lets_go(place):
    """A holder that comes second gets the lock after the first, never beside it."""
    order = []

    def second():
        with file_lock(place, wait=None) as taken:
            order.append(("second", taken))

    waiting = threading.Thread(target=second)
    with file_lock(place):
        waiting.start()
        time.sleep(0.1)
        order.append(("first", True))
    waiting.join(10)
    assert order == [("first", True), ("second", True)]


def test_an_attempt_is_made_once_even_without_time_to_wait():
    """Without time to wait the first answer counts."""
    answers = iter([False, True])
    assert not until_taken(lambda: next(answers), 0)
    assert until_taken(lambda: next(answers), 0)
