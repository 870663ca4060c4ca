"""Types of a label log's columns. Reads: adc_features.inputs.column_types. Writes: nothing."""

import pyarrow as pa

from adc_features.inputs.column_types import feast_type


def test_types_of_a_log_are_feast_types():
    """Widths follow what Feast has; what it cannot hold has none."""
    kinds = [
        pa.int16(),
        pa.int64(),
        pa.uint32(),
        pa.string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.timestamp("ns", "UTC"),
        pa.list_(pa.float32()),
        pa.uint64(),
        pa.decimal128(9, 2),
        pa.struct([("a", pa.int64())]),
        pa.list_(pa.list_(pa.int64())),
    ]
    assert [feast_type(k) for k in kinds] == [
        "Int32",
        "Int64",
        "Int64",
        "String",
        "String",
        "UnixTimestamp",
        "Array(Float32)",
        "Int64",
        "Float64",
        None,
        None,
    ]
