"""What a retraining decided before, and whether that still holds. Reads:
`<run>/retrains/*/decision.json`. Writes: nothing.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adc_features.artifact import json_text
from training.deployment.places import RETRAINS

log = logging.getLogger(__name__)
DECISION = "decision.json"
ONLINE_GATE = "online_parity"
"""The gate that reads the online store, which changes with every materialization."""


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
