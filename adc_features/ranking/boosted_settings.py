"""How boosted trees are grown. Writes: BoostedSettings, parameters of XGBoost."""

from dataclasses import dataclass
from typing import Any

from adc_features.errors import InputError


@dataclass(frozen=True)
class BoostedSettings:
    """Plain XGBoost parameters under their own names; max_rounds: trees, threads: `nthread`."""

    max_rounds: int = 300
    max_depth: int = 4
    learning_rate: float = 0.06
    subsample: float = 0.7
    colsample_bytree: float = 0.7
    min_child_weight: float = 20.0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.max_rounds < 1 or self.max_depth < 1 or self.learning_rate <= 0:
            raise InputError(
                f"{self}; expected at least one round, a depth of at least 1 and a learning rate"
                " above 0"
            )

    def parameters(self, *, seed: int) -> dict[str, Any]:
        """What `xgboost.train` takes for one binary label."""
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "min_child_weight": self.min_child_weight,
            "nthread": self.threads,
            "seed": seed,
        }
