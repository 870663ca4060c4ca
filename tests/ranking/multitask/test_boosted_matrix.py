"""Encoded inputs as columns of trees, checked by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from lists_world import fitted, joined, layout_of, spec

from adc_features.errors import InputError
from adc_features.inputs.declaration import category, category_set, number, semantic_id
from adc_features.inputs.encoded import (
    Block,
    Encoded,
    InputLayout,
    Layout,
    Lookup,
    Projected,
    SlotLayout,
)
from adc_features.inputs.encoders.base import State
from adc_features.inputs.encoders.category import CategoryEncoder
from adc_features.inputs.encoders.category_set import CategorySetEncoder
from adc_features.inputs.encoders.number import NumberEncoder
from adc_features.inputs.encoders.semantic_id import SemanticIdEncoder
from adc_features.ranking.multitask import boosted_matrix
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns

NAN = pytest.approx(np.nan, nan_ok=True)


def parts(**columns):
    given = {
        "price": pa.array([1.0, 3.0, None], pa.float64()),
        "city": pa.array(["x", "x", None]),
        "tags": pa.array([["a", "b"], [], None], pa.list_(pa.string())),
        "sid": pa.array([[0, 3], [2, -1], None], pa.list_(pa.int32())),
        "sid_weight": pa.array([[1, 0.5], [2, 0], None], pa.list_(pa.float32())),
    }
    return joined({**given, **columns})


@pytest.fixture
def encoders():
    """One of each kind that has a form of its own in trees."""
    of = {
        NumberEncoder: spec("price", number(), source="price"),
        CategoryEncoder: spec("city", category(min_count=1), source="city"),
        CategorySetEncoder: spec("tags", category_set(min_count=1), source="tags"),
        SemanticIdEncoder: spec(
            "sid", semantic_id(codebook_size=4), side="item", codes="sid", weights="sid_weight"
        ),
    }
    return [fitted(kind, of_kind, parts()) for kind, of_kind in of.items()]


def counts(encoders):
    return {e.spec.name: e.vocabulary.counts for e in encoders if hasattr(e, "vocabulary")}


def encoded(encoders, rows):
    blocks = {e.spec.name: e.encode(rows) for e in encoders}
    return Encoded(blocks, len(rows["user"]))


def columns(matrix):
    return dict(zip(matrix.names, matrix.values.T.tolist(), strict=True))


def test_absent_is_nan_and_never_a_number(encoders):
    """Numbers, rows, tokens and weights of what is absent are NaN; an empty list holds no token."""
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))
    matrix = plan.matrix(encoded(encoders, parts()))
    got = columns(matrix)
    assert got["price:price"] == [-1, 1, NAN]
    assert got["price:price_absent"] == [0, 0, 1]
    assert got["city:row/0"] == [2, 2, NAN]
    assert got["tags:tags_log_size"] == [pytest.approx(np.log1p(2)), 0, NAN]
    assert got["tags:has/2"] == [1, 0, NAN]
    assert got["sid:row/0"] == [1, 3, NAN]
    assert got["sid:row/1"] == [4, NAN, NAN]
    assert got["sid:sid_weight_1"] == [0.5, 0, NAN]
    assert matrix.values.dtype == np.float32
    assert dict(zip(matrix.names, matrix.types, strict=True))["city:row/0"] == "c"
    assert matrix.types.count("c") == 3


def test_unknown_is_a_row_of_its_own(encoders):
    """A category that was never seen has row 1, apart from an absent one."""
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))
    rows = parts(city=pa.array(["new", "newer", None]))
    assert columns(plan.matrix(encoded(encoders, rows)))["city:row/0"] == [1, 1, NAN]


def test_a_large_table_enters_as_counts(encoders, monkeypatch):
    """Beyond the bound: log1p of how often the value occurred, 0 for unknown ones, NaN absent."""
    monkeypatch.setattr(boosted_matrix, "CATEGORIES", 2)
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))
    rows = parts(city=pa.array(["x", "new", None]))
    matrix = plan.matrix(encoded(encoders, rows))
    assert columns(matrix)["city:row/0"] == [pytest.approx(np.log1p(2)), 0, NAN]
    assert dict(zip(matrix.names, matrix.types, strict=True))["city:row/0"] == "q"


def test_only_the_most_frequent_tokens_have_columns(encoders, monkeypatch):
    """Equal counts are told apart by the order of admission."""
    monkeypatch.setattr(boosted_matrix, "TOKENS", 1)
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))
    names = plan.matrix(encoded(encoders, parts())).names
    assert [n for n in names if n.startswith("tags:has/")] == ["tags:has/2"]


def test_a_grown_vocabulary_changes_no_column(encoders):
    """Rows that were admitted after the fit are unknown to the trees, tokens too."""
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))
    block = encoded(encoders, parts()).blocks
    block["city"] = Block(block["city"].dense, (Lookup(np.array([2, 3, 0])),))
    matrix = plan.matrix(Encoded(block, 3))
    assert columns(matrix)["city:row/0"] == [2, 1, NAN]


def test_what_is_restored_makes_the_same_columns(encoders, monkeypatch):
    """Facts pass through JSON, counts are arrays."""
    monkeypatch.setattr(boosted_matrix, "CATEGORIES", 2)
    layout = layout_of(*encoders)
    plan = BoostedColumns.of(layout, counts(encoders))
    state = plan.state()
    again = BoostedColumns.restore(layout, State(json.loads(json.dumps(state.facts)), state.arrays))
    one, other = (p.matrix(encoded(encoders, parts())) for p in (plan, again))
    assert one.names == other.names
    assert one.types == other.types
    assert one.values.tobytes() == other.values.tobytes()


def test_counts_of_every_list_are_needed(encoders):
    """Without them the most frequent values are not known."""
    with pytest.raises(InputError, match=r"expected those of \['tags'\]"):
        BoostedColumns.of(layout_of(*encoders), {})


def test_raw_vectors_enter_only_when_asked():
    """Trees make little of single coordinates."""
    layout = Layout({"v": InputLayout(("v_absent",), {}, (SlotLayout("projected", width=2),))}, {})
    rows = Encoded(
        {"v": Block(np.zeros((2, 1), np.float32), (Projected(np.eye(2, dtype=np.float32)),))}, 2
    )
    assert BoostedColumns.of(layout, {}).matrix(rows).names == ("v:v_absent",)
    asked = BoostedColumns.of(layout, {}, vectors=True).matrix(rows)
    assert asked.names == ("v:v_absent", "v:value/0", "v:value/1")
    assert asked.values[:, 1:].tolist() == [[1, 0], [0, 1]]


def test_one_user_row_stands_for_all_candidates(encoders):
    """Blocks of one row are repeated."""
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))
    whole = encoded(encoders, parts())
    blocks = {
        name: Encoded({name: b}, 3).take(np.array([0])).blocks[name]
        for name, b in whole.blocks.items()
        if name != "sid"
    }
    online = plan.matrix(Encoded({**blocks, "sid": whole.blocks["sid"]}, 3))
    place = online.names.index("city:row/0")
    assert online.values[:, place].tolist() == [2, 2, 2]


def test_xgboost_reads_the_matrix(encoders):
    """Trees are grown, and score rows of a category that they never saw."""
    plan = BoostedColumns.of(layout_of(*encoders), counts(encoders))

    def data(rows, label=None):
        values, names, types = plan.matrix(encoded(encoders, rows))
        return xgb.DMatrix(
            values,
            label=label,
            feature_names=list(names),
            feature_types=list(types),
            enable_categorical=True,
        )

    rows = joined(parts()["user"].table.take(pa.array([0, 1, 2] * 20)))
    trained = xgb.train(
        {"objective": "binary:logistic", "nthread": 1, "min_child_weight": 0},
        data(rows, np.array([1, 0, 0] * 20)),
        3,
    )
    scores = trained.predict(data(parts(city=pa.array(["new", "x", None]))))
    assert scores[0] > scores[1]
