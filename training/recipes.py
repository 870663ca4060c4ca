"""The compared recipes as declarations over the views of a run's repository. Reads: nothing.
Writes: Rankers.

The statistics of `user_activity` and `item_profile` enter as any features of a repository do. All
recipes share them and differ in one thing at a time, so that a paired difference has one cause. Who
a user is enters by the level: see `adc_features.ranking.multitask.shape`. Trees read the numbers
and the codes, and no ids.

Controls are declared as what they control: they change the rows, not the inputs.
"""

from collections.abc import Sequence

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
    vector,
)
from adc_features.ranking.recipes import MIN_COUNT, Recipe, recipe
from training.vectors import column_names

KINDS = {"item_brand": "user_recent_brands", "item_path": "user_recent_paths"}
"""Kinds of items that a user may like or dislike: the item's column, and the same of the user's
recent items."""
SETTLED_DAYS = 60
"""A user's settled state leaves out the last 60 days: within one user and a window of some weeks it
hardly varies."""
SETTINGS = {"networks": 4, "dropout": 0.5, "max_epochs": 2}
COMBINATIONS = 128
"""Pairs of positions, and combinations of codes, where a recipe has them."""
PRETRAIN = 3
"""Epochs in which codes learn to predict the next item's, where a recipe has them do so."""
GATES = ("user_id", "item_id", "user_event_count", "sid")
ITEM_COUNTS = ("item_event_count", "item_event_count_30d", "item_event_count_120d")
ITEM_MEANS = (
    "item_label_mean",
    "item_rating_mean",
    "item_residual_mean",
    "item_label_mean_30d",
    "item_label_mean_120d",
)


def declared_recipe(
    wanted: Recipe | str, service: str, *, modalities: Sequence[str] = ()
) -> Ranker:
    """The declaration of a recipe.

    Parameters
    ----------
    wanted : Recipe or str
        A recipe, or the name of one.
    service : str
        The feature service of the run's repository.
    modalities : sequence of str
        Of the raw vectors that were joined, for a recipe that reads them.

    Raises
    ------
    InputError
        There is no such recipe.
    """
    of = recipe(wanted) if isinstance(wanted, str) else wanted
    trees = of.model == "xgboost"
    ids = {} if trees else _ids(of)
    inputs: dict[str, AnyInput] = {**ids, **item_statistics(), **user_statistics()}
    if of.codes != "none":
        inputs |= _codes(weighted=of.codes == "weighted", reader=of.reader)
    if of.vectors:
        inputs |= _vectors(modalities)
    return Ranker(
        service,
        [Task("label")],
        inputs,
        name=of.name,
        gates=() if trees else [g for g in GATES if g in inputs],
        user=["user_id"],
        item=["item_id"],
        model=of.model,
        settings=None if trees else SETTINGS,
    )


def _ids(of: Recipe) -> dict[str, AnyInput]:
    """Who and what, as embeddings."""
    return {
        "user_id": category(min_count=MIN_COUNT, dropout=0.1, gate_only=True),
        **({"item_id": category(min_count=MIN_COUNT, dropout=0.1)} if of.item_id else {}),
        **{name: category(min_count=MIN_COUNT) for name in ("item_brand", "item_category")},
    }


def _codes(*, weighted: bool, reader: str) -> dict[str, AnyInput]:
    """The candidate's codes, and how they meet those of the user's recent items."""
    return {
        "sid": semantic_id(
            weights=weighted,
            id_input="item_id" if reader == "gated" else None,
            id_count="item_event_count" if reader == "gated" else None,
            combinations=COMBINATIONS if reader == "combined" else 0,
            pretrain=PRETRAIN if reader == "pretrained" else 0,
            expected=reader == "expected",
        ),
        "recent": item_history(
            source="user_recent_items",
            times="user_recent_times",
            labels="user_recent_labels",
            mean="user_label_mean",
            codes=True,
            embedded=False,
            similarity=reader == "similarity",
        ),
    }


def _vectors(modalities: Sequence[str]) -> dict[str, AnyInput]:
    """Raw vectors in the place of codes, and how they meet those of the user's recent items."""
    inputs: dict[str, AnyInput] = {}
    for modality in modalities:
        names = column_names(modality)
        inputs |= {names.vector: vector(), names.match: number(), names.liking: number()}
    return inputs


def item_statistics() -> dict[str, AnyInput]:
    """Of the item, its brand, category and path, and the user's taste for brand and path."""
    counts = (*ITEM_COUNTS, *(f"{of}_event_count" for of in ("brand", "category", "path")))
    means = (
        *ITEM_MEANS,
        *(f"{of}_label_mean" for of in ("brand", "category")),
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
