"""The explorer as a web service. Reads: an explorer. Writes: answers to GET; nothing else is taken.

The rules of the ranking service hold: where ADC_SERVE_TOKEN is set, every answer needs it, as
`Authorization: Bearer` or, for a browser, which asks for it, as the password of any name. On
loopback, only requests to a loopback name are answered, so that no page of another site can read
along under a name that it points here.
"""

import base64
import binascii
import hmac
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adc_features.errors import AdcError, InputError, RequestError
from adc_features.explore.index import is_current
from adc_features.explore.pages import PAGES, Explorer, checked_parameters, facts_of
from adc_features.explore.rendering import as_json
from adc_features.explore.site import (
    POLICY,
    SVG_POLICY,
    Addresses,
    assets,
    chart_svg,
    error_html,
    page_html,
    served_addresses,
)

log = logging.getLogger(__name__)
LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(
    explorer: Explorer, *, token: str | None = None, hosts: list[str] | None = None
) -> Starlette:
    """The routes.

    Parameters
    ----------
    explorer : Explorer
    token : str, optional
        What a request must carry.
    hosts : list of str, optional
        Names under which it is asked; by default any.
    """
    to, files = served_addresses(), assets()
    answered = _answering(explorer, to)

    async def endpoint(request: Request) -> Response:
        if not _may(request, token):
            return _answer(
                "send the token of the service as the password\n",
                "text/plain",
                status=401,
                more={"WWW-Authenticate": 'Basic realm="adc explore", charset="UTF-8"'},
            )
        try:
            return await run_in_threadpool(answered, request)
        except (RequestError, InputError) as error:
            return refused(422, str(error))
        except HTTPException:
            raise
        except AdcError as error:
            log.error("stage=explore page=%s error=%s", request.url.path, error)
            return refused(503, str(error))

    def refused(status: int, message: str) -> Response:
        return _answer(error_html(explorer, status, message, to), "text/html", status=status)

    async def asset(request: Request) -> Response:
        content, kind = files[request.url.path.strip("/")]
        return _answer(content, kind)

    async def no_icon(request: Request) -> Response:
        return Response(status_code=204)  # a browser asks for one beside JSON and pictures

    async def no_such_page(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        if not _may(request, token):
            return _answer("send the token of the service\n", "text/plain", status=401)
        if status == 405:
            return refused(405, "The explorer only reads: use GET.")
        return refused(status, f"Its pages are {', '.join('/' + name for name in PAGES)}.")

    routes = [Route(f"/{'' if name == 'find' else name}", endpoint) for name in (*PAGES, "chart")]
    routes += [Route(f"/{name}", asset) for name in files]
    routes.append(Route("/favicon.ico", no_icon))
    guard = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]
    return Starlette(
        routes=routes,
        middleware=guard if hosts else [],
        exception_handlers={HTTPException: no_such_page},
    )


def _answering(explorer: Explorer, to: Addresses) -> Callable[[Request], Response]:
    """What answers an allowed request, on a thread; pictures of what lasts are kept."""

    def drawn(page: str, query: tuple[tuple[str, str], ...], name: str, state: Any) -> str:
        return chart_svg(page, facts_of(explorer, page, dict(query)), name)

    kept = lru_cache(maxsize=512)(drawn)

    def answered(request: Request) -> Response:
        page = request.url.path.strip("/") or "find"
        asked = checked_parameters(request.url.query)
        form = asked.pop("format", "html")
        if page == "chart":
            of, name = asked.pop("page", ""), asked.pop("chart", "")
            if of not in PAGES:
                raise HTTPException(404)
            draw = kept if PAGES[of].lasting else drawn
            svg = draw(of, tuple(sorted(asked.items())), name, explorer.index.state())
            return _answer(svg, "image/svg+xml", policy=SVG_POLICY)
        facts = facts_of(explorer, page, asked)
        if form == "json":
            return _answer(as_json(facts), "application/json")
        stale = not is_current(explorer.index)
        return _answer(page_html(explorer, page, asked, to, facts=facts, stale=stale), "text/html")

    return answered


def _answer(
    content: str,
    kind: str,
    *,
    status: int = 200,
    policy: str = POLICY,
    more: dict[str, str] | None = None,
) -> Response:
    headers = {**_HEADERS, "Content-Security-Policy": policy, **(more or {})}
    return Response(content.encode("utf-8", "replace"), status, headers, media_type=kind)


def _may(request: Request, token: str | None) -> bool:
    """Whether a request carries the token, of those ways that a browser and a program have."""
    if token is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            _, _, given = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())


def server(explorer: Explorer, *, token: str | None, hosts: list[str] | None) -> Any:
    """A server of the explorer, to be run on sockets that the caller has bound."""
    from adc_features.extras import extra_modules

    with extra_modules():
        from adc_features.serving.connections import http_server
    from adc_features.serving.protocol import ServiceSettings

    settings = ServiceSettings(token=token, timeout=60.0)
    return http_server(
        application(explorer, token=token, hosts=hosts), settings, closed=lambda reason: None
    )
