"""Where the events of requests go. Reads: bodies. Writes: commits of a writer.

This is the part of POST /events that costs: `adc serve` runs it in a process of its own, see
`sink_process`.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from adc_features.live.decisions import Receipt
from adc_features.live.incoming import Incoming, events_of, incoming
from adc_features.live.writer import Writer
from adc_features.serving.live_metrics import LiveMetrics
from adc_features.serving.protocol import HttpError

MAX_EVENTS = 2_000
"""Events in one request."""
_OBJECTS = 4
"""Brackets an event, in its texts, at most."""


class EventSink(Protocol):
    """What takes events."""

    @property
    def streams(self) -> Collection[str]:
        """The streams that events are of."""
        ...

    def take(self, stream: str, body: bytes) -> Future[Receipt]:
        """Keep the events of a request's body; done when they are durable and visible.

        The future's exception is an AdcError: BusyError, RequestError or HttpError where nothing
        of the body was kept, ArtifactError where it cannot be.
        """
        ...

    def page(self) -> bytes:
        """Metrics in the text format of Prometheus."""
        ...

    def facts(self) -> dict[str, Any]:
        """What /readyz tells."""
        ...

    def close(self) -> None:
        """Commit what waits."""
        ...


class WriterSink:
    """The sink in this process: bodies are read by a thread, the writer commits.

    Parameters
    ----------
    writer : Writer
        Entered; `close` ends it.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._metrics = LiveMetrics(writer)

    @property
    def streams(self) -> Collection[str]:
        return self.writer.ledger.streams

    def take(self, stream: str, body: bytes) -> Future[Receipt]:
        found = Future[Receipt]()
        found.set_running_or_notify_cancel()  # who no longer waits does not undo a commit
        self._reading.submit(self._take, stream, body, found)
        return found

    def page(self) -> bytes:
        return self._metrics.page()

    def facts(self) -> dict[str, Any]:
        return self._metrics.facts()

    def close(self) -> None:
        self._reading.shutdown(wait=True)
        self.writer.__exit__()

    def _take(self, stream: str, body: bytes, found: Future[Receipt]) -> None:
        try:
            receipt = self.writer.submit(self._read(stream, body))
            receipt.add_done_callback(lambda done: _pass_on(done, found))
        except BaseException as error:  # whatever it was: who waits must be told
            found.set_exception(error)

    def _read(self, stream: str, body: bytes) -> Incoming:
        # a parser makes an object of every `{}`: what no request looks like is not parsed
        objects = body.count(b"{") + body.count(b"[")
        sent = events_of(body) if objects <= _OBJECTS * MAX_EVENTS else None
        if sent is None or len(sent) > MAX_EVENTS:
            raise HttpError(
                422,
                "too_many_events",
                f"more than {MAX_EVENTS} events are not taken at once; send several requests",
            )
        return incoming(self.writer.ledger.streams[stream], sent, size=len(body))


def _pass_on(done: Future[Receipt], to: Future[Receipt]) -> None:
    if (error := done.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(done.result())
