"""What the names in a run's settings stand for. Reads: RunSettings. Writes: settings of stages."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from adc_features.errors import InputError
from adc_features.pipeline.run import RunSettings

T = TypeVar("T")
WARM_SHARE = 0.6
"""Most of a tokenizer's steps that pass before codes are used."""


def behavior_settings(recipe: str) -> Any:
    """The settings of a behaviour recipe; InputError when there is none of that name."""
    from adc_features.encoders.behavior import RECIPES

    return _recipe(RECIPES, recipe, option="behavior")


def behavior_recipe(encoder: str | None, recipe: str | None) -> str | None:
    """The name of the recipe that an encoder and a recipe ask for, None where neither is given.
    Raises InputError for an encoder that there is not, or a recipe of another.
    """
    if encoder is None:
        return recipe
    from adc_features.encoders.behavior import ENCODERS, RECIPES, encoder_of

    if encoder not in ENCODERS:
        raise InputError(f"encoder is {encoder!r}; expected one of {', '.join(ENCODERS)}")
    found = ENCODERS[encoder]
    own = [name for name, made in RECIPES.items() if encoder_of(made()) is found]
    if recipe not in (None, *own):
        raise InputError(
            f"recipe {recipe!r} is none of encoder {encoder!r}; expected one of {', '.join(own)},"
            " or leave the recipe out"
        )
    return recipe or found.recipe


def tokenizer_settings(asked: RunSettings) -> Any:
    """The recipe's settings with what was asked for besides; InputError when this tokenizer has no
    such setting.
    """
    from adc_features.tokenizer.fit import RECIPES

    settings = _recipe(RECIPES, asked.tokenizer, option="tokenizer")
    changes = {
        option: value
        for option in ("reliability", "steps")
        if (value := getattr(asked, option)) is not None
    }
    if unknown := sorted(changes.keys() - {f.name for f in fields(settings)}):
        raise InputError(
            f"tokenizer {asked.tokenizer!r} has no {', '.join(unknown)}; leave the option out"
        )
    if "steps" in changes and hasattr(settings, "warmup_steps"):
        most = int(WARM_SHARE * changes["steps"])  # the rest trains on codes
        changes["warmup_steps"] = min(settings.warmup_steps, most)
    return replace(settings, **changes)


def _recipe(recipes: Mapping[str, Callable[[], T]], name: str, *, option: str) -> T:
    if name not in recipes:
        raise InputError(f"{option} is {name!r}; expected one of {', '.join(recipes)}")
    return recipes[name]()
