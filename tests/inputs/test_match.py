"""How a user's recent values meet the candidate's, against plain loops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_world import assert_same, fitted, joined, request, restored, spec
from ranking_world import frame, interactions

from adc_features.errors import InputError
from adc_features.inputs.declaration import match
from adc_features.inputs.encoders.match import MatchEncoder
from adc_features.ranking.legacy.features import KINDS, taste


def rows(brands, residuals, brand):
    return joined(
        {
            "brands": pa.array(brands, pa.list_(pa.string())),
            "residuals": pa.array(residuals, pa.list_(pa.float32())),
            "brand": pa.array(brand, pa.string()),
        }
    )


def of(**options):
    columns = {"source": "brands", "candidate": "brand@item"}
    if options.get("values"):
        columns["values"] = "residuals"
    return spec("taste", match(candidate="brand", **options), side="pair", **columns)


PARTS = rows(
    [["a", "b", "a"], ["a"], [], None, ["b"]],
    [[1.0, -1.0, 0.5], [2.0], [], None, [1.0]],
    ["a", "b", "a", "a", None],
)


def test_a_match_is_the_smoothed_share_of_equal_elements():
    """Two of three equal: 2 / (2 + 2); no list, and no candidate's value, are absent."""
    block = fitted(MatchEncoder, of(), PARTS).encode(PARTS)
    assert block.dense.tolist() == [[0.5, 0], [0, 0], [0, 0], [0, 1], [0, 1]]
    valued = fitted(MatchEncoder, of(values="residuals"), PARTS).encode(PARTS)
    assert valued.dense[0].tolist() == [1.5 / 4, 0]
    centred = fitted(MatchEncoder, of(values="residuals", centred=True), PARTS).encode(PARTS)
    assert centred.dense[0, 0] == pytest.approx((1.5 - 2 * 0.5 / 5) / 4)


def test_an_empty_text_equals_nothing():
    """An item without a brand has none in common with the user's other items without one."""
    parts = rows([["", "a", ""], ["", "a"]], [[1.0, 1, 1], [1.0, 1]], ["", "a"])
    block = fitted(MatchEncoder, of(), parts).encode(parts)
    assert block.dense.tolist() == [[0, 0], [pytest.approx(1 / 3), 0]]


def test_a_standardised_match_has_mean_0_and_deviation_1():
    """Standardised, the present values of the training rows have mean 0 and deviation 1."""
    encoder = fitted(MatchEncoder, of(standardise=True), PARTS)
    dense = encoder.encode(PARTS).dense
    assert dense[:, 1].tolist() == [0, 0, 0, 1, 1]
    plain = np.array([0.5, 0, 0])
    np.testing.assert_allclose(dense[:3, 0], (plain - plain.mean()) / plain.std(), atol=1e-6)
    assert_same(restored(encoder).encode(PARTS), encoder.encode(PARTS))


def test_taste_is_a_centred_match():
    """The ranker's own measure of how a user rated a brand before is one declaration."""
    whole = frame(interactions(400, seed=0))
    expected = taste(whole, whole)
    for place, (ours, theirs) in enumerate(KINDS.items()):
        parts = joined(whole.table, times=whole.times)
        kind = match(candidate=ours, values="user_recent_residuals", centred=True)
        read = spec(
            "taste",
            kind,
            source=theirs,
            values="user_recent_residuals",
            candidate=f"{ours}@item",
        )
        got = fitted(MatchEncoder, read, parts).encode(parts).dense
        assert got[:, 0] == pytest.approx(expected[:, place], abs=1e-6)
        assert expected[:, place].any()


def test_ids_of_another_type_are_refused():
    """Numbers in the list and text of the candidate never match: that is said."""
    parts = joined({"brands": pa.array([[1, 2]]), "brand": pa.array(["1"])})
    with pytest.raises(InputError, match='12 and "12" are different'):
        fitted(MatchEncoder, of(), parts)


def test_lists_of_unequal_lengths_are_refused():
    """The message names the row and both lengths."""
    parts = rows([["a"], ["a", "b"]], [[1.0], [1.0]], ["a", "a"])
    with pytest.raises(InputError, match="row 1 source has 2 elements and values has 1"):
        fitted(MatchEncoder, of(values="residuals"), parts)
    parts = rows([["a"], None], [[1.0], [1.0]], ["a", "a"])
    with pytest.raises(InputError, match="row 1 source has no list and values has 1"):
        fitted(MatchEncoder, of(values="residuals"), parts)


events = st.lists(
    st.tuples(st.sampled_from([None, "", "a", "b", "c"]), st.floats(-2, 2, width=16)), max_size=6
)


@given(
    values=st.lists(
        st.tuples(st.one_of(st.none(), events), st.sampled_from([None, "", "a", "b", "z"])),
        min_size=1,
        max_size=8,
    ),
    smoothing=st.sampled_from([0.0, 2.0]),
    centred=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_is_what_a_plain_loop_says(values, smoothing, centred):
    """Every row; and each user's one row with all candidates, in the same bits."""
    parts = rows(
        [None if e is None else [v for v, _ in e] for e, _ in values],
        [None if e is None else [w for _, w in e] for e, _ in values],
        [c for _, c in values],
    )
    kind = of(values="residuals", smoothing=smoothing, centred=centred)
    encoder = fitted(MatchEncoder, kind, PARTS)
    block = encoder.encode(parts)
    for n, (of_row, candidate) in enumerate(values):
        kept = [(v, w) for v, w in of_row or [] if v is not None]
        mean = sum(w for _, w in kept) / (len(kept) + smoothing) if kept and centred else 0
        equal = [w - mean for v, w in kept if v == candidate != ""]
        absent = of_row is None or candidate is None
        wanted = sum(equal) / (len(equal) + smoothing) if equal and not absent else 0
        assert block.dense[n] == pytest.approx([wanted, float(absent)], abs=1e-5)
    assert_same(restored(encoder).encode(parts), block)
    everyone = list(range(len(values)))
    for n in everyone:
        online = encoder.encode(request(parts, n, everyone)).dense
        assert np.array_equal(online[n], block.dense[n])
