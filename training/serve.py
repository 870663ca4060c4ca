"""Rank candidates over HTTP. Reads: a promotion file, the online store, requests. Writes: answers, metrics.

One request uses one bundle (ranker, generation, reader) from its start to its end, and its answer names it. A newly promoted pair is
opened beside the one that serves and takes over by one assignment; a pair that cannot be opened is refused, and the old one goes on.

Scoring runs on one thread: numpy and torch would only fight over the core that the process has. `beside` runs further processes on the
same socket: each follows promotions by itself, and each answer is of one pair.
"""

import asyncio
import hmac
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from adc_features.errors import AdcError, InputError
from training.promotion import read_promotion
from training.scoring import Bundle, open_bundle

log = logging.getLogger(__name__)
_BUCKETS = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.016, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 2, 5)


@dataclass(frozen=True)
class ServiceSettings:
    """Bounds of the service. max_items: ids in one request. max_body: bytes. timeout: seconds that a request may take, its body included.
    max_waiting: requests that may wait for the scoring thread. poll: seconds between looks at the promotion file, ten times as many
    after one that was refused. token: what `Authorization: Bearer` must carry, None for none."""

    max_items: int = 2_000
    max_body: int = 1 << 20
    timeout: float = 2.0
    max_waiting: int = 64
    poll: float = 0.5
    token: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_items", "max_body", "timeout", "max_waiting", "poll"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.token is not None and not (self.token.isascii() and len(self.token) >= 16):
            raise InputError("the token is shorter than 16 characters or not ASCII; generate one, for example with `openssl rand -hex 24`")


Id = StrictStr | StrictInt


class RankRequest(BaseModel):
    """POST /rank. k: how many of the best to answer, default all. now: as of when features age, default the service's clock."""

    model_config = ConfigDict(extra="forbid")
    user: Id
    items: list[Id]
    k: Annotated[StrictInt, Field(ge=1)] | None = None
    now: AwareDatetime | None = None


class LookupRequest(BaseModel):
    """POST /lookup. features: names of item features to answer beside the codes."""

    model_config = ConfigDict(extra="forbid")
    items: list[Id]
    features: list[StrictStr] = []


