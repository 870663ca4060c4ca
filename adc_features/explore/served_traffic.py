"""What a service was asked, by its own log: who and what was unknown, and the codes of what it
ranked, at the end of the log beside its beginning. Reads: a served log, an index. Writes: facts of
the page `health`.

Legend: N candidates of a window.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adc_features.clock import moment
from adc_features.codes.drift import DriftThresholds, drift, traffic_profile
from adc_features.codes.embeddings import id_array
from adc_features.event_times import microseconds
from adc_features.explore.index import Index
from adc_features.served.record import ITEM
from adc_features.served.segments import Segment, as_of, sealed_segments
from adc_features.store.repository import live_generation

WINDOW = timedelta(days=30)
"""How long each window is; half of the log where the log is not twice as long."""
MOST = 1_000_000
"""Candidates of a window that are counted: its newest, and of the first window its oldest."""


class _Window(NamedTuple):
    """What was ranked in one window. ids, times (datetime64[us]), known: [N]; users_known: of each
    request; is_whole: whether nothing was left out. ids are None where candidates have several
    keys."""

    ids: np.ndarray | None
    times: np.ndarray
    known: np.ndarray
    users_known: np.ndarray
    generations: Counter[str | None]
    is_whole: bool


def served_traffic(index: Index, served_log: Path) -> dict[str, Any]:
    """The last window of the log beside its first; of what was ranked for each request, candidates
    that were not answered too.

    Raises InputError when the log holds nothing, ArtifactError when it is damaged.
    """
    segments = sealed_segments(served_log)
    spans = [_span(segment) for segment in segments]
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    length = min(int(WINDOW.total_seconds() * 1e6), (last - first + 1) // 2)
    last_span, first_span = (last - length + 1, last + 1), (first, first + length)
    now = _window(reversed([*zip(segments, spans, strict=True)]), last_span if length else None)
    told: dict[str, Any] = {
        "log": served_log.name,
        "first": moment(np.datetime64(first, "us")),
        "last": moment(np.datetime64(last, "us")),
        "window_seconds": length / 1e6,
        "now": _told(now),
        "baseline": None,
        "drift": {},
        "generation": _generation(index, now),
    }
    if not length:
        return told
    before = _window(zip(segments, spans, strict=True), first_span)
    told |= {"baseline": _told(before), "drift": _drift(_told(before), told["now"])}
    if told["generation"] is not None:
        first_codes, last_codes = (_profile(index, told["generation"], w) for w in (before, now))
        if first_codes and last_codes:
            for side, profile in (("baseline", first_codes), ("now", last_codes)):
                told[side] |= {name: profile[name] for name in ("coverage", "unknown")}
            told["drift"] |= drift(first_codes, last_codes, DriftThresholds())
    return told


def _generation(index: Index, window: _Window) -> str | None:
    """The generation that most requests were ranked with, else, of a ranker without codes, the
    newest one; None where no codes are published.
    """
    read = next((g for g, _ in window.generations.most_common(1)), None)
    return read if read in index.generations else next(reversed(index.generations), None)


def _span(segment: Segment) -> tuple[int, int]:
    """The times of its first and its last request, microseconds."""
    times = microseconds(as_of(segment.request_rows(["served_as_of", "now"])))
    return int(times.min()), int(times.max())


def _window(
    segments: Iterator[tuple[Segment, tuple[int, int]]], span: tuple[int, int] | None
) -> _Window:
    """The requests of a half-open span of microseconds; None for all."""
    parts: list[_Window] = []
    many = 0
    for segment, (first, last) in segments:
        if span is not None and (last < span[0] or first >= span[1]):
            continue
        if many >= MOST:
            return _joined(parts, is_whole=False)
        part = _part(segment, span)
        parts.append(part)
        many += len(part.known)
    return _joined(parts, is_whole=True)


def _part(segment: Segment, span: tuple[int, int] | None) -> _Window:
    """The requests of a segment that lie in a span."""
    wanted = ["served_as_of", "now", "candidates", "user_known", "generation"]
    requests = segment.request_rows(wanted)
    keys = segment.about.item
    rows = segment.candidate_rows(["known", *(ITEM + key for key in keys[:1])])
    times = microseconds(as_of(requests))
    inside = np.ones(len(times), bool)
    if span is not None:
        inside = (times >= span[0]) & (times < span[1])
    sizes = requests["candidates"].to_numpy()
    of = np.repeat(np.arange(len(sizes)), sizes)
    kept = inside[of]
    ids = id_array(rows[ITEM + keys[0]])[kept] if len(keys) == 1 else None
    generations = Counter(requests["generation"].filter(inside).to_pylist())
    return _Window(
        ids,
        times[of[kept]].astype("datetime64[us]"),
        np.asarray(rows["known"])[kept],
        np.asarray(requests["user_known"])[inside],
        generations,
        True,
    )


def _joined(parts: Sequence[_Window], *, is_whole: bool) -> _Window:
    generations: Counter[str | None] = sum((p.generations for p in parts), Counter())
    ids = [part.ids for part in parts if part.ids is not None]
    kinds = {one.dtype.kind for one in ids}
    return _Window(
        np.concatenate(ids) if len(ids) == len(parts) and len(kinds) == 1 else None,
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.known for part in parts]),
        np.concatenate([part.users_known for part in parts]),
        generations,
        is_whole,
    )


def _told(window: _Window) -> dict[str, Any]:
    """Counts and shares of a window."""
    return {
        "requests": len(window.users_known),
        "impressions": len(window.known),
        "unknown_users": float(1 - window.users_known.mean()),
        "unknown_online": float(1 - window.known.mean()),
        "from": moment(window.times.min()),
        "to": moment(window.times.max()),
        "is_whole": window.is_whole,
    }


def _drift(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """How far the shares of what was unknown online rose."""
    limit = DriftThresholds().unknown
    found = {}
    for name in ("unknown_online", "unknown_users"):
        moved = now[name] - before[name]
        found[name] = {"value": moved, "limit": limit, "beyond": bool(moved > limit)}
    return found


def _profile(index: Index, generation: str, window: _Window) -> dict[str, Any] | None:
    """The codes of what was ranked; None where its ids are not those of the index."""
    codes = index.codes(generation)
    ids = codes.timeline.item_ids
    if window.ids is None or window.ids.dtype.kind != ids.dtype.kind:
        return None
    shown = np.unique(window.ids)
    return traffic_profile(
        window.ids,
        window.times,
        codes.timeline,
        codebook_size=codes.codebook_size,
        codebook_hash=live_generation(index.place.repo, generation).codebook_hash,
        catalogue=shown[index.known(shown.tolist())],
    )
