"""When a label counts: attribution windows. Reads: labels, the times at which they became known, a
cut-off. Writes: labels and masks.

A row at time t is labelled 1 when its positive was known within the window, t + D. It is ripe at a
cut-off C when the window is over, t + D <= C, whatever its label: letting early positives in while
equally young negatives are masked would raise the rate.

Legend: N rows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.inputs.declaration import Task

LONGEST = timedelta(days=36_525)
"""A longer window is a slip: with it, no row would ever be ripe."""
QUANTILE_PERCENT = 99
"""Share of the known delays that a window covers where none is declared."""

_MICROSECONDS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "min": 60_000_000,
    "s": 1_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(w|d|h|min|s)", re.ASCII)
_EXPECTED = "expected a duration such as '7d', '36h', '1d12h' or '90min' (units w, d, h, min, s)"


def parse_duration(value: str | timedelta, *, name: str = "duration") -> timedelta:
    """A duration of zero up to a hundred years, from text such as "7d", "36h" or "1d12h".

    Raises InputError for a number without a unit, an unknown unit, a negative or a longer one.
    """
    if isinstance(value, timedelta):
        found = value
    elif isinstance(value, str):
        found = _parsed(value, name)
    else:
        raise InputError(f"{name} is {value!r}, which has no unit; {_EXPECTED}")
    if not timedelta(0) <= found <= LONGEST:
        raise InputError(
            f"{name} is {value!r}; expected a duration from 0s to {LONGEST.days}d (a hundred years)"
        )
    return found


def duration_text(duration: timedelta) -> str:
    """A duration as `parse_duration` reads it: "7d", "1d12h", "0s"."""
    rest, text = duration // timedelta(microseconds=1), ""
    for unit in ("d", "h", "min"):
        count, rest = divmod(rest, _MICROSECONDS[unit])
        text += f"{count}{unit}" if count else ""
    if rest or not text:
        seconds, parts = divmod(rest, _MICROSECONDS["s"])
        text += f"{seconds}s" if not parts else f"{seconds}.{parts:06d}".rstrip("0") + "s"
    return text


def declared_window(task: Task) -> timedelta | None:
    """The window that a task declares: its delay, nothing for a task whose labels are final at
    once, and None where `known_at` alone must tell.
    """
    if task.delay is not None:
        return parse_duration(task.delay, name=f"delay of task {task.name!r}")
    return timedelta(0) if task.known_at is None else None


def observed_window(
    times: np.ndarray, known_at: np.ndarray, cutoff: datetime, *, task: str
) -> timedelta:
    """The 99th percentile of known_at - time among positives known before the cut-off: the
    smallest delay that covers 99 % of them.

    times, known_at: datetime64[us] of the positive rows. Raises InputError when no positive was
    known before the cut-off. Delays that are longer than the log cannot be seen in it: where they
    occur, declare a delay.
    """
    known = known_at < instant(cutoff)
    delays = np.sort((known_at[known] - times[known]).astype(np.int64))
    if not len(delays):
        raise InputError(
            f"task {task!r}: none of {len(times)} positive labels was known before the cut-off"
            f" {cutoff.isoformat()}, so its attribution window cannot be measured; declare it,"
            f" Task({task!r}, delay='7d', ...), or choose a later cut-off"
        )
    place = -(-len(delays) * QUANTILE_PERCENT // 100) - 1
    return parse_duration(
        timedelta(microseconds=int(delays[place])), name=f"observed window of task {task!r}"
    )


def ripe(times: np.ndarray, window: timedelta, cutoff: datetime) -> np.ndarray:
    """Whether each row's attribution window is over at a cut-off: bool [N] for datetime64[us]
    [N].
    """
    return times <= instant(cutoff) - np.timedelta64(window, "us")


def in_time(times: np.ndarray, known_at: np.ndarray, window: timedelta) -> np.ndarray:
    """Whether each label was known within its row's window: bool [N], False where known_at is
    NaT.
    """
    return known_at <= times + np.timedelta64(window, "us")


@dataclass(frozen=True)
class TaskLabels:
    """The labels of one task as the log has them.

    Parameters
    ----------
    task : Task
        What was declared.
    values : ndarray
        float32 [N]: 0, 1 or NaN for none.
    known_at : ndarray, optional
        datetime64[us] [N], NaT for none; every positive has one.
    """

    task: Task
    values: np.ndarray
    known_at: np.ndarray | None = None

    def window(self, times: np.ndarray, cutoff: datetime) -> timedelta:
        """The declared window, or the one observed before the cut-off."""
        declared = declared_window(self.task)
        if declared is not None or self.known_at is None:
            return declared or timedelta(0)
        positive = self.values > 0
        return observed_window(
            times[positive], self.known_at[positive], cutoff, task=self.task.name
        )

    def at(
        self, times: np.ndarray, window: timedelta, cutoff: datetime
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels float32 [N] (0 where masked) and mask bool [N], as of a cut-off."""
        mask = ripe(times, window, cutoff) & ~np.isnan(self.values)
        positive = mask & (self.values > 0)
        if self.known_at is not None:
            positive &= in_time(times, self.known_at, window)
        return positive.astype(np.float32), mask

    def late(self, times: np.ndarray, window: timedelta) -> np.ndarray:
        """Positives that became known after their window, and count as negatives for good: bool
        [N].
        """
        if self.known_at is None:
            return np.zeros(len(times), bool)
        return (self.values > 0) & ~in_time(times, self.known_at, window)


def given_order(tasks: Sequence[Task]) -> list[Task]:
    """Tasks with those that others are given before them. Raises InputError for names that occur
    twice, a `given` that is no task, and circles.
    """
    by_name = {task.name: task for task in tasks}
    if not tasks or len(by_name) < len(tasks):
        raise InputError(
            f"the ranker's tasks are {[task.name for task in tasks]}; expected at least one, each"
            " with a name of its own"
        )
    for task in tasks:
        if task.given is not None and task.given not in by_name:
            raise InputError(
                f"task {task.name!r} is given {task.given!r}, which is no task; there are"
                f" {', '.join(by_name)}"
            )
    ordered: dict[str, Task] = {}
    while len(ordered) < len(tasks):
        ready = [
            task
            for task in tasks
            if task.name not in ordered and (task.given is None or task.given in ordered)
        ]
        if not ready:
            circle = [task.name for task in tasks if task.name not in ordered]
            raise InputError(
                f"tasks {', '.join(circle)} are given each other in a circle; let one of them be"
                " given nothing"
            )
        ordered |= {task.name: task for task in ready}
    return list(ordered.values())


def _parsed(text: str, name: str) -> timedelta:
    parts: list[Any] = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        hint = ": write 'min' for minutes" if re.search(r"\dm\b|\dm\d", text) else ""
        raise InputError(f"{name} is {text!r}{hint}; {_EXPECTED}")
    whole = sum(Decimal(number) * _MICROSECONDS[unit] for number, unit in parts)
    if whole != int(whole):
        raise InputError(f"{name} is {text!r}, finer than a microsecond; {_EXPECTED}")
    try:
        return timedelta(microseconds=int(whole))
    except OverflowError:
        raise InputError(
            f"{name} is {text!r}; expected a duration from 0s to {LONGEST.days}d (a hundred years)"
        ) from None
