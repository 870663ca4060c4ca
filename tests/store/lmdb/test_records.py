"""Packed records: what goes in comes out, of every kind,
and damage is never decoded into values.
"""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import ArtifactError, InputError, NewerFormatError
from adc_features.store.lmdb.columns import KINDS, OPAQUE
from adc_features.store.lmdb.records import (
    FIRST_TIME,
    LAST_TIME,
    NO_CREATED,
    Column,
    Joined,
    Schema,
    decode,
    encode,
    times,
)

SECONDS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(
    lambda t: t.replace(microsecond=0, tzinfo=UTC)
)
NUMBERS = {
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "unix_timestamp": SECONDS,
    "string": st.text(max_size=8),
    "bytes": st.binary(max_size=8),
}
VALUES = {
    **{f"{name}_val": values for name, values in NUMBERS.items()},
    **{f"{name}_list_val": st.lists(values, max_size=4) for name, values in NUMBERS.items()},
    OPAQUE: st.binary(max_size=8),
}


@st.composite
def tables(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=0, max_size=10))
    n = draw(st.integers(1, 5))
    schema = Schema(tuple((f"é{i}", kind) for i, kind in enumerate(kinds)))
    columns = {
        name: draw(st.lists(st.none() | VALUES[kind], min_size=n, max_size=n))
        for name, kind in schema.features
    }
    times = st.integers(FIRST_TIME, LAST_TIME)
    return (
        schema,
        columns,
        *(np.array(draw(st.lists(times, min_size=n, max_size=n))) for _ in range(2)),
    )


def encoded(schema, columns, event, created) -> list[bytes]:
    arrays = {name: pa.array(columns[name], KINDS[kind].arrow) for name, kind in schema.features}
    return encode(schema, arrays, event=event, created=created).to_pylist()


def test_every_kind_is_drawn():
    """The property below knows every kind that exists."""
    assert set(VALUES) == set(KINDS)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_every_value_of_every_kind_comes_back(table):
    """Nulls, empty lists, extreme numbers and times survive, alone and beside one another."""
    schema, columns, event, created = table
    records = encoded(schema, columns, event, created)
    assert (Joined.of(records).fronts()["schema"] == schema.id).all()
    assert Schema.from_json(schema.to_json()) == schema
    assert [moment.tolist() for moment in times(records)] == [event.tolist(), created.tolist()]
    got = decode(schema, records)
    for (name, kind), column in zip(schema.features, got.columns, strict=True):
        expected = pa.array(columns[name], KINDS[kind].arrow)
        assert column.to_arrow().equals(expected), kind
        column.to_arrow().validate(full=True)
        if "timestamp" not in kind:
            assert column.to_python() == columns[name], kind


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_some_features_of_some_records_are_those_of_all(table, data):
    """Decoding fewer features, or one record at a time, changes no value."""
    schema, columns, event, created = table
    records = encoded(schema, columns, event, created)
    wanted = (
        data.draw(st.sets(st.sampled_from([name for name, _ in schema.features])))
        if schema.features
        else set()
    )
    for at in range(len(records)):
        one = decode(schema, records[at : at + 1], wanted)
        assert {name for name, _ in one.schema.features} == wanted
        for name in wanted:
            whole = decode(schema, records).column(name)
            assert one.column(name).to_arrow().equals(whole.to_arrow()[at : at + 1])


@settings(max_examples=150, deadline=None)
@given(tables(), st.data())
def test_a_record_that_is_cut_or_lengthened_is_refused(table, data):
    """No shorter or longer record is decoded as if it were whole."""
    schema, columns, event, created = table
    record = encoded(schema, columns, event, created)[0]
    cut = data.draw(st.integers(0, len(record) - 1))
    broken = data.draw(st.sampled_from([record[:cut], record + b"\0"]))
    with pytest.raises(ArtifactError, match=r"damaged|cut short"):
        Joined.of([broken]).fronts()
        decode(schema, [broken])


