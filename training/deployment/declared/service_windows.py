"""Which rows of a label log a retraining learns from and is judged on. Reads: LabelLog. Writes:
RetrainWindows.

            through                      start                  end
    -----------|--------------|------------|----------|-----------|---> time
    champion's |      new     | calibrates |       judges both    |
    rows       |    rows      |            | ripe     | younger   |

The judged window is the newest that is ripe: `days` days in which every task is, and the younger
rows for those tasks whose labels are final sooner. The challenger learns what was ripe at `start`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from adc_features.clock import instant, moment
from adc_features.errors import InputError
from training.ranker.labels import LabelLog
from training.ranker.ripening import duration_text
from training.ranker.splits import LabelWindow, label_window, refuse_one_class, request_times

CALIBRATED = 0.2
"""Share of the challenger's ripe rows, the newest, that calibrate it."""


@dataclass(frozen=True)
class RetrainWindows:
    """The windows of one retraining.

    through: exclusive end of what the champion knows. train, calibration: of the first fit; final:
    both, ripe at `judged.start`. judged: ripe at `end`. new: labelled rows from `through` on that
    are ripe at `end`. attribution: task -> window.
    """

    through: datetime
    end: datetime
    train: LabelWindow
    calibration: LabelWindow
    final: LabelWindow
    judged: LabelWindow
    new: int
    attribution: Mapping[str, timedelta]

    @property
    def start(self) -> datetime:
        """Where the judged window begins."""
        assert self.judged.start is not None
        return self.judged.start


def retrain_windows(
    log: LabelLog, *, through: datetime, end: datetime, days: int, min_rows: int
) -> RetrainWindows:
    """The windows of a retraining.

    Parameters
    ----------
    log : LabelLog
        Rows before `end`.
    through : datetime
        Exclusive end of what the champion knows.
    end : datetime
        As of when labels are known.
    days : int
        Ripe days that both are judged on.
    min_rows : int
        Rows that are judged, and new rows that are learned from, at least.

    Raises
    ------
    InputError
        The champion knows rows of the window, too few are new, or a window lacks a class.
    """
    longest = max(log.windows(end).values(), default=timedelta(0))
    start = end - longest - timedelta(days=days)
    if start < through:
        raise InputError(
            f"the champion knows rows up to {through.isoformat()}, and the judged window begins at"
            f" {start.isoformat()} ({days} days, and {duration_text(longest)} until labels are"
            f" ripe, before {end.isoformat()}): it would be judged on what it has seen; wait for"
            " newer labels, or shorten --window-days"
        )
    attribution, first = log.windows(start), request_times(log)
    split = _calibration_start(log.times, start, longest)
    at_split, at_start, at_end = (
        log.labels(cutoff, windows=attribution) for cutoff in (split, start, end)
    )
    found = RetrainWindows(
        through,
        end,
        label_window("train", first, start=None, end=split, cutoff=split, known=at_split),
        label_window("validation", first, start=split, end=start, cutoff=start, known=at_start),
        label_window("final_train", first, start=None, end=start, cutoff=start, known=at_start),
        label_window("test", first, start=start, end=end, cutoff=end, known=at_end),
        int((at_end[1].any(axis=0) & (first >= instant(through))).sum()),
        attribution,
    )
    _require_rows(found, first, min_rows)
    refuse_one_class(log, [found.train, found.calibration, found.judged], attribution)
    return found


def _calibration_start(times: np.ndarray, start: datetime, longest: timedelta) -> datetime:
    ripe = times[times <= instant(start - longest)]
    if not len(ripe):
        raise InputError(
            f"no row of the log was ripe at {start.isoformat()}; give a log that begins earlier:"
            " the challenger learns from all of it"
        )
    return moment(ripe[int(len(ripe) * (1 - CALIBRATED))])


def _require_rows(windows: RetrainWindows, first: np.ndarray, min_rows: int) -> None:
    span = f"from {windows.start.isoformat()} to {windows.end.isoformat()}"
    if (judged := len(windows.judged)) < min_rows:
        raise InputError(
            f"{judged} labelled rows lie in the judged window {span}; expected at least {min_rows};"
            " wait, or widen --window-days"
        )
    new = int((first[windows.final.rows] >= instant(windows.through)).sum())
    if new < min_rows:
        raise InputError(
            f"{new} ripe rows lie between the champion's last, {windows.through.isoformat()}, and"
            f" the judged window {span}; expected at least {min_rows}: there is nothing new to"
            " learn, bring newer labels"
        )
