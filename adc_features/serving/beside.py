"""What variants score: their share of the users, and requests in shadow. Reads: what is deployed.
Writes: metrics.

A shadow scores on a thread of its own that gives way to requests, one request at a time: while it
is at one, others are skipped and counted.
"""

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import numpy as np

from adc_features.serving.deployed import Deployed, Opened
from adc_features.serving.metrics import Metrics
from adc_features.serving.protocol import RankRequest
from adc_features.serving.ranked import Ranked, Serving
from adc_features.serving.yielding import Requests, giving_way

log = logging.getLogger(__name__)


class Beside:
    """The variants' part of a service.

    Parameters
    ----------
    metrics : Metrics
        Of the service.
    requests : Requests
        To which shadows give way.
    """

    def __init__(self, metrics: Metrics, requests: Requests) -> None:
        self._metrics, self._requests = metrics, requests
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._free = threading.Semaphore(1)
        self._random = random.Random()

    def rank(
        self, deployed: Deployed, asked: RankRequest, now: datetime
    ) -> tuple[Ranked, Serving, str | None]:
        """The scored candidates, by what, and the variant's name.

        Where a variant cannot answer and the promoted pair can, the pair's answer counts.
        """
        taken = deployed.of(asked.user)
        if taken is None:
            return deployed.main.rank(asked, now=now), deployed.main, None
        name = taken.variant.name
        try:
            ranked = taken.bundle.rank(asked, now=now)
        except Exception as error:  # a request that is at fault is refused by the pair as well
            ranked = deployed.main.rank(asked, now=now)
            self._failed(name, error)
            return ranked, deployed.main, None
        self._metrics.variant_requests.labels(name, "answered").inc()
        return ranked, taken.bundle, name

    def shadow(self, deployed: Deployed, asked: RankRequest, now: datetime, best: object) -> None:
        """Score a request that was answered, by each shadow that samples it; returns at once.

        best: place of the candidate that was answered first, or None where there was none.
        """
        asked = asked.model_copy(update={"explain": False})
        for opened in deployed.shadows:
            if self._random.random() >= opened.variant.sampled:
                continue
            if not self._free.acquire(blocking=False):
                self._metrics.variant_requests.labels(opened.variant.name, "skipped").inc()
                continue
            try:
                self._thread.submit(self._score, opened, asked, now, best)
            except RuntimeError:  # the service ends
                self._free.release()

    def _score(self, opened: Opened, asked: RankRequest, now: datetime, best: object) -> None:
        name, began = opened.variant.name, time.perf_counter()
        try:
            with giving_way(self._requests):
                ranked = opened.bundle.rank(asked, now=now)
            own = int(np.argmax(ranked.score)) if len(ranked.score) else None
            self._metrics.variant_requests.labels(name, "scored").inc()
            self._metrics.shadow_same_best.labels(name).inc(own == best)
            self._metrics.shadow_seconds.labels(name).observe(time.perf_counter() - began)
            log.debug("stage=serve shadow=%s best=%s answered=%s", name, own, best)
        except Exception as error:
            self._failed(name, error)
        finally:
            self._free.release()

    def _failed(self, name: str, error: Exception) -> None:
        self._metrics.variant_requests.labels(name, "failed").inc()
        log.warning("stage=serve variant=%s failed: %s", name, error)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
