"""The log of a service. Reads: records of answered requests. Writes: segments, notes of gaps.

Requests never wait for it: `offer` puts a record into a ring of bounded bytes, and a thread writes.
A record that finds the ring full is dropped, which is counted and noted in `gaps/`; so is what
could not be written, and what came after the log was closed. A process that is killed loses the
segments that it had not sealed.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import append_line
from adc_features.errors import InputError
from adc_features.served.record import Served, share_of
from adc_features.served.segments import OpenSegment, made_log

log = logging.getLogger(__name__)
GAPS = "gaps"
_TOLD_EVERY = 60.0


@dataclass(frozen=True)
class LogSettings:
    """How much is kept, and how.

    Parameters
    ----------
    sample : float
        The share of requests that is kept, whole, by a hash of their ids.
    values : float
        The share of them that is kept with the values of features; the others without.
    ring : int
        Bytes of records in memory at most; more are dropped.
    write_bytes : int
    write_after : float
        Records are written to the open segment when they reach so many bytes or wait so many
        seconds.
    segment_bytes : int
    segment_after : float
        A segment is sealed at this size or age, and when the log is closed.

    Raises
    ------
    InputError
        A number that is not more than 0; a share above 1.
    """

    sample: float = 1.0
    values: float = 1.0
    ring: int = 64 << 20
    write_bytes: int = 8 << 20
    write_after: float = 2.0
    segment_bytes: int = 128 << 20
    segment_after: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(
                    f"{field.name} is {getattr(self, field.name)}; expected more than 0"
                )
        for name in ("sample", "values"):
            if getattr(self, name) > 1:
                raise InputError(f"the share {name} is {getattr(self, name)}; expected at most 1")


@dataclass
class Counts:
    """What became of requests that the sample holds: sealed into segments, dropped, or still on
    their way.
    """

    offered: int = 0
    sealed: int = 0
    dropped: int = 0


class ServedLog:
    """Keeps what was served; close it.

    Parameters
    ----------
    directory : Path
        Of the log; several processes may share it.
    settings : LogSettings, optional
    clock : callable
        The time of notes, aware.
    """

    def __init__(
        self,
        directory: Path,
        settings: LogSettings | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.directory, self.settings = made_log(directory), settings or LogSettings()
        self.counts = Counts()
        self._clock, self._token = clock, f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._ring: deque[tuple[Served, int]] = deque()
        self._held = self._waiting = self._number = 0
        self._lock, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._open: dict[Any, OpenSegment] = {}
        self._gap: dict[str, Any] | None = None
        self._told = 0.0
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._thread.start()

    # ---- on the thread that answers

    def samples(self, request_id: str) -> bool:
        """Whether the log keeps the request of this id."""
        return self.settings.sample >= 1 or share_of(request_id) < self.settings.sample

    def keeps_values(self, request_id: str) -> bool:
        """Whether the log keeps the values that the request of this id read, too."""
        share = self.settings.sample * self.settings.values
        return share >= 1 or share_of(request_id) < share

    def offer(self, record: Served) -> bool:
        """Keep a record, or drop and count it; returns at once. Whether it was kept."""
        size = record.size
        with self._lock:
            self.counts.offered += 1
            if self._closed or self._held + size > self.settings.ring:
                self._drop("closed" if self._closed else "full", 1)
                return False
            self._ring.append((record, size))
            self._held += size
            self._waiting += size
            if self._waiting >= self.settings.write_bytes:
                self._wake.set()
        return True

    def close(self) -> None:
        """Write and seal what was offered; what is offered later is dropped."""
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join()
        self._note_gap()

    def _drop(self, reason: str, count: int) -> None:
        """Count dropped requests; the lock is held."""
        self.counts.dropped += count
        now = self._clock()
        gap = self._gap = self._gap or {"from": now, "to": now, "dropped": 0, "reasons": {}}
        gap["to"] = now
        gap["dropped"] += count
        gap["reasons"][reason] = gap["reasons"].get(reason, 0) + count

    # ---- on the thread that writes

    def _run(self) -> None:
        while True:
            self._wake.wait(self.settings.write_after)
            self._wake.clear()
            with self._lock:
                closing, taken = self._closed, list(self._ring)
                self._ring.clear()
                self._waiting = 0
            try:
                self._written([record for record, _ in taken])
                self._seal_ripe(everything=closing)
            except Exception:  # whatever it is, the log goes on with the next records
                log.exception("stage=served_log: records could not be written")
            with self._lock:
                self._held -= sum(size for _, size in taken)
            self._note_gap()
            if closing:
                return

    def _written(self, records: Sequence[Served]) -> None:
        groups: dict[Any, list[Served]] = {}
        for record in records:
            columns = tuple(
                tuple((field.name, str(field.type)) for field in table.schema)
                for table in (record.one, record.each)
            )
            groups.setdefault((record.about, columns), []).append(record)
        for group, members in groups.items():
            try:
                if group in self._open:
                    self._open[group].write(members)
                else:
                    name = self._name(members[0])
                    shares = self.settings.sample, self.settings.values
                    self._open[group] = OpenSegment(self.directory, name, members, shares)
            except Exception as error:
                self._lost(group, len(members), error)

    def _name(self, first: Served) -> str:
        self._number += 1
        at = first.received.astimezone(UTC)
        return f"{at:%Y%m%dT%H%M%S.%fZ}-{self._token}-{self._number:06d}"

    def _seal_ripe(self, *, everything: bool) -> None:
        for group, segment in list(self._open.items()):
            age = time.monotonic() - segment.opened
            ripe = age >= self.settings.segment_after or segment.size >= self.settings.segment_bytes
            if not (everything or ripe):
                continue
            try:
                segment.seal()
            except Exception as error:
                self._lost(group, 0, error)
                continue
            del self._open[group]
            with self._lock:
                self.counts.sealed += segment.requests

    def _lost(self, group: Any, more: int, error: Exception) -> None:
        """A segment cannot be written: all of it is dropped, and the next one begins anew."""
        segment = self._open.pop(group, None)
        if segment is not None:
            segment.abandon()
        with self._lock:
            self._drop("not written", more + (segment.requests if segment else 0))
        log.error("stage=served_log directory=%s error=%s", self.directory, error)

    def _note_gap(self) -> None:
        """Append the gap to this process's notes; kept for the next try where that fails."""
        with self._lock:
            gap, self._gap = self._gap, None
        if gap is None:
            return
        line = {name: v.isoformat() if name in ("from", "to") else v for name, v in gap.items()}
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            log.warning(
                "stage=served_log dropped=%d reasons=%s", gap["dropped"], dict(gap["reasons"])
            )
        try:
            (self.directory / GAPS).mkdir(exist_ok=True)
            append_line(self.directory / GAPS / f"{self._token}.jsonl", json.dumps(line))
        except OSError:
            with self._lock:
                later = self._gap
                self._gap = gap if later is None else _joined(gap, later)


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    reasons = dict(one["reasons"])
    for reason, count in other["reasons"].items():
        reasons[reason] = reasons.get(reason, 0) + count
    dropped = one["dropped"] + other["dropped"]
    return {"from": one["from"], "to": other["to"], "dropped": dropped, "reasons": reasons}


def gaps(directory: Path) -> list[dict[str, Any]]:
    """The noted gaps of a log: from, to, how many requests were dropped and why."""
    found = []
    for path in sorted((Path(directory) / GAPS).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # a process was killed while it wrote the line
                continue
    return found
