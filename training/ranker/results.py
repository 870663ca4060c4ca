"""What rankers of several tasks reached, as values. Writes: RankerEvaluation; `to_dict` is a part
of a JSON document, under the names of its fields.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Interval = Mapping[str, float]
"""{mean, low, high}, of a metric with its 95 % interval; NaN where undefined."""
BY = ("request_gauc", "gauc", "auc")
"""What rankers are ordered by: the first of these that is defined."""


@dataclass(frozen=True)
class TaskScores:
    """Of one ranker on one task, or the difference of two.

    auc, gauc: over rows, and within users, None where no key tells the user. logloss: nats a row.
    calibration: observed over expected, 1 is calibrated. request_gauc, ndcg, mrr: within requests,
    None without them. weighted: auc, logloss and calibration by sample weights, None without them.
    """

    auc: Interval
    logloss: Interval
    calibration: Interval
    gauc: Interval | None = None
    request_gauc: Interval | None = None
    ndcg: Interval | None = None
    mrr: Interval | None = None
    weighted: Mapping[str, Interval] | None = None


@dataclass(frozen=True)
class TaskEvaluation:
    """Of all rankers on one task.

    rows, positives: labelled ones. users, requests: those with both classes, which GAUC, NDCG and
    MRR rest on, None where no key tells them. top: k of NDCG@k. paired: `<a>_minus_<b>` ->
    differences on the same draws.
    """

    rows: int
    positives: int
    users: int | None
    requests: int | None
    top: int
    rankers: Mapping[str, TaskScores]
    paired: Mapping[str, TaskScores]

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "TaskEvaluation":
        """The inverse of `to_dict` of the whole."""
        parts = {
            part: {name: TaskScores(**scores) for name, scores in facts[part].items()}
            for part in ("rankers", "paired")
        }
        return cls(**{**facts, **parts})


@dataclass(frozen=True)
class RankerEvaluation:
    """Task -> what was reached on it."""

    tasks: Mapping[str, TaskEvaluation]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "RankerEvaluation":
        """The inverse of `to_dict`."""
        return cls({name: TaskEvaluation.from_dict(task) for name, task in facts["tasks"].items()})
