"""What a run does where it is asked for a first answer. Reads: settings that were asked for.
Writes: settings, names of recipes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

RECIPES = ("no_sid", "codes_weights")
SETTINGS: Mapping[str, Any] = {
    "seeds": 1,
    "snapshots": 1,
    "behavior": "quick",
    "one_round": True,
}
STEPS = 30
"""Of the tokenizer, in place of 600."""


def quick_recipes(asked: Sequence[str] | None) -> Sequence[str]:
    """The recipes that were asked for, else the two that the headline compares."""
    return asked or RECIPES


def quick_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a quick run: what was asked for holds, the rest is short. steps are left to
    tokenizers that have none."""
    from adc_features.tokenizer.fit import RECIPES as TOKENIZERS
    from adc_features.tokenizer.settings import AdcSettings

    given = {name: value for name, value in asked.items() if value is not None}
    short = dict(SETTINGS)
    made = TOKENIZERS.get(given.get("tokenizer", "adc"))
    if made is not None and isinstance(made(), AdcSettings):
        short["steps"] = STEPS
    return {**asked, **{k: v for k, v in short.items() if k not in given}}
