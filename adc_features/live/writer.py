"""Events of many requests in few transactions. Reads: a queue of requests. Writes: commits of the
ledger, segments of histories.

A commit costs a sync of the disk, whatever its size: requests that come within a few milliseconds
share one. What waits is bounded: when the disk is slower than the senders, these are told to come
back, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from adc_features.errors import AdcError, InputError
from adc_features.live.decisions import Receipt
from adc_features.live.elsewhere import Elsewhere
from adc_features.live.history import Histories
from adc_features.live.incoming import Incoming
from adc_features.live.ledger import Ledger

log = logging.getLogger(__name__)
_IDLE_S = 1.0
"""Time between two looks at held events while nothing else comes, seconds."""


class BusyError(AdcError):
    """Too many events wait to be written; send them again later."""


class _Waiting(NamedTuple):
    request: Incoming
    receipt: Future[Receipt]


class Writer:
    """The thread of a process that commits events.

    Use as a context manager: what waits is committed, and histories are written, before it ends.

    Parameters
    ----------
    ledger : Ledger
    histories : Histories
        Written every `history_after` by another thread; rows for online stores that are not ours
        leave at once, by a third.
    """

    def __init__(self, ledger: Ledger, histories: Histories) -> None:
        self.ledger, self.histories, self.settings = ledger, histories, ledger.settings
        self.history_error: str | None = None
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._events = self._bytes = 0
        self._closed, self._committed = threading.Event(), threading.Event()
        work: dict[str, Callable[[], None]] = {
            "commit": self._commit,
            "history": self._write_histories,
        }
        if histories.elsewhere is not None:
            work["online"] = partial(self._follow, histories.elsewhere)
        self._threads = [
            threading.Thread(target=run, name=f"live-{name}", daemon=True)
            for name, run in work.items()
        ]

    def __enter__(self) -> Writer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed.set()
            self._queue.put(None)
        self._committed.set()
        for thread in self._threads:
            thread.join()
        if self.histories.elsewhere is not None:
            self.histories.elsewhere.follow()
        self.histories.drain()

    @property
    def waiting(self) -> int:
        """Events that wait to be committed."""
        return self._events

    def submit(self, request: Incoming) -> Future[Receipt]:
        """Let the events of a request be committed.

        Returns
        -------
        Future of Receipt
            Done when they are durable and visible; its exception is an AdcError when they are not.
            Cancelled before their commit begins, it takes the events back.

        Raises
        ------
        BusyError
            Too much waits already, here or for another online store, or the writer ends; nothing
            of the request was kept.
        """
        elsewhere = self.histories.elsewhere
        if elsewhere is not None and elsewhere.overdue:
            raise BusyError(
                f"rows have waited for the online store ({elsewhere.kind}) for"
                f" {elsewhere.lag().total_seconds():.0f} s; send the events again in a while"
            )
        with self._lock:
            if self._closed.is_set():
                raise BusyError("the service ends; send the events again to the next one")
            size, limit = self._bytes + request.size, self.settings.max_waiting_bytes
            # one request is always taken, whatever its size: others bound that
            if self._events and (
                self._events + len(request) > self.settings.max_waiting or size > limit
            ):
                raise BusyError(
                    f"{self._events} events wait to be written; send these again in a second"
                )
            self._events += len(request)
            self._bytes = size
            waiting = _Waiting(request, Future())
            self._queue.put(waiting)
        return waiting.receipt

    def _commit(self) -> None:
        while (first := self._next()) is not None:
            batch, more = [first], True
            until = time.monotonic() + self.settings.commit_after.total_seconds()
            while sum(len(w.request) for w in batch) < self.settings.commit_events and more:
                try:
                    following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if following is None:
                    more = False
                else:
                    batch.append(following)
            # who has given up since is not committed; from here on nobody can
            self._commit_batch([w for w in batch if w.receipt.set_running_or_notify_cancel()])
            with self._lock:
                self._events -= sum(len(w.request) for w in batch)
                self._bytes -= sum(w.request.size for w in batch)
            if not more:
                return

    def _next(self) -> _Waiting | None:
        """What waits first; None at the end. Held events are counted meanwhile."""
        while True:
            try:
                return self._queue.get(timeout=_IDLE_S)
            except queue.Empty:
                try:
                    if self.ledger.due():
                        self.ledger.commit([])
                except AdcError as error:  # at the next look, or with the next request
                    log.error("stage=ingest error=%s", error)

    def _commit_batch(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            for waiting, receipt in zip(
                batch, self.ledger.commit([w.request for w in batch]), strict=True
            ):
                waiting.receipt.set_result(receipt)
        except InputError as error:
            if len(batch) == 1:
                batch[0].receipt.set_exception(error)
            else:  # one of them is at fault, and the others are not to suffer
                for waiting in batch:
                    self._commit_batch([waiting])
                return
        except BaseException as error:  # whatever it was: who waits must be told
            log.exception("stage=ingest error=%s", error)
            for waiting in batch:
                if not waiting.receipt.done():
                    waiting.receipt.set_exception(error)
        self._committed.set()

    def _follow(self, elsewhere: Elsewhere) -> None:
        while not self._closed.is_set():
            self._committed.wait(_IDLE_S)
            self._committed.clear()
            elsewhere.follow()

    def _write_histories(self) -> None:
        while not self._closed.wait(self.settings.history_after.total_seconds()):
            try:
                self.histories.drain()
                self.history_error = None
            except Exception as error:  # served on: rows wait in the directory until it succeeds
                self.history_error = str(error)
                log.exception("stage=history error=%s", error)
