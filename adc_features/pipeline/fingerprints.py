"""What stages were made of, compared. Reads: what manifests say. Writes: nothing."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def is_same(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Was a stage made of what it would be made of now?

    Manifests of version 0.1 hold the library's version in the place of the stage's code and its
    recipe. They stand for the first version of every stage's code.
    """
    if "version" not in stored:
        return stored == wanted
    shared = ("stage", "settings", "reads")
    return wanted["code"] == 1 and all(stored.get(name) == wanted[name] for name in shared)


def hash_of(value: Any) -> str:
    """sha256 (hex) of a value as JSON has it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
