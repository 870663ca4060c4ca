"""What a team decides about live events. Reads: nothing. Writes: LiveSettings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta

from adc_features.errors import InputError


@dataclass(frozen=True)
class LiveSettings:
    """How early an event may come, and how many are written together. How late: the stream says.

    Parameters
    ----------
    tolerance : timedelta
        An event that is stamped in the future by at most this much is kept, acknowledged, and
        counted when its time has come; one beyond it is refused.
    commit_after : timedelta
        The longest time that an event waits for others before they are written together.
    commit_events : int
        Events that are written together at most.
    max_waiting : int
        Events that may wait to be written; more are refused with "try again later".
    max_waiting_bytes : int
        The same in bytes of their requests.
    history_after : timedelta
        The longest time that a served row waits to be written to its view's history.
    segments : int
        Files of one history from which on its small ones are merged.
    merged_after : timedelta
        How long files lie there that were merged into another one, for those who are reading them.
    online_lag : timedelta
        The longest time that served rows may wait for an online store that is not ours; while some
        wait longer, no event is accepted.

    Raises
    ------
    InputError
        A duration or number that is not more than 0.

    Examples
    --------
    >>> LiveSettings(tolerance=timedelta(minutes=1)).commit_events
    512
    """

    tolerance: timedelta = timedelta(minutes=5)
    commit_after: timedelta = timedelta(milliseconds=10)
    commit_events: int = 512
    max_waiting: int = 20_000
    max_waiting_bytes: int = 64 << 20
    history_after: timedelta = timedelta(seconds=30)
    segments: int = 64
    merged_after: timedelta = timedelta(hours=1)
    online_lag: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value <= type(value)(0):
                raise InputError(f"{field.name} is {value}; expected more than 0")
