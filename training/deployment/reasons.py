"""Why a challenger should be trained. Reads: times, codes and metrics of the labelled window.
Writes: Reasons.
"""

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np

from adc_features.codes.churn import usage_distance
from training.deployment.settings import RetrainSettings
from training.deployment.windows import Windows, between


@dataclass(frozen=True)
class Reason:
    """What was measured, its limit, and whether that asks for a challenger."""

    value: float
    limit: float
    asks: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class CodeUse(NamedTuple):
    """uncoded: share of the window's rows on items without a code. drift: see `usage_drift`."""

    uncoded: float
    drift: float


def reasons_to_train(
    windows: Windows,
    times: np.ndarray,
    settings: RetrainSettings,
    *,
    gauc: float,
    judged_gauc: float | None,
    codes: CodeUse | None,
) -> dict[str, Reason]:
    """Each reason by name; any one of them is enough to train.

    times: datetime64[us] [N] of the labelled rows. gauc: the champion's in the window; judged_gauc:
    what it had when it was judged, None where nobody measured it. codes: None for a champion
    without codes.
    """
    days = (windows.end - windows.through) / timedelta(days=1)
    new = int(between(times, windows.through, windows.end).sum())
    found = {
        "days_since_champion": Reason(days, settings.every_days, days >= settings.every_days),
        "new_rows": Reason(new, settings.min_new_rows, new >= settings.min_new_rows),
    }
    above = {}
    if codes is not None:
        above["uncoded_share"] = (codes.uncoded, settings.max_uncoded)
        above["code_usage_drift"] = (codes.drift, settings.max_usage_drift)
    if judged_gauc is not None:
        above["gauc_drop"] = (judged_gauc - gauc, settings.max_gauc_drop)
    return found | {
        name: Reason(value, limit, bool(value > limit)) for name, (value, limit) in above.items()
    }


def usage_drift(before: np.ndarray, now: np.ndarray, *, codebook_size: int) -> float:
    """Jensen-Shannon distance of code usage between two sets of rows, at the position where it is
    largest: codes int [N, L] and [M, L], -1 = none; 0 where a side has no codes.
    """
    distances = usage_distance(before, now, codebook_size=codebook_size)
    return float(np.nanmax(distances, initial=0.0))
