"""When training ends and scoring begins, and at which cut-offs codes are published. Reads: event
times. Writes: Windows, Split, cut-offs.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from adc_features.clock import instant, moment, utc
from adc_features.errors import InputError

DAY = timedelta(days=1)


class Split(NamedTuple):
    """Train on rows with time < train_end; score rows with eval_start <= time < eval_end (None: to
    the end). Aware UTC.
    """

    train_end: datetime
    eval_start: datetime
    eval_end: datetime | None


@dataclass(frozen=True)
class Windows:
    """Where training ends and scoring begins. Choices are made on [validation_start,
    validation_end); test rows start at test_start.
    """

    validation_start: datetime
    validation_end: datetime
    test_start: datetime

    def __post_init__(self) -> None:
        for name in ("validation_start", "validation_end", "test_start"):
            object.__setattr__(self, name, utc(getattr(self, name), name=name))
        if not self.validation_start < self.validation_end <= self.test_start:
            raise InputError(
                f"windows are validation {self.validation_start:%Y-%m-%d %H:%M} to"
                f" {self.validation_end:%Y-%m-%d %H:%M} and test from"
                f" {self.test_start:%Y-%m-%d %H:%M}; expected validation_start < validation_end"
                " <= test_start"
            )

    def split(self, *, final: bool = False) -> Split:
        """The validation split, or with `final` the test split,
        whose rows are opened once, at the end.
        """
        if final:
            return Split(self.test_start, self.test_start, None)
        return Split(self.validation_start, self.validation_start, self.validation_end)


def time_resolution(times: np.ndarray) -> timedelta:
    """The coarsest of day, second and microsecond that every stamp is a multiple of."""
    ticks = times.astype("datetime64[us]").astype(np.int64)
    for unit in (DAY, timedelta(seconds=1)):
        if (ticks % (unit // timedelta(microseconds=1)) == 0).all():
            return unit
    return timedelta(microseconds=1)


def quantile_windows(times: np.ndarray) -> Windows:
    """Validation from the day of the 80 % row, test from the day of the 90 % row, or from their
    hours where a history is so short that no midnight lies between them. `times` sorted.
    """
    rows = times[[int(len(times) * quantile) for quantile in (0.8, 0.9)]]
    for unit in ("D", "h"):
        start, test = rows.astype(f"datetime64[{unit}]").astype("datetime64[us]")
        if times[0] < start < test:
            return Windows(moment(start), moment(test), moment(test))
    raise InputError(
        f"80 % of the rows lie before {rows[0]}, 90 % before {rows[1]}, the first at {times[0]}:"
        " too little time for a training, a validation and a test window; choose them with `adc"
        " data tables --validation-start TIME --test-start TIME`"
    )


def snapshot_times(times: np.ndarray, *, split: datetime, count: int) -> list[datetime]:
    """`count` cut-offs at equal quantiles of the rows before `split`, at midnights, then the split
    itself; strictly increasing.

    times: datetime64[us], sorted. Quantiles that fall on one day, or before the second day of data,
    are merged.
    """
    train = times[times < instant(split)]
    if not len(train):
        raise InputError(
            f"no interaction lies before the cut-off {split.isoformat()}; the first is at"
            f" {moment(times[0]).isoformat() if len(times) else 'nowhere'}, choose a later cut-off"
        )
    picks = (
        train[[int(len(train) * k / (count + 1)) for k in range(1, count + 1)]]
        .astype("datetime64[D]")
        .astype("datetime64[us]")
    )
    return [moment(t) for t in np.unique(picks) if train[0] < t < instant(split)] + [utc(split)]
