"""Score trained recipes on rows that they did not see. Reads: scores, TrainingFrames. Writes:
Evaluation, the scores part of metrics.json.
"""

import logging
from collections.abc import Mapping

import numpy as np

from adc_features.loader.frame import TrainingFrame
from training.evaluation.metrics import (
    DRAWS,
    Estimate,
    PairedBootstrap,
    expected_calibration_error,
    gauc,
    popularity_slices,
    training_counts,
)
from training.evaluation.results import Coverage, Evaluation, RecipeScores

log = logging.getLogger(__name__)

PAIRS = (
    ("codes", "no_sid"),
    ("codes_weights", "no_sid"),
    ("codes_weights", "codes"),
    ("codes_weights", "weights_permuted"),
    ("codes_weights", "weights_permuted_in_decile"),
    ("codes_weights", "codes_no_item_id"),
    ("codes_weights", "vectors"),
    ("codes_weights_retroactive", "codes_weights"),
    ("xgboost_codes_weights", "xgboost_no_sid"),
)
"""The differences that are reported where both recipes were trained."""


BASELINES = {
    "item_mean": "item_label_mean",
    "popularity": "item_event_count",
    "user_mean": "user_label_mean",
}
"""Scores without a ranker, each a statistic as known at the row's time: name -> column of the
joined rows.
"""


def baseline_scores(frame: TrainingFrame) -> dict[str, np.ndarray]:
    """Each of BASELINES that the frame has, float64 [N], and `user_item_means`, the sum of the log
    odds of both means; where nothing was known, the mean of the other rows, and no events.
    """
    found = {
        name: frame.numbers(column)
        for name, column in BASELINES.items()
        if column in frame.table.column_names
    }
    filled = {}
    for name, score in found.items():
        known = np.isfinite(score)
        other = float(score[known].mean()) if known.any() and name != "popularity" else 0.0
        filled[name] = np.where(known, score, other)
    if {"user_mean", "item_mean"} <= set(filled):
        filled["user_item_means"] = _log_odds(filled["user_mean"]) + _log_odds(filled["item_mean"])
    return filled


def _log_odds(probability: np.ndarray) -> np.ndarray:
    """Of a mean label; 0 and 1 are held off, as their odds know no measure."""
    held = np.clip(probability, 1e-3, 1 - 1e-3)
    return np.log(held) - np.log1p(-held)


# a third of it says what goes in and out
def evaluate(
    scores: Mapping[str, np.ndarray],
    frame: TrainingFrame,
    *,
    trained_on: TrainingFrame,
    seed: int = 0,
    draws: int = DRAWS,
) -> Evaluation:
    """Metrics of every recipe and the paired differences between them, all on the same rows.

    Each metric is the mean over seeds with a 95 % interval from draws of users and, with several
    seeds, of seeds; paired differences use the same draws. Undefined values are NaN.

    Parameters
    ----------
    scores
        Recipe name -> probabilities, float [S, N]: a row a seed.
    frame
        The N scored rows.
    trained_on
        The training rows; how often they hold an item makes the slices and deciles.
    seed, draws
        Of the bootstrap.

    Raises
    ------
    InputError
        When the labels have one class.
    """
    bootstrap = PairedBootstrap(frame.labels, frame.user_ids, seed=seed, draws=draws)
    popularity = training_counts(trained_on.item_ids, frame.item_ids)
    estimates: dict[str, dict[str, Estimate]] = {}
    recipes: dict[str, RecipeScores] = {}
    for name, score in scores.items():
        estimates[name] = {"auc": bootstrap.auc(score), "gauc": bootstrap.gauc(score)}
        found = recipes[name] = recipe_scores(bootstrap, score, popularity, **estimates[name])
        log.info(
            "stage=evaluate recipe=%s auc=%.4f gauc=%.4f",
            name,
            found.auc["mean"],
            found.gauc["mean"],
        )
    paired = {
        f"{a}_minus_{b}": {
            metric: (estimates[a][metric] - estimates[b][metric]).interval()
            for metric in ("auc", "gauc")
        }
        for a, b in PAIRS
        if a in estimates and b in estimates
    }
    covered = gauc(bootstrap.label, np.zeros(len(frame)), bootstrap.user)
    baselines = {
        name: {"auc": bootstrap.auc(s).interval(), "gauc": bootstrap.gauc(s).interval()}
        for name, s in baseline_scores(frame).items()
    }
    return Evaluation(
        rows=len(frame),
        label_rate=float(frame.labels.mean()),
        gauc_users=covered.users,
        gauc_rows=covered.rows,
        baselines=baselines,
        recipes=recipes,
        paired=paired,
    )


def recipe_scores(
    bootstrap: PairedBootstrap,
    score: np.ndarray,
    popularity: np.ndarray,
    *,
    auc: Estimate,
    gauc: Estimate,
) -> RecipeScores:
    """Everything that is reported of one recipe: probabilities [S, N] on the bootstrap's rows,
    training rows of each row's item int [N], and its estimates over all rows.
    """
    slices = popularity_slices(popularity)
    by_slice = {part: bootstrap.auc(score, mask).interval() for part, mask in slices.items()}
    errors = [expected_calibration_error(bootstrap.label, s) for s in np.atleast_2d(score)]
    return RecipeScores(
        auc=auc.interval(),
        gauc=gauc.interval(),
        logloss=bootstrap.logloss(score).interval(),
        tail_auc=by_slice["tail"],
        calibration=bootstrap.calibration(score).interval(),
        expected_calibration_error=float(np.mean(errors)),
        deciles=[
            {**facts, "auc": bootstrap.auc(score, mask).interval()}
            for facts, mask in _row_deciles(popularity)
        ],
        slices={
            part: {"rows": int(slices[part].sum()), "auc": found}
            for part, found in by_slice.items()
        },
    )


def code_coverage(frame: TrainingFrame) -> Coverage:
    """How many rows had codes at their time, and how old those were."""
    found = frame.table["sid_found"].to_numpy()
    age = (
        frame.times[found] - frame.table["sid_as_of"].filter(frame.table["sid_found"]).to_numpy()
    ) / np.timedelta64(1, "D")
    return Coverage(
        rows=len(frame),
        with_codes=float(found.mean()),
        age_days=float(age.mean()) if len(age) else float("nan"),
    )


def _row_deciles(popularity: np.ndarray) -> list[tuple[dict[str, float], np.ndarray]]:
    """Groups of about a tenth of the rows by how often their item was trained on, rarest first;
    equal counts stay together.
    """
    edges = np.unique(np.quantile(popularity, np.linspace(0.1, 0.9, 9), method="higher"))
    group = np.searchsorted(edges, popularity, side="right")
    masks = [group == g for g in np.unique(group)]
    return [({"interactions": float(popularity[m].mean()), "rows": int(m.sum())}, m) for m in masks]
