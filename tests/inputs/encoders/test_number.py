"""Numbers as a model sees them. Reads: adc_features.inputs.encoders.number."""

import logging
import math

import numpy as np
import pyarrow as pa
import pytest
from encoder_cases import rows_of, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.inputs.declaration import number
from adc_features.inputs.encoder import InputEncoder

anything = st.none() | st.floats(width=64)


def encoded(values, kind=None, *, train=None, weights=None, dtype="Float64"):
    """The block of `values` after a fit on `train`, by default on themselves."""
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.float64())
    fitted_on = array if train is None else pa.array(train, pa.float64())
    times = np.full(len(fitted_on), np.datetime64("2026-01-01", "us"))
    encoder = InputEncoder.fit(
        [spec("x", kind or number(), dtype)], rows_of({"x": fitted_on}, times), weights=weights
    )
    times = np.full(len(array), np.datetime64("2026-01-01", "us"))
    return encoder.encode(rows_of({"x": array}, times)).blocks["x"]


def test_standardised_by_present_values():
    """Mean 2 and standard deviation 1 of the values there; absent is 0 with its indicator, a
    stored mean is 0 without.
    """
    assert encoded([1.0, None, 3.0, 2.0], train=[1.0, None, 3.0]).dense.tolist() == [
        [-1, 0],
        [0, 1],
        [1, 0],
        [0, 0],
    ]


def test_weights_move_the_mean():
    """A row of weight 3 counts as three rows; a row without a value counts nothing."""
    found = encoded([0.0, 4.0, None], weights=np.array([3.0, 1.0, 9.0])).dense
    assert found[:2, 0] == pytest.approx([-1 / math.sqrt(3), 3 / math.sqrt(3)])


def test_clip_then_logarithm():
    """clip -> sign(x) log1p|x|: beyond the bounds nothing changes, and signs stay."""
    kind = number(log=True, clip=(-7.0, 7.0), standardise=False)
    found = encoded([-1e9, -7.0, 0.0, 3.0, 7.0, 1e9], kind).dense[:, 0]
    assert found == pytest.approx(np.log([1 / 8, 1 / 8, 1, 4, 8, 8]))


def test_five_standard_deviations_at_most():
    """A served value far outside of training shows as 5."""
    assert encoded([1e12, -1e12], train=[-1.0, 1.0]).dense[:, 0].tolist() == [5, -5]


def test_not_finite_in_a_store_is_absent_and_counted():
    """NaN and infinity are absent like null, and are counted apart."""
    values = pa.array([1.0, math.nan, math.inf, -math.inf, None, 3.0])
    assert encoded(values).dense.tolist() == [[-1, 0], *[[0, 1]] * 4, [1, 0]]
    parts = rows_of({"x": values})
    encoder = InputEncoder.fit([spec("x", number())], parts)
    assert encoder.counts(parts)["x"] == {
        "absent": 4,
        "unknown": 0,
        "present": 2,
        "not_finite": 3,
    }


def test_not_finite_in_a_request_is_refused():
    """A request's NaN or infinity is an error with the input, the value and the row."""
    kind = number(request=True, optional=True)
    fine = rows_of({"x": pa.array([1.0, None, 2.0])})
    encoder = InputEncoder.fit([spec("x", kind, side="request")], fine)
    for value in (math.nan, math.inf):
        with pytest.raises(InputError, match=rf"'x' \(column x\) is {value} in row 1 .*finite"):
            encoder.encode(rows_of({"x": pa.array([None, value])}))


def test_a_constant_column_has_scale_one_and_a_warning(caplog):
    """A constant is told in the log, and another value later shows its distance."""
    with caplog.at_level(logging.WARNING):
        found = encoded([7.5, 8.5], train=[7.5, 7.5]).dense[:, 0]
    assert found.tolist() == [0, 1]
    assert "input 'x' (column x) constant=true value=7.5 scale=1" in caplog.text


def test_bins_by_hand():
    """Edges are quantiles of training values: below the first is bin 0, an edge opens its bin,
    above the last is the top; row 0 is for absent alone.
    """
    block = encoded([-9.0, 1.0, 2.0, 2.5, 3.0, 9.0, None], number(bins=4), train=[0, 1, 2, 3, 4])
    assert block.slots[0].rows.tolist() == [1, 2, 3, 3, 4, 4, 0]
    repeated = encoded([5.0, 6.0], number(bins=8), train=[5, 5, 5, 5, 6])
    assert repeated.slots[0].rows.tolist() == [2, 3]


@settings(deadline=None)
@given(st.lists(anything, min_size=1), st.lists(anything, min_size=1), st.booleans())
def test_any_float_gives_finite_inputs(train, values, log):
    """Whatever a store holds, the extremes of float64 too: finite, within 5, absent where it is
    not a number; and equal to the definition in plain Python.
    """
    present = [v for v in train if v is not None and math.isfinite(v)]
    kind = number(log=log, bins=3)
    if not present:
        with pytest.raises(InputError, match="has no value in the"):
            encoded(values, kind, train=train)
        return
    block = encoded(values, kind, train=train)
    assert np.isfinite(block.dense).all()
    assert (np.abs(block.dense) <= 5).all()
    assert (block.slots[0].rows == 0).tolist() == (block.dense[:, 1] == 1).tolist()
    for value, (shown, absent), row in zip(
        values, block.dense.tolist(), block.slots[0].rows.tolist(), strict=True
    ):
        assert absent == (value is None or not math.isfinite(value))
        assert 0 <= row <= 3
        if absent:
            assert shown == 0


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2))
def test_a_widened_float32_is_the_same(values):
    """A store that gives Float32 back as float64, or as the decimal that was written, changes no
    bit.
    """
    narrow = encoded(pa.array(values, pa.float32()), dtype="Float32")
    wide = encoded(pa.array(values, pa.float64()), dtype="Float32")
    assert narrow.dense.tobytes() == wide.dense.tobytes()


def test_types():
    """Integers, booleans, decimals and columns of nulls are numbers; text is refused."""
    of_one = [[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    for type_ in (pa.int8(), pa.int64(), pa.uint32(), pa.float32(), pa.decimal128(6, 2)):
        assert encoded(pa.array([1, None, 3], type_)).dense.tolist() == of_one
    assert encoded(pa.array([False, None, True])).dense.tolist() == of_one
    assert encoded(pa.array(["1.0", None, "3.0"]), dtype="Decimal").dense.tolist() == of_one
    assert encoded(pa.nulls(2), train=[1.0, 2.0]).dense.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(InputError, match="holds values of type string, expected numbers"):
        encoded(pa.array(["1"]))
    with pytest.raises(InputError, match="holds a value that is no number"):
        encoded(pa.array(["one"]), dtype="Decimal")


def test_what_cannot_be_fitted():
    """Bounds the wrong way round, and a column without values, are refused before work."""
    with pytest.raises(InputError, match=r"clip=\(2.0, 1.0\); give \(low, high\)"):
        encoded([1.0], number(clip=(2.0, 1.0)))
    with pytest.raises(InputError, match=r"'x' \(column x\) has no value in the 2 training rows"):
        encoded([None, None])
