"""The compared recipes as declarations over the views of a run's repository. Reads: nothing.
Writes: Rankers.

The statistics of `user_activity` and `item_profile` enter as any features of a repository do. All
recipes share them and differ in one thing at a time, so that a paired difference has one cause. Who
a user is enters by the level: see `adc_features.ranking.multitask.shape`.
"""

from adc_features.data.statistics import SMOOTHING
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

MIN_COUNT = 30
"""Training rows that an id needs for an embedding of its own."""
SETTLED_DAYS = 60
"""A user's settled state leaves out the last 60 days: within one user and a window of some weeks it
hardly varies.
"""
SETTINGS = {"networks": 4, "dropout": 0.5, "max_epochs": 2}
ITEM_COUNTS = ("item_event_count", "item_event_count_30d", "item_event_count_120d")
ITEM_MEANS = (
    "item_label_mean",
    "item_rating_mean",
    "item_residual_mean",
    "item_label_mean_30d",
    "item_label_mean_120d",
)
KINDS = {"item_brand": "user_recent_brands", "item_path": "user_recent_paths"}
"""Kinds of items that a user may like or dislike: the item's column, and the same of the user's
recent items.
"""


def declared(service: str, name: str, *, codes: str, item_id: bool = True) -> Ranker:
    """A recipe of the network.

    Parameters
    ----------
    service : str
        Of the run's repository.
    name : str
        The recipe.
    codes : {"none", "plain", "weighted"}
        As in `adc_features.ranking.recipes.Recipe`.
    item_id : bool
        Whether the item's id is read.
    """
    inputs: dict[str, AnyInput] = {
        "user_id": category(min_count=MIN_COUNT, dropout=0.1, gate_only=True),
        **({"item_id": category(min_count=MIN_COUNT, dropout=0.1)} if item_id else {}),
        **{name: category(min_count=MIN_COUNT) for name in ("item_brand", "item_category")},
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
                source=theirs, candidate=ours, values="user_recent_residuals", centred=True
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