@pytest.mark.parametrize("time", [FIRST_TIME - 1, LAST_TIME + 1, NO_CREATED])
def test_an_event_time_that_no_calendar_has_is_refused(time):
    """A flipped bit in a row's time is told, whoever makes a datetime of it."""
    schema = Schema((("a", "int64_val"),))
    sound = encoded(schema, {"a": pa.array([1, 2])}, [FIRST_TIME, LAST_TIME], [NO_CREATED] * 2)
    assert times(sound)[0].tolist() == [FIRST_TIME, LAST_TIME]
    damaged = encoded(schema, {"a": pa.array([1])}, [time], [NO_CREATED])
    with pytest.raises(ArtifactError, match="years 1 and 9999; it is damaged"):
        times(damaged)


def test_a_sliced_column_is_encoded_as_its_copy():
    """Arrow slices share buffers with what they were cut from;
    none of that leaks into the records.
    """
    schema = Schema(
        (("a", "int32_list_val"), ("b", "string_val"), ("c", "string_list_val"), ("d", "bool_val"))
    )
    whole = {
        "a": pa.array([[1], None, [2, 3], [], [4]], pa.list_(pa.int32())),
        "b": pa.array(["x", None, "yy", "", "z"]),
        "c": pa.array([["p"], ["q", ""], None, [], ["r"]], pa.list_(pa.string())),
        "d": pa.array([True, None, False, True, False]),
    }
    parts = {name: array[1:4] for name, array in whole.items()}
    copies = {name: pa.array(array.to_pylist(), array.type) for name, array in parts.items()}
    moments = {"event": np.arange(3), "created": np.full(3, NO_CREATED)}
    assert encode(schema, parts, **moments).equals(encode(schema, copies, **moments))


def test_a_null_inside_a_list_is_refused():
    """A row of numbers has no place for it, and a 0 in its stead would be a value."""
    schema = Schema((("codes", "int32_list_val"),))
    with pytest.raises(InputError, match="lists of feature 'codes' hold 1 nulls"):
        encode(
            schema,
            {"codes": pa.array([[1, None]], pa.list_(pa.int32()))},
            event=np.zeros(1),
            created=np.zeros(1),
        )


def test_a_record_of_a_newer_format_is_refused():
    """It is named, not guessed at."""
    record = encoded(Schema((("a", "int64_val"),)), {"a": [1]}, np.zeros(1, int), np.zeros(1, int))[
        0
    ]
    with pytest.raises(NewerFormatError, match=r"format 9, this version reads up to 1.*upgrade"):
        Joined.of([b"\x09" + record[1:]]).fronts()


@settings(max_examples=150, deadline=None)
@given(tables(), st.integers(0, 3))
def test_a_column_is_the_same_from_arrow_and_among_absent_rows(table, absent):
    """What `from_arrow` makes and what `scattered` spreads over more rows are the values that went
    in, nulls elsewhere.
    """
    schema, columns, event, created = table
    decoded = decode(schema, encoded(schema, columns, event, created))
    n = len(event)
    for name, kind in schema.features:
        array = pa.array(columns[name], KINDS[kind].arrow)
        assert Column.from_arrow(array).to_arrow().equals(array)
        column = decoded.column(name)
        spread = column.scattered(np.arange(n) * (absent + 1), n * (absent + 1)).to_arrow()
        assert spread.to_pylist() == [
            value for own in array.to_pylist() for value in [own, *[None] * absent]
        ]


def test_a_row_with_any_flipped_bit_is_refused_in_words_or_read():
    """Every single bit of a row with texts, lists and numbers: an answer of its length, or an
    ArtifactError; never another failure.
    """
    schema = Schema(
        (("a", "string_val"), ("b", "string_list_val"), ("c", "float_list_val"), ("d", "int64_val"))
    )
    columns = {
        "a": pa.array(["ü1"]),
        "b": pa.array([["x", "yé"]]),
        "c": pa.array([[1.0, 2.0]], pa.list_(pa.float32())),
        "d": pa.array([7]),
    }
    (row,) = encode(schema, columns, event=np.array([5]), created=np.array([6])).to_pylist()
    refused = 0
    for bit in range(8 * schema.head.itemsize - 8 * 4 * 3, 8 * len(row)):
        altered = bytearray(row)
        altered[bit // 8] ^= 1 << (bit % 8)
        try:
            got = decode(schema, [bytes(altered)])
            assert all(len(column.to_arrow().to_pylist()) == 1 for column in got.columns)
        except ArtifactError:
            refused += 1
    assert refused > 50
