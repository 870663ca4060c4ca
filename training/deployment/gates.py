"""What a challenger must show before it serves. Reads: scores and codes of the labelled window.
Writes: Gates.

Legend: N rows, S seeds, L positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from adc_features.codes.sids import SidTable
from training.deployment.settings import RetrainSettings
from training.evaluation.metrics import Estimate, PairedBootstrap, popularity_slices


@dataclass(frozen=True)
class Gate:
    """What was measured, its limit, and whether it holds. first_differences: of a parity check,
    some of the values that differ.
    """

    passed: bool
    value: Any
    limit: Any
    first_differences: list[Mapping[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        facts = {"passed": self.passed, "value": self.value, "limit": self.limit}
        more = self.first_differences
        return facts if more is None else {**facts, "first_differences": more}


def score_gates(
    bootstrap: PairedBootstrap,
    *,
    champion: np.ndarray,
    challenger: np.ndarray,
    popularity: np.ndarray,
    settings: RetrainSettings,
) -> dict[str, Gate]:
    """GAUC gained, AUC of head and tail items kept, mean prediction over mean label.

    champion, challenger: probabilities [S, N] of the judged rows. popularity: training rows of each
    row's item, int [N]. A slice whose AUC is undefined refuses nobody.
    """

    def gain(metric: Any) -> dict[str, float]:
        difference: Estimate = metric(challenger) - metric(champion)
        return difference.interval()

    slices, gauc = popularity_slices(popularity), gain(bootstrap.gauc)
    gates = {
        "gauc_gain": Gate(
            gauc["mean"] >= settings.min_gain and gauc["low"] >= -settings.max_loss,
            gauc,
            {"mean": settings.min_gain, "low": -settings.max_loss},
        )
    }
    for part in ("head", "tail"):
        auc = gain(partial(bootstrap.auc, rows=slices[part]))
        gates[f"{part}_auc"] = Gate(not auc["high"] < 0, auc, {"high": 0.0})
    ratio, limit = bootstrap.calibration(challenger).value, settings.max_miscalibration
    gates["calibration"] = Gate(abs(ratio - 1) <= limit, ratio, limit)
    return gates


def code_gates(
    *, coverage_lost: float, changed: float, settings: RetrainSettings
) -> dict[str, Gate]:
    """Rows with codes not lost, and codes not renamed, beyond what the settings allow."""
    return {
        "coverage": Gate(
            coverage_lost <= settings.max_coverage_loss, coverage_lost, settings.max_coverage_loss
        ),
        "churn": Gate(changed <= settings.max_churn, changed, settings.max_churn),
    }


def changed_codes(old: SidTable, new: SidTable) -> float:
    """Share of the codes of `old` that `new` names otherwise, over the items in both; 1 for another
    number of positions.
    """
    if old.sid.shape[1] != new.sid.shape[1]:
        return 1.0
    now = new.lookup(old.item_ids)
    return float((old.sid != now.sid)[now.found].mean())


def parity_gate(parity: Mapping[str, Any]) -> Gate:
    """Nothing online may differ from offline; a refusal carries the first differences."""
    different = parity["different"]
    return Gate(different == 0, different, 0, parity["first_differences"])
