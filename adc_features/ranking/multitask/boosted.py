"""Boosted trees of several tasks on declared inputs, one booster a task. Reads: Encoded. Writes:
probabilities.

Legend: N rows, T tasks, F columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from adc_features.inputs.encoded import Encoded
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns, BoostedMatrix


class BoostedScorer:
    """Probabilities of boosted trees.

    Parameters
    ----------
    tasks : sequence of str
        In the order of the outputs.
    settings : BoostedSettings
        What the trees were grown with.
    columns : BoostedColumns
        What they read.
    boosters : sequence of xgboost.Booster
        One for each task.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        settings: BoostedSettings,
        columns: BoostedColumns,
        boosters: Sequence[Any],
    ) -> None:
        self.tasks, self.settings, self.columns = tuple(tasks), settings, columns
        self.boosters = list(boosters)
        for booster in self.boosters:
            booster.set_param({"nthread": settings.threads})

    @property
    def rounds(self) -> tuple[int, ...]:
        """Trees of each task."""
        return tuple(booster.num_boosted_rounds() for booster in self.boosters)

    def predict(self, encoded: Encoded) -> np.ndarray:
        """P(label = 1) by task: float32 [T, N]."""
        if not len(encoded):
            return np.empty((len(self.tasks), 0), np.float32)
        matrix = dmatrix(self.columns.matrix(encoded))
        return np.stack([booster.predict(matrix) for booster in self.boosters])


def dmatrix(
    matrix: BoostedMatrix,
    *,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    threads: int = 1,
) -> Any:
    """The columns as XGBoost reads them.

    From one plain array: through pandas categories the same trees and scores cost a request of 500
    rows three times as long. Columns go by their number, as XGBoost forbids some letters in names.
    """
    from adc_features.extras import extra_modules

    with extra_modules():
        import xgboost as xgb

    return xgb.DMatrix(
        matrix.values,
        label=labels,
        weight=weights,
        feature_types=list(matrix.types),
        enable_categorical=True,
        nthread=threads,
    )
