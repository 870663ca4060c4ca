"""A trained recipe of the former format: load it, score with it. Reads: ranker directories, frames.

What it reads of a frame stands here by name, as rankers of that format knew nothing else. Rankers
are not trained or written in it any more.

<ranker>/encoder.npz             vocabularies and scales
<ranker>/seed_<n>/               the files of one seed's model
<ranker>/manifest.json           recipe, generation, rounds, curves

Legend: N rows or candidates, S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adc_features.artifact import MANIFEST, within
from adc_features.codes.sids import CodeTimeline
from adc_features.loader.frame import Frame, TrainingFrame
from adc_features.ranking.base import Round
from adc_features.ranking.legacy.features import (
    ID_COLUMNS,
    ITEM_COLUMNS,
    KINDS,
    RECENT_COLUMNS,
    USER_COLUMNS,
)
from adc_features.ranking.legacy.inputs import InputEncoder, Inputs
from adc_features.ranking.legacy.recipe_inputs import recipe_inputs
from adc_features.ranking.recipes import Recipe, Sources, check_generation

FEATURES_READ: Mapping[str, frozenset[str]] = {
    "item_id": frozenset(
        ({name.rpartition(" ")[2] for name in ITEM_COLUMNS} | {*ID_COLUMNS, *KINDS})
        - {"user_id", "item_id"}
    ),
    "user_id": frozenset({name.rpartition(" ")[2] for name in USER_COLUMNS} | {*RECENT_COLUMNS}),
}
"""Features that every ranker of this format reads, by the key that they belong to."""


class Model(Protocol):
    """The model of one seed: P(label = 1), float32 [N]."""

    def predict(self, inputs: Inputs) -> np.ndarray: ...


@dataclass(frozen=True)
class LegacyTrained:
    """One recipe's rankers of the former format; as `ranking.trained.Trained`."""

    recipe: Recipe
    generation: str | None
    encoder: InputEncoder
    rankers: Mapping[int, Model]
    rounds: int
    curve: Sequence[Round]

    def reads(self, key: str) -> frozenset[str]:
        """Names of the features that are read of a key."""
        return FEATURES_READ[key]

    def predict(self, frame: TrainingFrame, sources: Sources) -> np.ndarray:
        """P(label = 1), float32 [S, N], of the rows of a frame."""
        check_generation(self.generation, frame)
        inputs = recipe_inputs(frame, self.recipe, self.encoder, sources)
        return np.stack([ranker.predict(inputs) for ranker in self.rankers.values()])

    def request(self, user: Frame, offered: Frame, timeline: CodeTimeline | None) -> Inputs:
        """A request as `scored` reads it: the asker, one row, and N candidates."""
        return recipe_inputs(offered, self.recipe, self.encoder, Sources(timeline), user=user)

    def scored(self, request: Inputs) -> np.ndarray:
        """P(label = 1) of the first seed's ranker, float32 [N]."""
        return next(iter(self.rankers.values())).predict(request)


def read_legacy(directory: Path, manifest: Mapping[str, Any]) -> LegacyTrained:
    """The ranker of a directory of the former format; neither it nor its scores need torch."""
    recipe = Recipe(**manifest["recipe"])
    load = _model_class(recipe).load
    return LegacyTrained(
        recipe=recipe,
        generation=manifest["generation"],
        encoder=InputEncoder.read(directory / "encoder.npz"),
        rankers={
            seed: load(within(directory, f"seed_{seed}", said_by=f"{directory}/{MANIFEST}"))
            for seed in manifest["seeds"]
        },
        rounds=manifest["rounds"],
        curve=[Round(**r) for r in manifest["curve"]],
    )


def _model_class(recipe: Recipe) -> Any:
    if recipe.model == "xgboost":
        from adc_features.ranking.legacy.boosted import BoostedRanker

        return BoostedRanker
    from adc_features.ranking.legacy.ppnet import PPNetRanker

    return PPNetRanker
