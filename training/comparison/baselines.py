"""What a comparison has to beat without codes or a network. Reads: joined rows. Writes: scores.

item_mean            the item's smoothed mean label
user_item_means      the sum of the log odds of the user's and the item's
popularity           the item's number of events
lightgbm             LightGBM on the columns that XGBoost reads of the same statistics

Every statistic is as it was known at the row's time. LightGBM is optional (the extra `report`):
where it is absent, the comparison says so and has the other three.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from adc_features.inputs.encoder import InputEncoder
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.recipes import Sources, recipe
from training.evaluation.evaluate import baseline_scores
from training.fit import recipe_rows
from training.ranker.fitting import older_and_newest

KIND = "baseline"
SHOWN = ("item_mean", "user_item_means", "popularity")
ABSENT = "the package lightgbm is not installed; pip install 'adc-features[report]'"
MAX_ROUNDS, PATIENCE = 500, 30
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "feature_fraction": 0.7,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


def lightgbm_version() -> str | None:
    """Of the package, None where it is absent."""
    try:
        return version("lightgbm")
    except PackageNotFoundError:
        return None


def scores_of_baselines(
    before: TrainingFrame, scored: TrainingFrame, *, seeds: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Scores of each baseline, `<name>/baseline` -> float [S, N] of the scored rows, and which are
    absent and why. before: the rows that LightGBM learns from; the newest tenth of them chooses its
    rounds.
    """
    known = baseline_scores(scored)
    scores = {f"{name}/{KIND}": known[name][None] for name in SHOWN if name in known}
    if lightgbm_version() is None:
        return scores, {"absent": {"lightgbm": ABSENT}}
    scores[f"lightgbm/{KIND}"] = _lightgbm(before, scored, seeds)
    return scores, {}


def _lightgbm(before: TrainingFrame, scored: TrainingFrame, seeds: Sequence[int]) -> np.ndarray:
    import lightgbm

    rows, asked = (
        recipe_rows(frame, recipe("xgboost_no_sid"), Sources()) for frame in (before, scored)
    )
    parts = rows.parts(np.arange(len(before)))
    encoder = InputEncoder.fit(rows.resolution.inputs, parts, seed=seeds[0])
    columns = BoostedColumns.of(encoder.layout, {})
    values = columns.matrix(encoder.encode(parts, training=True, seed=seeds[0])).values
    wanted = columns.matrix(encoder.encode(asked.parts(np.arange(len(scored))))).values
    older, newest = older_and_newest(before.times, np.ones((1, len(before)), bool))
    found = []
    for seed in seeds:
        parameters = {**PARAMETERS, "seed": seed}
        known = lightgbm.Dataset(values[older], before.labels[older])
        chosen = lightgbm.train(
            parameters,
            known,
            MAX_ROUNDS,
            valid_sets=[lightgbm.Dataset(values[newest], before.labels[newest], reference=known)],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        ).best_iteration
        model = lightgbm.train(parameters, lightgbm.Dataset(values, before.labels), chosen)
        found.append(model.predict(wanted))
    return np.stack(found).astype(np.float32)
