"""What the report is made of: names, numbers and what intervals say. Reads: values of metrics.json.
Writes: text.

A part of the metrics may be missing or null anywhere: readers here give None or an empty mapping
for it, never an error.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

LABELS = {
    "no_sid": "no codes",
    "codes": "codes",
    "codes_weights": "codes + weights",
    "weights_permuted": "weights permuted",
    "weights_permuted_in_decile": "permuted within decile",
    "codes_no_item_id": "codes, no item id",
    "vectors": "raw vectors",
    "xgboost_no_sid": "XGBoost, no codes",
    "xgboost_codes_weights": "XGBoost, codes + weights",
    "codes_weights_retroactive": "retroactive codes + weights",
}
"""Recipe -> its name on the page, in the page's order; other recipes follow under their own
names.
"""

COLOURS = {
    "no_sid": "var(--grey)",
    "codes": "var(--blue)",
    "codes_weights": "var(--orange)",
    "codes_weights_retroactive": "var(--red)",
}

QUESTIONS = {
    ("codes_weights", "no_sid"): "Do codes and weights help?",
    ("codes", "no_sid"): "Do codes alone help?",
    ("codes_weights", "codes"): "Do weights add to codes?",
    ("codes_weights", "weights_permuted"): "Do the weights' values matter?",
    ("codes_weights", "weights_permuted_in_decile"): "Do weights say more than popularity?",
    ("codes_weights", "codes_no_item_id"): "Does the item id add to codes?",
    ("codes_no_item_id", "no_sid"): "Can codes replace the item id?",
    ("codes_weights", "vectors"): "Do codes match raw vectors?",
    ("vectors", "no_sid"): "Do raw vectors help?",
    ("codes_weights_retroactive", "codes_weights"): "How large is the retroactive leak?",
    ("xgboost_codes_weights", "xgboost_no_sid"): "Do codes and weights help trees?",
}
ABSENT, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
CHANCE = "no difference can be told apart from chance"


class Interval(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float


def mapping(value: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping found under `keys`; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return (
        float(value)
        if isinstance(value, int | float | np.number) and math.isfinite(value)
        else None
    )


def interval(value: Any) -> Interval | None:
    """{mean, low, high}, when all three are finite."""
    mean, low, high = (number(mapping(value).get(part)) for part in Interval._fields)
    return None if mean is None or low is None or high is None else Interval(mean, low, high)


def ordered(recipes: Iterable[str]) -> list[str]:
    """Recipes in the page's order."""
    rank = list(LABELS)
    return sorted(recipes, key=lambda r: rank.index(r) if r in rank else len(rank))


def label(recipe: str) -> str:
    """A recipe's name on the page; one that reads later codes says so."""
    name = LABELS.get(recipe, recipe.replace("_", " "))
    return f"{name} (leaks the future)" if leaks(recipe) else name


def value_text(value: Any) -> str:
    """A value for a reader: numbers shortened, what holds several values listed, absent as a
    dash.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {value_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    if isinstance(value, bool | str):
        return str(value)
    if (found := number(value)) is None:
        return ABSENT if value is None or isinstance(value, float) else str(value)
    return f"{found:,.0f}" if abs(found) >= 1000 or found % 1 == 0 else f"{found:.4g}"


def says(found: Interval | None) -> str:
    """What an interval of a difference says, in words."""
    if found is None:
        return "not measured"
    if found.low <= 0 <= found.high:
        return CHANCE
    return "better" if found.low > 0 else "worse"


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def decimals(value: Any, digits: int = 2) -> str:
    """A number with fixed decimals; a dash where there is none."""
    found = number(value)
    return ABSENT if found is None else f"{found:.{digits}f}"


def percent(value: Any) -> str:
    """A share in percent; a dash where there is none."""
    share = number(value)
    return ABSENT if share is None else f"{share:.1%}" if 0 < share < 1 else f"{share:.0%}"


def leaks(recipe: str) -> bool:
    """Whether a recipe reads codes that were not servable at the time of its rows."""
    return "retroactive" in recipe


def tone(found: Interval) -> str:
    """The style of what an interval says: good, bad or chance."""
    return {"better": "good", "worse": "bad"}.get(says(found), "chance")


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def count_text(value: Any) -> str:
    """A mean number of interactions, as short as a tick label has to be."""
    if (found := number(value)) is None:
        return ABSENT
    return (
        f"{found / 1000:.1f}k"
        if found >= 1000
        else f"{found:.1f}"
        if 0 < found < 3 and found % 1
        else f"{found:.0f}"
    )
