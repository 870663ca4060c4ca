"""What a sample of rows says of an input, in a person's words."""

import pyarrow as pa
import pytest

from adc_features.inputs import declaration as d
from adc_features.inputs.hints import hint, keys_by_log, share_missing
from adc_features.inputs.resolved import ResolvedInput, SourceColumn


def said(kind, dtype, values):
    made = ResolvedInput("f", kind, {"source": SourceColumn("f", dtype, "item")}, "item", "type")
    return hint(made, values)


@pytest.mark.parametrize(
    ("kind", "dtype", "values", "words"),
    [
        (d.number(), "Int64", pa.array([1, 2, 3] * 20), "3 distinct integers: category?"),
        (d.number(), "Int64", pa.array(list(range(100))), ""),
        (d.number(), "Int32", pa.array([0, 1, None] * 20), "0 or 1: flag?"),
        (d.number(), "Float32", pa.array([1.0] * 90 + [5e3] * 10), "p99/median 5000: log?"),
        (d.number(log=True), "Float32", pa.array([1.0] * 90 + [5e3] * 10), ""),
        (d.number(), "Float64", pa.array([2.0] * 9), "always 2: skip?"),
        (d.number(), "Float64", pa.array([float("nan")] * 9), "never finite"),
        (d.number(), "Float64", pa.nulls(9, pa.float64()), "never there: are the keys"),
        (d.category(), "String", pa.array(["a"] * 9), "one value: skip?"),
        (d.category(), "String", pa.array([str(n) for n in range(60)]), "of its own: skip?"),
        (d.category(), "String", pa.array([str(n % 20) for n in range(300)]), "lower min_count"),
        (d.category(min_count=5), "String", pa.array([str(n % 20) for n in range(300)]), ""),
        (d.category(), "String", pa.array([], pa.string()), ""),
    ],
)
def test_a_hint_names_what_to_look_at(kind, dtype, values, words):
    """Few integers, flags, long tails, constants and rare values are pointed out, others not."""
    assert words in said(kind, dtype, values)
    assert words or not said(kind, dtype, values)


def test_a_missing_value_is_null_or_nan():
    """Of four values one null and one NaN are a half; no rows have no share."""
    assert share_missing(pa.array([1.0, None, float("nan"), 2.0])) == 0.5
    assert share_missing(pa.array(["a", None])) == 0.5
    assert share_missing(pa.array([], pa.string())) is None


def test_requests_tell_whose_key_is_whose():
    """A key that is constant within every request is the user's."""
    rows = pa.table({"r": [1, 1, 2, 2], "customer": ["a", "a", "b", "b"], "sku": [1, 2, 1, 3]})
    assert keys_by_log(rows, ["customer", "sku"], "r") == {"user": ["customer"], "item": ["sku"]}
