"""What becomes a row of a label log, and what became of requests. Reads: nothing. Writes:
DatasetSettings, DatasetReport.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from adc_features.errors import InputError


@dataclass(frozen=True)
class DatasetSettings:
    """What becomes a row.

    Parameters
    ----------
    negatives : str
        Which candidates without an event are negatives: "shown", "ranked:M" for the first M of
        each answer, or "all". What has an event is a row in any case.
    until : datetime, optional
        Events up to this time are complete, aware; by default the time of the last one.
    request : str
        The column of request ids, of the events and of the label log.
    logged_values : bool
        Put the values of features that were scored beside the labels.
    rank_as : str, optional
        A column for the candidate's place in the answer, from 0: for an input of the position.
    weight : str, optional
        The column of 1 / share sampled; by default `sample_weight`, and that only where less than
        every request was sampled.

    Raises
    ------
    InputError
        Negatives of another form.
    """

    negatives: str = "shown"
    until: datetime | None = None
    request: str = "request_id"
    logged_values: bool = False
    rank_as: str | None = None
    weight: str | None = None

    def __post_init__(self) -> None:
        kind, _, most = self.negatives.partition(":")
        fine = self.negatives in ("shown", "all") or (
            kind == "ranked" and most.isdecimal() and int(most) > 0
        )
        if not fine:
            raise InputError(
                f"negatives are {self.negatives!r}; expected shown, ranked:M (the first M of each"
                " answer), or all"
            )

    @property
    def ranked(self) -> int | None:
        """M of "ranked:M"."""
        return int(self.negatives[7:]) if self.negatives.startswith("ranked:") else None


@dataclass
class DatasetReport:
    """What became of requests and events.

    requests: in the log, each once; repeated_requests: ids that were answered again, of which the
    last answer counts; immature_requests: no window of theirs is over, left out. rows: written.
    tasks: for each, window in seconds, positives, negatives, immature rows. shown: "impressions"
    where events tell what was seen, "assumed" where all that was answered is taken for seen.
    duplicates, orphans, outside, ignored: events whose id came before, which belong to no served
    candidate, which came before the request or after the window, and which no task is named after;
    the last three by name.
    """

    until: datetime
    shown: str
    requests: int = 0
    repeated_requests: int = 0
    immature_requests: int = 0
    rows: int = 0
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    duplicates: int = 0
    orphans: dict[str, int] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
