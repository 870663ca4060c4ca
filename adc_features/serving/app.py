"""The routes of a service and the server that listens. Reads: requests. Writes: answers, request
metrics.
"""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from adc_features.errors import AdcError
from adc_features.serving.connections import http_server
from adc_features.serving.protocol import HttpError, error_answer, http_error_of
from adc_features.serving.service import Service
from adc_features.serving.workers import settle

log = logging.getLogger(__name__)


def application(service: Service) -> Starlette:
    """The routes of a service."""

    def timed(
        route: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = await handler(request)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; the metrics count it
            except Exception as error:
                http_error = http_error_of(error)
                if not isinstance(error, HttpError) and http_error.status >= 500:
                    log.error(
                        "stage=serve route=%s error=%s",
                        route,
                        error,
                        exc_info=not isinstance(error, AdcError),
                    )
                response = error_answer(http_error)
            service.metrics.requests.labels(route, str(response.status_code)).observe(
                time.perf_counter() - began
            )
            return response

        return endpoint

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(service.follow())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            service.close()

    routes = [
        Route(
            "/rank",
            timed("/rank", lambda request: service.answer(request, service.rank)),
            methods=["POST"],
        ),
        Route(
            "/lookup",
            timed("/lookup", lambda request: service.answer(request, service.lookup)),
            methods=["POST"],
        ),
        *_event_routes(service, timed),
        *_item_routes(service, timed),
        Route("/healthz", service.healthz, methods=["GET"]),
        Route("/readyz", timed("/readyz", service.readyz), methods=["GET"]),
        Route("/metrics", timed("/metrics", service.metrics_page), methods=["GET"]),
    ]
    return Starlette(
        routes=routes, exception_handlers={HTTPException: _no_such_route}, lifespan=lifespan
    )


def _event_routes(service: Service, timed: Callable[..., Any]) -> list[Route]:
    if service.intake is None:
        return []
    endpoint = timed("/events", service.intake.answer)
    return [Route(path, endpoint, methods=["POST"]) for path in ("/events", "/events/{stream}")]


def _item_routes(service: Service, timed: Callable[..., Any]) -> list[Route]:
    if service.items is None:
        return []
    add, remove = (timed("/items", one) for one in (service.items.add, service.items.remove))
    return [
        Route("/items", add, methods=["POST"]),
        Route("/items/{item:path}", remove, methods=["DELETE"]),
    ]


def server(service: Service) -> Any:
    """A server of the service, to be run on sockets that the caller has bound."""
    # instead of 5 ms: the event loop asks for the interpreter's lock many times in each request,
    # and the scoring thread holds it
    sys.setswitchinterval(0.0005)
    settle()
    return http_server(
        application(service),
        service.settings,
        closed=lambda reason: service.metrics.closed.labels(reason).inc(),
    )


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    message = (
        "use POST /rank, POST /lookup, POST /events and POST /items where they are taken, GET"
        " /healthz, GET /readyz or GET /metrics"
    )
    return error_answer(HttpError(status, "no_such_route", message))
