"""Entity keys: one key for one entity, however it is asked for, and in the order of the values."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.store.lmdb.entity_keys import LONGEST, integer_keys, key_array, row_key, text_keys

INTEGERS, TEXTS = st.integers(-(2**63), 2**63 - 1), st.text(max_size=300)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(INTEGERS, TEXTS, TEXTS), min_size=1, max_size=6))
def test_the_key_of_a_row_is_the_same_by_row_and_by_column(rows):
    """Composite keys, alone and in bulk;
    distinct entities have distinct keys, none too long for LMDB.
    """
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("n", "a", "z"))}
    arrays = {
        "n": pa.array(columns["n"], pa.int64()),
        "a": pa.array(columns["a"], pa.large_string()),
        "z": pa.array(columns["z"], pa.string()),
    }
    keys = key_array(arrays).to_pylist()
    assert keys == [row_key(dict(zip(("n", "a", "z"), row, strict=True))) for row in rows]
    assert len(set(keys)) == len(set(rows))
    assert max(map(len, keys)) <= LONGEST
    assert key_array({"n": arrays["n"]}).to_pylist() == integer_keys(
        np.array(columns["n"], np.int64)
    )
    assert key_array({"a": arrays["a"]}).to_pylist() == text_keys(columns["a"])


@settings(max_examples=100, deadline=None)
@given(st.lists(INTEGERS, min_size=2), st.lists(st.text(max_size=20), min_size=2))
def test_keys_sort_as_their_values_do(numbers, texts):
    """Whole numbers by size, texts by their UTF-8 bytes: so that sorted rows can be appended."""
    assert sorted(integer_keys(np.array(numbers))) == integer_keys(np.array(sorted(numbers)))
    assert sorted(text_keys(texts)) == text_keys(sorted(texts, key=str.encode))


def test_numbers_of_32_and_64_bits_and_bytes():
    """A number is one entity whatever its width;
    bytes are not text; time counts in whole seconds.
    """
    assert key_array({"k": pa.array([7], pa.int32())}) == key_array(
        {"k": pa.array([7], pa.int64())}
    )
    assert (
        row_key({"k": b"x"}) == key_array({"k": pa.array([b"x"])})[0].as_py() != row_key({"k": "x"})
    )
    assert key_array({"k": pa.array([1_500_000], pa.timestamp("us", tz="UTC"))})[
        0
    ].as_py() == row_key({"k": 1})


@pytest.mark.parametrize("column", [pa.array([1.5]), pa.array([True]), pa.array([1, None])])
def test_what_names_no_entity_is_refused(column):
    """Fractions, truth values and nulls are no entities, in columns and in rows."""
    with pytest.raises(InputError, match="join key 'k'"):
        key_array({"k": column})
    with pytest.raises(InputError, match="join key 'k'"):
        row_key({"k": column[-1].as_py()})
