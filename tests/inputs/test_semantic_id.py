"""Semantic IDs as lookups: codes + 1, weights, reliability."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_world import assert_same, fitted, joined, restored, spec, taken

from adc_features.errors import InputError
from adc_features.inputs.checks import id_gate_problems, option_problems, tree_problems
from adc_features.inputs.declaration import semantic_id
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoders.semantic_id import SemanticIdEncoder


def rows(sid, weight, reliability):
    return joined(
        {
            "sid": pa.array(sid, pa.list_(pa.int32())),
            "sid_weight": pa.array(weight, pa.list_(pa.float32())),
            "reliability": pa.array(reliability, pa.float32()),
        }
    )


def of(kind=None):
    return spec(
        "sid",
        kind or semantic_id(codebook_size=4),
        side="item",
        codes="sid@item",
        weights="sid_weight@item",
        reliability="reliability@item",
    )


THREE = ([[0, 3], None, [2, -1]], [[1, 0.5], None, [2, 0]], [0.25, None, 0.0])


def test_codes_are_rows_of_a_table_a_position():
    """Row = code + 1; an item without codes, or a position without one, has row 0 and weight 0."""
    parts = rows(*THREE)
    encoder = fitted(SemanticIdEncoder, of(), parts)
    block = encoder.encode(parts)
    assert [slot.rows.tolist() for slot in block.slots] == [[1, 0, 3], [4, 0, 0]]
    assert [slot.weights.tolist() for slot in block.slots] == [[1, 0, 2], [0.5, 0, 0]]
    assert block.dense.tolist() == [[1, 0.5, 0.25, 0], [0, 0, 0, 1], [2, 0, 0, 0]]
    assert encoder.tables == {"sid/0": 5, "sid/1": 5}
    assert encoder.layout.dense == (
        "sid_weight_0",
        "sid_weight_1",
        "sid_reliability",
        "sid_no_codes",
    )
    assert encoder.layout.indicators == {0: 3, 1: 3, 2: 3}
    assert [slot.tables for slot in encoder.layout.slots] == [("sid/0",), ("sid/1",)]
    assert encoder.counts(parts) == {"absent": 1, "unknown": 0, "present": 2}


def test_without_weights_every_code_counts_as_one():
    """weights=False: 1 where there is a code, 0 where there is none, also among the numbers, which
    a level network reads without the codes."""
    parts = rows(*THREE)
    kind = semantic_id(weights=False, codebook_size=4)
    encoder = fitted(SemanticIdEncoder, of(kind), parts)
    block = encoder.encode(parts)
    assert [slot.weights.tolist() for slot in block.slots] == [[1, 0, 1], [1, 0, 0]]
    assert encoder.layout.dense[:2] == ("sid_coded_0", "sid_coded_1")
    assert block.dense.tolist() == [[1, 1, 0.25, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, [4, 0], r"\[4, 0\] in row 1; expected codes in -1..3"),
        (0, [0, 1, 2], "lengths"),
        (1, [1, -1], "a weight of at least 0"),
        (1, [1, float("nan")], "a weight of at least 0"),
        (1, None, "weights None"),
        (2, None, "codes and no reliability"),
    ],
)
def test_what_no_publication_holds_is_refused(at, value, said):
    """Codes of another codebook, lists of another length, weights or reliability that are missing
    beside codes."""
    encoder = fitted(SemanticIdEncoder, of(), rows(*THREE))
    columns = [list(column) for column in ([[0, 1]] * 2, [[1, 1]] * 2, [0.5] * 2)]
    columns[at][1] = value
    with pytest.raises(InputError, match=said):
        encoder.encode(rows(*columns))


def test_the_codebook_s_size_is_declared_or_the_timeline_s():
    """Without both, the fit says what to declare; training rows alone may lack the last code."""
    with pytest.raises(InputError, match=r"semantic_id\(codebook_size=K\)"):
        fitted(SemanticIdEncoder, of(semantic_id()), rows(*THREE))


def test_rows_without_any_codes_are_refused_at_the_fit():
    """The number of positions is not known."""
    with pytest.raises(InputError, match="join rows in which codes are published"):
        fitted(SemanticIdEncoder, of(), rows([None], [None], [None]))


def gated(counts, *, trained_on=(0, 6)):
    """The last slot of two items with codes, of an encoder that was fitted on these counts."""

    def parts(values):
        table = rows([[0, 1]] * 2, [[1, 1]] * 2, [0.5] * 2)["item"].table
        return joined(
            {n: table[n] for n in table.column_names} | {"seen": pa.array(values, pa.int64())}
        )

    kind = semantic_id(codebook_size=4, weights=False, id_input="sku", id_count="seen")
    of_gate = spec("sid", kind, side="item", codes="sid@item", count="seen@item")
    encoder = fitted(SemanticIdEncoder, of_gate, parts(list(trained_on)))
    assert encoder.layout.slots[-1].beside == "sku"
    return restored(encoder).encode(parts(counts)).slots[-1].values[:, 0].tolist()


def test_a_gate_reads_how_often_an_item_was_seen():
    """log1p of the count, standardised as in the training rows; an item without events, or of which
    nothing is known, has the least."""
    assert gated([0, 6]) == [-1, 1]
    assert gated([None, 6]) == [-1, 1]
    with pytest.raises(InputError, match="row 1 has the count -3"):
        gated([0, -3])


def test_a_gate_names_a_category_of_the_same_side_and_a_number():
    """What is no id of the item, or counts nothing, is refused in words, and half a gate too."""
    kind = semantic_id(codebook_size=4, id_input="sku", id_count="seen")
    sid = spec("sid", kind, side="item", codes="sid@item", count="seen@item")
    said, wrong = id_gate_problems([sid])
    assert "id_input='sku' is no category of the item; the ranker's categories are []" in said
    assert "expected a number of the item" in wrong
    (said,) = option_problems(semantic_id(id_input="sku"), None)
    assert "needs both id_input" in said
    (said,) = option_problems(semantic_id(pretrain=-1), None)
    assert "pretrain=-1; expected a whole number of epochs" in said


items = st.one_of(
    st.none(),
    st.tuples(
        st.lists(st.integers(-1, 3), min_size=2, max_size=2),
        st.lists(st.floats(0, 4, width=32), min_size=2, max_size=2),
        st.floats(0, 1, width=32),
    ),
)


@given(values=st.lists(items, min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_it_is_what_a_plain_loop_says(values):
    """Rows and weights of every item; restored and one by one the same bits."""
    parts = rows(*(list(c) for c in zip(*(v or (None,) * 3 for v in values), strict=True)))
    encoder = fitted(SemanticIdEncoder, of(), rows(*THREE))
    block = encoder.encode(parts)
    for n, item in enumerate(values):
        codes, weights, _ = item or ([-1, -1], [0, 0], 0)
        for place, slot in enumerate(block.slots):
            assert slot.rows[n] == codes[place] + 1
            assert slot.weights[n] == (weights[place] if codes[place] >= 0 else 0)
        one = Encoded({"x": block}, len(values)).take(np.array([n])).blocks["x"]
        assert_same(encoder.encode(taken(parts, [n])), one)
    assert_same(restored(encoder).encode(parts), block)


def two_codes(sid, weight, second, chance):
    return joined(
        {
            "sid": pa.array(sid, pa.list_(pa.int32())),
            "sid_weight": pa.array(weight, pa.list_(pa.float32())),
            "sid_second": pa.array(second, pa.list_(pa.int32())),
            "sid_second_weight": pa.array(chance, pa.list_(pa.float32())),
        }
    )


def of_two(**options):
    return spec(
        "sid",
        semantic_id(codebook_size=4, weights=False, expected=True, **options),
        side="item",
        codes="sid@item",
        weights="sid_weight@item",
        second="sid_second@item",
        second_weights="sid_second_weight@item",
    )


def embedded(block, tables):
    """What each position's slot is embedded as, by a plain loop: [L][n]."""
    return [
        [
            sum(w * table[r] for r, w in zip(slot.rows[a:b], slot.weights[a:b], strict=True))
            for a, b in zip(slot.offsets[:-1], slot.offsets[1:], strict=True)
        ]
        for slot, table in zip(block.slots, tables, strict=True)
    ]


