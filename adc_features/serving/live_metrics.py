"""What /metrics and /readyz tell of live events. Reads: the live directory. Writes: metrics.

Counts stand in the live directory, in the transactions that they count, so that they are the same
whichever process is asked, and go on after a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from adc_features.clock import instant, moment
from adc_features.live.elsewhere import Elsewhere
from adc_features.live.tables import awaiting_table, held_table
from adc_features.live.writer import Writer
from adc_features.store.lmdb.row_table import glance


class LiveMetrics(Collector):
    """The metrics of a writer and of its directory."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def page(self) -> bytes:
        """The metrics in the text format of Prometheus."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def facts(self) -> dict[str, Any]:
        """What /readyz tells: the last commit, watermarks, the newest row of each view, what became
        of events, what waits, failed writes of files.
        """
        facts, elsewhere = self._writer.ledger.facts(), self._writer.histories.elsewhere
        return {
            "published": _shown(facts["published"]),
            "watermarks": {name: _shown(int(at)) for name, at in facts["watermarks"].items()},
            "newest": {view: _shown(at) for view, at in facts["newest"].items()},
            "counts": facts["counts"],
            "waiting": self._writer.waiting,
            "history_error": None if self._writer.history_error is None else "not written",
            **({} if elsewhere is None else {"online_store": _behind(elsewhere)}),
        }

    def collect(self) -> Iterator[Any]:
        """Called by prometheus_client at each scrape."""
        ledger = self._writer.ledger
        facts, now = ledger.facts(), int(instant(ledger.clock()).astype(np.int64))
        events = CounterMetricFamily(
            "adc_live_events", "Events by what became of them.", labels=["stream", "outcome"]
        )
        for stream, counts in facts["counts"].items():
            for outcome, number in counts.items():
                events.add_metric([stream, outcome], number)
        yield events
        age = GaugeMetricFamily(
            "adc_live_watermark_age_seconds",
            "How far behind the clock the watermark of a stream is.",
            labels=["stream"],
        )
        for stream, at in facts["watermarks"].items():
            age.add_metric([stream], (now - int(at)) / 1e6)
        yield age
        took = HistogramMetricFamily(
            "adc_live_freshness_seconds",
            "From the time of an event to its publish time.",
            labels=["stream"],
        )
        for stream, one in facts["freshness"].items():
            took.add_metric([stream], one.buckets, one.seconds)
        yield took
        if facts["published"] is not None:
            yield GaugeMetricFamily(
                "adc_live_commit_age_seconds",
                "Time since rows were last published.",
                value=(now - facts["published"]) / 1e6,
            )
        yield GaugeMetricFamily(
            "adc_live_waiting_events",
            "Events that wait in this process to be committed.",
            value=self._writer.waiting,
        )
        held = GaugeMetricFamily(
            "adc_live_held_events",
            "Durable events that are not counted yet, by what they wait for.",
            labels=["stream", "until"],
        )
        for stream in ledger.streams:
            for until, table in (("time", held_table(stream)), ("item", awaiting_table(stream))):
                held.add_metric([stream, until], glance(ledger.environment, table, samples=0)[0])
        yield held
        rows = GaugeMetricFamily("adc_live_rows", "Rows online, by view.", labels=["view"])
        for one in (view for view in ledger.views if not view.elsewhere):
            rows.add_metric(
                [one.declared.name], glance(ledger.environment, one.table, samples=0)[0]
            )
        yield rows
        newest = GaugeMetricFamily(
            "adc_live_row_age_seconds", "Time since a row was last published.", labels=["view"]
        )
        for name, published in facts["newest"].items():
            newest.add_metric([name], (now - published) / 1e6)
        yield newest
        if (elsewhere := self._writer.histories.elsewhere) is not None:
            yield from _of_store(elsewhere)


def _behind(elsewhere: Elsewhere) -> dict[str, Any]:
    """How far another online store is behind, as /readyz tells it."""
    return {
        "kind": elsewhere.kind,
        "lag_s": elsewhere.lag().total_seconds(),
        "waiting": elsewhere.waiting(),
        "error": None if elsewhere.error is None else "not written",
    }


def _of_store(elsewhere: Elsewhere) -> Iterator[Any]:
    yield GaugeMetricFamily(
        "adc_live_online_lag_seconds",
        "Age of the oldest row that another online store has not taken.",
        value=elsewhere.lag().total_seconds(),
    )
    waiting = GaugeMetricFamily(
        "adc_live_online_waiting",
        "Commits whose rows another online store has not taken, by view.",
        labels=["view"],
    )
    for view, entries in elsewhere.waiting().items():
        waiting.add_metric([view], entries)
    yield waiting


def _shown(time: int | None) -> str | None:
    return None if time is None else moment(np.datetime64(time, "us")).isoformat()
