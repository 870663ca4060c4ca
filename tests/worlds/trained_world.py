"""A trained ranker with a known truth, without a repository: what a label depends on is drawn.

Requests of six candidates. A click depends on the candidate's price and codes, and on the request's
device; `colour` and the user's `segment` say nothing. `position` is seen in training alone.

Legend: N rows.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from encoder_cases import spec

from adc_features.inputs.declaration import Ranker, Task, category, number, semantic_id
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import FeatureRows, Parts
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.multitask.score import Calibration
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranking.multitask.trained import TrainedRanker
from training.ranker.fit_boosted import fit_boosted
from training.ranker.fit_network import FitSettings, fit_network

SLATE = 6
AT = np.datetime64("2026-03-01T12:00:00", "us")
SPECS = (
    spec("price", number()),
    spec("colour", category(min_count=2)),
    spec("segment", category(min_count=2), "String", side="user"),
    spec("device", category(min_count=2, request=True), "String", side="request"),
    spec(
        "position",
        number(request=True, train_only=True, default=0.0),
        "Float64",
        side="request",
    ),
    spec(
        "sid",
        semantic_id(codebook_size=3),
        codes=("codes", "Array(Int32)", "item"),
        weights=("weights", "Array(Float32)", "item"),
        reliability=("reliability", "Float32", "item"),
    ),
)


class World(NamedTuple):
    """trained: the ranker. parts: N rows. label, user, request: [N]."""

    trained: TrainedRanker
    parts: Parts
    label: np.ndarray
    user: np.ndarray
    request: np.ndarray


def trained_world(model: str, *, requests: int = 400, seeds: int = 1) -> World:
    """Rows, and a "ppnet" or "xgboost" ranker that was trained on them."""
    rng = np.random.default_rng(0)
    count = requests * SLATE
    request = np.repeat(np.arange(requests), SLATE)
    user = rng.integers(0, 60, requests)[request]
    price = rng.normal(size=count)
    code = rng.integers(-1, 3, count)
    device = rng.integers(0, 3, requests)[request]
    logit = 1.5 * price + np.array([0.0, -1.5, 0.0, 1.5])[code + 1] + (device - 1.0)
    label = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    table = pa.table(
        {
            "price": price,
            "colour": np.array(["red", "blue", "green"])[rng.integers(0, 3, count)],
            "segment": np.array(["s0", "s1", "s2"])[user % 3],
            "device": np.array(["phone", "desktop", "tablet"])[device],
            "position": np.tile(np.arange(SLATE, dtype=np.float64), requests),
            "codes": pa.array(
                [None if c < 0 else [c] for c in code.tolist()], pa.list_(pa.int32())
            ),
            "weights": pa.array(
                [None if c < 0 else [1.0] for c in code.tolist()], pa.list_(pa.float32())
            ),
            "reliability": pa.array([None if c < 0 else 0.5 for c in code], pa.float32()),
        }
    )
    parts = Parts.joined(table, np.full(count, AT))
    encoder = InputEncoder.fit(SPECS, parts)
    encoded = encoder.encode(parts, training=True)
    ranker = Ranker("feed", [Task("click")], user=["user"], item=["item"], model=model)
    rows = (encoded, label[None], np.ones((1, count), bool), np.ones(count, np.float32))
    fit = _trees if model == "xgboost" else _network
    return World(
        TrainedRanker(
            "feed",
            ranker,
            {},
            encoder,
            {seed: fit(rows, encoder, ranker, seed) for seed in range(seeds)},
            (),
            (Calibration(),),
        ),
        parts,
        label,
        user,
        request,
    )


def one_request(parts: Parts, row: int) -> Parts:
    """The rows of a request as they arrive online: its user and fields once."""
    first = row // SLATE * SLATE
    many = parts["item"].table.slice(first, SLATE)
    item = FeatureRows(many, parts["item"].times[:SLATE])
    user = FeatureRows(many.slice(0, 1), item.times[:1])
    return Parts({"user": user, "request": user, "global": user, "item": item, "pair": item}, SLATE)


def _network(rows, encoder, ranker, seed):
    shape = NetworkShape.of(encoder.layout, ranker, specs=encoder.specs)
    tensors, _ = fit_network(*rows, shape=shape, settings=FitSettings(), seed=seed, rounds=6)
    return NetworkScorer(shape, tensors)


def _trees(rows, encoder, ranker, seed):
    counts = {name: v.counts for name, v in encoder.vocabularies.items()}
    return fit_boosted(
        *rows,
        tasks=["click"],
        columns=BoostedColumns.of(encoder.layout, counts),
        settings=BoostedSettings(min_child_weight=1.0, learning_rate=0.2),
        seed=seed,
        rounds=(30,),
    )[0]
