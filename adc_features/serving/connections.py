"""HTTP connections with deadlines and bounds. Reads: sockets. Writes: error answers.

uvicorn gives a client any time for its first byte and its headers, takes headers of any size, and
answers nobody once enough silent connections are open. Here each connection has until a deadline to
send a whole request, whatever it trickles meanwhile, and connections are bounded: over the bound
the oldest one without a whole request is closed, so that whoever sends one is answered.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, cast

import httptools
import uvicorn
from pydantic_core import to_json
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adc_features.serving.protocol import HttpError, ServiceSettings, error_body

log = logging.getLogger(__name__)
_PIPELINED = 64
"""Requests that one connection may send before the first is answered."""
_LINGER = 1.0
"""Seconds that a refused client has to read why."""
_LINGER_BYTES = 1 << 20
"""What it may send meanwhile; nothing of it is kept."""
State = Literal["unfinished", "idle", "busy"]


class OpenConnections:
    """The open connections, by what they are doing. unfinished: no whole request yet; idle:
    answered; busy: a request is worked on.
    """

    def __init__(self, settings: ServiceSettings, closed: Callable[[str], None]) -> None:
        """closed: told the reason for which a connection is closed."""
        self.settings, self.closed = settings, closed
        self._all = _Queues()
        self._peers: dict[str, _Queues] = defaultdict(_Queues)

    def enter(self, connection: "Connection") -> bool:
        """Take a connection in, and close others over the bounds; False when all others are busy,
        and this one is not taken.
        """
        peer = self._peers[connection.peer]
        for queues, most in (
            (peer, self.settings.max_per_peer),
            (self._all, self.settings.max_connections),
        ):
            if len(queues) >= most:
                victim = queues.oldest()
                if victim is None:
                    self.closed("all_busy")
                    return False
                self.leave(victim)
                self.closed("crowded_out")
                victim.transport.abort()
        for queues in (self._all, self._peers[connection.peer]):
            queues.put(connection, "unfinished")
        return True

    def move(self, connection: "Connection", state: State) -> None:
        if connection in self._all:
            for queues in (self._all, self._peers[connection.peer]):
                queues.put(connection, state)

    def leave(self, connection: "Connection") -> None:
        if connection in self._all:
            self._all.drop(connection)
            peer = self._peers[connection.peer]
            peer.drop(connection)
            if not len(peer):
                del self._peers[connection.peer]


class _Queues:
    """Connections in three queues, each in the order in which they came."""

    def __init__(self) -> None:
        self._state: dict[Connection, State] = {}
        self._queues: dict[State, dict[Connection, None]] = {
            "unfinished": {},
            "idle": {},
            "busy": {},
        }

    def __len__(self) -> int:
        return len(self._state)

    def __contains__(self, connection: "Connection") -> bool:
        return connection in self._state

    def put(self, connection: "Connection", state: State) -> None:
        self.drop(connection)
        self._state[connection] = state
        self._queues[state][connection] = None

    def drop(self, connection: "Connection") -> None:
        if (state := self._state.pop(connection, None)) is not None:
            del self._queues[state][connection]

    def oldest(self) -> "Connection | None":
        """The one to close: without a whole request first, then one between requests."""
        return next(iter(self._queues["unfinished"]), None) or next(
            iter(self._queues["idle"]), None
        )


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with deadlines and bounds."""

    def __init__(self, *arguments: Any, connections: OpenConnections, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.open_connections, self.settings, self.peer = connections, connections.settings, ""
        self._state: State = "unfinished"
        self._head = self._overhead = 0
        self._whole = self._lingers = False
        self._fault: HttpError | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._drain: asyncio.TimerHandle | None = None

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        if self.open_connections.enter(self):
            self._until(self.settings.patience)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_connections.leave(self)
        for timer in (self._deadline, self._drain):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            self._overhead += len(data)
            if self._overhead > _LINGER_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        self._whole = False
        self._overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(self._fault or HttpError(400, "not_http", "this is no HTTP/1.1 request"))
            return
        if self._overhead > self.settings.max_head:
            self._refuse(self._head_too_large())
            return
        self._settle()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that has sent a whole request and closed its side is answered; any other is
        gone.
        """
        if not self._working():
            return None
        self.cycle.keep_alive = False  # of the last request that was sent
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._drain = self.loop.call_later(self.settings.patience, self._not_read)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self._not_read()
        else:
            super().timeout_keep_alive_handler()

    # ---- the parser's calls

    def on_message_begin(self) -> None:
        self._whole, self._head = False, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._counted(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._counted(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _PIPELINED:
            self._failed(
                HttpError(
                    429,
                    "too_many_requests",
                    f"more than {_PIPELINED} requests were sent before the first was answered",
                )
            )
        super().on_headers_complete()
        self._until(self.settings.timeout + _LINGER)

    def on_body(self, body: bytes) -> None:
        # a chunk of one byte takes up to nine
        self._overhead = max(0, self._overhead - 9 * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._whole, self._head, self._overhead = True, 0, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._settle()

    # ---- bounds

    def _working(self) -> bool:
        """A request that was sent to its end has no answer yet."""
        cycle = self.cycle
        return bool(self.pipeline) or (
            cycle is not None and not cycle.response_complete and not cycle.more_body
        )

    def _settle(self) -> None:
        """Say what this connection does, and set a deadline as long as a request is
        being sent.
        """
        state: State = "busy" if self._working() else "idle" if self._whole else "unfinished"
        if state != self._state:
            self._state = state
            self.open_connections.move(self, state)
        if self._whole and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif not self._whole and self._deadline is None:
            self._until(self.settings.patience)

    def _until(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._deadline = None
        if self._overhead and (self.cycle is None or self.cycle.response_complete):
            self._refuse(HttpError(408, "too_slow", "the request was not sent in time"))
        else:
            self.open_connections.closed("too_slow" if self._overhead else "silent")
            self.transport.close()

    def _not_read(self) -> None:
        self.open_connections.closed("not_read")
        self.transport.abort()

    def _counted(self, size: int) -> None:
        self._head += size
        if self._head > self.settings.max_head:
            self._failed(self._head_too_large())

    def _head_too_large(self) -> HttpError:
        return HttpError(
            431,
            "head_too_large",
            f"the request line and headers are larger than {self.settings.max_head} bytes; send"
            " fewer",
        )

    def _failed(self, error: HttpError) -> None:
        """Stop the parser; `data_received` answers."""
        self._fault = error
        raise error

    def _refuse(self, error: HttpError) -> None:
        """Answer what is no request to be worked on, and close; without an answer where it would
        fall into another one's.
        """
        self._lingers, self._overhead = True, 0
        self.open_connections.closed(error.code)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = to_json(error_body(error))
        head = (
            f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\ncontent-type:"
            f" application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self._deadline is not None:
            self._deadline.cancel()
        # closing at once would reset it before the answer is read
        self._deadline = self.loop.call_later(_LINGER, self.transport.abort)
        with suppress(OSError, RuntimeError):
            self.transport.write_eof()


_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
}


def http_server(
    application: Starlette, settings: ServiceSettings, *, closed: Callable[[str], None]
) -> uvicorn.Server:
    """A uvicorn server of the application, to be run on sockets that the caller has bound. closed:
    told why a connection is closed.
    """
    _room_for(settings.max_connections)
    return uvicorn.Server(
        uvicorn.Config(
            application,
            http=cast(Any, partial(Connection, connections=OpenConnections(settings, closed))),
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=cast(int, settings.keep_alive),
            timeout_graceful_shutdown=10,
        )
    )


def _room_for(connections: int) -> None:
    """Let this process open as many files as it has connections, where the system allows."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        if possible < wanted:
            log.warning(
                "stage=serve connections=%d files=%d: raise the limit of open files (ulimit -n), or"
                " lower --max-connections",
                connections,
                possible,
            )
