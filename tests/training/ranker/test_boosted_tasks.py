"""Boosted trees of several tasks: one booster a task, on the labels that count; and models on
disk."""

import json

import numpy as np
import pytest
from encoded_rows import LAYOUT, RANKER, rows_of

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs.encoded import Encoded, InputLayout, Layout
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted import BoostedScorer
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.multitask.ranker import load_model, save_model
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.fit_boosted import fit_boosted
from training.ranker.fit_network import FitSettings, fit_network
from training.ranker.labelled import Labelled

COUNT = 3_000
TASKS = ("click", "buy")
# a history and a bag have a size and an indicator, as their encoders say them
INPUTS = {
    name: InputLayout(
        of.dense if len(of.dense) > 1 or name not in ("tags", "topics") else ("size", "absent"),
        {0: 1} if name in ("tags", "topics") else of.indicators,
        of.slots,
    )
    for name, of in LAYOUT.inputs.items()
}
ROWS = Layout(INPUTS, LAYOUT.tables)
COLUMNS = BoostedColumns.of(
    ROWS, {table: np.full(rows, 50, np.int64) for table, rows in ROWS.tables.items()}
)
SETTINGS = BoostedSettings(max_rounds=30)


def labelled(seed: int = 0) -> Labelled:
    """A click for even brands, a purchase for a high price."""
    rng = np.random.default_rng(seed)
    encoded = rows_of(ROWS, COUNT, seed=seed)
    brand = encoded.blocks["brand"].slots[0].rows
    price = encoded.blocks["price"].dense
    chances = np.where(brand % 2 == 0, 0.9, 0.1), np.where(price[:, 0] > 0, 0.8, 0.1)
    labels = (rng.random((2, COUNT)) < np.stack(chances)).astype(np.float32)
    return Labelled(encoded, labels, rng.random((2, COUNT)) < 0.8, np.ones(COUNT))


def fit(rows: Labelled, **options) -> tuple[BoostedScorer, list]:
    return fit_boosted(
        *rows[:4],
        **{"tasks": TASKS, "columns": COLUMNS, "settings": SETTINGS, "seed": 0, **options},
    )


def test_each_task_learns_its_labels():
    """The booster of each task tells its positives from its negatives, on rows it did not see."""
    scorer, curve = fit(labelled(), holdout=labelled(1))
    later = labelled(2)
    scores = scorer.predict(later.encoded)
    assert scores.shape == (2, COUNT)
    assert scores.dtype == np.float32
    for task, label in enumerate(later.labels):
        assert scores[task][label == 1].mean() - scores[task][label == 0].mean() > 0.15
    assert len(curve) == 30
    assert max(scorer.rounds) <= 30
    assert curve[-1].holdout < curve[0].holdout


def test_masked_rows_grow_no_tree():
    """What stands where the mask is false, and rows that weigh nothing, change no score."""
    rows = labelled()
    other = rows._replace(labels=np.where(rows.mask, rows.labels, np.nan).astype(np.float32))
    weightless = rows._replace(mask=np.ones_like(rows.mask), weights=np.where(rows.mask, 1.0, 0.0))
    expected = fit(rows)[0].predict(rows.encoded)
    for same in (other, weightless):
        np.testing.assert_array_equal(fit(same)[0].predict(rows.encoded), expected)


def test_rounds_by_task():
    """Trees may be counted for each task; a row alone scores as among others."""
    scorer, _ = fit(labelled(), rounds=(3, 7))
    assert scorer.rounds == (3, 7)
    encoded = labelled().encoded
    np.testing.assert_array_equal(
        scorer.predict(encoded.take(np.array([5])))[:, 0], scorer.predict(encoded)[:, 5]
    )
    assert scorer.predict(encoded.take(np.zeros(0, np.int64))).shape == (2, 0)


def test_a_constant_task_is_refused():
    """A task whose labels that count are all equal is refused by its name."""
    rows = labelled()
    with pytest.raises(InputError, match="'buy'"):
        fit(rows._replace(labels=np.stack([rows.labels[0], np.zeros(COUNT)])))
    with pytest.raises(InputError, match=r"'buy'.*none"):
        fit(rows._replace(mask=np.stack([rows.mask[0], np.zeros(COUNT, bool)])))


def networks() -> tuple[NetworkScorer, Encoded]:
    rows = labelled()
    shape = NetworkShape.of(ROWS, RANKER)
    tensors, _ = fit_network(*rows[:4], shape=shape, settings=FitSettings(max_epochs=1), seed=0)
    return NetworkScorer(shape, tensors), rows.encoded


@pytest.mark.parametrize("kind", ["network", "boosted"])
def test_a_saved_model_scores_the_same(tmp_path, kind):
    """A model that was written and read gives the same bits, and no file of it is a pickle."""
    model, encoded = networks() if kind == "network" else (fit(labelled())[0], labelled().encoded)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    np.testing.assert_array_equal(again.predict(encoded), model.predict(encoded))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".ubj"}


def test_a_model_that_does_not_fit_is_refused(tmp_path):
    """A directory without a model, with cut parameters or another shape, is refused in words."""
    with pytest.raises(ArtifactError, match="holds neither"):
        load_model(tmp_path)
    model, _ = networks()
    save_model(model, tmp_path)
    said = (tmp_path / "network.json").read_text()
    facts = json.loads(said)
    facts["shape"]["tables"]["brand"] += 1
    (tmp_path / "network.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"embeddings\.table"):
        load_model(tmp_path)
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(ArtifactError, match="train it again"):
        load_model(tmp_path)
    (tmp_path / "network.json").write_text(said)
    tensors = tmp_path / "network.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="safetensors"):
        load_model(tmp_path)
