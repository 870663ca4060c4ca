"""How fresh each view of a repository is online. Reads: feature_store.yaml, the log of refreshes,
what is published. Writes: nothing.

The block `adc_features: {refresh: {VIEW: SCHEDULE}}` of feature_store.yaml says what the repository
really does; `log` in place of a schedule stands for its own log of materializations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import CodeTimeline
from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.store.durations import duration_text
from adc_features.store.publish import published_snapshots
from adc_features.store.refresh import LOG, NOT_YET, RefreshSchedule, checked_text, stale_only
from adc_features.store.refresh_log import real_refreshes, refresh_log_path
from adc_features.store.repository import settings

_TIME = "event_timestamp"
_EARLIEST = (datetime(1900, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
    microseconds=1
)
"""Before the first refresh, other stores are asked as of this time: none has an earlier row."""


def declared_refresh(
    repo: Path, views: Mapping[str, str | None] | None = None
) -> dict[str, RefreshSchedule]:
    """The schedules by which the repository says that views are refreshed; those of `views` only,
    where given. Raises InputError for what is no schedule."""
    texts = settings(repo).refresh
    known = texts if views is None else {v: t for v, t in texts.items() if v in views}
    return _schedules(repo, known, views or {})


def asked_refresh(
    repo: Path, texts: Mapping[str, str], views: Mapping[str, str | None]
) -> dict[str, RefreshSchedule]:
    """The schedules that somebody asks for.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    texts : mapping of str to str
        View -> schedule, or `log`.
    views : mapping of str to str or None
        The views that are joined -> the generation whose codes they hold.

    Raises
    ------
    InputError
        A view is none of these, the log is empty, or codes are asked for that are fresher than the
        published snapshots.
    """
    check_views(texts, views)
    schedules = _schedules(repo, texts, views)
    for view, schedule in schedules.items():
        generation = views.get(view)
        if generation is not None and texts[view] != LOG:
            least = snapshot_gap(repo, generation)
            if least is not None and timedelta(0) < schedule.period < least:
                raise InputError(
                    f"view {view!r} is asked for every {duration_text(schedule.period)}; its codes"
                    f" change with published snapshots, {duration_text(least)} apart at least, so"
                    " fresher ones do not exist: ask for as much or more, for 0 (as published), or"
                    " publish more snapshots (adc backfill)"
                )
    return schedules


def check_views(refresh: Iterable[str], views: Iterable[str]) -> None:
    """Raise InputError when a schedule is of none of these views."""
    if unknown := sorted(set(refresh) - set(views)):
        raise InputError(
            f"there are refresh schedules of {unknown}, which are no views that are joined;"
            f" expected some of {sorted(views)} (on-demand views are computed at the request: give"
            " schedules to the views that they read)"
        )


def snapshot_gap(repo: Path, generation: str) -> timedelta | None:
    """The shortest time between two published snapshots; None for a single one."""
    times = sorted(s.servable_at for s in published_snapshots(repo, generation))
    return min((b - a for a, b in pairwise(times)), default=None)


def _schedules(
    repo: Path, texts: Mapping[str, str], views: Mapping[str, str | None]
) -> dict[str, RefreshSchedule]:
    real = real_refreshes(repo) if LOG in texts.values() else {}
    found = {}
    for view, text in texts.items():
        if checked_text(text, of=view) != LOG:
            found[view] = RefreshSchedule.parse(str(text))
        elif view in real:
            found[view] = RefreshSchedule(refreshes=real[view])
        else:
            raise InputError(
                f"view {view!r} is to be joined by the log of refreshes, and"
                f" {refresh_log_path(repo)} has none of it; it has {sorted(real) or 'nothing'}:"
                " give a schedule such as 1d@03:00, or materialize first"
            )
        if views.get(view) is not None and found[view].mode == "incremental":
            raise InputError(
                f"view {view!r} holds codes, which are published as whole snapshots; its refreshes"
                " are full, leave /incremental out"
            )
    return stale_only(found)


def as_read(frame: pa.Table, schedule: RefreshSchedule | None, view: Any) -> pa.Table:
    """The frame as another offline store is asked for one view: each time is the newest event time
    that could be read online then.

    Raises InputError where only our own store can tell: a ttl counts from the request, and an
    incremental refresh loses rows by their created times.
    """
    if schedule is None or schedule.is_fresh:
        return frame
    if view.ttl or schedule.mode == "incremental":
        why = "a ttl" if view.ttl else "incremental refreshes"
        raise InputError(
            f"view {view.name!r} has {why} and a refresh schedule, which this repository's offline"
            " store cannot join; set offline_store.type to"
            " adc_features.store.offline_store.AsofOfflineStore, or leave the schedule out"
        )
    times = np.maximum(schedule.reads(microseconds(frame[_TIME], name=_TIME)), _EARLIEST)
    column = pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC"))
    return frame.set_column(frame.column_names.index(_TIME), _TIME, column)


class RefreshedTimeline:
    """Codes through time as they get online by a schedule: a CodeTimeline beside another one.

    A snapshot counts from the refresh that takes it.
    """

    def __init__(self, timeline: CodeTimeline, schedule: RefreshSchedule) -> None:
        self._timeline, self._schedule = timeline, schedule
        published = timeline.servable_at.astype("datetime64[us]").astype(np.int64)
        self.servable_at = schedule.seen_from(published).astype("datetime64[us]")

    @property
    def generation(self) -> str:
        """Its id."""
        return self._timeline.generation

    @property
    def length(self) -> int:
        """L."""
        return self._timeline.length

    @property
    def codebook_size(self) -> int:
        """K."""
        return self._timeline.codebook_size

    @property
    def has_second(self) -> bool:
        """Whether second codes are told."""
        return self._timeline.has_second

    @property
    def item_ids(self) -> np.ndarray:
        """Every item of any snapshot, sorted."""
        return self._timeline.item_ids

    def gather(
        self, item_ids: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes, weights and reliability of M (item, time) pairs as they were online then."""
        return self._timeline.gather(item_ids, self._reads(times))

    def gather_second(
        self, item_ids: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Second codes and their probabilities of M (item, time) pairs as they were online then."""
        return self._timeline.gather_second(item_ids, self._reads(times))

    def _reads(self, times: np.ndarray) -> np.ndarray:
        asked = times.astype("datetime64[us]").astype(np.int64)
        missing = np.isnat(times)
        reads = np.where(missing, asked, self._schedule.reads(np.where(missing, NOT_YET, asked)))
        return reads.astype("datetime64[us]")


def online_timeline(timeline: CodeTimeline, schedule: RefreshSchedule | None) -> CodeTimeline:
    """The timeline as its codes get online; itself without a schedule."""
    return (
        timeline if schedule is None or schedule.is_fresh else RefreshedTimeline(timeline, schedule)
    )
