"""The generated catalogue and its truth. Reads: adc_features.data.synthetic."""

import numpy as np
import pytest

from adc_features.codes.embeddings import id_array, vector_matrix
from adc_features.codes.reliability import rank_correlation
from adc_features.codes.sids import find_rows
from adc_features.data.dataset import DAY
from adc_features.data.synthetic import noisy_behavior, synthetic, write_truth
from adc_features.errors import InputError


@pytest.fixture(scope="module")
def made():
    return synthetic(seed=3, items=300, users=300, interactions=6_000)


def test_the_same_seed_gives_the_same_catalogue(made):
    """Equal tables and equal truth, twice; another seed gives another."""
    again, other = (
        synthetic(seed=seed, items=300, users=300, interactions=6_000) for seed in (3, 4)
    )
    assert again.dataset.items.equals(made.dataset.items)
    assert again.dataset.interactions.equals(made.dataset.interactions)
    np.testing.assert_array_equal(again.truth.latent, made.truth.latent)
    assert not other.dataset.interactions.equals(made.dataset.interactions)


def test_it_has_what_real_data_has(made):
    """Days only, a long tail, items without image, items still cold late, both labels."""
    data = made.dataset
    assert data.resolution == DAY
    assert data.vector_modalities == ("text", "image")
    assert 0.05 < data.items["vector_image"].null_count / 300 < 0.15
    counts = np.sort(np.unique(id_array(data.interactions["item_id"]), return_counts=True)[1])[::-1]
    assert counts[:30].sum() > 0.3 * counts.sum()
    early = set(data.before(data.windows.validation_start)["item_id"].to_pylist())
    assert len(early) < 300
    assert 0.2 < np.mean(data.interactions["label"].to_numpy()) < 0.9


def test_the_truth_shows_in_the_data(made):
    """Counts follow the true popularity, labels the true quality, text vectors the latent ones."""
    data, truth = made.dataset, made.truth
    rows, known = find_rows(truth.item_ids, id_array(data.interactions["item_id"]))
    assert known.all()
    count = np.bincount(rows, minlength=300)
    assert rank_correlation(count, truth.expected_count) > 0.3
    positive = np.bincount(rows, weights=data.interactions["label"].to_numpy(), minlength=300)
    often = count >= 20
    assert rank_correlation(positive[often] / count[often], truth.quality[often]) > 0.4
    text, _ = vector_matrix(data.items["vector_text"], name="vector_text")
    assert rank_correlation(_cosines(text), _cosines(truth.latent)) > 0.5


def _cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit[:100] @ unit[100:200].T).ravel()


def test_the_truth_is_not_in_the_dataset(made, tmp_path):
    """Nothing that reads the dataset can read the truth: it is a file of its own."""
    assert set(made.dataset.items.column_names) == {
        "item_id",
        "title",
        "category",
        "vector_text",
        "vector_image",
    }
    write_truth(made.truth, tmp_path / "truth.npz")
    assert np.load(tmp_path / "truth.npz")["latent"].shape == (300, 16)


def test_too_small_a_catalogue_is_refused():
    """A long tail needs some items; the message says how many."""
    with pytest.raises(InputError, match="expected at least 100 of each"):
        synthetic(seed=0, items=1)


def test_behaviour_is_as_noisy_as_it_says(made):
    """Without noise behaviour is a linear picture of the latent; with it, what is left of that
    picture falls with the stated reliability.
    """
    as_of = made.dataset.windows.validation_end
    clean, noisy = (noisy_behavior(made, as_of=as_of, noise=noise, seed=1) for noise in (0.0, 2.0))
    warm = clean.items.present["behavior"]
    assert (clean.items.interaction_count > 0).tolist() == warm.tolist()
    signal = clean.items.vectors["behavior"][warm]
    picture = np.linalg.lstsq(made.truth.latent[warm], signal, rcond=None)[0]
    np.testing.assert_allclose(made.truth.latent[warm] @ picture, signal, atol=1e-4)
    assert (clean.reliability[warm] == 1).all()
    assert (noisy.reliability[~warm] == 0).all()
    error = np.square(noisy.items.vectors["behavior"][warm] - signal).mean(1)
    expected = 1 / noisy.reliability[warm] - 1
    assert np.median(error / expected) == pytest.approx(1, abs=0.1)
    assert rank_correlation(noisy.reliability[warm], clean.items.interaction_count[warm]) > 0.5
