"""When the rows of a view get online. Reads: text such as `1d@03:00+20m`, or what a log of
materializations says. Writes: RefreshSchedule; no feast here.

Refresh k takes the rows that are known by its cut s_k and is seen from u_k on. A request at t reads
of the newest refresh that is seen, k = max{k : u_k <= t}: the last row of its key with event time
<= s_k - lag. Ages and the ttl are taken at t, as the online store takes them.

Legend: Q requests, F feature rows; all times are int64 microseconds since 1970, UTC.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.store.durations import (
    EXPECTED,
    LONGEST,
    MICROSECOND,
    duration_text,
    part_of,
)

Mode = Literal["full", "incremental"]
LOG = "log"
"""In place of a schedule: the refreshes that the repository really did."""
NOT_YET = -(1 << 62)
"""The cut of a request before the first refresh: earlier than any row."""
NEVER = 1 << 62
"""When a row is seen that no refresh takes: later than any request."""

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_SPEC = re.compile(
    r"(?P<period>[^@+\-/]+)(?:@(?P<phase>[^@+\-/]+))?(?:\+(?P<delay>[^@+\-/]+))?"
    r"(?:-(?P<lag>[^@+\-/]+))?(?:/(?P<mode>[a-z]+))?"
)


class Refresh(NamedTuple):
    """One real refresh: its content cut, and from when on it was read; aware."""

    cut: datetime
    visible: datetime


@dataclass(frozen=True)
class RefreshSchedule:
    """When a view is refreshed online: every `period`, or at the times of real refreshes.

    Parameters
    ----------
    period : timedelta
        From one cut to the next; 0 where every row gets online by itself, as it does in a stream.
    phase : timedelta
        Of the cuts, since 1970-01-01 00:00 UTC (a Thursday): 3 hours for daily cuts at 03:00.
    delay : timedelta
        From a cut until its rows are read.
    lag : timedelta
        From a row's event time until it is in the source. A refresh in mode `full` misses what has
        not landed; in mode `incremental` nobody loads it afterwards.
    mode : {"full", "incremental"}
        Whether a refresh takes all rows up to its cut, or only those since the previous cut, as
        `feast materialize-incremental` does. What was created later than the first cut at or after
        its event time is then never loaded.
    refreshes : tuple of Refresh
        Real ones, in place of a period.

    Raises
    ------
    InputError
        A duration is negative or longer than a hundred years, a stream has a phase or is
        incremental, times are naive, or a refresh was read before its cut.

    Examples
    --------
    >>> nightly = RefreshSchedule.parse("1d@03:00+20m")
    >>> nightly.period.days, nightly.delay.seconds, str(nightly)
    (1, 1200, '1d@03:00+20m')

    Source
    ------
    Feast documentation, "Load data into the online store":
    https://docs.feast.dev/how-to-guides/feast-snowflake-gcp-aws/load-data-into-the-online-store
    """

    period: timedelta = timedelta(0)
    phase: timedelta = timedelta(0)
    delay: timedelta = timedelta(0)
    lag: timedelta = timedelta(0)
    mode: Mode = "full"
    refreshes: tuple[Refresh, ...] = ()

    def __post_init__(self) -> None:
        for name in ("period", "phase", "delay", "lag"):
            if not timedelta(0) <= (found := getattr(self, name)) <= LONGEST:
                raise InputError(
                    f"the {name} of a refresh schedule is {found}; expected a duration from 0 to"
                    f" {LONGEST.days} days"
                )
        if self.mode not in get_args(Mode):
            raise InputError(f"mode is {self.mode!r}; expected one of {', '.join(get_args(Mode))}")
        if self.refreshes:
            self._check_refreshes()
        elif not self.period and (self.phase or self.mode != "full"):
            raise InputError(
                "a schedule of period 0 is a stream: rows get online one by one, there is no phase"
                " and nothing incremental; give a period, or leave these out"
            )

    def _check_refreshes(self) -> None:
        if self.period or self.phase or self.delay:
            raise InputError(
                "real refreshes come with their own cuts and delays; leave period, phase and delay"
                " out"
            )
        for cut, visible in self.refreshes:
            if cut.utcoffset() is None or visible.utcoffset() is None:
                raise InputError(
                    f"the refresh of {cut.isoformat()} has a time without a zone; give aware times"
                )
            if visible < cut:
                raise InputError(
                    f"the refresh of {cut.isoformat()} was read from {visible.isoformat()} on,"
                    " before its cut; a refresh is seen at its cut or later"
                )
        pairs = list(pairwise(self.refreshes))
        if any(later.cut <= earlier.cut for earlier, later in pairs):
            raise InputError("the cuts of refreshes must rise; sort them, each cut once")
        if self.mode == "incremental" and any(b.visible < a.visible for a, b in pairs):
            raise InputError(
                "an incremental refresh was overtaken by a later one, so that its rows came after"
                " newer ones; list refreshes that were read in the order of their cuts"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """A schedule from text.

        Parameters
        ----------
        text : str
            PERIOD[@PHASE][+DELAY][-LAG][/incremental]. PHASE is a time of day, or a duration since
            1970-01-01 00:00 UTC.

        Returns
        -------
        RefreshSchedule

        Raises
        ------
        InputError
            The text is another.
        """
        found = _SPEC.fullmatch(text.strip())
        if found is None:
            raise InputError(f"{text!r} is no refresh schedule; {EXPECTED}")
        parts = found.groupdict()
        phase = parts["phase"]
        clock = _CLOCK.fullmatch(phase) if phase else None
        hours, minutes, seconds = (int(n or 0) for n in clock.groups()) if clock else (0, 0, 0)
        of_day = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return cls(
            period=part_of(text, parts["period"]),
            phase=of_day if clock else part_of(text, phase),
            delay=part_of(text, parts["delay"]),
            lag=part_of(text, parts["lag"]),
            mode=parts["mode"] or "full",  # type: ignore[arg-type]  # checked on construction
        )

    @classmethod
    def stale(cls, period: timedelta, *, like: "RefreshSchedule | None" = None) -> Self:
        """A schedule of another period.

        Parameters
        ----------
        period : timedelta
            0 is fresh.
        like : RefreshSchedule, optional
            Its phase is taken.

        Returns
        -------
        RefreshSchedule
        """
        if not period or like is None:
            return cls(period=period)
        return cls(period=period, phase=like.regular.phase)

    def __str__(self) -> str:
        if self.refreshes:
            ends = self.refreshes[0].cut.isoformat(), self.refreshes[-1].cut.isoformat()
            return f"{len(self.refreshes)} refreshes from {ends[0]} to {ends[1]}"
        text = duration_text(self.period)
        text += f"@{_phase_text(self.phase)}" if self.phase else ""
        text += f"+{duration_text(self.delay)}" if self.delay else ""
        text += f"-{duration_text(self.lag)}" if self.lag else ""
        return text + ("/incremental" if self.mode == "incremental" else "")

    @property
    def is_fresh(self) -> bool:
        """Whether every row is read from its event time on, as a plain join reads it."""
        return not (self.refreshes or self.period or self.delay or self.lag)

    @property
    def regular(self) -> "RefreshSchedule":
        """Itself, or the period, phase and delay that real refreshes have as a rule (medians)."""
        if not self.refreshes:
            return self
        cuts, visible = self._cuts, self._visible
        period = int(np.median(np.diff(cuts))) if len(cuts) > 1 else 0
        phase = int(np.median(cuts % period)) if period else 0
        return RefreshSchedule(
            period=min(period * MICROSECOND, LONGEST),
            phase=min(phase * MICROSECOND, LONGEST),
            delay=min(int(np.median(visible - cuts)) * MICROSECOND, LONGEST),
            lag=self.lag,
            mode=self.mode if period else "full",
        )

    @property
    def mean_age(self) -> timedelta:
        """How far back the newest row lies that a request can read, on average."""
        rule = self.regular
        return rule.period / 2 + rule.delay + rule.lag

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what the manifest of a ranker keeps."""
        return {
            "schedule": LOG if self.refreshes else str(self),
            "rule": str(self.regular),
            "mean_age_seconds": self.mean_age.total_seconds(),
        }

    @cached_property
    def _cuts(self) -> np.ndarray:
        return _microseconds(refresh.cut for refresh in self.refreshes)

    @cached_property
    def _visible(self) -> np.ndarray:
        return _microseconds(refresh.visible for refresh in self.refreshes)

    def cuts(self, times: np.ndarray) -> np.ndarray:
        """The cut of the newest refresh that requests see.

        Parameters
        ----------
        times : ndarray
            Of the requests, int64 [Q] microseconds.

        Returns
        -------
        ndarray
            int64 [Q] microseconds, NOT_YET where there is none.
        """
        if self.refreshes:
            order = np.argsort(self._visible, kind="stable")
            # a refresh that was overtaken by a newer one stays behind it
            newest = np.append(np.maximum.accumulate(self._cuts[order]), NOT_YET)
            return newest[np.searchsorted(self._visible[order], times, side="right") - 1]
        return self._last_cut(times - _whole(self.delay))

    def reads(self, times: np.ndarray) -> np.ndarray:
        """The newest event time that requests can read.

        Parameters
        ----------
        times : ndarray
            Of the requests, int64 [Q] microseconds.

        Returns
        -------
        ndarray
            int64 [Q] microseconds.
        """
        cuts = self.cuts(times)
        if self.mode == "incremental" or not self.lag:
            return cuts  # what lands late is told by `loaded`
        return np.where(cuts == NOT_YET, NOT_YET, cuts - _whole(self.lag))

    def loaded(self, at: np.ndarray, created: np.ndarray | None = None) -> np.ndarray:
        """Whether any refresh loads rows.

        Parameters
        ----------
        at : ndarray
            Their event times, int64 [F] microseconds.
        created : ndarray, optional
            When they were written, likewise; by default a lag after their event time.

        Returns
        -------
        ndarray
            bool [F].
        """
        if self.mode == "full":
            return np.ones(len(at), bool)
        landed = at + _whole(self.lag) if created is None else created
        cut = self._first_cut(at)
        loaded: np.ndarray = (landed <= cut) & (cut != NEVER)
        return loaded

    def seen_from(self, at: np.ndarray) -> np.ndarray:
        """From when on rows are read.

        Parameters
        ----------
        at : ndarray
            Their event times, int64 [F] microseconds.

        Returns
        -------
        ndarray
            int64 [F] microseconds, NEVER for those that no refresh takes.
        """
        if self.mode == "incremental":
            lost, ready = ~self.loaded(at), at
        else:
            lost, ready = np.zeros(len(at), bool), at + _whole(self.lag)
        if self.refreshes:
            soonest = np.append(np.minimum.accumulate(self._visible[::-1])[::-1], NEVER)
            seen = soonest[np.searchsorted(self._cuts, ready)]
        else:
            seen = self._first_cut(ready) + _whole(self.delay)
        return np.where(lost, NEVER, seen)

    def _first_cut(self, at: np.ndarray) -> np.ndarray:
        """int64: the first cut at or after each time."""
        if self.refreshes:
            return np.append(self._cuts, NEVER)[np.searchsorted(self._cuts, at)]
        return self._last_cut(at + max(_whole(self.period) - 1, 0))

    def _last_cut(self, at: np.ndarray) -> np.ndarray:
        """int64: the last cut of the period at or before each time; in a stream the time itself."""
        if not self.period:
            return at
        phase, period = _whole(self.phase), _whole(self.period)
        return (at - phase) // period * period + phase


