"""A run whose behaviour reads the items' content."""

from datetime import timedelta

import numpy as np
import pytest

from adc_features.codes.embeddings import id_array
from adc_features.data.dataset import write_dataset
from adc_features.data.synthetic import synthetic
from adc_features.encoders import behavior
from adc_features.pipeline.context import content_vectors, cutoffs_of, dataset_of
from adc_features.pipeline.continuation import state_until
from adc_features.pipeline.run import Run, RunSettings
from adc_features.pipeline.stages import BEHAVIOR_STAGE, DATA


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("behaviour")
    made = synthetic(seed=0, items=100, users=100, interactions=1200)
    write_dataset(made.dataset, place / "shop")
    found = Run.start(
        place / "run", RunSettings(str(place / "shop"), snapshots=1, behavior="wmf_content")
    )
    found.ensure(DATA)
    found.ensure(BEHAVIOR_STAGE)
    return found


def test_a_run_and_its_snapshot_hold_what_one_series_does(run):
    """Oracle: one series through the run's cut-offs and a later one, with the catalogue's content;
    the state of the snapshot continues the run's.
    """
    dataset, cutoffs = dataset_of(run), cutoffs_of(run)
    later = cutoffs[-1] + timedelta(days=7)
    vectors, present = content_vectors(dataset, pytest.fail)
    content = {m: (vectors[m], present[m]) for m in vectors}
    ids = id_array(dataset.items["item_id"])
    expected = behavior.behavior_series(
        dataset.before(later),
        ids,
        cutoffs=[*cutoffs, later],
        settings=behavior.RECIPES["wmf_content"](),
        seed=run.settings.seed,
        content=[content] * (len(cutoffs) + 1),
    )
    series = np.load(run.output("behavior") / "series.npz")
    np.testing.assert_array_equal(series["vectors"], [s.vectors for s in expected[:-1]])
    state = state_until(run, dataset, later)
    np.testing.assert_array_equal(state.over(ids).vectors, expected[-1].vectors)


def test_a_first_answer_compares_no_halves(run, tmp_path, monkeypatch):
    """With `quick` there are vectors at every cut-off, and no encoder of half of the events."""
    monkeypatch.setattr(behavior, "half_agreement", pytest.fail)
    settings = RunSettings(run.settings.source, snapshots=1, behavior="quick")
    quick = Run.start(tmp_path / "run", settings)
    quick.ensure(DATA)
    quick.ensure(BEHAVIOR_STAGE)
    series = np.load(quick.output("behavior") / "series.npz")
    assert series["present"].any(axis=1).all()
    assert np.isnan(series["half_agreement"]).all()
