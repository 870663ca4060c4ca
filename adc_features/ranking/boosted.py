"""XGBoost on the same frame: codes are categories, weights and statistics numbers. Reads: Inputs.
Writes: probabilities.

Ids have no column of their own: tens of thousands of categories are learned by heart, their running
statistics are not.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import xgboost as xgb

from adc_features.ranking.base import Progress, Ranker, Round
from adc_features.ranking.inputs import Inputs


@dataclass(frozen=True)
class BoostedSettings:
    """Plain XGBoost parameters under their own names."""

    max_rounds: int = 300
    max_depth: int = 4
    learning_rate: float = 0.06
    subsample: float = 0.7
    colsample_bytree: float = 0.7
    min_child_weight: float = 20.0
    threads: int = 1


class BoostedRanker:
    """Gradient-boosted trees as a Ranker. codebook_size: K, so that training and later rows share
    their categories.
    """

    round_cost = 0.0

    def __init__(self, settings: BoostedSettings, *, codebook_size: int) -> None:
        self.settings, self.codebook_size = settings, codebook_size
        self.booster: xgb.Booster | None = None

    def begin_at(self, older: Ranker) -> None:
        """Trees are grown anew: an older one's splits are on the older ids and scales."""

    def fit(
        self,
        inputs: Inputs,
        *,
        seed: int,
        rounds: int | None = None,
        holdout: Inputs | None = None,
        progress: Progress | None = None,
    ) -> list[Round]:
        s = self.settings
        parameters = {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "max_depth": s.max_depth,
            "learning_rate": s.learning_rate,
            "subsample": s.subsample,
            "colsample_bytree": s.colsample_bytree,
            "min_child_weight": s.min_child_weight,
            "nthread": s.threads,
            "seed": seed,
        }
        rounds = rounds or s.max_rounds
        train = self._matrix(inputs)
        watched = [(train, "train")] + (
            [(self._matrix(holdout), "holdout")] if holdout is not None else []
        )
        history: dict[str, dict[str, list[float]]] = {}
        self.booster = xgb.train(
            parameters, train, rounds, evals=watched, evals_result=history, verbose_eval=False
        )
        if progress is not None:
            progress("train xgboost", rounds, rounds)
        held = history["holdout"]["logloss"] if holdout is not None else [None] * rounds
        return [
            Round(i + 1, a, b)
            for i, (a, b) in enumerate(zip(history["train"]["logloss"], held, strict=True))
        ]

    def predict(self, inputs: Inputs) -> np.ndarray:
        if self.booster is None:
            raise RuntimeError("predict before fit or load")
        return self.booster.predict(self._matrix(inputs))

    def save(self, directory: Path) -> None:
        if self.booster is None:
            raise RuntimeError("save before fit or load")
        self.booster.save_model(directory / "trees.ubj")
        (directory / "boosted.json").write_text(
            json.dumps({"settings": asdict(self.settings), "codebook_size": self.codebook_size}),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        facts = json.loads((directory / "boosted.json").read_text(encoding="utf-8"))
        ranker = cls(BoostedSettings(**facts["settings"]), codebook_size=facts["codebook_size"])
        ranker.booster = xgb.Booster(model_file=directory / "trees.ubj")
        return ranker

    def _matrix(self, inputs: Inputs) -> xgb.DMatrix:
        """From one plain array: through pandas categories the same trees and scores cost a request
        of 500 rows three times as long.
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
