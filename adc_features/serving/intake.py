"""POST /events. Reads: bodies. Writes: events of the live directory, answers.

Events are read beside the scoring of requests, by `adc serve` in a process of their own, and
answered when they are durable and visible. One that is refused does not hold up the others of its
request: the answer names it, and so does the dead-letter file. A request is refused whole, and
nothing of it kept, when its body is no list of events, when too much waits, or when the disk is
full.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from adc_features.errors import ArtifactError
from adc_features.live.decisions import Receipt
from adc_features.live.writer import BusyError
from adc_features.serving.event_sink import EventSink
from adc_features.serving.protocol import (
    Budget,
    HttpError,
    ServiceSettings,
    authorised,
    brief,
    json_answer,
)

_TOLD = 20
"""Refused events that an answer explains; it counts all of them."""


class Intake:
    """What answers POST /events.

    Parameters
    ----------
    sink : EventSink
        What commits, here or in a process of its own.
    settings : ServiceSettings
        Bounds of requests.
    """

    def __init__(self, sink: EventSink, settings: ServiceSettings) -> None:
        self.sink, self._settings = sink, settings
        self._bodies = Budget(32 * settings.max_body)

    async def answer(self, request: Request) -> Response:
        """Keep the events of a request. Raises HttpError."""
        authorised(request, self._settings.token)
        stream = self._stream(request.path_params.get("stream"))
        try:
            async with asyncio.timeout(self._settings.timeout):
                body = await self._bodies.body(request, self._settings.max_body)
                receipt = await asyncio.wrap_future(self.sink.take(stream, body))
        except BusyError as error:
            raise HttpError(503, "busy", str(error)) from error
        except TimeoutError as error:
            raise HttpError(
                503,
                "timeout",
                f"not durable within {self._settings.timeout} s; send the same events again: what"
                " was kept meanwhile counts once",
            ) from error
        except ArtifactError as error:
            raise HttpError(
                507,
                "not_kept",
                "the live directory cannot be written, nothing was kept; the service's log says"
                " why: make room, and send the events again",
            ) from error
        return json_answer(_told(receipt))

    def close(self) -> None:
        """Commit what waits."""
        self.sink.close()

    def _stream(self, name: str | None) -> str:
        streams = self.sink.streams
        if name is None and len(streams) == 1:
            return next(iter(streams))
        if name is None or name not in streams:
            told = "name the stream, /events/STREAM" if name is None else f"no stream {brief(name)}"
            raise HttpError(404, "no_such_stream", f"{told}; there are {', '.join(streams)}")
        return name


def _told(receipt: Receipt) -> dict[str, Any]:
    return {
        "accepted": receipt.accepted,
        "held": receipt.held,
        "duplicates": receipt.duplicates,
        "refused": len(receipt.faults),
        "published": receipt.published,
        "reasons": [
            {"place": fault.place, "reason": brief(fault.reason)}
            for fault in receipt.faults[:_TOLD]
        ],
    }
