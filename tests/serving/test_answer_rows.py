"""Rows of an answer are the JSON that a general writer gives. Reads: adc_features.serving."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from adc_features.serving.answer_rows import with_rows

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(['",', ',"', '","', "\\", '\\","', "%b", "é"]),
    st.lists(st.integers(0, 3), max_size=2),
)
COLUMNS = st.integers(0, 4).flatmap(
    lambda count: st.dictionaries(
        st.text(max_size=3) | st.sampled_from(["%b", '"']),
        st.one_of(
            st.lists(VALUES, min_size=count, max_size=count),
            st.lists(st.text(max_size=4), min_size=count, max_size=count),
            st.lists(st.sampled_from(['",', '","', 'a"', "b"]), min_size=count, max_size=count),
            st.lists(st.floats(), min_size=count, max_size=count),
        ),
        min_size=1,
        max_size=4,
    )
)


@given(COLUMNS)
def test_rows_by_columns_are_the_bytes_of_rows_one_by_one(columns):
    """Any values and names: commas, quotes and backslashes within texts, extreme numbers, lists;
    and no rows at all."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert with_rows({"a": 1}, "items", columns) == to_json({"a": 1, "items": rows})