def test_two_codes_of_a_position_are_read_as_the_expected_one():
    """(p1 e1 + p2 e2) / (p1 + p2); the first alone where there is no second or both have chance 0;
    nothing where there is no code. The numbers are those of the plain reader.
    """
    parts = two_codes(
        [[0, 3], [1, -1], [2, 2], None],
        [[0.6, 0.5], [0.9, 0], [0.5, 0], None],
        [[1, -1], [3, -1], [0, 1], None],
        [[0.2, 0], [0.1, 0], [0.5, 0], None],
    )
    encoder = fitted(SemanticIdEncoder, of_two(), parts)
    tables = [np.array([0, 10, 20, 30, 40.0]), np.array([0, 1, 2, 3, 4.0])]
    shown = embedded(encoder.encode(parts), tables)
    assert shown[0] == pytest.approx([0.75 * 10 + 0.25 * 20, 0.9 * 20 + 0.1 * 40, 20, 0])
    assert shown[1] == pytest.approx([4, 0, 3, 0])
    assert [slot.kind for slot in encoder.layout.slots] == ["bag", "bag"]
    plain = fitted(SemanticIdEncoder, of(semantic_id(codebook_size=4, weights=False)), rows(*THREE))
    assert encoder.layout.dense[:2] == plain.layout.dense[:2] == ("sid_coded_0", "sid_coded_1")
    assert encoder.encode(parts).dense.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert_same(restored(encoder).encode(parts), encoder.encode(parts))


