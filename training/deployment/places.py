"""Names of the directories that a deployment makes beside its run's own. Reads and writes: nothing.

Whoever makes one, and whoever deletes one, asks here: a clean-up deletes no other name.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from adc_features.artifact import json_text

RETRAINS = "retrains"
MODEL = "ranker/model"
"""Where a retraining keeps its challenger."""
_RETRAIN = re.compile(rf"{RETRAINS}/[0-9]{{5,8}}T[0-9]{{6}}_[0-9a-f]{{8}}")


def retrain_place(as_of: datetime, made_of: Mapping[str, Any]) -> str:
    """Where one retraining lies, relative to its run: `retrains/<as_of>_<start of the hash of its
    inputs>`.
    """
    name = hashlib.sha256(json_text(made_of).encode()).hexdigest()[:8]
    return f"{RETRAINS}/{as_of:%Y%m%dT%H%M%S}_{name}"


def retrain_of(model: str) -> str | None:
    """The retraining that a ranker's directory (relative to the run) is the challenger of; None
    when it is none's.
    """
    place = model.removesuffix(f"/{MODEL}")
    return place if place != model and _RETRAIN.fullmatch(place) else None
