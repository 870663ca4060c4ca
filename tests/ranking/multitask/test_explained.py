"""Why a candidate scored as it did."""

import numpy as np
import pyarrow as pa
import pytest
from trained_world import SLATE, one_request, trained_world

from adc_features.inputs.rows import Parts
from adc_features.ranking.multitask.explained import explained
from adc_features.ranking.multitask.score import logit


@pytest.fixture(scope="module", params=["ppnet", "xgboost"])
def world(request):
    return trained_world(request.param)


def scored_without(world, row: int, columns: list[str]) -> float:
    """The score of a row whose columns are null, by the ranker itself."""
    table = world.parts["item"].table.slice(row, 1)
    for name in columns:
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.nulls(1, table[name].type))
    score, _ = world.trained.served(
        world.trained.encoder.encode(Parts.joined(table, world.parts["item"].times[:1]))
    )
    return float(score[0])


def test_a_group_contributes_the_score_less_the_score_without_it(world):
    """Each contribution is that of the same row with the group's columns null."""
    columns = {
        "item": ["price", "colour"],
        "user": ["segment"],
        "request": ["device"],
        "codes": ["codes", "weights", "reliability"],
    }
    for row in (3, 50, 101):
        found = explained(world.trained, world.parts, row)
        whole = scored_without(world, row, [])
        assert found.score == pytest.approx(whole, abs=1e-6)
        assert set(found.groups) == {*columns, "weights"}
        for group, names in columns.items():
            other = scored_without(world, row, names)
            assert found.groups[group].score == pytest.approx(whole - other, abs=1e-6)
            difference = float(logit(np.float64(whole)) - logit(np.float64(other)))
            assert found.groups[group].log_odds["click"] == pytest.approx(difference, abs=1e-4)


def test_weights_of_one_contribute_nothing(world):
    """The weights of the codes are all 1 already."""
    assert explained(world.trained, world.parts, 7).groups["weights"].score == pytest.approx(0)


def test_the_served_values_and_codes_are_told(world):
    """What was read, in which state, and the codes with the weights that they count by; nothing of
    a train-only input."""
    codes = world.parts["item"].table["codes"].to_pylist()
    row = next(r for r, c in enumerate(codes) if c)
    found = explained(world.trained, world.parts, row).inputs
    assert "position" not in found
    price = found["price"]
    assert (price.kind, price.side, price.state) == ("number", "item", "present")
    assert price.values == {"price": world.parts["item"].table["price"][row].as_py()}
    assert (found["sid"].codes, found["sid"].weights) == (codes[row], [1.0])
    assert found["sid"].values["reliability"] == 0.5
    without = explained(world.trained, world.parts, codes.index(None)).inputs["sid"]
    assert (without.state, without.codes, without.values["codes"]) == ("absent", [-1], None)


def test_a_candidate_of_a_request_is_told_as_its_joined_row(world):
    """Online, the user and the request are one row that stands for all candidates."""
    joined = explained(world.trained, world.parts, SLATE + 4).to_dict()
    online = explained(world.trained, one_request(world.parts, SLATE + 4), 4).to_dict()
    assert online["inputs"] == joined["inputs"]
    for group, told in joined["groups"].items():
        assert online["groups"][group]["score"] == pytest.approx(told["score"], abs=1e-6)
