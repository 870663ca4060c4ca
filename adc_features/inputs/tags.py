"""What the tags `adc.*` of a feature say of its input. Reads: tags. Writes: values, problems.

A field's tags override its view's. An option of the field must fit the kind; one of the view is
read by the features that it fits.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from zoneinfo import ZoneInfo

from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Input
from adc_features.inputs.kind_rules import default_kind
from adc_features.inputs.schema import FeatureSchema

PREFIX = "adc."
KINDS = ("number", "category", "flag", "time", "vector", "set", "sequence", "history", "skip")
ROLES = ("ids", "times", "labels")


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _at_least(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if (value := int(text)) < least:
            raise ValueError
        return value

    return read


def _among(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError
        return text

    return read


def _clip(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split(","))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError
    return low, high


def _zone(text: str) -> str:
    ZoneInfo(text)
    return text


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise ValueError
    return value


_ORDERS = ("newest_last", "newest_first")
_READ: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "kind": (_among(*KINDS), f"one of {', '.join(KINDS)}"),
    "side": (_among("user", "item", "pair", "global"), "user, item, pair or global"),
    "group": (str, "the name of a history"),
    "role": (_among(*ROLES), f"one of {', '.join(ROLES)}"),
    "skip": (_boolean, "true or false"),
    "gate": (_boolean, "true or false"),
    "log": (_boolean, "true or false"),
    "bins": (_at_least(0), "a whole number, at least 0"),
    "clip": (_clip, "two numbers, LOW,HIGH, with LOW < HIGH"),
    "standardise": (_boolean, "true or false"),
    "min_count": (_at_least(1), "a whole number, at least 1"),
    "max_size": (_at_least(1), "a whole number, at least 1"),
    "buckets": (_at_least(0), "a whole number, at least 0"),
    "dropout": (_share, "a number in [0, 1)"),
    "share": (str, "the name of a table"),
    "last": (_at_least(1), "a whole number, at least 1"),
    "order": (_among(*_ORDERS), " or ".join(_ORDERS)),
    "zone": (_zone, "an IANA time zone such as Europe/Paris"),
    "normalise": (_boolean, "true or false"),
    "codes": (_boolean, "true or false"),
    "similarity": (_boolean, "true or false"),
    "train_only": (_boolean, "true or false"),
    "default": (str, "the value that serving uses"),
    "level": (_boolean, "true or false"),
}
NO_OPTION = ("kind", "side", "group", "role", "skip", "gate")


@dataclass(frozen=True)
class Tagged:
    """What tags say. kind: None for skip and for a type that is left out. history: its group."""

    kind: Input | None
    origin: str
    skip: bool = False
    gate: bool = False
    side: str | None = None
    history: str | None = None
    role: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    own: frozenset[str] = frozenset()


def tagged(feature: FeatureSchema) -> tuple[Tagged, list[str]]:
    """The kind of a feature by its tags, or else its type; and what is wrong with its tags."""
    said, problems = _read(feature)
    own = frozenset(k.removeprefix(PREFIX) for k in feature.own_tags if k.startswith(PREFIX))
    common = {
        "gate": said.get("gate", False),
        "side": said.get("side"),
        "role": said.get("role"),
        "own": own,
    }
    options = {k: v for k, v in said.items() if k not in NO_OPTION}
    if said.get("skip") or said.get("kind") == "skip":
        return Tagged(None, "tag", skip=True, **common), problems
    if said.get("kind") == "history":
        group = said.get("group", feature.view)
        return Tagged(None, "tag", history=group, options=options, **common), problems
    kind = _kind(feature, said)
    if kind is None:
        return Tagged(None, "type", **common), problems
    chosen, more = applied(kind, options, feature=feature, own=own)
    by_tag = chosen != kind or "kind" in said or "order" in said
    return Tagged(chosen, "tag" if by_tag else "type", **common), problems + more


def applied(
    kind: Input, options: Mapping[str, Any], *, feature: FeatureSchema, own: frozenset[str]
) -> tuple[Input, list[str]]:
    """The kind with the options that it has, and those of the field that it has not."""
    known = {f.name for f in fields(kind)}
    problems = [
        f"tag adc.{name} of {feature.key} does not fit: a {d.NAMES[type(kind)]} has no such option"
        for name in options
        if name not in known and name in own
    ]
    chosen = {n: v for n, v in options.items() if n in known}
    if isinstance(chosen.get("default"), str):
        try:
            chosen["default"] = typed(chosen["default"], feature.dtype)
        except ValueError:
            problems.append(
                f"tag adc.default of {feature.key} is {chosen['default']!r}; expected a"
                f" {feature.dtype}"
            )
            del chosen["default"]
    return replace(kind, **chosen), problems


def typed(text: str, dtype: str) -> Any:
    """A text as a value of a Feast type. Raises ValueError."""
    if dtype == "Bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if dtype.startswith("Int"):
        return int(text)
    return float(text) if dtype.startswith("Float") else text


def _kind(feature: FeatureSchema, said: Mapping[str, Any]) -> Input | None:
    kind = said.get("kind")
    by_type = default_kind(feature.dtype)
    if kind is None:
        ordered = isinstance(by_type, d.CategorySet) and feature.dtype.startswith("Array")
        return d.CategorySequence() if "order" in said and ordered else by_type
    made = d.KINDS[kind]()
    assert isinstance(made, Input)
    return made


def _read(feature: FeatureSchema) -> tuple[dict[str, Any], list[str]]:
    said: dict[str, Any] = {}
    problems = []
    for tag, text in feature.tags.items():
        if not tag.startswith(PREFIX):
            continue
        name = tag.removeprefix(PREFIX)
        if name not in _READ:
            problems.append(
                f"tag {tag} of {feature.key} is unknown; known are"
                f" {', '.join(PREFIX + n for n in _READ)}"
            )
            continue
        read, expected = _READ[name]
        try:
            said[name] = read(text)
        except (ValueError, KeyError, OSError):  # ZoneInfo: a KeyError, or an OSError for a folder
            problems.append(f"tag {tag} of {feature.key} is {text!r}; expected {expected}")
    return said, problems
