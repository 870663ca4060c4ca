"""What a ranker leans on is what its labels depend on."""

import numpy as np
import pytest
from trained_world import trained_world

from adc_features.errors import InputError
from training.ranker.importance import RowGroups, importance


@pytest.fixture(scope="module", params=["ppnet", "xgboost"])
def world(request):
    return trained_world(request.param, seeds=2)


@pytest.fixture(scope="module")
def found(world):
    return importance(
        world.trained,
        world.trained.encoder.encode(world.parts),
        world.label,
        user=world.user,
        request=world.request,
        permutations=3,
    )


def test_an_input_matters_as_far_as_the_labels_depend_on_it(found):
    """Price and codes order candidates, the device moves all of a request, the rest does nothing:
    the intervals say which is which."""
    inputs = found.inputs
    assert set(list(inputs)[:2]) == {"price", "sid"}
    assert inputs["price"].drop["request_gauc"]["low"] > 0.1
    assert inputs["sid"].drop["request_gauc"]["low"] > 0.02
    assert inputs["device"].drop["logloss"]["low"] > 0.02
    assert abs(inputs["device"].drop["request_gauc"]["mean"]) < 0.02
    for idle in ("colour", "segment"):
        assert abs(inputs[idle].drop["auc"]["mean"]) < 0.02


def test_groups_are_sides_with_codes_and_weights_apart(found):
    """Codes matter and their weights, which are all 1, do not; the group of an item is its inputs
    but the codes."""
    groups = found.groups
    assert set(groups) == {"user", "item", "request", "codes", "weights"}
    assert groups["item"].inputs == ("price", "colour")
    assert groups["codes"].drop["request_gauc"]["low"] > 0.02
    for metric in ("auc", "request_gauc", "logloss"):
        assert groups["weights"].drop[metric]["mean"] == pytest.approx(0, abs=1e-6)


def test_train_only_inputs_are_not_named(found):
    """A position serves as its default alone, so that nothing can lean on it."""
    assert "position" not in found.inputs
    assert all("position" not in group.inputs for group in found.groups.values())


def test_without_exchange_nothing_changes(world):
    """The base is the ranker's own quality, and rows without a label are left out of it."""
    label = world.label.copy()
    label[:600] = np.nan
    encoded = world.trained.encoder.encode(world.parts)
    found = importance(
        world.trained, encoded, label, user=world.user, request=world.request, permutations=1
    )
    assert (found.rows, found.of, found.positives) == (1800, 1800, int(world.label[600:].sum()))
    from sklearn.metrics import roc_auc_score

    each = world.trained.probabilities(encoded)[:, 0, 600:]
    expected = np.mean([roc_auc_score(world.label[600:], p) for p in each])
    assert found.base["auc"]["mean"] == pytest.approx(expected)


def test_a_large_window_is_sampled_by_whole_requests(world):
    """At most so many rows are scored, and none of a request without the others."""
    encoded = world.trained.encoder.encode(world.parts)
    found = importance(
        world.trained,
        encoded,
        world.label,
        request=world.request,
        permutations=1,
        most_rows=1_000,
    )
    assert found.of == 2400
    assert 900 < found.rows <= 1_000
    assert found.rows % 6 == 0


def test_an_unknown_task_is_refused(world):
    """The message names the tasks that there are."""
    encoded = world.trained.encoder.encode(world.parts)
    with pytest.raises(InputError, match="no task 'buy'; the ranker's are click"):
        importance(world.trained, encoded, world.label, task="buy")


def test_rows_are_exchanged_within_or_among_groups():
    """Within groups they are permuted; among groups each takes the rows of one other group."""
    rng = np.random.default_rng(0)
    groups = RowGroups.of(np.array([5, 3, 5, 9, 3, 5]))
    inside = groups.within(rng)
    assert sorted(inside) == list(range(6))
    assert (groups.number[inside] == groups.number).all()
    among = groups.number[groups.among(rng)]
    for number in range(3):
        assert len(set(among[groups.number == number])) == 1
    assert not groups.single
    assert RowGroups.of(np.arange(4)).single
