"""Flags, times and vectors as a model sees them. Reads: adc_features.inputs.encoders."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from encoder_cases import rows_of, spec
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import InputError, LeakError
from adc_features.inputs.declaration import flag, time, vector
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import Parts

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
"""A Monday."""


def fitted(name, kind, values, *, times=None):
    """An encoder of one input, and what it was fitted on."""
    parts = rows_of({name: values}, times)
    return InputEncoder.fit([spec(name, kind)], parts), parts


def at(*moments: datetime) -> np.ndarray:
    """Rows' times."""
    return np.array([m.replace(tzinfo=None) for m in moments], "datetime64[us]")


def moments(*values: datetime | None, unit: str = "us") -> pa.Array:
    """A column of times."""
    return pa.array(values, pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"), safe=False)


def test_flags():
    """+1, -1 and 0 with an indicator; 0 and 1 where a flag is declared."""
    wanted = [[1, 0], [-1, 0], [0, 1]]
    for values in (pa.array([True, False, None]), pa.array([1, 0, None], pa.int64())):
        encoder, parts = fitted("f", flag(), values)
        assert encoder.encode(parts).blocks["f"].dense.tolist() == wanted
        assert encoder.counts(parts)["f"] == {"absent": 1, "unknown": 0, "present": 2}
        nothing = encoder.encode(rows_of({"f": pa.nulls(1)})).blocks["f"].dense
        assert nothing.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1, 0, 2]), "holds 2 in row 2"),
        (pa.array([None, -1]), "holds -1 in row 1"),
        (pa.array(["true"]), "holds values of type string"),
        (pa.array([1.0]), "holds values of type double"),
    ],
)
def test_other_flags_are_refused(values, said):
    """Anything but true, false, null, 0 and 1 is an error with its row."""
    with pytest.raises(InputError, match=rf"'f' \(column f\) {said}; a flag is true, false or nu"):
        fitted("f", flag(), values)


def test_ages_by_hand():
    """log1p of the age in days, by whole seconds: rows of 0, 1 and 3 days are log 1, 2 and 4."""
    days = [NOW, NOW - timedelta(days=1), NOW - timedelta(days=3)]
    encoder, _ = fitted("t", time(), moments(*days), times=at(NOW, NOW, NOW))
    scale = encoder.encoders["t"].scale
    logs = np.log([1, 2, 4])
    assert (scale.mean, scale.scale) == pytest.approx((logs.mean(), logs.std()))
    late = NOW + timedelta(days=4, milliseconds=900)
    asked = moments(NOW + timedelta(days=1, milliseconds=100), None)
    block = encoder.encode(rows_of({"t": asked}, at(late, late))).blocks["t"]
    assert block.dense.tolist() == [
        [pytest.approx((np.log(4) - logs.mean()) / logs.std(), rel=1e-6), 0],
        [0, 1],
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_whole_seconds_make_units_alike(unit):
    """A store with seconds and one with nanoseconds give the same bits, before 1970 too."""
    stamp = [datetime(1969, 12, 31, 23, 59, 58, 999_000, UTC), NOW - timedelta(milliseconds=1)]
    encoder, parts = fitted("t", time(zone="Asia/Kolkata"), moments(*stamp), times=at(NOW, NOW))
    other = rows_of({"t": moments(*stamp, unit=unit)}, at(NOW, NOW))
    assert (
        encoder.encode(other).blocks["t"].dense.tobytes()
        == encoder.encode(parts).blocks["t"].dense.tobytes()
    )


def test_the_future_is_refused():
    """Up to one second late is age 0, the resolution of Feast; beyond it, a leak with its row."""
    encoder, _ = fitted("t", time(), moments(NOW, NOW - timedelta(days=1)), times=at(NOW, NOW))
    second = rows_of({"t": moments(NOW + timedelta(seconds=1), NOW)}, at(NOW, NOW))
    shown = encoder.encode(second).blocks["t"].dense
    assert shown[0].tolist() == shown[1].tolist()
    late = rows_of({"t": moments(NOW, NOW + timedelta(seconds=2))}, at(NOW, NOW))
    with pytest.raises(LeakError, match=r"12:00:02\+00:00 in row 1, which is 2 s after the row's"):
        encoder.encode(late)


def test_hour_and_weekday_of_a_zone():
    """Noon UTC on a Monday is 08:00 in New York in March: hour and weekday as sine and cosine."""
    encoder, parts = fitted(
        "t", time(zone="America/New_York"), moments(NOW, None), times=at(NOW, NOW)
    )
    block = encoder.encode(parts).blocks["t"]
    hour = 2 * np.pi * 8 / 24
    assert block.dense[0, 2:].tolist() == pytest.approx([np.sin(hour), np.cos(hour), 0, 1])
    assert block.dense[1].tolist() == [0, 1, 0, 0, 0, 0]
    assert encoder.layout.inputs["t"].dense[2:] == (
        "t_hour_sin",
        "t_hour_cos",
        "t_weekday_sin",
        "t_weekday_cos",
    )


def test_times_that_are_none():
    """An unknown zone and a column without times are refused."""
    with pytest.raises(InputError, match="zone='Mars/Base', which is no IANA time zone"):
        fitted("t", time(zone="Mars/Base"), moments(NOW), times=at(NOW))
    with pytest.raises(InputError, match="holds values of type string, expected timestamps"):
        fitted("t", time(), pa.array(["1"]))


LISTS = [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.int32())]


