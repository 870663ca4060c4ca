"""What each compared ranker may see. Reads: a recipe's name. Writes: Recipe, Exchange.

All recipes share the dense statistics and differ in one thing at a time, so a paired difference has
one cause.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import CodeTimeline, find_rows
from adc_features.errors import GenerationMismatch, InputError
from adc_features.loader.frame import Frame, TrainingFrame

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
    reader : {"plain", "similarity", "gated", "pretrained", "combined", "expected"}
        How codes are read beside their embeddings and their equality with those of the user's
        recent items. `similarity`: of their embeddings too, see `item_history(similarity=True)`.
        `gated`: they share a gate with the id, see `semantic_id(id_input=...)`. `pretrained`: they
        have learned to predict the next item's codes, see `semantic_id(pretrain=...)`. `combined`:
        pairs and combinations too, see `semantic_id(combinations=...)`. `expected`: the mean of
        the two likeliest codes of a position, see `semantic_id(expected=True)`; of generations
        that tell second codes.

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
    reader: Literal["plain", "similarity", "gated", "pretrained", "combined", "expected"] = "plain"


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

READERS: Mapping[str, Recipe] = {
    r.name: r
    for r in (
        Recipe("codes_similarity", codes="plain", reader="similarity"),
        Recipe("codes_gated", codes="plain", reader="gated"),
        Recipe("codes_pretrained", codes="plain", reader="pretrained"),
        Recipe("codes_combined", codes="plain", reader="combined"),
        Recipe("codes_expected", codes="plain", reader="expected"),
    )
}
"""Other ways to read codes, by name: trained where they are asked for, and by no default."""


def recipe(name: str) -> Recipe:
    """The recipe of this name; raises InputError naming those there are."""
    known = {**RECIPES, **READERS}
    if name not in known:
        raise InputError(f"there is no recipe {name!r}; choose from {', '.join(known)}")
    return known[name]


class VectorSource(Protocol):
    """Raw vectors through time, as columns of joined rows: `training.vectors.VectorTimeline`."""

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def columns(self, frame: TrainingFrame) -> dict[str, pa.Array]: ...


@dataclass(frozen=True)
class Sources:
    """What recipes read beside the frame.

    Parameters
    ----------
    sids : CodeTimeline, optional
        Codes through time, of a user's recent items and of permuted weights:
        `adc_features.store.published_timeline(repository, generation)`.
    vectors : VectorSource, optional
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
    vectors: VectorSource | None = None

    def codes(self, frame: Frame, recipe: "Recipe") -> CodeTimeline:
        """Codes through time, for the rows of a frame.

        Parameters
        ----------
        frame : Frame
            The rows.
        recipe : Recipe
            The recipe that reads the codes, for the message.

        Returns
        -------
        CodeTimeline

        Raises
        ------
        InputError
            There are none, or the frame holds none.
        GenerationMismatch
            They are of another generation than those of the frame.
        """
        if self.sids is None or frame.generation is None:
            raise InputError(
                f"recipe {recipe.name!r} reads codes; pass a frame that holds them and"
                " Sources(sids=SidTimeline(...))"
            )
        generation = self.sids.generation
        if generation != frame.generation:
            raise GenerationMismatch(
                f"the frame holds codes of generation {frame.generation!r}, the timeline those of"
                f" {generation!r}; use one generation for both"
            )
        return self.sids


def check_generation(trained_on: str | None, frame: Frame) -> None:
    """Raise GenerationMismatch when a ranker that reads codes is offered those of another
    generation.
    """
    if trained_on is not None and frame.generation != trained_on:
        raise GenerationMismatch(
            f"the ranker was trained on generation {trained_on!r}, the frame holds"
            f" {frame.generation!r}; join the generation it knows or retrain"
        )


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
