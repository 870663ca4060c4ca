"""Which rows a retraining learns from and is judged on, and whether they are enough. Reads: times
and labels. Writes: Windows.

           through               start                 end
    ----------|---------------------|---------------------|--->  time
     learned  |  new: learned by    |  labelled window:   |
     by both  |  the challenger     |  judges both        |
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from adc_features.clock import instant
from adc_features.errors import InputError


class Windows(NamedTuple):
    """through: exclusive end of the champion's training rows. start, end: the labelled window,
    [start, end).
    """

    through: datetime
    start: datetime
    end: datetime


def windows_of(*, through: datetime, as_of: datetime, days: int) -> Windows:
    """The labelled window of so many days before `as_of`, for a champion trained through
    `through`.
    """
    return Windows(through, as_of - timedelta(days=days), as_of)


def between(times: np.ndarray, start: datetime, end: datetime) -> np.ndarray:
    """Mask of the times in [start, end): bool [N] for datetime64[us] [N]."""
    return (times >= instant(start)) & (times < instant(end))


def require_enough_rows(
    windows: Windows, times: np.ndarray, labels: np.ndarray, *, min_rows: int
) -> None:
    """Refuse a retraining that could not be judged, or has nothing to learn.

    times: datetime64[us] [N] of the labelled rows. labels: [N]. Raises InputError when the champion
    learned from the window, when the window lacks rows or a class, or when too few rows are new.
    """
    if windows.start < windows.through:
        raise InputError(
            f"the champion learned from rows up to {windows.through.isoformat()}, the labelled"
            f" window begins at {windows.start.isoformat()}: it would be judged on what it has"
            " seen; wait for newer data, or shorten --window-days"
        )
    span = f"from {windows.start.isoformat()} to {windows.end.isoformat()}"
    judged = labels[between(times, windows.start, windows.end)]
    if len(judged) < min_rows or len(np.unique(judged)) < 2:
        raise InputError(
            f"{len(judged)} labelled rows lie in the window {span}; expected at least {min_rows},"
            " of both classes; wait, or widen --window-days"
        )
    new = int(between(times, windows.through, windows.start).sum())
    if new < min_rows:
        raise InputError(
            f"{new} rows lie between the champion's last, {windows.through.isoformat()}, and the"
            f" window {span}; expected at least {min_rows}: there is nothing new to learn, bring"
            " newer data"
        )
