"""Work that gives way to requests. Reads, writes: nothing.

A pair that is opened beside the one that serves takes seconds of Python: modules, Feast's registry,
the ranker's tables. Python runs one thread at a time, so requests would wait for those seconds in
small pieces. Here the thread that opens stops at its next function call while a request is
answered: the requests have the interpreter to themselves, and the opening lives in the gaps.

What one call in C does without letting go of the interpreter cannot be cut. Such calls on the way
of an opening are of a few milliseconds.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SLICE_S = 0.001
"""What the work may run while requests are answered, before it stops."""
PAUSE_S = 0.01
"""The longest stop. Under requests without a gap the work advances by a slice in every pause, so it
ends, and a lock that it holds is held no longer than this.
"""


class Requests:
    """How many requests are being answered, and whether there are none.

    Examples
    --------
    >>> requests = Requests()
    >>> with requests.one():
    ...     requests.busy
    True
    >>> requests.busy
    False
    """

    def __init__(self) -> None:
        self._count, self._lock, self._idle = 0, threading.Lock(), threading.Event()
        self._idle.set()

    @property
    def busy(self) -> bool:
        """A request is being answered."""
        return self._count > 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request, for as long as the block lasts."""
        with self._lock:
            self._count += 1
            self._idle.clear()
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._idle.set()

    def wait(self, seconds: float) -> None:
        """Until none is answered, at most so long."""
        self._idle.wait(seconds)


@contextmanager
def giving_way(requests: Requests) -> Iterator[None]:
    """What this thread does in the block stops, in between, while requests are answered.

    It is the thread's profile function that stops it: nothing that it calls has to know. A profiler
    that was set for this thread is set again at the end.
    """
    before, resumed = sys.getprofile(), time.perf_counter()

    def at_call(frame: Any, event: str, argument: Any) -> None:
        nonlocal resumed
        if requests.busy and time.perf_counter() - resumed > SLICE_S:
            requests.wait(PAUSE_S)
            resumed = time.perf_counter()

    sys.setprofile(at_call)
    try:
        yield
    finally:
        sys.setprofile(before)