class Refusal(Exception):
    """An answer that is not 200: its status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Answer(NamedTuple):
    """A body and how long each part of it took, seconds."""

    body: bytes
    seconds: Mapping[str, float]


class _Metrics:
    """What /metrics shows. Each service has a registry of its own; the processes of one service add theirs up in a directory."""

    def __init__(self, shared: str | None) -> None:
        self.registry, self.shared = CollectorRegistry(), shared
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = Histogram("adc_request_seconds", "Time to answer, queue included", ["route", "status"], buckets=_BUCKETS, **named)
        self.parts = Histogram("adc_part_seconds", "Time of each part of /rank", ["part"], buckets=_BUCKETS, **named)
        self.items = Counter("adc_ranked_items", "Candidates scored", **named)
        self.coded = Counter("adc_coded_items", "Candidates that had a code; over adc_ranked_items_total this is coverage", **named)
        self.unknown_items = Counter("adc_unknown_items", "Candidates that the online store does not know", **named)
        self.unknown_users = Counter("adc_unknown_users", "Requests of users that the online store does not know", **named)
        self.serving = Gauge(
            "adc_serving", "1 for the pair that serves, 0 for those before it", ["pair", "generation", "ranker", "recipe"], multiprocess_mode="livemax", **named
        )
        self.promotions = Counter("adc_promotions", "Promotions picked up or refused since the start", ["outcome"], **named)
        self.waiting = Gauge("adc_waiting_requests", "Requests that wait for the scoring thread or are on it", multiprocess_mode="livesum", **named)
        for outcome in ("served", "refused"):
            self.promotions.labels(outcome)

    def page(self) -> bytes:
        if self.shared is None:
            return generate_latest(self.registry)
        added_up = CollectorRegistry()
        MultiProcessCollector(added_up, path=self.shared)
        return generate_latest(added_up)

    def now_serving(self, bundle: Bundle, *, instead_of: Bundle | None = None) -> None:
        for served, value in ((instead_of, 0), (bundle, 1)):  # set, not cleared: importing feast makes prometheus_client warn of clearing
            if served is not None:
                p = served.promotion
                self.serving.labels(p.name, p.generation or "", p.ranker_hash, served.trained.recipe.name).set(value)


class Service:
    """The bundle that serves now, the thread that scores, and the watch over the promotion file (None: no other pair will come)."""

    def __init__(
        self, bundle: Bundle, settings: ServiceSettings, *, clock: Callable[[], datetime], promotion_file: Path | None = None, metrics: str | None = None
    ) -> None:
        """metrics: the directory where the processes of this service share theirs, $PROMETHEUS_MULTIPROC_DIR when prometheus_client was imported."""
        self.bundle, self.settings, self.clock, self.promotion_file = bundle, settings, clock, promotion_file
        self.refused: str | None = None
        self.metrics = _Metrics(metrics)
        self.metrics.now_serving(bundle)
        self._scoring, self._loading = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("score", "load"))
        self._waiting = 0

    # ---- answers, on the scoring thread

    def rank(self, bundle: Bundle, body: bytes) -> Answer:
        """The candidates of one request, best first."""
        asked = _parsed(RankRequest, body)
        self._bounded(asked.items)
        distinct = list(dict.fromkeys(asked.items))
        now = self.clock() if asked.now is None else asked.now
        ranking = bundle.score(asked.user, distinct, now=now)
        best = np.argsort(-ranking.score, kind="stable")[: asked.k]
        known, coded, score = ranking.known[best].tolist(), ranking.coded[best].tolist(), ranking.score[best].tolist()
        rows = [{"item_id": distinct[place], "score": s, "known": k, "coded": c} for place, s, k, c in zip(best.tolist(), score, known, coded, strict=True)]
        m, unknown = self.metrics, int((~ranking.known).sum())
        m.items.inc(len(distinct))
        m.coded.inc(int(ranking.coded.sum()))
        m.unknown_items.inc(unknown)
        m.unknown_users.inc(not ranking.user_known)
        for part, seconds in ranking.seconds.items():
            m.parts.labels(part).observe(seconds)
        facts = {"user": asked.user, "user_known": ranking.user_known, "now": now, "unknown_items": unknown, "repeated_items": len(asked.items) - len(distinct)}
        return Answer(to_json({**_signature(bundle), **facts, "items": rows}), ranking.seconds)

    def lookup(self, bundle: Bundle, body: bytes) -> Answer:
        """Codes, weights and features of items, in the order asked, repeats kept."""
        asked = _parsed(LookupRequest, body)
        self._bounded(asked.items)
        began, rows = time.perf_counter(), bundle.lookup(asked.items, now=self.clock())
        found, shown = ("sid_found", ("sid", "sid_weight", "reliability", "is_cold")) if bundle.live else ("item_profile_found", ())
        if unknown := sorted(set(asked.features) - set(rows.column_names)):
            raise Refusal(422, "unknown_feature", f"there is no feature {unknown[0]!r}; there are {', '.join(rows.column_names)}")
        columns = {"item_id": asked.items, "found": rows[found].to_pylist(), **{name: rows[name].to_pylist() for name in (*shown, *asked.features)}}
        answer = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return Answer(to_json({**_signature(bundle), "items": answer}), {"items": time.perf_counter() - began})

    def _bounded(self, items: list) -> None:
        if not items:
            raise Refusal(422, "no_items", f"items is empty; give 1 to {self.settings.max_items} ids")
        if len(items) > self.settings.max_items:
            raise Refusal(422, "too_many_items", f"{len(items)} items, at most {self.settings.max_items} are ranked at once; ask in several requests")

    # ---- requests, on the event loop

    async def answer(self, request: Request, work: Callable[[Bundle, bytes], Answer]) -> Response:
        """Read the body within its bounds, work on the scoring thread, answer within the timeout."""
        self._authorised(request)
        bundle = self.bundle  # this request's, whatever is promoted meanwhile
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = await _body(request, self.settings.max_body)
                if self._waiting >= self.settings.max_waiting:
                    raise Refusal(503, "busy", f"{self._waiting} requests are waiting; try again later or start another process")
                self._waiting += 1
                self.metrics.waiting.set(self._waiting)
                try:
                    answer = await asyncio.get_running_loop().run_in_executor(self._scoring, work, bundle, body)
                finally:
                    self._waiting -= 1
                    self.metrics.waiting.set(self._waiting)
        except TimeoutError as error:
            raise Refusal(503, "timeout", f"no answer within {self.settings.timeout} s; ask for fewer items or try again later") from error
        timing = ", ".join(f"{part};dur={1000 * seconds:.3f}" for part, seconds in answer.seconds.items())
        return Response(answer.body, media_type="application/json", headers={"Server-Timing": timing})

    def _authorised(self, request: Request) -> None:
        if self.settings.token is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {self.settings.token}".encode()):
            raise Refusal(401, "unauthorized", "send the header `Authorization: Bearer TOKEN` with the service's token")

    async def metrics_page(self, request: Request) -> Response:
        self._authorised(request)
        return Response(self.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def healthz(self, request: Request) -> Response:
        """The process answers."""
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """It serves, and what; a promotion that was refused is named. Not ready, 503, while the online store lacks what was put into it."""
        try:
            await asyncio.to_thread(self.bundle.check_online)
        except AdcError as error:
            return _refused(Refusal(503, type(error).__name__, str(error)))
        return _json({"status": "ready", **_signature(self.bundle), "promoted_at": self.bundle.promotion.promoted_at, "refused": self.refused})

    # ---- promotions

    async def follow(self) -> None:
        """Take over each pair that the promotion file comes to name; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.settings.poll if self.refused is None else 10 * self.settings.poll)
            await loop.run_in_executor(self._loading, self.take_over)

    def take_over(self) -> None:
        """Serve what the promotion file names now, if that is another pair and it can be opened."""
        if self.promotion_file is None or not self.promotion_file.is_file():
            return
        try:
            promotion = read_promotion(self.promotion_file)
            if promotion == self.bundle.promotion:
                self.refused = None
                return
            bundle = open_bundle(promotion)
        except Exception as error:  # whatever is wrong with the new pair, the old one serves on
            if self.refused != str(error):
                self.refused = str(error)
                self.metrics.promotions.labels("refused").inc()
                log.warning("stage=serve promotion=refused reason=%s", error, exc_info=not isinstance(error, AdcError))
            return
        before, self.bundle, self.refused = self.bundle, bundle, None
        self.metrics.now_serving(bundle, instead_of=before)
        self.metrics.promotions.labels("served").inc()
        log.info("stage=serve promotion=%s before=%s", promotion.name, before.promotion.name)

    def close(self) -> None:
        for pool in (self._scoring, self._loading):
            pool.shutdown(wait=True, cancel_futures=True)


