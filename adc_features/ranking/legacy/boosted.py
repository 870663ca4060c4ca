"""Boosted trees on the same inputs: codes are categories, weights and statistics numbers. Reads:
Inputs, ranker directories. Writes: probabilities, ranker directories.

Ids have no column of their own: tens of thousands of categories are learned by heart, their running
statistics are not.
"""

import json
from pathlib import Path
from typing import Self

import numpy as np

from adc_features.extras import extra_modules
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.legacy.inputs import Inputs

with extra_modules():
    import xgboost as xgb


class BoostedRanker:
    """Gradient-boosted trees as a `Ranker`.

    Parameters
    ----------
    settings : BoostedSettings
        What the trees were grown with.
    codebook_size : int
        K, so that training and later rows share their categories.
    booster : xgboost.Booster
        The trees.

    Source
    ------
    XGBoost, arXiv 1603.02754.
    """

    def __init__(
        self, settings: BoostedSettings, *, codebook_size: int, booster: xgb.Booster
    ) -> None:
        self.settings, self.codebook_size, self.booster = settings, codebook_size, booster

    def predict(self, inputs: Inputs) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        inputs : Inputs
            Rows as the ranker's encoder makes them.

        Returns
        -------
        ndarray
            P(label = 1), float32 [N].
        """
        return self.booster.predict(boosted_matrix(inputs))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the directory of one seed."""
        facts = json.loads((directory / "boosted.json").read_text(encoding="utf-8"))
        return cls(
            BoostedSettings(**facts["settings"]),
            codebook_size=facts["codebook_size"],
            booster=xgb.Booster(model_file=directory / "trees.ubj"),
        )


def boosted_matrix(inputs: Inputs) -> xgb.DMatrix:
    """The inputs as XGBoost reads them: numbers `d0`, `d1`, ..., then codes `sid0`, `sid1`, ...

    From one plain array: through pandas categories the same trees and scores cost a request of 500
    rows three times as long.
    """
    dense = [
        inputs.item,
        inputs.user_state,
        inputs.settled,
        inputs.weight,
        inputs.reliability,
        inputs.match,
    ]
    numbers, codes = sum(part.shape[1] for part in dense), inputs.sid.shape[1]
    return xgb.DMatrix(
        np.concatenate([*dense, inputs.sid.astype(np.float32)], axis=1),
        label=inputs.label,
        feature_names=[f"d{i}" for i in range(numbers)] + [f"sid{i}" for i in range(codes)],
        feature_types=["q"] * numbers + ["c"] * codes,
        enable_categorical=True,
    )
