"""Rank candidates over HTTP. Reads: a promotion file, the online store, requests. Writes: answers,
metrics.

One request uses one bundle (ranker, generation, reader) from its start to its end, and its answer
names it. A newly promoted pair is opened beside the one that serves, in the gaps between requests
(`giving_way`), and takes over by one assignment; a pair that cannot be opened is refused, and the
old one goes on.

Scoring runs on one thread: several would only fight over the core that the process has.
`beside` runs further processes on the same socket: each follows promotions by itself, and each
answer is of one pair.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from adc_features.errors import AdcError
from adc_features.served.log import ServedLog
from adc_features.served.record import Served
from adc_features.serving.answer_rows import with_rows
from adc_features.serving.beside import Beside
from adc_features.serving.deployed import Deployed, deployed, opened_beside
from adc_features.serving.intake import Intake
from adc_features.serving.items import ItemIntake
from adc_features.serving.metrics import Metrics
from adc_features.serving.opening import open_bundle
from adc_features.serving.protocol import (
    SMALL_BODY,
    Budget,
    HttpError,
    LookupRequest,
    RankRequest,
    ServiceSettings,
    authorised,
    check_features,
    json_answer,
    parsed,
    without_paths,
)
from adc_features.serving.ranked import Ranked, Serving
from adc_features.serving.served_record import served_record
from adc_features.serving.variants import Deployment, read_deployment
from adc_features.serving.yielding import Requests, giving_way

log = logging.getLogger(__name__)
_SENT_S = 0.002
"""After this time an answer is with the operating system, and what follows it may begin."""


class Answer(NamedTuple):
    """A body, how long each part of it took, seconds, what is to be done once it is sent, and what
    the log keeps of it then.
    """

    body: bytes
    seconds: Mapping[str, float]
    afterwards: Callable[[], None] | None = None
    served: Served | None = None


class Service:
    """What answers requests: the bundle that serves now, the thread that scores, and the watch over
    the promotion file.

    Parameters
    ----------
    bundle : Serving
        Serves first.
    settings : ServiceSettings
        Bounds of requests.
    clock : callable
        The time as of which requests without one are ranked, aware.
    promotion_file : Path, optional
        Followed while the service runs; by default no other pair will come.
    metrics : str, optional
        Directory in which the processes of one service share their metrics; it must have been
        $PROMETHEUS_MULTIPROC_DIR when prometheus_client was imported.
    intake : Intake, optional
        Takes events; by default there is no POST /events.
    items : ItemIntake, optional
        Takes new items; by default there is no POST /items.
    served : ServedLog, optional
        Keeps what was ranked; by default nothing is kept.
    """

    def __init__(
        self,
        bundle: Serving,
        settings: ServiceSettings,
        *,
        clock: Callable[[], datetime],
        promotion_file: Path | None = None,
        metrics: str | None = None,
        intake: Intake | None = None,
        items: ItemIntake | None = None,
        served: ServedLog | None = None,
    ) -> None:
        self.deployed, self.settings = Deployed(bundle), settings
        self.clock, self.promotion_file, self.intake = clock, promotion_file, intake
        self.items = items
        self.served = served
        self.refused: str | None = None
        self.watch_error: str | None = None
        self.changed: tuple[str, ...] = ()
        self._registry_seen = time.monotonic()
        self.metrics = Metrics(metrics)
        self.metrics.now_serving(bundle)
        self._scoring, self._loading = (
            ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("score", "load")
        )
        self._waiting, self._answering = 0, Requests()
        # bodies that cost milliseconds to read alone: one at a time in the queue, the others'
        # requests between them
        self._large = asyncio.Lock()
        self._bodies = Budget(settings.max_waiting * max(settings.max_body, SMALL_BODY))
        self._features: tuple[Serving | None, list[str]] = None, []
        self._beside = Beside(self.metrics, self._answering)

    @property
    def bundle(self) -> Serving:
        """The promoted pair that serves now."""
        return self.deployed.main

    # ---- answers, on the scoring thread

    def rank(self, serving: Serving | Deployed, body: bytes) -> Answer:
        """The candidates of one request, best first; by the variant that its user has, if any."""
        asked, taken = parsed(RankRequest, body, self.settings), deployed(serving)
        received = self.clock()
        now = received if asked.now is None else asked.now
        ranked, bundle, variant = self._beside.rank(taken, asked, now)
        best = np.argsort(-ranked.score, kind="stable")[: asked.k]
        columns = {name: _picked(values, best) for name, values in ranked.columns.items()}
        self._count(ranked)
        request_id = asked.request_id or (None if self.served is None else uuid.uuid4().hex)
        answer = {
            **_signature(bundle),
            **({"variant": variant} if taken.shared else {}),
            **({} if request_id is None else {"request_id": request_id}),
            "user": asked.user,
            "user_known": ranked.user_known,
            "now": now,
            "unknown_items": int((~ranked.known).sum()),
            "repeated_items": ranked.repeated,
            **ranked.facts,
        }
        body = with_rows(answer, "items", columns)
        kept = None
        if request_id is not None and self.served is not None and self.served.samples(request_id):
            kept = served_record(
                bundle,
                ranked,
                request_id=request_id,
                received=received,
                now=now,
                answered=len(best),
                variant=variant,
                values=self.served.keeps_values(request_id),
            )
        shadow = None
        if taken.shadows:
            first = int(best[0]) if len(best) else None
            shadow = partial(self._beside.shadow, taken, asked, now, first)
        return Answer(body, ranked.seconds, shadow, kept)

    def _count(self, ranked: Ranked) -> None:
        self.metrics.items.inc(len(ranked.score))
        self.metrics.coded.inc(int(ranked.coded.sum()))
        self.metrics.unknown_items.inc(int((~ranked.known).sum()))
        self.metrics.unknown_users.inc(not ranked.user_known)
        for part, seconds in ranked.seconds.items():
            self.metrics.parts.labels(part).observe(seconds)

    def lookup(self, serving: Serving | Deployed, body: bytes) -> Answer:
        """Codes, weights and features of items, in the order asked, repeats kept."""
        asked, bundle = parsed(LookupRequest, body, self.settings), deployed(serving).main
        check_features(asked, self._known_features(bundle), self.settings)
        began, items = time.perf_counter(), bundle.items()
        rows = items.lookup(asked.items, now=self.clock())
        columns = {"item_id": asked.items, **items.shown(rows, asked.features)}
        answer = to_json({**_signature(bundle), "items": _rows(columns)})
        return Answer(answer, {"items": time.perf_counter() - began})

    def _known_features(self, bundle: Serving) -> list[str]:
        """What a lookup may ask for, read once for each bundle."""
        if self._features[0] is not bundle:
            self._features = bundle, bundle.items().lookup([], now=self.clock()).column_names
        return self._features[1]

    # ---- requests, on the event loop

    async def answer(self, request: Request, work: Callable[[Deployed, bytes], Answer]) -> Response:
        """Read the body within its bounds, work on the scoring thread, answer within the
        timeout.
        """
        authorised(request, self.settings.token)
        serving = self.deployed  # this request's, whatever is promoted meanwhile
        try:
            async with asyncio.timeout(self.settings.timeout):
                body = await self._bodies.body(request, self.settings.max_body)
                if self._waiting >= self.settings.max_waiting:
                    raise HttpError(
                        503,
                        "busy",
                        f"{self._waiting} requests are waiting; try again later or start another"
                        " process",
                    )
                self._waiting += 1
                self.metrics.waiting.set(self._waiting)
                try:
                    async with self._large if len(body) > SMALL_BODY else nullcontext():
                        with self._answering.one():
                            answer = await asyncio.get_running_loop().run_in_executor(
                                self._scoring, work, serving, body
                            )
                finally:
                    self._waiting -= 1
                    self.metrics.waiting.set(self._waiting)
        except TimeoutError as error:
            raise HttpError(
                503,
                "timeout",
                f"no answer within {self.settings.timeout} s; ask for fewer items or try again"
                " later",
            ) from error
        timing = ", ".join(
            f"{part};dur={1000 * seconds:.3f}" for part, seconds in answer.seconds.items()
        )
        if answer.afterwards is not None:
            asyncio.get_running_loop().call_later(_SENT_S, answer.afterwards)
        return Response(
            answer.body,
            media_type="application/json",
            headers={"Server-Timing": timing},
            background=BackgroundTask(self._keep, answer.served) if answer.served else None,
        )

    async def _keep(self, record: Served) -> None:
        """Log what was answered, once it is sent."""
        assert self.served is not None
        self.served.offer(record)
        self.metrics.count_served(vars(self.served.counts))

    async def metrics_page(self, request: Request) -> Response:
        authorised(request, self.settings.token)
        if self.served is not None:
            self.metrics.count_served(vars(self.served.counts))
        page = self.metrics.page()
        if self.intake is not None:
            page += await asyncio.to_thread(self.intake.sink.page)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    async def healthz(self, request: Request) -> Response:
        """The process answers."""
        return json_answer({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """It serves, and what; a promotion that was refused is named, why promotions cannot be
        followed at all, and for which changes of the registry its ranker would not be opened again.

        Not ready, 503, while the online store lacks what was put into it.
        """
        await asyncio.to_thread(self.bundle.check_online)
        facts: dict[str, Any] = {
            "promoted_at": self.bundle.promotion.promoted_at,
            "refused": self.refused,
            "watch_error": self.watch_error,
            "registry_changed": [without_paths(told) for told in self.changed],
        }
        if self.intake is not None:
            facts["events"] = await asyncio.to_thread(self.intake.sink.facts)
        if self.items is not None:
            facts["items"] = self.items.facts()
        if variants := self.deployed.variants:
            facts["variants"] = [
                {"name": v.name, "pair": v.pair.name, **v.part} for v, _ in variants
            ]
        if self.served is not None:
            facts["served_log"] = vars(self.served.counts)
        return json_answer({"status": "ready", **_signature(self.bundle), **facts})

    # ---- promotions

    async def follow(self) -> None:
        """Take over each pair that the promotion file comes to name; runs until cancelled, whatever
        goes wrong with one look.
        """
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(
                self.settings.poll if self.refused is None else 10 * self.settings.poll
            )
            try:
                await loop.run_in_executor(self._loading, self._look)
            except Exception as error:
                self._watch_failed(error)

    def _look(self) -> None:
        with giving_way(self._answering):
            self.metrics.repair()
            self.take_over()
            self._look_at_registry()

    def _look_at_registry(self) -> None:
        """The bundle that serves goes on, whatever was applied since: who operates it is told."""
        if time.monotonic() - self._registry_seen < self.settings.registry_poll:
            return
        self._registry_seen = time.monotonic()
        told, before = self.bundle.changed(), self.changed
        self.changed = told
        if told and told != before:
            log.warning("stage=serve registry=changed: %s", "; ".join(told))

    def _watch_failed(self, error: Exception) -> None:
        """The promotion file could not be looked at: counted and shown until a look succeeds."""
        told = (
            f"the promotion file cannot be looked at ({type(error).__name__}:"
            f" {error.strerror if isinstance(error, OSError) else without_paths(str(error))})"
        )
        self.metrics.watch_errors.inc()
        if told != self.watch_error:
            log.error(
                "stage=serve promotion_file=%s error=%s: the pair that serves goes on",
                self.promotion_file,
                error,
                exc_info=not isinstance(error, OSError),
            )
        self.watch_error = told

    def take_over(self) -> None:
        """Serve what the promotion file names now, if that is another pair and it can be opened."""
        if self.promotion_file is None:
            return
        try:
            # in a directory that may be read: a file that is not there yet is no fault
            self.promotion_file.stat()
            named = read_deployment(self.promotion_file)
        except FileNotFoundError:
            self.watch_error = None
            return
        except OSError as error:
            self._watch_failed(error)
            return
        except Exception as error:
            self.watch_error = None
            self._refuse(error)
            return
        self.watch_error = None
        if named == self.deployed.named:
            self.refused = None
            return
        self._deploy(named)

    def _deploy(self, named: Deployment) -> None:
        """Serve what can be opened of what the promotion file names."""
        before = self.deployed
        now, errors = opened_beside(before, named, open_bundle)
        take_items = None if self.items is None else self.items.beside(now.main.promotion)
        self.deployed = now
        if take_items is not None:
            take_items()
        self.metrics.variants_now(now, before=before)
        if now.main is not before.main:
            self.changed = ()
            self.metrics.now_serving(now.main, instead_of=before.main)
            self.metrics.promotions.labels("served").inc()
            names = now.main.promotion.name, before.main.promotion.name
            log.info("stage=serve promotion=%s before=%s", *names)
        if now.named.variants != before.named.variants:
            log.info("stage=serve variants=%s", [v.variant.name for v in now.variants])
        if errors:
            self._refuse(*errors.values(), of=tuple(errors))
        else:
            self.refused = None

    def _refuse(self, *errors: Exception, of: tuple[str, ...] = ("",)) -> None:
        """What of the promotion file is not served. of: "" for the pair, else a variant's name."""
        told = "; ".join(
            (f"variant {name!r}: " if name else "") + (without_paths(str(e)) or type(e).__name__)
            for name, e in zip(of, errors, strict=True)
        )
        if self.refused != told:
            self.refused = told
            self.metrics.promotions.labels("refused").inc()
            for name, error in zip(of, errors, strict=True):
                log.warning(
                    "stage=serve promotion=refused variant=%s reason=%s",
                    name or "-",
                    error,
                    exc_info=not isinstance(error, AdcError),
                )

    def close(self) -> None:
        if self.intake is not None:
            self.intake.close()
        if self.items is not None:
            self.items.close()
        self._beside.close()
        for pool in (self._scoring, self._loading):
            pool.shutdown(wait=True, cancel_futures=True)
        if self.served is not None:
            self.served.close()


def _signature(bundle: Serving) -> dict[str, Any]:
    """What every answer is signed with."""
    return {
        "pair": bundle.promotion.name,
        "generation": bundle.promotion.generation,
        "recipe": bundle.recipe_name,
    }


def _rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Columns as one object for each row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _picked(values: Any, rows: np.ndarray) -> np.ndarray | list[Any]:
    """The values of these rows."""
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[row] for row in rows.tolist()]
