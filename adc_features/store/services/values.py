"""Feature columns in their declared Feast types. Reads: Arrow columns of any store. Writes: the
Arrow types below.

Joined and online values pass through the same types, so a ranker sees the same bits: Float32 is
rounded to 32 bits, UnixTimestamp floored to whole seconds, as Feast's values online are.
"""

from __future__ import annotations

import functools
import re
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.store.casts import MISFITS, family, fitted

TIMES = pa.timestamp("us", "UTC")
_SCALARS = {
    "Bool": pa.bool_(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "String": pa.string(),
    "Bytes": pa.binary(),
    "UnixTimestamp": TIMES,
    "ZonedTimestamp": TIMES,
    # Feast keeps both as text: on every store "1.50" comes back as it was written
    "Decimal": pa.decimal128(38, 18),
    "Uuid": pa.string(),
    "TimeUuid": pa.string(),
}
_LIST = re.compile(r"(Array|Set)\((\w+)\)")
_EXACT = float(1 << 53)


@functools.cache
def arrow_type(dtype: str) -> pa.DataType | None:
    """The Arrow type of a Feast type that is written as text ("Float32", "Set(Int64)").

    None for types that are no input of a ranker: maps, JSON, structs, nested lists, images.
    """
    if found := _LIST.fullmatch(dtype):
        inner = _SCALARS.get(found[2])
        return None if inner is None else pa.list_(inner)
    return _SCALARS.get(dtype)


def element(dtype: str) -> str:
    """The Feast type of a list's elements; of a scalar, the type itself."""
    found = _LIST.fullmatch(dtype)
    return found[2] if found else dtype


def is_set(dtype: str) -> bool:
    """Whether the order of the elements means nothing."""
    return dtype.startswith("Set(")


def in_declared_type(column: pa.ChunkedArray, dtype: str, *, name: str) -> pa.ChunkedArray:
    """The column in the Arrow type of `dtype`, null where absent; nulls within lists stay.

    A column of another type (maps, JSON) stays as it came. Raises one of `casts.MISFITS` for
    values that the type does not hold, and for ids that the store has rounded.
    """
    wanted = arrow_type(dtype)
    if wanted is None:
        return column
    column, inner = _plain(column), element(dtype)
    if inner == "Decimal":
        return _decimals(column, wanted, name=name)
    if inner in ("Int32", "Int64"):
        _refuse_rounded(column)
    seconds = inner == "UnixTimestamp"
    return fitted(column, wanted, name=name, whole_lists=False, seconds=seconds)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Extension types as what they are stored as, UUIDs as their text."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([c.storage for c in column.chunks], kind.storage_type)
        kind = column.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:
        texts = [None if v is None else str(uuid.UUID(bytes=v)) for v in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return column


def _refuse_rounded(column: pa.ChunkedArray) -> None:
    """pandas holds whole numbers beside nulls as float64: beyond 2**53 other ids than stored."""
    kind = column.type
    if not pa.types.is_floating(kind) or not len(column):
        return
    known = pc.drop_null(column)
    if pc.any(pc.greater_equal(pc.abs(known), _EXACT)).as_py():
        raise pa.ArrowInvalid(
            "whole numbers from 2**53 on came as fractions, so the offline store has rounded them;"
            " use a store that keeps them (AsofOfflineStore, DuckDB, a database), or declare them"
            " as String"
        )


def _decimals(column: pa.ChunkedArray, wanted: pa.DataType, *, name: str) -> pa.ChunkedArray:
    """Decimals, or the texts and numbers that stores keep of them, to 18 places."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        whole = column.combine_chunks()
        flat = _decimals(pa.chunked_array([whole.flatten()]), wanted.value_type, name=name)
        offsets = np.zeros(len(whole) + 1, np.int32)
        np.cumsum(pc.list_value_length(whole).fill_null(0), out=offsets[1:])
        made = pa.ListArray.from_arrays(
            pa.array(offsets), flat.combine_chunks(), type=wanted, mask=whole.is_null()
        )
        return pa.chunked_array([made])
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column), wanted)])
    if family(kind) == "text":
        column = column.cast(pa.string())
        wide = column.cast(pa.decimal256(76, 18), safe=False)
        return wide.cast(wanted)
    if pa.types.is_decimal(kind):
        return (
            column.cast(pa.decimal256(76, kind.scale))
            .cast(pa.decimal256(76, 18), safe=False)
            .cast(wanted)
        )
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    return column.cast(wanted)


def normal(column: pa.Array) -> pa.Array:
    """The column with -0.0 as 0.0 and NaN as null: how encoders see numbers."""
    if not pa.types.is_floating(column.type):
        return column
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return pc.add(column, pa.scalar(0.0, column.type))


__all__ = [
    "MISFITS",
    "TIMES",
    "arrow_type",
    "element",
    "in_declared_type",
    "is_set",
    "normal",
]
