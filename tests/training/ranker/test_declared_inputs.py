"""Declared inputs from rows to probabilities: encoder, training and both scorers together."""

import numpy as np
import pyarrow as pa
from encoder_cases import spec

from adc_features.inputs.declaration import (
    Ranker,
    Task,
    category,
    category_set,
    item_history,
    number,
)
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import FeatureRows, Parts
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.fit_boosted import fit_boosted
from training.ranker.fit_network import FitSettings, fit_network

COUNT = 2_000
TIMES = np.full(COUNT, np.datetime64("2026-03-01T12:00:00", "us"))
SPECS = [
    spec("sku", category(min_count=2, dropout=0.1), "Int64"),
    spec("price", number(log=True, bins=8)),
    spec("segment", category(min_count=2), "String", side="user"),
    spec("tags", category_set(min_count=2), "Array(Int64)", side="user"),
    spec(
        "recent",
        item_history(candidate="sku", match=False),
        side="user",
        source=("recent", "Array(Int64)", "user"),
        candidate=("sku", "Int64", "item"),
    ),
]


def rows() -> pa.Table:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 50, rng.integers(0, 8)).tolist() for _ in range(COUNT)]
    lists[3] = None
    price = rng.gamma(2, 5, COUNT)
    return pa.table(
        {
            "sku": pa.array(rng.integers(0, 50, COUNT), pa.int64()),
            "price": pa.array(price, pa.float64(), mask=price < 2),
            "segment": pa.array(rng.choice(np.array(["a", "b", None], object), COUNT).tolist()),
            "tags": pa.array(lists, pa.list_(pa.int64())),
            "recent": pa.array(lists[::-1], pa.list_(pa.int64())),
        }
    )


def test_declared_inputs_train_and_score():
    """Both models learn from encoded rows, and the network scores a request, whose user is encoded
    once, as it scores joined rows of the same user."""
    table = rows()
    parts = Parts.joined(table, TIMES)
    encoder = InputEncoder.fit(SPECS, parts)
    encoded = encoder.encode(parts, training=True)
    odd = table["sku"].to_numpy() % 2
    labels = (np.random.default_rng(1).random((1, COUNT)) < 0.2 + 0.6 * odd).astype(np.float32)
    learned = (encoded, labels, np.ones_like(labels, bool), np.ones(COUNT))
    ranker = Ranker("feed_v3", [Task("click")], gates=["segment"])
    shape = NetworkShape.of(encoder.layout, ranker, specs=SPECS)
    tensors, _ = fit_network(*learned, shape=shape, settings=FitSettings(batch=128), seed=0)
    network = NetworkScorer(shape, tensors)
    counts = {name: np.asarray(v.counts) for name, v in encoder.vocabularies.items()}
    trees, _ = fit_boosted(
        *learned,
        tasks=shape.tasks,
        columns=BoostedColumns.of(encoder.layout, counts),
        settings=BoostedSettings(max_rounds=40),
        seed=0,
    )
    for model in (network, trees):
        scores = model.predict(encoder.encode(parts))[0]
        assert scores[odd == 1].mean() > scores[odd == 0].mean() + 0.02

    user, items = FeatureRows(table.slice(0, 1), TIMES[:1]), parts["item"]
    request = Parts(
        {"user": user, "request": user, "global": user, "item": items, "pair": items}, COUNT
    )
    repeated = table.slice(0, 1).take(pa.array(np.zeros(COUNT, np.int64)))
    for name in ("sku", "price"):
        place = table.column_names.index(name)
        repeated = repeated.set_column(place, name, table[name])
    joined = Parts.joined(repeated, TIMES)
    for model in (network, trees):
        np.testing.assert_allclose(
            model.predict(encoder.encode(request)),
            model.predict(encoder.encode(joined)),
            atol=1e-6,
            rtol=0,
        )