@pytest.mark.parametrize("type_", LISTS, ids=str)
def test_vectors(type_):
    """The numbers as they are; absent is zeros and an indicator, a stored zero vector is not."""
    values = pa.array([[3, 4], None, [0, 0]], type_)
    encoder, parts = fitted("v", vector(), values)
    block = encoder.encode(parts).blocks["v"]
    assert block.slots[0].values.tolist() == [[3, 4], [0, 0], [0, 0]]
    assert block.dense.tolist() == [[0], [1], [0]]
    assert encoder.counts(parts)["v"] == {"absent": 1, "unknown": 0, "present": 2}
    unit, _ = fitted("v", vector(normalise=True), values)
    assert unit.encode(parts).blocks["v"].slots[0].values == pytest.approx(
        np.array([[0.6, 0.8], [0, 0], [0, 0]])
    )
    sliced = Parts.joined(parts.sides["item"].table.slice(1), parts.sides["item"].times[1:])
    assert encoder.encode(sliced).blocks["v"].slots[0].values.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1.0, 2.0], None, [1.0]], "has 1 numbers in row 2, expected 2"),
        ([[1.0, 2.0], None, []], "has 0 numbers in row 2, expected 2"),
        ([None, [1.0, float("nan")]], "has a vector with NaN, infinity or null inside in row 1"),
        ([None, [1.0, None]], "has a vector with NaN, infinity or null inside in row 1"),
    ],
)
def test_broken_vectors_are_refused(values, said):
    """Another length, or a hole inside, is an error with its row: in training and in a request."""
    column = pa.array(values, pa.list_(pa.float32()))
    encoder, _ = fitted("v", vector(), pa.array([[1.0, 2.0]]))
    for refused in (
        lambda: encoder.encode(rows_of({"v": column})),
        lambda: fitted("v", vector(length=2), column),
    ):
        with pytest.raises(InputError, match=rf"'v' \(column v\) {said}"):
            refused()


def test_the_length_has_to_be_known():
    """Two lengths in training without a declared one, no vectors, or no lists, are refused."""
    with pytest.raises(InputError, match="has vectors of 1 and 2 numbers; expected one length"):
        fitted("v", vector(), pa.array([[1.0], [1.0, 2.0]]))
    with pytest.raises(InputError, match="has no vector in the 2 training rows"):
        fitted("v", vector(length=2), pa.nulls(2))
    with pytest.raises(InputError, match="holds values of type string, expected lists of numbers"):
        fitted("v", vector(), pa.array(["1,2"]))


@given(st.lists(st.none() | st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3)))
def test_vectors_come_back(values):
    """Every vector is what was stored, and every null is marked."""
    encoder, _ = fitted("v", vector(length=3), pa.array([[1.0, 2.0, 3.0]]))
    times = np.full(len(values), np.datetime64("2026-01-01", "us"))
    block = encoder.encode(rows_of({"v": pa.array(values, pa.list_(pa.float32()))}, times)).blocks[
        "v"
    ]
    assert block.slots[0].values.tolist() == [v or [0, 0, 0] for v in values]
    assert block.dense[:, 0].tolist() == [v is None for v in values]
