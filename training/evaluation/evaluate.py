"""Score trained recipes on rows that they did not see. Reads: scores, TrainingFrames. Writes: the
scores part of metrics.json.
"""

import logging
from collections.abc import Mapping
from typing import Any

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
    """Each of BASELINES that the frame has, float64 [N]; where nothing was known, the mean of the
    other rows, and no events.
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
    return filled


def evaluate(
    scores: Mapping[str, np.ndarray],
    frame: TrainingFrame,
    *,
    trained_on: TrainingFrame,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Metrics of every recipe and the paired differences between them, all on the rows of `frame`.

    scores: recipe name -> probabilities [seeds, N]. trained_on: the training rows; their counts
    make the slices. Each metric is the mean over seeds with a 95 % interval from draws of users
    and, with several seeds, of seeds; paired differences use the same draws. Returns {"rows",
    "label_rate", "gauc_users", "gauc_rows", "baselines", "recipes", "paired"}; undefined values are
    NaN. Raises InputError when the labels have one class.
    """
    bootstrap = PairedBootstrap(frame.labels, frame.user_ids, seed=seed, draws=draws)
    popularity = training_counts(trained_on.item_ids, frame.item_ids)
    slices, deciles = popularity_slices(popularity), _row_deciles(popularity)
    estimates: dict[str, dict[str, Estimate]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        estimates[name] = {"auc": bootstrap.auc(score), "gauc": bootstrap.gauc(score)}
        by_slice = {part: bootstrap.auc(score, mask) for part, mask in slices.items()}
        recipes[name] = {
            metric: estimate.interval() for metric, estimate in estimates[name].items()
        } | {
            "logloss": bootstrap.logloss(score).interval(),
            "tail_auc": by_slice["tail"].interval(),
            "calibration": bootstrap.calibration(score).interval(),
            "expected_calibration_error": float(
                np.mean(
                    [expected_calibration_error(bootstrap.label, s) for s in np.atleast_2d(score)]
                )
            ),
            "deciles": [
                {**facts, "auc": bootstrap.auc(score, mask).interval()} for facts, mask in deciles
            ],
            "slices": {
                part: {"rows": int(slices[part].sum()), "auc": auc.interval()}
                for part, auc in by_slice.items()
            },
        }
        log.info(
            "stage=evaluate recipe=%s auc=%.4f gauc=%.4f",
            name,
            recipes[name]["auc"]["mean"],
            recipes[name]["gauc"]["mean"],
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
    base = {
        "rows": len(frame),
        "label_rate": float(frame.labels.mean()),
        "gauc_users": covered.users,
        "gauc_rows": covered.rows,
    }
    return {**base, "baselines": baselines, "recipes": recipes, "paired": paired}


def _row_deciles(popularity: np.ndarray) -> list[tuple[dict[str, float], np.ndarray]]:
    """Groups of about a tenth of the rows by how often their item was trained on, rarest first;
    equal counts stay together.
    """
    edges = np.unique(np.quantile(popularity, np.linspace(0.1, 0.9, 9), method="higher"))
    group = np.searchsorted(edges, popularity, side="right")
    masks = [group == g for g in np.unique(group)]
    return [({"interactions": float(popularity[m].mean()), "rows": int(m.sum())}, m) for m in masks]