def parse_refreshes(options: Sequence[str]) -> dict[str, str]:
    """View -> the text of its schedule, from VIEW=SCHEDULE. Raises InputError for another form, a
    view that is named twice, or what is neither a schedule nor `log`."""
    found: dict[str, str] = {}
    for option in options:
        view, equals, text = option.partition("=")
        if not (view.strip() and equals):
            raise InputError(f"{option!r} is not VIEW=SCHEDULE; {EXPECTED}")
        if (view := view.strip()) in found:
            raise InputError(f"view {view!r} has two refresh schedules; give one")
        found[view] = checked_text(text, of=view)
    return found


def setting_of(texts: Mapping[str, str]) -> str:
    """View -> schedule as the setting of a run: VIEW=SCHEDULE, comma-separated."""
    return ",".join(f"{view}={text}" for view, text in sorted(texts.items()))


def checked_text(text: Any, *, of: str) -> str:
    """The text of a schedule as it is written in full, or `log`. Raises InputError."""
    if text == LOG:
        return LOG
    if not isinstance(text, str | int) or isinstance(text, bool):
        raise InputError(f"the refresh schedule of view {of!r} is {text!r}; {EXPECTED}")
    try:
        return str(RefreshSchedule.parse(str(text)))
    except InputError as error:
        raise InputError(f"view {of!r}: {error}") from error


def stale_only(refresh: Mapping[str, RefreshSchedule]) -> dict[str, RefreshSchedule]:
    """Without the views that are read fresh."""
    return {view: schedule for view, schedule in refresh.items() if not schedule.is_fresh}


def _phase_text(phase: timedelta) -> str:
    if phase >= timedelta(days=1) or phase % timedelta(seconds=1):
        return duration_text(phase)
    minutes, seconds = divmod(phase // timedelta(seconds=1), 60)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{text}:{seconds:02d}" if seconds else text


def _microseconds(times: Iterable[datetime]) -> np.ndarray:
    return np.array([instant(time) for time in times], "datetime64[us]").astype(np.int64)


def _whole(duration: timedelta) -> int:
    return duration // MICROSECOND
