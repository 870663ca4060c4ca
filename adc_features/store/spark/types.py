"""Arrow types that Spark has. Reads: schemas. Writes: nothing; neither feast nor pyspark here."""

from __future__ import annotations

import pyarrow as pa

from adc_features.store.casts import is_list

_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
"""Types without a like in Spark, and those that hold their values there."""


def spark_schema(schema: pa.Schema) -> pa.Schema:
    """The columns in the nearest types that Spark has and that hold all their values."""
    return pa.schema([(field.name, _spark_type(field.type)) for field in schema])


def _spark_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _spark_type(kind.value_type)
    if is_list(kind):
        return pa.list_(_spark_type(kind.value_type))
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    return _WIDER.get(kind, kind)
