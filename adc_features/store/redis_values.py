"""The bytes that Feast keeps in Redis, made of columns. Reads: Arrow columns. Writes: columns of
bytes, the same as those of its protocol buffers and entity keys.

A value is a field of Feast's `Value` message, a null one no bytes at all. A key is what Feast's
version 3 of entity keys makes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.timestamp_pb2 import Timestamp

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.byte_columns import (
    grouped,
    joined,
    lengths,
    of_bytes,
    of_numbers,
    varints,
)

_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
"""How the bytes of a field say what follows its tag."""
_KEY_TYPES = {
    "string_val": feast.ValueType.STRING,
    "bytes_val": feast.ValueType.BYTES,
    "int32_val": feast.ValueType.INT32,
    "int64_val": feast.ValueType.INT64,
    "unix_timestamp_val": feast.ValueType.UNIX_TIMESTAMP,
}
KEY_KINDS = tuple(_KEY_TYPES)
"""The kinds of values that Feast's entity keys hold."""
_NO_TIME = int(np.iinfo(np.int64).min)
"""What Feast keeps for a time that is null."""
_MICROSECONDS = 1_000_000


def value_bytes(values: pa.Array, kind: str, *, name: str) -> pa.LargeBinaryArray:
    """A feature of N rows as the bytes of Feast's values.

    kind: a key of `lmdb.columns.KINDS` that is not opaque, whose Arrow type the values have.

    Raises InputError for a null inside of a list, which Feast's messages do not hold.
    """
    field = feast.ValueProto.DESCRIPTOR.fields_by_name[kind].number
    if pa.types.is_list(values.type):
        valid = values.is_valid()
        content = _counted(field, _list_message(values, name=name))
    else:
        if kind == "unix_timestamp_val":
            values = values.cast(pa.int64()).fill_null(_NO_TIME)
        valid = values.is_valid()
        if pa.types.is_floating(values.type):  # Feast takes one that is not a number for null
            valid = pc.and_(valid, pc.invert(pc.is_nan(values.fill_null(0))))
        content = _scalar(field, values)
    if pc.all(valid).as_py() in (True, None):
        return content
    return pc.if_else(valid, content, pa.scalar(b"", pa.large_binary()))


def time_bytes(times: np.ndarray) -> pa.LargeBinaryArray:
    """int64 [N] microseconds since 1970 as Google's Timestamp messages, which omit a zero."""
    seconds, rest = np.divmod(times, _MICROSECONDS)
    parts = []
    for field, number in ((1, seconds), (2, rest * 1_000)):
        part = joined(_tag(field, _VARINT), varints(number))
        empty = pa.scalar(b"", pa.large_binary())
        parts.append(pc.if_else(pa.array(number != 0), part, empty))
    return joined(*parts)


def time_of(message: bytes) -> int:
    """The microseconds since 1970 of a Timestamp message, floored."""
    stamp = Timestamp.FromString(message)
    return int(stamp.seconds) * _MICROSECONDS + int(stamp.nanos) // 1_000


def key_bytes(
    columns: Mapping[str, pa.Array], kinds: Mapping[str, str], *, project: str
) -> pa.LargeBinaryArray:
    """The Redis keys of N rows: Feast's entity key of version 3, then the project.

    columns: join key -> values without nulls. kinds: join key -> one of `KEY_KINDS`.
    """
    names = sorted(columns)
    head = struct.pack("<I", len(names)) + b"".join(
        struct.pack("<II", feast.ValueType.STRING.value, len(name.encode())) + name.encode()
        for name in names
    )
    parts: list[pa.Array | bytes] = [head]
    for name in names:
        values, kind = columns[name], kinds[name]
        parts.append(struct.pack("<I", _KEY_TYPES[kind].value))
        if kind in ("string_val", "bytes_val"):
            content = values.cast(pa.binary()).cast(pa.large_binary())
            parts.append(of_numbers(lengths(content).astype("<u4")))
        else:
            width = "<i4" if kind == "int32_val" else "<i8"
            content = of_numbers(values.cast(pa.int64()).to_numpy().astype(width))
            parts.append(struct.pack("<I", np.dtype(width).itemsize))
        parts.append(content)
    return joined(*parts, project.encode())


def _tag(field: int, follows: int) -> bytes:
    return bytes(varints(np.array([field << 3 | follows]))[0].as_py())


def _counted(field: int, content: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    return joined(_tag(field, _COUNTED), varints(lengths(content)), content)


def _scalar(field: int, values: pa.Array) -> pa.LargeBinaryArray:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        filled = values.cast(pa.binary()).fill_null(b"").cast(pa.large_binary())
        return _counted(field, filled)
    if pa.types.is_floating(kind):
        follows = _FOUR_BYTES if kind == pa.float32() else _EIGHT_BYTES
        return joined(_tag(field, follows), of_numbers(values.fill_null(0).to_numpy()))
    numbers = values.cast(pa.int64()).fill_null(0).to_numpy()
    return joined(_tag(field, _VARINT), varints(numbers))


def _list_message(lists: pa.Array, *, name: str) -> pa.LargeBinaryArray:
    """The lists of N rows as Feast's list messages, whose one field is `val`, number 1."""
    size = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(size)])
    elements = lists.drop_null().flatten()
    if elements.null_count:
        raise InputError(
            f"{name} holds {elements.null_count} nulls inside of lists, which Feast's values do not"
            " hold; drop them or replace the list by null"
        )
    kind = elements.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        texts = elements.cast(pa.binary()).cast(pa.large_binary())
        return grouped(_counted(1, texts), offsets)
    if pa.types.is_floating(kind):
        width = kind.bit_width // 8
        packed = of_bytes(elements.to_numpy(), offsets * width)
    else:
        packed = grouped(varints(elements.cast(pa.int64()).to_numpy()), offsets)
    return pc.if_else(pa.array(size > 0), _counted(1, packed), pa.scalar(b"", pa.large_binary()))
