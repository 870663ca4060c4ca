"""What each compared ranker may see. Reads: a recipe's name. Writes: Recipe, and Inputs made to it.

All recipes share the dense statistics and differ in one thing at a time, so a paired difference has
one cause.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from adc_features.codes.sids import CodeTimeline, find_rows
from adc_features.errors import GenerationMismatch, InputError
from adc_features.loader.frame import Frame
from adc_features.ranking.inputs import InputEncoder, Inputs, VectorRows, VectorTimeline
from adc_features.ranking.match import code_match, vector_match

MIN_COUNT = 30
"""Training rows that an id needs for an embedding of its own; rarer ids share hash buckets."""


@dataclass(frozen=True)
class Recipe:
    """What one compared ranker may read.

    Parameters
    ----------
    name : str
        What results and directories call it.
    model : {"ppnet", "xgboost"}
        The network, or gradient-boosted trees.
    codes : {"none", "plain", "weighted"}
        `plain`: every existing code counts 1. `weighted`: times its weight; weights and reliability
        are inputs too.
    permuted : {"no", "all", "decile"}
        For a control. `all` gives each item the weight rows of another, by one mapping for all
        time; `decile` only among items that are about as popular.
    vectors : bool
        Raw vectors in the place of codes.
    item_id : bool
        Whether the item's id may be read.

    Examples
    --------
    >>> Recipe("codes_only", codes="plain", item_id=False).model
    'ppnet'

    Source
    ------
    PEPNet, arXiv 2302.01115, for PPNet; XGBoost, arXiv 1603.02754. The controls are ours.
    """

    name: str
    model: Literal["ppnet", "xgboost"] = "ppnet"
    codes: Literal["none", "plain", "weighted"] = "none"
    permuted: Literal["no", "all", "decile"] = "no"
    vectors: bool = False
    item_id: bool = True


RECIPES: Mapping[str, Recipe] = {
    r.name: r
    for r in (
        Recipe("no_sid"),
        Recipe("codes", codes="plain"),
        Recipe("codes_weights", codes="weighted"),
        Recipe("weights_permuted", codes="weighted", permuted="all"),
        Recipe("weights_permuted_in_decile", codes="weighted", permuted="decile"),
        Recipe("codes_no_item_id", codes="weighted", item_id=False),
        Recipe("vectors", vectors=True),
        Recipe("xgboost_no_sid", model="xgboost"),
        Recipe("xgboost_codes_weights", model="xgboost", codes="weighted"),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of this name; raises InputError naming those there are."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; choose from {', '.join(RECIPES)}")
    return RECIPES[name]


@dataclass(frozen=True)
class Sources:
    """What recipes read beside the frame.

    Parameters
    ----------
    sids : CodeTimeline, optional
        Codes through time, of a user's recent items and of permuted weights:
        `adc_features.store.published_timeline(repository, generation)`.
    vectors : VectorTimeline, optional
        Raw vectors through time, for recipes with `vectors`.

    Examples
    --------
    >>> from adc_features.store import published_timeline
    >>> Sources(sids=published_timeline(shop, "g1")).vectors is None
    True

    Source
    ------
    As `Recipe`.
    """

    sids: CodeTimeline | None = None
    vectors: VectorTimeline | None = None


class Exchange(NamedTuple):
    """Who gets whose weight rows. item_ids: sorted [I]; source_ids: [I], a permutation of them. One
    mapping for all time.
    """

    item_ids: np.ndarray
    source_ids: np.ndarray


def exchange(
    frame: Frame, item_ids: np.ndarray, *, within: Literal["all", "decile"], seed: int
) -> Exchange:
    """A random permutation of the items, or one that stays inside deciles of the items' training
    rows.
    """
    rng = np.random.default_rng(seed)
    item_ids = np.unique(item_ids)
    counted, counts = np.unique(frame.item_ids, return_counts=True)
    row, known = find_rows(counted, item_ids)
    popularity = np.where(known, counts[row], 0)
    order = rng.permutation(len(item_ids))
    groups = (
        [order]
        if within == "all"
        else np.array_split(order[np.argsort(popularity[order], kind="stable")], 10)
    )
    source = np.empty(len(item_ids), np.int64)
    for group in groups:
        source[group] = rng.permutation(group)
    return Exchange(item_ids, item_ids[source])


def recipe_inputs(
    frame: Frame,
    recipe: Recipe,
    encoder: InputEncoder,
    sources: Sources,
    *,
    exchanged: Exchange | None = None,
    user: Frame | None = None,
) -> Inputs:
    """The arrays that this recipe shows to its ranker.

    user: one row with the user's features, where `frame` holds candidates of one request and item
    features alone; else each row of `frame` has its own. Raises InputError when the recipe needs
    codes or vectors that are not given, GenerationMismatch when frame and timeline disagree.
    """
    rows = len(frame)
    user = frame if user is None else user
    sid, weight, reliability, match = (
        np.zeros((rows, 0), t) for t in (np.int64, np.float32, np.float32, np.float32)
    )
    vectors = {}
    if recipe.codes != "none":
        timeline = _timeline(frame, recipe, sources)
        codes, weight, known = frame.codes(timeline.length)
        if exchanged is not None:
            row, _ = find_rows(exchanged.item_ids, frame.item_ids)
            weight = timeline.gather(exchanged.source_ids[row], frame.times)[1]
        weight = np.where(codes >= 0, weight if recipe.codes == "weighted" else 1.0, 0.0).astype(
            np.float32
        )
        reliability = known[:, None] if recipe.codes == "weighted" else reliability
        match = code_match(user, timeline, codes, weight, weighted=recipe.codes == "weighted")
        sid = codes.astype(np.int64) + 1
    if recipe.vectors:
        if sources.vectors is None:
            raise InputError(
                f"recipe {recipe.name!r} reads raw vectors and none are given; pass"
                " Sources(vectors=VectorTimeline(...))"
            )
        match = vector_match(frame, sources.vectors)
        vectors = {
            m: VectorRows(
                sources.vectors.matrices[m], sources.vectors.rows(m, frame.item_ids, frame.times)
            )
            for m in sources.vectors.modalities
        }
    return Inputs(
        label=frame.labels,
        user=_for_each(encoder.user_rows(user), rows),
        ids=encoder.ids(frame, user),
        item=encoder.item(frame, user),
        user_state=_for_each(encoder.user_state(user), rows),
        settled=_for_each(encoder.settled(user), rows),
        sid=sid,
        weight=weight,
        reliability=reliability,
        match=match,
        vectors=vectors,
    )


def _for_each(user: np.ndarray, rows: int) -> np.ndarray:
    """What is known of the users for each row: one a row already, or the same for all."""
    return user if len(user) == rows else np.repeat(user, rows, axis=0)


def _timeline(frame: Frame, recipe: Recipe, sources: Sources) -> CodeTimeline:
    if sources.sids is None or frame.generation is None:
        raise InputError(
            f"recipe {recipe.name!r} reads codes; pass a frame that holds them and"
            " Sources(sids=SidTimeline(...))"
        )
    generation = sources.sids.generation
    if generation != frame.generation:
        raise GenerationMismatch(
            f"the frame holds codes of generation {frame.generation!r}, the timeline those of"
            f" {generation!r}; use one generation for both"
        )
    return sources.sids
