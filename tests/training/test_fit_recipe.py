"""Training, saving and judging whole recipes."""

import json

import numpy as np
import pyarrow as pa
import pytest
from ranking_world import GENERATION, day, frame, interactions, sources

from adc_features.artifact import json_text
from adc_features.errors import ArtifactError, GenerationMismatch, InputError
from adc_features.ranking.recipes import READERS, RECIPES
from adc_features.ranking.trained import load_trained
from training.evaluation.evaluate import evaluate
from training.evaluation.results import Evaluation
from training.fit import train


@pytest.fixture(scope="module")
def parts():
    whole = frame(interactions(2500, seed=1))
    return whole.between(None, day(90)), whole.between(day(90), None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_scores(name, parts):
    """One row of probabilities a seed, for every recipe there is."""
    rows, later = parts
    trained = train(rows, name, sources=sources(), seeds=(0, 1))
    scores = trained.predict(later, sources())
    assert scores.shape == (2, len(later))
    assert ((scores > 0) & (scores < 1)).all()
    assert trained.generation == (None if RECIPES[name].codes == "none" else GENERATION)
    assert 1 <= trained.rounds <= len(trained.curve)


def test_a_recipe_of_one_round_holds_no_rows_out(parts):
    """One epoch or 50 trees for each seed, and no curve of held-out losses."""
    for name, rounds in (("codes", 1), ("xgboost_no_sid", 50)):
        short = train(parts[0], name, sources=sources(), seeds=(0, 1), one_round=True)
        assert (short.rounds, short.curve, len(short.ranker.models)) == (rounds, [], 2)


def test_shuffled_labels_cannot_be_ranked():
    """The leakage canary: where labels are coin flips, and statistics hold them, AUC is 0.5 within
    its interval.
    """
    whole = frame(interactions(5000, seed=2, informative=False))
    rows, later = whole.between(None, day(80)), whole.between(day(80), None)
    scores = {
        name: train(rows, name, sources=sources(), seeds=(0, 1)).predict(later, sources())
        for name in ("codes_weights", "xgboost_codes_weights")
    }
    facts = evaluate(scores, later, trained_on=rows)
    for name in scores:
        auc = facts.recipes[name].auc
        assert auc["low"] < 0.5 < auc["high"], name


@pytest.mark.parametrize("name", READERS)
def test_another_reader_of_codes_scores_after_loading_as_before(name, parts, tmp_path):
    """Each way to read codes is declared by a recipe of its own, is in the manifest, and scores
    otherwise than the plain one."""
    rows, later = parts
    trained, plain = (train(rows, n, sources=sources(), seeds=(0,)) for n in (name, "codes"))
    trained.save(tmp_path / "ranker")
    again = load_trained(tmp_path / "ranker", generation=GENERATION)
    assert again.recipe == READERS[name]
    scores = trained.predict(later, sources())
    assert again.predict(later, sources()) == pytest.approx(scores, abs=1e-6)
    assert np.abs(scores - plain.predict(later, sources())).max() > 1e-4


def test_a_saved_ranker_scores_the_same_and_knows_its_generation(parts, tmp_path):
    """A ranker directory is complete or refused, and codes of another generation never reach it."""
    rows, later = parts
    trained = train(rows, "codes_weights", sources=sources(), seeds=(0,))
    trained.save(tmp_path / "ranker")
    again = load_trained(tmp_path / "ranker", generation=GENERATION)
    expected = trained.predict(later, sources())
    assert again.predict(later, sources()) == pytest.approx(expected, abs=1e-6)
    assert again.curve == trained.curve
    with pytest.raises(GenerationMismatch, match=r"g1.*g2"):
        load_trained(tmp_path / "ranker", generation="g2")
    with pytest.raises(GenerationMismatch, match=r"g1.*g2"):
        trained.predict(frame(interactions(200, seed=3), generation="g2"), sources())
    (tmp_path / "ranker" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="never completed"):
        load_trained(tmp_path / "ranker", generation=GENERATION)


def test_metrics_take_the_shape_that_other_tools_read(parts):
    """recipes.<name>.<metric>.{mean,low,high}, paired differences where both are there, JSON
    without NaN.
    """
    rows, later = parts
    rng = np.random.default_rng(0)
    scores = {name: rng.random((2, len(later))) for name in ("no_sid", "codes", "codes_weights")}
    facts = evaluate(scores, later, trained_on=rows, draws=20)
    assert set(facts.paired) == {
        "codes_minus_no_sid",
        "codes_weights_minus_no_sid",
        "codes_weights_minus_codes",
    }
    for metric in ("auc", "gauc", "logloss", "tail_auc", "calibration"):
        assert set(getattr(facts.recipes["codes"], metric)) == {"mean", "low", "high"}
    difference = facts.recipes["codes"].auc["mean"] - facts.recipes["no_sid"].auc["mean"]
    assert facts.paired["codes_minus_no_sid"]["auc"]["mean"] == pytest.approx(difference)
    assert sum(part["rows"] for part in facts.recipes["codes"].slices.values()) == len(later)
    written = json.loads(json_text(facts.to_dict()))  # what is undefined is null there
    assert Evaluation.from_dict(written).to_dict() == written


def test_labels_of_one_class_are_refused(parts):
    """A label column that never says no cannot train a ranker."""
    rows, _ = parts
    ones = rows.table.set_column(
        rows.table.column_names.index("label"), "label", pa.array(np.ones(len(rows), np.float32))
    )
    with pytest.raises(InputError, match="both 0 and 1"):
        train(
            type(rows)(ones, rows.generation, rows.codebook_size, rows.resolution),
            "no_sid",
            sources=sources(),
        )


def test_a_warm_start_keeps_the_embeddings_of_codes_alone(parts, caplog):
    """Tables of codes begin as the older ranker has them, all other inputs are learned anew; a
    recipe without codes has nothing to begin with.
    """
    rows, _ = parts
    first = train(rows, "codes_weights", sources=sources(), seeds=(0,))
    with caplog.at_level("INFO"):
        warm = train(rows, "codes_weights", sources=sources(), seeds=(0,), start=first)
    anew = {i.name for i in warm.ranker.encoder.specs} - {"sid"}
    assert warm.ranker.facts["warm_start"]
    assert set(warm.ranker.facts["anew"]) == anew
    networks = warm.ranker.models[0].shape.settings.networks
    assert f"carried={3 * networks} " in caplog.text
    plain = train(rows, "no_sid", sources=sources(), seeds=(0,), start=first)
    assert not plain.ranker.facts["warm_start"]


def test_seeds_that_do_not_follow_one_another_are_refused(parts):
    """Seeds are numbered from the first on, as a declared ranker's are."""
    with pytest.raises(InputError, match="follow one another"):
        train(parts[0], "no_sid", sources=sources(), seeds=(0, 2))
