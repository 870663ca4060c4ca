"""What /metrics shows. Reads: counts, the metrics of the other processes of a service. Writes: this
process's metrics.

Several processes add their metrics up in a directory. prometheus_client maps a file of that
directory into memory, and a mapped file that is cut short, or that a full disk cannot hold, ends
the process (SIGBUS). Here values stand in memory and are written to the same files, in the same
format: a fault of the directory is counted, answers go on, and the files are written anew when that
is possible.
"""

import json
import logging
import os
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from adc_features.errors import ArtifactError
from adc_features.serving.deployed import Deployed
from adc_features.serving.ranked import Serving

log = logging.getLogger(__name__)
_BUCKETS = (
    0.001,
    0.002,
    0.004,
    0.006,
    0.008,
    0.01,
    0.012,
    0.016,
    0.02,
    0.03,
    0.04,
    0.06,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
)
_LARGEST = 1 << 24
"""Bytes of the largest file of metrics that is read."""


class WrittenValues:
    """Values of one process by key, in memory and in a file that prometheus_client reads: its
    MmapedDict without the mapping.

    The file: int32 bytes used, 4 bytes of padding; then for each value int32 length of its key, the
    key padded to 8 bytes, the value and its time as float64.
    """

    files: ClassVar[list["WrittenValues"]] = []
    failures: ClassVar[int] = 0
    lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self._name, self._positions, self._data, self._file = (
            filename,
            dict[str, int](),
            bytearray(struct.pack("ii", 8, 0)),
            -1,
        )
        self.files.append(self)
        self.rewrite()

    def read_value(self, key: str) -> tuple[float, float]:
        with self.lock:
            if key not in self._positions:
                self._add(key)
        return struct.unpack_from("dd", self._data, self._positions[key])

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        packed = struct.pack("dd", value, timestamp)
        with self.lock:
            if key not in self._positions:
                self._add(key)
            place = self._positions[key]
            self._data[place : place + 16] = packed
            self._attempt(lambda: os.pwrite(self._file, packed, place))

    def close(self) -> None:
        if self in self.files:
            self.files.remove(self)
        self._shut()

    def rewrite(self) -> None:
        """Write the whole file, which may have been damaged or deleted, from memory."""

        def write() -> None:
            if self._file >= 0 and os.fstat(self._file).st_nlink == 0:
                self._shut()
            if self._file < 0:
                Path(self._name).parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.pwrite(self._file, bytes(self._data), 0)
            os.ftruncate(self._file, len(self._data))

        self._attempt(write)

    def _add(self, key: str) -> None:
        encoded = key.encode("utf-8")
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        added, place = (
            struct.pack(f"i{len(padded)}sdd", len(encoded), padded, 0.0, 0.0),
            len(self._data),
        )
        self._data += added
        struct.pack_into("i", self._data, 0, len(self._data))
        self._positions[key] = len(self._data) - 16

        def write() -> None:
            # the value first: a reader goes as far as the length says
            os.pwrite(self._file, added, place)
            os.pwrite(self._file, self._data[:8], 0)

        self._attempt(write)

    def _attempt(self, write: Callable[[], Any]) -> None:
        try:
            with self.lock:
                write()
        except OSError as error:
            if WrittenValues.failures == 0:
                log.warning(
                    "stage=serve metrics=%s not written (%s); values stay in memory, written when"
                    " that is possible",
                    self._name,
                    error,
                )
            WrittenValues.failures += 1

    def _shut(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


prometheus_client.values.MmapedDict = WrittenValues  # type: ignore[assignment, misc]


def sound(path: Path) -> bool:
    """Whether a file of metrics can be read to its end: what a damaged one would do to its reader
    is anything.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return False
        data = path.read_bytes()
        (used,) = struct.unpack_from("i", data)
        if not 8 <= used <= len(data):
            return False
        place = 8
        while place < used:
            (length,) = struct.unpack_from("i", data, place)
            after = place + 4 + length + (8 - (length + 4) % 8) + 16
            if length <= 0 or after > used:
                return False
            metric, name, labels, help_text = json.loads(data[place + 4 : place + 4 + length])
            if not (
                isinstance(metric, str)
                and isinstance(name, str)
                and isinstance(labels, dict)
                and isinstance(help_text, str)
            ):
                return False
            place = after
    except (OSError, ValueError, TypeError, struct.error):
        return False
    return True


def _served_log(named: Mapping[str, Any]) -> Counter:
    return Counter(
        "adc_served_log_requests",
        "Requests that the served log was offered, sealed into segments, or dropped",
        ["outcome"],
        **named,
    )


class Metrics:
    """The metrics of one service. Each has a registry of its own; the processes of one service add
    theirs up in a directory.
    """

    def __init__(self, shared: str | None) -> None:
        self.registry, self.shared = CollectorRegistry(), shared
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = Histogram(
            "adc_request_seconds",
            "Time to answer, queue included",
            ["route", "status"],
            buckets=_BUCKETS,
            **named,
        )
        self.parts = Histogram(
            "adc_part_seconds", "Time of each part of /rank", ["part"], buckets=_BUCKETS, **named
        )
        self.items = Counter("adc_ranked_items", "Candidates scored", **named)
        self.coded = Counter(
            "adc_coded_items",
            "Candidates that had a code; over adc_ranked_items_total this is coverage",
            **named,
        )
        self.unknown_items = Counter(
            "adc_unknown_items", "Candidates that the online store does not know", **named
        )
        self.unknown_users = Counter(
            "adc_unknown_users", "Requests of users that the online store does not know", **named
        )
        self.serving = Gauge(
            "adc_serving",
            "1 for the pair that serves, 0 for those before it",
            ["pair", "generation", "ranker", "recipe"],
            multiprocess_mode="livemax",
            **named,
        )
        self.promotions = Counter(
            "adc_promotions",
            "Promotions picked up or refused since the start",
            ["outcome"],
            **named,
        )
        self._of_variants(named)
        self.watch_errors = Counter(
            "adc_promotion_watch_errors", "Looks at the promotion file that failed", **named
        )
        self.waiting = Gauge(
            "adc_waiting_requests",
            "Requests that wait for the scoring thread or are on it",
            multiprocess_mode="livesum",
            **named,
        )
        self.closed = Counter(
            "adc_closed_connections",
            "Connections that the service closed on its own",
            ["reason"],
            **named,
        )
        self.errors = Counter(
            "adc_metrics_errors", "Files of metrics that could not be written or read", **named
        )
        self._served_log, self._logged = _served_log(named), dict[str, int]()
        self._told = 0
        for outcome in ("served", "refused"):
            self.promotions.labels(outcome)

    def _of_variants(self, named: dict[str, Any]) -> None:
        self.variants = Gauge(
            "adc_variant",
            "Share of the users, or in shadow of the requests, that a variant has; 0 when it ended",
            ["variant", "pair", "mode"],
            multiprocess_mode="livemax",
            **named,
        )
        self.variant_requests = Counter(
            "adc_variant_requests",
            "Requests of a variant: answered, scored in shadow, skipped there, or failed",
            ["variant", "outcome"],
            **named,
        )
        self.shadow_seconds = Histogram(
            "adc_shadow_seconds",
            "Time to score a request in shadow, the stops for other requests included",
            ["variant"],
            buckets=_BUCKETS,
            **named,
        )
        self.shadow_same_best = Counter(
            "adc_shadow_same_best",
            "Requests whose best candidate is the same in shadow as in the answer",
            ["variant"],
            **named,
        )

    def count_served(self, counts: Mapping[str, int]) -> None:
        """Take over the counts of a served log, outcome -> requests since the start."""
        for outcome, count in counts.items():
            self._served_log.labels(outcome).inc(count - self._logged.get(outcome, 0))
            self._logged[outcome] = count

    def page(self) -> bytes:
        """The metrics of every process. A damaged file is left out and counted; raises
        ArtifactError when the others do not add up.
        """
        if self.shared is None:
            return generate_latest(self.registry)
        self.repair()
        files = sorted(Path(self.shared).glob("*.db"))
        good = [str(path) for path in files if sound(path)]
        if len(good) < len(files):
            self.errors.inc(len(files) - len(good))
        added_up = CollectorRegistry()
        added_up.register(_Merged(good))
        try:
            return generate_latest(added_up)
        except Exception as error:
            self.errors.inc()
            raise ArtifactError(
                f"the metrics in {self.shared} cannot be added up ({error}); restart the service"
            ) from error

    def repair(self) -> None:
        """Write this process's files anew, as they may have been damaged, and count what could not
        be written.
        """
        if self.shared is None:
            return
        for values in list(WrittenValues.files):
            values.rewrite()
        failures, self._told = WrittenValues.failures - self._told, WrittenValues.failures
        if failures:
            self.errors.inc(failures)

    def now_serving(self, bundle: Serving, *, instead_of: Serving | None = None) -> None:
        # set, not cleared: importing feast makes prometheus_client warn of clearing
        for served, value in ((instead_of, 0), (bundle, 1)):
            if served is not None:
                p = served.promotion
                self.serving.labels(
                    p.name, p.generation or "", p.ranker_hash, served.recipe_name
                ).set(value)

    def variants_now(self, now: Deployed, *, before: Deployed) -> None:
        """The shares of the variants that serve; 0 for those that ended."""
        for deployed, ended in ((before, True), (now, False)):
            for variant, bundle in deployed.variants:
                ((mode, share),) = variant.part.items()
                labels = variant.name, bundle.promotion.name, mode
                self.variants.labels(*labels).set(0 if ended else share)


class _Merged:
    """A collector of the metrics in some files."""

    def __init__(self, files: list[str]) -> None:
        self._files = files

    def collect(self) -> Any:
        return MultiProcessCollector.merge(self._files)
