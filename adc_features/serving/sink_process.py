"""A process of its own that takes events. Reads: bodies, over a local socket. Writes: commits.

Python runs one thread at a time: where events are committed in the process that ranks, each waits
for the other. Here one process takes the events of all that answer: ranking has a core, they have
another, and the requests of all workers share commits. Where it ends, requests of events are told
to come again until another has taken its place; ranking goes on.

Where both ask for the same core, ranking has it: this process runs at a lower priority. Events wait
a little longer then, and more of them share a commit.
"""

from __future__ import annotations

import copyreg
import itertools
import logging
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from adc_features.errors import AdcError, ArtifactError
from adc_features.live.decisions import Receipt
from adc_features.live.repository import open_live
from adc_features.live.writer import BusyError, Writer
from adc_features.serving.event_sink import EventSink, WriterSink
from adc_features.serving.protocol import HttpError
from adc_features.serving.workers import beside, end_with_parent, one_thread, settle

log = logging.getLogger(__name__)
_START_S = 60.0
"""Seconds that the process has to start."""
_NICE = 5
"""What is added to this process's nice value: of a core that is asked for by both, whoever ranks
has three quarters."""
_AGAIN_S = 0.05
_TELL_S = 10.0
"""Seconds that metrics are waited for."""
_GONE = "the process that takes events ended, another takes its place; send the events again"

# by default an exception is made again of its message alone
copyreg.pickle(HttpError, lambda error: (HttpError, (error.status, error.code, error.message)))


@contextmanager
def sink_process(repo: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A process that takes the events of a repository's live views, for as long as the block lasts:
    the path of its socket, and its streams, as ProcessSink has them.

    Raises InputError for a repository without live views, and what else `open_live` raises.
    """
    streams = tuple(open_live(repo).ledger.streams)  # before a process starts that could only fail
    with tempfile.TemporaryDirectory(prefix="adc-events-") as folder:
        address = str(Path(folder) / "events")
        with beside(1, run_sink, repo, address, metrics=None, nice=_NICE):
            yield address, streams


def run_sink(repo: Path, address: str) -> None:
    """What the process runs, until SIGTERM or the end of its parent: then it commits what waits.

    address: path of the local socket; in a directory that only this user can open.
    """
    logging.basicConfig(level=logging.INFO)
    one_thread()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: who answers ends first
    end_with_parent()
    live = open_live(repo)
    sink = WriterSink(Writer(live.ledger, live.histories).__enter__())
    settle()
    with reachable(sink, address):
        stopped.wait()
        sink.close()


@contextmanager
def reachable(sink: WriterSink, address: str) -> Iterator[None]:
    """Let other processes of this user reach a sink, for as long as the block lasts."""
    Path(address).unlink(missing_ok=True)  # of a process that was killed
    with Listener(address, "AF_UNIX", backlog=64, authkey=current_process().authkey) as listener:
        threading.Thread(target=_accept, args=(listener, sink), daemon=True).start()
        yield


def _accept(listener: Listener, sink: WriterSink) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return  # closed
        except Exception as error:  # of who does not know the key
            log.warning("stage=ingest connection refused: %s", error)
            continue
        threading.Thread(target=_serve, args=(connection, sink), daemon=True).start()


def _serve(connection: Connection, sink: WriterSink) -> None:
    """Answer one of the processes that take requests, until it is gone."""
    lock = threading.Lock()

    def answer(number: int, done: Future[Any]) -> None:
        error = done.exception()
        if error is not None and not isinstance(error, AdcError):
            log.error("stage=ingest error=%s", error, exc_info=error)
            error = ArtifactError(f"events could not be kept: {type(error).__name__}")
        told = pickle.dumps((number, error, None if error else done.result()))
        with lock, suppress(OSError):  # nobody waits for it any more
            connection.send_bytes(told)

    with ThreadPoolExecutor(1, thread_name_prefix="told") as telling, connection:
        while True:
            try:
                number, what, asked = connection.recv()
            except (EOFError, OSError):
                return
            if what == "take":
                found: Future[Any] = sink.take(*asked)
            else:
                found = telling.submit(getattr(sink, what))
            found.add_done_callback(partial(answer, number))


class ProcessSink(EventSink):
    """The sink in another process, which runs `run_sink`.

    Parameters
    ----------
    address : str
        Of its socket.
    streams : collection of str
        What it takes.
    """

    def __init__(self, address: str, streams: Collection[str]) -> None:
        self._address, self._streams = address, streams
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._connection: Connection | None = None
        # a send waits where the other process is slow: never the event loop
        self._sending = ThreadPoolExecutor(1, thread_name_prefix="events")

    @property
    def streams(self) -> Collection[str]:
        return self._streams

    def wait(self) -> ProcessSink:
        """Itself, once the process has started. Raises ArtifactError when it does not."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            with suppress(BusyError):
                self._ask("facts").result(_START_S)
                return self
            time.sleep(_AGAIN_S)
        raise ArtifactError(
            f"the process that takes events did not start within {_START_S:.0f} s; the log above"
            " says why, and `adc verify online` whether the live directory can be read"
        )

    def take(self, stream: str, body: bytes) -> Future[Receipt]:
        return self._ask("take", stream, body)

    def page(self) -> bytes:
        """Metrics in the text format of Prometheus; nothing while the process is away."""
        told: bytes = self._told("page", b"")
        return told

    def facts(self) -> dict[str, Any]:
        """What /readyz tells; {"away": True} while the process is."""
        told: dict[str, Any] = self._told("facts", {"away": True})
        return told

    def _told(self, what: str, away: Any) -> Any:
        try:
            return self._ask(what).result(_TELL_S)
        except (BusyError, TimeoutError):
            return away

    def close(self) -> None:
        """Let go of the process, which commits what waits; whoever started it ends it."""
        self._sending.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()

    def _ask(self, what: str, *asked: Any) -> Future[Any]:
        found = Future[Any]()
        found.set_running_or_notify_cancel()  # who no longer waits does not undo a commit
        self._sending.submit(self._send, found, what, asked)
        return found

    def _send(self, found: Future[Any], what: str, asked: tuple[Any, ...]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connected()
            number = next(self._numbers)
            with self._lock:
                self._waiting[number] = found
            self._connection.send((number, what, asked))
        except (OSError, EOFError) as error:
            self._lost()
            if not found.done():
                found.set_exception(BusyError(_GONE).with_traceback(error.__traceback__))

    def _connected(self) -> Connection:
        connection = Client(self._address, "AF_UNIX", authkey=current_process().authkey)
        threading.Thread(target=self._hear, args=(connection,), daemon=True).start()
        return connection

    def _hear(self, connection: Connection) -> None:
        while True:
            try:
                number, error, told = connection.recv()
            except (EOFError, OSError):
                with suppress(RuntimeError):  # closed
                    self._sending.submit(self._lost, connection)
                return
            with self._lock:
                found = self._waiting.pop(number, None)
            if found is None:
                continue
            if error is None:
                found.set_result(told)
            else:
                found.set_exception(error)

    def _lost(self, connection: Connection | None = None) -> None:
        """Tell all who wait that the process is gone; the next request looks for another."""
        if connection is not None and connection is not self._connection:
            return
        self._connection = None
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for found in waiting.values():
            found.set_exception(BusyError(_GONE))
