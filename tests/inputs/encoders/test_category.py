"""Categories and crosses as a model sees them. Reads: adc_features.inputs.encoders."""

import pyarrow as pa
import pytest
from encoder_cases import rows_of, spec
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.inputs.declaration import category, cross
from adc_features.inputs.encoder import InputEncoder

words = st.none() | st.sampled_from(["", "a", "ab", "b", "abc", "bc"])


def pair_encoder(left, right, **options):
    """An encoder of the pairs, every pair admitted, and its joined rows."""
    parts = rows_of({"l": left, "r": right})
    kind = cross(of=("l", "r"), **{"min_count": 1, **options})
    pair = spec("p", kind, side="pair", left=("l", "String", "user"), right=("r", "String", "item"))
    return InputEncoder.fit([pair], parts), parts


def test_three_states_by_hand():
    """Absent is row 0, a rare or invented value row 1, a known one its own."""
    parts = rows_of({"c": ["x", "y", "x", "y", "x", "rare", None]})
    encoder = InputEncoder.fit([spec("c", category(min_count=2), "String")], parts)
    assert encoder.encode(parts).blocks["c"].slots[0].rows.tolist() == [2, 3, 2, 3, 2, 1, 0]
    assert encoder.counts(parts)["c"] == {"absent": 1, "unknown": 1, "present": 5}
    assert encoder.layout.tables == {"c": 4}
    invented = encoder.encode(rows_of({"c": ["new", "newer"]})).blocks["c"].slots[0].rows
    assert invented.tolist() == [1, 1]


def test_hash_rows_are_unknown_in_counts():
    """With buckets, a value without a row of its own has its hash row and is counted unknown."""
    parts = rows_of({"c": ["x", "x", "y", None]})
    encoder = InputEncoder.fit([spec("c", category(min_count=2, buckets=9), "String")], parts)
    rows = encoder.encode(parts).blocks["c"].slots[0].rows.tolist()
    assert rows[:2] == [11, 11]
    assert 2 <= rows[2] < 11
    assert encoder.counts(parts)["c"] == {"absent": 1, "unknown": 1, "present": 2}
    layout = encoder.layout.inputs["c"].slots[0]
    assert (layout.own, layout.dropout, layout.tables) == (11, 0.05, ("c",))


def test_no_values_and_no_ids_are_refused():
    """A column of nulls and a column of floats cannot be categories."""
    with pytest.raises(InputError, match=r"'c' \(column c\) has no value in the 2 training rows"):
        InputEncoder.fit([spec("c", category())], rows_of({"c": pa.nulls(2, pa.string())}))
    with pytest.raises(InputError, match=r"'c' \(column c\) holds values of type double"):
        InputEncoder.fit([spec("c", category())], rows_of({"c": [1.0, 2.0]}))


@given(
    st.lists(st.tuples(words, words), min_size=1).filter(lambda v: any(None not in p for p in v))
)
def test_pairs_have_rows_of_their_own(pairs):
    """Two pairs share a row only if they are equal; absent if either part is, unknown if the pair
    was never seen although both parts were.
    """
    left, right = (pa.array(side, pa.string()) for side in zip(*pairs, strict=True))
    encoder, parts = pair_encoder(left, right)
    rows = encoder.encode(parts).blocks["p"].slots[0].rows.tolist()
    by_pair = dict(zip(pairs, rows, strict=True))
    assert [by_pair[pair] for pair in pairs] == rows
    known = {pair: row for pair, row in by_pair.items() if None not in pair}
    assert sorted(known.values()) == list(range(2, 2 + len(known)))
    assert all(row == 0 for pair, row in by_pair.items() if None in pair)
    turned = encoder.encode(rows_of({"l": right, "r": left})).blocks["p"].slots[0].rows.tolist()
    for (one, other), row in zip(pairs, turned, strict=True):
        if one is not None and other is not None:
            assert row == known.get((other, one), 1)


def test_pairs_pin_the_types_of_their_parts():
    """Numbers where words were, refused: their bytes would be unknown to the last."""
    encoder, _ = pair_encoder(pa.array(["1", "2"]), pa.array(["a", "b"]))
    with pytest.raises(InputError, match="int64 and string, it was fitted on string and string"):
        encoder.encode(rows_of({"l": [1, 2], "r": ["a", "b"]}))
    rows = encoder.encode(rows_of({"l": pa.nulls(1), "r": ["a"]})).blocks["p"].slots[0].rows
    assert rows.tolist() == [0]


def test_pairs_without_any_are_refused():
    """Columns that never have a value together make no pair."""
    with pytest.raises(InputError, match=r"'p' \(column l, r\) has no value in the 2"):
        pair_encoder(pa.array(["a", None]), pa.array([None, "b"]))
