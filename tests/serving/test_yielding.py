"""Work that gives way to requests."""

import sys
import threading
import time

import pytest

from adc_features.serving.yielding import SLICE_S, Requests, giving_way


class Watched(Requests):
    """Remembers how often work stopped for it; a stop ends nothing, or ends the request."""

    def __init__(self, *, ends: bool) -> None:
        super().__init__()
        self.stops, self._ends = 0, ends

    def wait(self, seconds: float) -> None:
        self.stops += 1
        if self._ends:
            self._count = 0


def spin() -> None:
    """One call that takes longer than a slice."""
    end = time.perf_counter() + 2 * SLICE_S
    while time.perf_counter() < end:
        pass


def work(calls: int = 5) -> int:
    for _ in range(calls):
        spin()
    return calls


def test_work_stops_for_a_request_and_goes_on_when_it_is_answered():
    """One request is one stop; without requests there is none."""
    requests = Watched(ends=True)
    with giving_way(requests), requests.one():
        assert work() == 5
    assert requests.stops == 1
    with giving_way(idle := Watched(ends=True)):
        work()
    assert idle.stops == 0


def test_work_ends_under_requests_without_a_gap():
    """It stops at most once in a slice, and every slice goes on."""
    requests = Watched(ends=False)
    with requests.one(), giving_way(requests):
        assert work() == 5
    assert requests.stops >= 1


def test_requests_are_counted_across_threads():
    """Busy while one of two is answered; `wait` returns as soon as none is."""
    requests = Requests()
    with requests.one():
        with requests.one():
            assert requests.busy
        assert requests.busy
        began = time.perf_counter()
        requests.wait(0.01)
        assert time.perf_counter() - began >= 0.009
    assert not requests.busy
    requests.wait(60)


def test_only_the_thread_that_gives_way_is_stopped_and_only_in_the_block():
    """Other threads have no profile function; a failure leaves none behind either."""
    requests, seen = Requests(), []
    with giving_way(requests):
        assert sys.getprofile() is not None
        other = threading.Thread(target=lambda: seen.append(sys.getprofile()))
        other.start()
        other.join()
    assert seen == [None]
    assert sys.getprofile() is None
    with pytest.raises(ZeroDivisionError), giving_way(requests):
        1 / 0  # noqa: B018
    assert sys.getprofile() is None
