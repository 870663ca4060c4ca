"""How much a ranker loses when its features get online later. Reads: a Subject. Writes:
FreshnessCurve.

Each view is refreshed every 1 s, 1 min ... 7 d while the others stay fresh, then all together. Two
rankers are scored on what would have been online: one that was trained on fresh rows, which is what
happens unnoticed, and one that was trained on rows as stale as the scored ones, which is what it
earns to train on what is served.

Legend: n scored rows, S seeds.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import numpy as np

from adc_features.errors import InputError
from adc_features.ranking.base import Progress
from adc_features.store.durations import MICROSECOND, duration_text, parse_duration
from adc_features.store.refresh import RefreshSchedule
from training.evaluation.metrics import Estimate, PairedBootstrap

log = logging.getLogger(__name__)
INTERVALS = tuple(map(parse_duration, ("0", "1s", "1m", "10m", "1h", "6h", "1d", "7d")))
ALL = "all views"
NOTHING = int(np.iinfo(np.int64).min)
"""The time of what was read where nothing was."""
METRICS = ("auc", "gauc")

Refresh = Mapping[str, RefreshSchedule]


class Rows(Protocol):
    """The rows of a ranker under one set of schedules.

    read: view -> when what each scored row read became valid, int64 [n] microseconds, NOTHING where
    it read nothing; no view where the offline store cannot tell.
    """

    @property
    def read(self) -> Mapping[str, np.ndarray]: ...


class Subject(Protocol):
    """A ranker with all that it takes to join, fit and score its rows.

    times: of the scored rows, int64 [n] microseconds. bootstrap: their labels and users.
    """

    @property
    def name(self) -> str: ...

    @property
    def window(self) -> str: ...

    @property
    def times(self) -> np.ndarray: ...

    @property
    def bootstrap(self) -> PairedBootstrap: ...

    def rows(self, refresh: Refresh) -> Any:
        """Rows, as they would have been online."""
        ...

    def fit(self, rows: Any) -> Any:
        """A model of the training rows."""
        ...

    def scores(self, model: Any, rows: Any) -> np.ndarray:
        """P(label = 1) of the scored rows, float [S, n]."""
        ...


@dataclass(frozen=True)
class Point:
    """A refresh interval of some views.

    schedule: by view. changed: share of scored rows that read another row than a fresh one, None
    where the store cannot tell. fresh, stale: metric -> interval, of the ranker that was trained on
    fresh rows and of the one that was trained on rows like these (None where it was not).
    lost_fresh, lost_stale: the same less the fresh ranker on fresh rows, paired. gained: the stale
    ranker less the fresh one, paired.
    """

    interval: str
    schedule: Mapping[str, str]
    changed: float | None
    fresh: Mapping[str, Any]
    lost_fresh: Mapping[str, Any]
    stale: Mapping[str, Any] | None = None
    lost_stale: Mapping[str, Any] | None = None
    gained: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class FreshnessCurve:
    """What is lost by interval, for each view and for all of them.

    ages: view -> {"younger": interval -> share of scored rows whose fresh row is no older,
    "nothing": share that read nothing}. left_out: curve -> why intervals are missing.
    """

    name: str
    window: str
    rows: int
    seeds: int
    curves: Mapping[str, Sequence[Point]]
    ages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def freshness_curve(
    subject: Subject,
    views: Sequence[str],
    *,
    intervals: Sequence[timedelta] = INTERVALS,
    like: Refresh | None = None,
    least: Mapping[str, timedelta | None] | None = None,
    retrain: bool = True,
    progress: Progress | None = None,
) -> FreshnessCurve:
    """The curve of a ranker.

    Parameters
    ----------
    subject : Subject
        The ranker and its rows.
    views : sequence of str
        Those that get older.
    intervals : sequence of timedelta
        From one refresh to the next; 0 is fresh, and is always the first point.
    like : mapping of str to RefreshSchedule, optional
        View -> a schedule whose phase its refreshes have: nightly at 03:00 is not nightly at 15:00.
    least : mapping of str to timedelta, optional
        View -> the shortest interval that its rows can show, such as that of published snapshots.
    retrain : bool
        Whether a ranker is trained for every point, too.
    progress : callable, optional
        Called with a label, steps done and their number.

    Raises
    ------
    InputError
        No view, or no interval but 0.
    """
    steps = sorted({i for i in intervals if i})
    if not views or not steps:
        raise InputError(
            f"a curve of views {list(views)} over the intervals {[str(i) for i in intervals]} has"
            " no point; give at least one view and one interval above 0"
        )
    groups = {view: [view] for view in views} | ({ALL: list(views)} if len(views) > 1 else {})
    rows = subject.rows({})
    model = subject.fit(rows)
    base = subject.scores(model, rows)
    judge = _Judge(subject, rows.read, _estimates(subject, base), retrain=retrain)
    curves: dict[str, list[Point]] = {}
    left_out: dict[str, str] = {}
    done, count = 0, len(groups) * len(steps)
    for name, group in groups.items():
        curves[name] = [judge.first(group)]
        for step in steps:
            if progress:
                progress(f"refresh {name} every {duration_text(step)}", done, count)
            done += 1
            coarse = {v for v in group if _too_fine(step, (least or {}).get(v))}
            refresh = {
                v: RefreshSchedule.stale(step, like=(like or {}).get(v))
                for v in group
                if v not in coarse
            }
            if coarse:
                left_out[name] = (
                    f"{', '.join(sorted(coarse))} changes only with published snapshots, and stays"
                    " as published at shorter intervals"
                )
            if refresh:
                curves[name].append(judge.point(model, step, refresh))
    if progress:
        progress("refresh", count, count)
    ages = {
        view: _ages(subject.times, rows.read[view], steps) for view in views if view in rows.read
    }
    return FreshnessCurve(
        subject.name, subject.window, len(subject.times), len(base), curves, ages, left_out
    )


def _too_fine(step: timedelta, least: timedelta | None) -> bool:
    return least is not None and step < least


class _Judge:
    """Scores the points of a curve against the fresh ranker on fresh rows."""

    def __init__(
        self,
        subject: Subject,
        read: Mapping[str, np.ndarray],
        base: Mapping[str, Estimate],
        *,
        retrain: bool,
    ) -> None:
        self._subject, self._read, self._base, self._retrain = subject, read, base, retrain

    def first(self, views: Sequence[str]) -> Point:
        """The fresh point."""
        own, none = _intervals(self._base), _less(self._base, self._base)
        told = self._retrain
        return Point(
            duration_text(timedelta(0)),
            dict.fromkeys(views, "0"),
            0.0 if all(view in self._read for view in views) else None,
            own,
            none,
            own if told else None,
            none if told else None,
            none if told else None,
        )

    def point(self, model: Any, step: timedelta, refresh: Refresh) -> Point:
        """All of one interval."""
        subject = self._subject
        rows = subject.rows(refresh)
        fresh = _estimates(subject, subject.scores(model, rows))
        stale = None
        if self._retrain:
            stale = _estimates(subject, subject.scores(subject.fit(rows), rows))
        point = Point(
            duration_text(step),
            {view: str(schedule) for view, schedule in refresh.items()},
            self._changed(rows.read, refresh),
            _intervals(fresh),
            _less(fresh, self._base),
            None if stale is None else _intervals(stale),
            None if stale is None else _less(stale, self._base),
            None if stale is None else _less(stale, fresh),
        )
        log.info(
            "stage=freshness refresh=%s changed=%s auc=%.4f trained_so=%s",
            ",".join(f"{v}={s}" for v, s in refresh.items()),
            point.changed,
            fresh["auc"].value,
            None if stale is None else f"{stale['auc'].value:.4f}",
        )
        return point

    def _changed(self, read: Mapping[str, np.ndarray], views: Refresh) -> float | None:
        if not all(view in read for view in views):
            return None
        other = [read[view] != self._read[view] for view in views]
        return float(np.any(other, axis=0).mean())


def _estimates(subject: Subject, scores: np.ndarray) -> dict[str, Estimate]:
    bootstrap = subject.bootstrap
    return {"auc": bootstrap.auc(scores), "gauc": bootstrap.gauc(scores)}


def _intervals(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: found[metric].interval() for metric in METRICS}


def _less(found: Mapping[str, Estimate], other: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: (found[metric] - other[metric]).interval() for metric in METRICS}


def _ages(times: np.ndarray, read: np.ndarray, steps: Sequence[timedelta]) -> dict[str, Any]:
    known = read != NOTHING
    age = times[known] - read[known]
    return {
        "younger": {
            duration_text(step): float((age <= step // MICROSECOND).sum() / len(times))
            for step in steps
        },
        "nothing": float(1 - known.mean()),
    }
