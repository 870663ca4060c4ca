"""The compared recipes as declarations over the views of a run's repository. Reads: nothing.
Writes: Rankers.

The statistics of `user_activity` and `item_profile` enter as any features of a repository do. All
recipes share them and differ in one thing at a time, so that a paired difference has one cause. Who
a user is enters by the level: see `adc_features.ranking.multitask.shape`.
"""

from collections.abc import Mapping

from adc_features.data.statistics import SMOOTHING
from adc_features.errors import InputError
from adc_features.inputs.declaration import (
    AnyInput,
    Ranker,
    Task,
    category,
    item_history,
    match,
    number,
    remainder,
    semantic_id,
    time,
)
from adc_features.ranking.features import KINDS, SETTLED_DAYS
from adc_features.ranking.recipes import MIN_COUNT, Recipe
from adc_features.ranking.recipes import RECIPES as ALL_RECIPES

SETTINGS = {"networks": 4, "dropout": 0.5, "max_epochs": 2}
ITEM_COUNTS = ("item_event_count", "item_event_count_30d", "item_event_count_120d")
ITEM_MEANS = (
    "item_label_mean",
    "item_rating_mean",
    "item_residual_mean",
    "item_label_mean_30d",
    "item_label_mean_120d",
)
RECIPES: Mapping[str, Recipe] = {
    name: recipe
    for name, recipe in ALL_RECIPES.items()
    if recipe.model == "ppnet" and recipe.permuted == "no" and not recipe.vectors
}
"""The recipes that a declaration says; controls change the rows, and vectors are no features of the
run's repository."""


def declared_recipe(name: str, service: str) -> Ranker:
    """The declaration of a recipe.

    Parameters
    ----------
    name : str
        Of RECIPES.
    service : str
        The feature service of the run's repository.

    Raises
    ------
    InputError
        No declaration says this recipe.
    """
    if name not in RECIPES:
        raise InputError(f"no declaration for {name!r}; there are {', '.join(RECIPES)}")
    codes, item_id = RECIPES[name].codes, RECIPES[name].item_id
    inputs: dict[str, AnyInput] = {
        "user_id": category(min_count=MIN_COUNT, dropout=0.1, gate_only=True),
        **({"item_id": category(min_count=MIN_COUNT, dropout=0.1)} if item_id else {}),
        **{of: category(min_count=MIN_COUNT) for of in ("item_brand", "item_category")},
        **item_statistics(),
        **user_statistics(),
    }
    gates = ["user_id", *(["item_id"] if item_id else []), "user_event_count"]
    if codes != "none":
        weighted = codes == "weighted"
        inputs["sid"] = semantic_id(weights=weighted)
        inputs["recent"] = item_history(
            source="user_recent_items",
            times="user_recent_times",
            labels="user_recent_labels",
            mean="user_label_mean",
            codes=True,
            embedded=False,
        )
        gates.append("sid")
    return Ranker(
        service,
        [Task("label")],
        inputs,
        name=name,
        gates=gates,
        user=["user_id"],
        item=["item_id"],
        settings=SETTINGS,
    )


def item_statistics() -> dict[str, AnyInput]:
    """Of the item, its brand, category and path, and the user's taste for brand and path."""
    counts = (*ITEM_COUNTS, *(f"{of}_event_count" for of in ("brand", "category", "path")))
    means = (
        *ITEM_MEANS,
        *(f"{of}_{what}" for of in ("brand", "category") for what in ("label_mean",)),
        *(f"{of}_residual_mean" for of in ("brand", "category", "path")),
    )
    return {
        **{name: number(log=True) for name in counts},
        **{name: number() for name in means},
        "item_last_time": time(),
        **{
            f"taste_{ours}": match(
                source=theirs,
                candidate=ours,
                values="user_recent_residuals",
                centred=True,
                standardise=True,
            )
            for ours, theirs in KINDS.items()
        },
    }


def user_statistics() -> dict[str, AnyInput]:
    """How often and how well the user rates, now and some time ago: the level."""
    return {
        "user_event_count": number(log=True, level=True),
        **{f"user_{what}_mean": number(level=True) for what in ("label", "rating", "residual")},
        "user_last_time": time(level=True),
        "settled_count": remainder(
            source="user_event_count",
            times="user_recent_times",
            days=SETTLED_DAYS,
            log=True,
            level="settled",
        ),
        "settled_residual": remainder(
            source="user_residual_mean",
            values="user_recent_residuals",
            times="user_recent_times",
            count="user_event_count",
            days=SETTLED_DAYS,
            smoothing=SMOOTHING,
            level="settled",
        ),
    }