def application(service: Service) -> Starlette:
    """The routes of a service."""

    def timed(route: str, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = await handler(request)
            except Refusal as refusal:
                response = _refused(refusal)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; the metrics count it
            except InputError as error:
                response = _refused(Refusal(422, "refused", str(error)))
            except AdcError as error:
                log.error("stage=serve route=%s error=%s", route, error)
                response = _refused(Refusal(503, type(error).__name__, str(error)))
            except Exception:
                log.exception("stage=serve route=%s", route)
                response = _refused(Refusal(500, "internal", "the service failed; its log says how"))
            service.metrics.requests.labels(route, str(response.status_code)).observe(time.perf_counter() - began)
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
        Route("/rank", timed("/rank", lambda request: service.answer(request, service.rank)), methods=["POST"]),
        Route("/lookup", timed("/lookup", lambda request: service.answer(request, service.lookup)), methods=["POST"]),
        Route("/healthz", service.healthz, methods=["GET"]),
        Route("/readyz", service.readyz, methods=["GET"]),
        Route("/metrics", timed("/metrics", service.metrics_page), methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_route}, lifespan=lifespan)


def server(service: Service) -> Any:
    """A uvicorn server of the service, to be run on sockets that the caller has bound."""
    import gc

    import uvicorn

    gc.collect()
    gc.freeze()  # what stands now (Feast, torch, the model) stays: walking it at each full collection would stall requests
    return uvicorn.Server(
        uvicorn.Config(
            application(service),
            access_log=False,
            log_level="warning",
            server_header=False,
            limit_concurrency=4 * service.settings.max_waiting,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
        )
    )


@contextmanager
def beside(processes: int, target: Callable[..., None], *arguments: Any, metrics: str) -> Iterator[None]:
    """Run target(*arguments) in so many further processes for as long as the block lasts; one that ends is started again.

    target: importable; ends on SIGTERM, and by itself when this process is gone (`end_with_parent`). metrics: as Service has it.
    """
    spawn, stop = multiprocessing.get_context("spawn"), threading.Event()

    def started() -> Any:
        process = spawn.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def watch() -> None:
        while not stop.wait(1):
            for place, process in enumerate(running):
                if process.exitcode is not None:
                    log.error("stage=serve process=%d ended=%d: another takes its place", process.pid, process.exitcode)
                    mark_process_dead(process.pid, path=metrics)
                    running[place] = started()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again once it has stopped; by default nothing would run after that
    running = [started() for _ in range(processes)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def end_with_parent() -> None:
    """End this process, as SIGTERM does, when the one that started it is gone, however it went."""

    def wait() -> None:
        cast(Any, multiprocessing.parent_process()).join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _signature(bundle: Bundle) -> dict[str, Any]:
    """What every answer is signed with."""
    return {"pair": bundle.promotion.name, "generation": bundle.promotion.generation, "recipe": bundle.trained.recipe.name}


def _parsed(model: type[Any], body: bytes) -> Any:
    """A request, or a refusal that names the first fault without echoing what was sent."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, "not_json", f"the body is not JSON in UTF-8 ({first['msg']})") from error
        place = ".".join(str(part)[:40] for part in first["loc"])
        wanted = ", ".join(f"{name}{'' if field.is_required() else ' (optional)'}" for name, field in model.model_fields.items())
        raise Refusal(422, "invalid", f"{place or 'the body'}: {first['msg']}; a request has {wanted}") from error


async def _body(request: Request, limit: int) -> bytes:
    """The body, never more of it in memory than the limit."""
    declared = request.headers.get("content-length", "0")
    too_large = Refusal(413, "too_large", f"the body is larger than {limit} bytes; ask in several requests")
    if not declared.isdigit() or int(declared) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    message = "use POST /rank, POST /lookup, GET /healthz, GET /readyz or GET /metrics"
    return _refused(Refusal(status, "no_such_route", message))


def _refused(refusal: Refusal) -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(refusal.status)
    return _json({"error": {"code": refusal.code, "message": refusal.message}}, status=refusal.status, headers=headers)


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json", headers=headers)
