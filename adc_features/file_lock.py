"""One holder at a time of a file or directory. Reads, writes: lock files, without content.

The system releases a lock when the process that holds it ends, however it ends.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PAUSE = 0.02
"""Seconds between two attempts."""


@contextmanager
def file_lock(path: Path, *, wait: float | None = 0.0) -> Iterator[bool]:
    """Hold the lock of `path` for the block; says whether it was taken.

    path: a directory, or a file, which is created when there is none. wait: seconds to wait for
    another holder; None: until it lets go.
    """
    is_directory = os.path.isdir(path)
    descriptor = os.open(path, os.O_RDONLY if is_directory else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if wait is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield True
        else:
            yield until_taken(lambda: _taken(descriptor), wait)
    finally:
        os.close(descriptor)


def until_taken(attempt: Callable[[], bool], wait: float) -> bool:
    """Whether an attempt succeeded, repeated for `wait` seconds; it is made at least once."""
    until = time.monotonic() + wait
    while not (taken := attempt()) and time.monotonic() < until:
        time.sleep(_PAUSE)
    return taken


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
