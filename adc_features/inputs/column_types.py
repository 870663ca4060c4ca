"""Types of a label log's columns: Arrow's, and Feast's as text. Reads: types. Writes: types."""

import pyarrow as pa

from adc_features.event_times import UTC_US, is_time

_FEAST = {
    pa.bool_(): "Bool",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.float32(): "Float32",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.binary(): "Bytes",
    UTC_US: "UnixTimestamp",
}
_ARROW = {name: kind for kind, name in _FEAST.items()} | {
    "Uuid": pa.string(),
    "TimeUuid": pa.string(),
}


def fits(kind: pa.DataType, dtype: str) -> bool:
    """Whether values of an Arrow type can be of a Feast type without changing what they mean."""
    if dtype.startswith(("Array(", "Set(")):
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return lists and fits(plain_type(kind.value_type), dtype[dtype.index("(") + 1 : -1])
    if dtype in ("Int32", "Int64"):
        return pa.types.is_integer(kind)
    if dtype in ("Float32", "Float64"):
        return any(
            t(kind) for t in (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
        )
    if dtype == "UnixTimestamp":
        return is_time(kind)
    wanted = _ARROW.get(dtype)
    return wanted is None or kind == wanted


def arrow_type(kind: pa.DataType, dtype: str | None) -> pa.DataType:
    """The Arrow type of a column's values: of the Feast type where it is known, its own
    otherwise.
    """
    kind = plain_type(kind)
    if dtype is not None and dtype.startswith(("Array(", "Set(")):
        return pa.list_(arrow_type(kind.value_type, dtype[dtype.index("(") + 1 : -1]))
    return _ARROW.get(dtype or feast_type(kind) or "", kind)


def feast_type(kind: pa.DataType) -> str | None:
    """The Feast type of a request column, as text; None where no kind of input reads it."""
    kind = plain_type(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = feast_type(kind.value_type)
        return f"Array({inner})" if inner and "(" not in inner else None
    if pa.types.is_integer(kind):
        return "Int32" if kind.bit_width < 32 or kind == pa.int32() else "Int64"
    if pa.types.is_decimal(kind) or kind == pa.float16():
        return "Float64"
    return "UnixTimestamp" if is_time(kind) else _FEAST.get(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, however they are stored: dictionaries and large or viewed text."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind
