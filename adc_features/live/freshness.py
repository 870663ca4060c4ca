"""How long events took to become visible, and when each view last changed; counted in the
transaction that makes them so. Reads, writes: the table meta of the live directory.

freshness/<stream>  seconds from event time to publish time: how many events by bound, and their sum
newest/<view>       the publish time of its newest row
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_OF_STREAM, _OF_VIEW = b"freshness/", b"newest/"
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0)
"""Seconds, each included; what took longer than the last is counted after it."""


class Freshness(NamedTuple):
    """counts: events by the first of BOUNDS that they did not exceed, int [len(BOUNDS) + 1];
    seconds: what they took together.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Bounds and how many events did not exceed them, as Prometheus has it."""
        names = [*map(str, BOUNDS), "+Inf"]
        return list(zip(names, np.cumsum(self.counts).astype(float).tolist(), strict=True))


def count_events(meta: Any, stream: str, times: np.ndarray, *, published: int) -> None:
    """Count events that become visible. times: int64 [n], microseconds since 1970 UTC."""
    key = _OF_STREAM + stream.encode()
    before = _freshness(meta.get(key))
    took = (published - times) / 1e6
    new = np.bincount(np.searchsorted(BOUNDS, took), minlength=len(BOUNDS) + 1).tolist()
    counts = [a + b for a, b in zip(before.counts, new, strict=True)]
    meta.put(key, json.dumps([counts, before.seconds + float(took.sum())]).encode())


def note_rows(meta: Any, view: str, *, published: int) -> None:
    """Note when rows of a view become visible."""
    meta.put(_OF_VIEW + view.encode(), str(published).encode())


def counted(pairs: Mapping[bytes, bytes]) -> dict[str, Freshness]:
    """By stream, of all pairs of the table."""
    return {
        key.removeprefix(_OF_STREAM).decode(): _freshness(value)
        for key, value in pairs.items()
        if key.startswith(_OF_STREAM)
    }


def newest_rows(pairs: Mapping[bytes, bytes]) -> dict[str, int]:
    """The publish time of the newest row by view, of all pairs of the table."""
    return {
        key.removeprefix(_OF_VIEW).decode(): int(value)
        for key, value in pairs.items()
        if key.startswith(_OF_VIEW)
    }


def _freshness(stored: bytes | None) -> Freshness:
    if stored is None:
        return Freshness()
    counts, seconds = json.loads(bytes(stored))
    return Freshness(tuple(counts), seconds)
