"""What a retraining is asked for, and what it decided before. Reads:
`<run>/retrains/*/decision.json`. Writes: nothing.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adc_features.artifact import json_text
from adc_features.errors import InputError
from training.deployment.places import RETRAINS

log = logging.getLogger(__name__)
DECISION = "decision.json"
ONLINE_GATE = "online_parity"
"""The gate that reads the online store, which changes with every materialization."""


@dataclass(frozen=True)
class RetrainSettings:
    """When to train a challenger, and what it must show.

    window_days: length of the labelled window that both are judged on. min_rows: rows that the
    window, and the new training rows, need. Reasons, any of which is enough: every_days since the
    champion's rows ended; min_new_rows since then; max_uncoded, share of the window's rows on items
    without a code; max_usage_drift, Jensen-Shannon distance of code usage at any position;
    max_gauc_drop below what the champion had when it was judged. Gates, all of which must hold:
    GAUC gain at least min_gain, with a 95 % bound (paired draws of users) above -max_loss; AUC of
    head and tail items not lower with certainty; mean predicted over observed within
    max_miscalibration of 1; coverage not lower by more than max_coverage_loss; max_churn, codes
    changed from the champion's generation; online equal to offline.
    """

    window_days: int = 30
    min_rows: int = 300
    every_days: int = 30
    min_new_rows: int = 10_000
    max_uncoded: float = 0.2
    max_usage_drift: float = 0.3
    max_gauc_drop: float = 0.02
    min_gain: float = 0.0
    max_loss: float = 0.01
    max_miscalibration: float = 0.1
    max_coverage_loss: float = 0.05
    max_churn: float = 0.2

    def __post_init__(self) -> None:
        for name in ("window_days", "min_rows", "every_days", "min_new_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")


def remembered(
    run: Path,
    made_of: Mapping[str, Any],
    depends_on: Mapping[str, Any],
    *,
    champion: str,
    force: bool,
) -> dict[str, Any] | None:
    """The decision on record for a task, where deciding anew could not come out otherwise; None
    where it could.

    That of the task whose challenger serves now, since it is done. One that kept the champion, when
    the task and all that it depends on are as they were, it was not refused for what the online
    store held, and nobody asks for a decision by force.
    """
    for path in sorted(run.glob(f"{RETRAINS}/*/{DECISION}")):
        try:
            answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            done = answer["decision"] == "promoted" and answer["challenger"] == champion
            same = answer["made_of"] == {
                **made_of,
                **({"champion": answer["champion"]} if done else {}),
            }
            holds = (
                answer["decision"] == "kept" and not force and ONLINE_GATE not in answer["gates"]
            )
            if same and (done or (holds and answer.get("depends_on") == depends_on["depends_on"])):
                return answer
        except (ValueError, KeyError, TypeError) as error:
            log.warning(
                "stage=retrain remembered=false reason=%s is damaged (%s), the decision is made"
                " anew",
                path,
                error,
            )
    return None


def content_hash(value: Any) -> str:
    """sha256 of a value's JSON."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()


def difference(found: Mapping[str, Any]) -> str:
    """One difference of a parity report in words: entity, feature, both values."""
    key = next(name for name in found if name not in ("feature", "offline", "online"))
    return (
        f"{key} {found[key]!r}, {found['feature']}: offline {found['offline']!r}, online"
        f" {found['online']!r}"
    )
