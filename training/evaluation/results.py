"""What a run measured, as values. Reads: nothing. Writes: Coverage, RecipeScores, Evaluation,
RunMetrics; `to_dict` of each is a part of `metrics.json`, under the names of its fields.

Reports and tests get these names from here: a part that is renamed is renamed everywhere.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

Interval = Mapping[str, float]
"""{mean, low, high}, of a metric with its 95 % interval; NaN (null in JSON) where undefined."""


class _Facts:
    """Values whose fields are the keys of a JSON document, in their order."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Coverage(_Facts):
    """rows: of a part of the data. with_codes: share that had codes at their time. age_days: mean
    age of those codes since their snapshot's cut-off, NaN without any.
    """

    rows: int
    with_codes: float
    age_days: float


@dataclass(frozen=True)
class RecipeScores(_Facts):
    """Of one recipe on the scored rows. tail_auc: on items of the least popular third.
    calibration: mean predicted over mean observed. deciles: {interactions, rows, auc}, rarest
    first. slices: head, middle, tail and cold, {rows, auc} each.
    """

    auc: Interval
    gauc: Interval
    logloss: Interval
    tail_auc: Interval
    calibration: Interval
    expected_calibration_error: float
    deciles: list[Mapping[str, Any]]
    slices: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Evaluation(_Facts):
    """Of all recipes. label_rate: share of positive rows. gauc_users, gauc_rows: users with both
    classes and their rows. baselines: name -> {auc, gauc}. paired: `<a>_minus_<b>` -> {auc, gauc}.
    """

    rows: int
    label_rate: float | None
    gauc_users: int
    gauc_rows: int
    baselines: Mapping[str, Mapping[str, Interval]]
    recipes: Mapping[str, RecipeScores]
    paired: Mapping[str, Mapping[str, Interval]]

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> "Evaluation":
        """The inverse of `to_dict`; an older run lacks label rate and baselines."""
        known = {f.name: facts[f.name] for f in fields(cls) if f.name in facts}
        recipes = {name: RecipeScores(**scores) for name, scores in facts["recipes"].items()}
        return cls(**{"label_rate": None, "baselines": {}, **known, "recipes": recipes})


@dataclass(frozen=True)
class RunMetrics(_Facts):
    """Everything that `metrics.json` holds, in its order."""

    dataset: Mapping[str, Any]
    final: bool
    generation: Mapping[str, Any]
    rows_in: int
    rows_out: int
    scored_rows: int
    gauc_users: int
    gauc_rows: int
    label_rate: float | None
    seeds: int
    reliability: str | None
    baselines: Mapping[str, Mapping[str, Interval]]
    recipes: Mapping[str, RecipeScores]
    paired: Mapping[str, Mapping[str, Interval]]
    quality: Mapping[str, Any]
    reliability_rank_correlation: float | None
    reliability_half_agreement_rank_correlation: float | None
    norm_rank_correlation: float | None
    weight_count_rank_correlation: float | None
    drift: Any
    changed_codes: Any
    coverage: Mapping[str, Coverage]
    unmatched: Mapping[str, Any]
    cutoffs: list[datetime] | list[str]
    bytes_per_item: Mapping[str, float]
    parity: Mapping[str, Any]
    test_openings: list[str]
    stage_seconds: Mapping[str, float]
    peak_memory_bytes: int