def test_each_row_of_two_codes_is_what_it_is_alone():
    """A request of one item shows the bits of the item among others."""
    parts = two_codes(
        [[0, 3], [1, 2]], [[0.6, 0.5], [0.9, 0.1]], [[1, 2], [3, -1]], [[0.2, 0.3]] * 2
    )
    encoder = fitted(SemanticIdEncoder, of_two(), parts)
    whole = Encoded({"sid": encoder.encode(parts)}, 2)
    for n in range(2):
        alone = encoder.encode(taken(parts, [n]))
        assert_same(alone, whole.take(np.array([n])).blocks["sid"])


@pytest.mark.parametrize(
    ("second", "chance"), [([4, -1], [0.1, 0]), ([1, 1], [0.1, 0.1]), ([1, -1], [-0.1, 0])]
)
def test_second_codes_that_no_publication_holds_are_refused(second, chance):
    """Of another codebook, where there is no first code, or with a negative probability."""
    encoder = fitted(
        SemanticIdEncoder, of_two(), two_codes([[0, 3]], [[1, 1]], [[1, -1]], [[0.1, 0]])
    )
    with pytest.raises(InputError, match=r"row 0 has codes \[0, -1\].*publish the codes again"):
        encoder.encode(two_codes([[0, -1]], [[1, 0]], [second], [chance]))


def test_two_codes_are_not_read_with_what_is_about_one():
    """A gate and pre-training are refused beside them, and so are boosted trees."""
    assert not list(option_problems(of_two().kind, None))
    for options in ({"pretrain": 2}, {"id_input": "sku", "id_count": "seen"}):
        said = list(option_problems(of_two(**options).kind, None))
        assert any("these are for one code a position" in problem for problem in said)
    assert not list(tree_problems("ppnet", [of_two()]))
    assert ["expected=True is about embeddings" in p for p in tree_problems("xgboost", [of_two()])]
