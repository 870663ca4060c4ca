"""Feast's value protos as Arrow columns. Reads: the values of one feature. Writes: one column.

A value is read by the attribute of its declared type: a proto that holds another kind, or nothing,
gives the type's zero there, so only zeros are asked what they hold. That is several times faster
than asking all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError
from adc_features.store.services.values import (
    MISFITS,
    arrow_type,
    element,
    in_declared_type,
)

_STEMS = {
    "Bool": "bool",
    "Int32": "int32",
    "Int64": "int64",
    "Float32": "float",
    "Float64": "double",
    "String": "string",
    "Bytes": "bytes",
    "UnixTimestamp": "unix_timestamp",
    "Uuid": "uuid",
    "TimeUuid": "time_uuid",
    "Decimal": "decimal",
}
_RAW = {"UnixTimestamp": pa.timestamp("s", "UTC"), "Decimal": pa.string()}
_NO_TIME = np.iinfo(np.int64).min
"""What Feast writes for a time that pandas has as NaT."""


def column_of_protos(values: Sequence[Any], dtype: str, *, name: str) -> pa.Array:
    """One feature's values, in the Arrow type of its declared Feast type; null where absent.

    Values of types that are no input (maps, JSON) come as Arrow infers them from Python's.
    Raises ArtifactError for values that the declared type does not hold.
    """
    wanted, inner = arrow_type(dtype), element(dtype)
    if wanted is None or inner not in _STEMS:
        return _by_python(values, dtype, name=name)
    kind = _STEMS[inner] + ("_val" if inner == dtype else f"_{dtype[: dtype.index('(')]}_val")
    kind = kind.replace("_Array_", "_list_").replace("_Set_", "_set_")
    read = _scalars if inner == dtype else _lists
    array = read(values, kind, _RAW.get(inner) or arrow_type(inner))
    if array is None:
        return _by_python(values, dtype, name=name)
    if array.type == wanted:
        return array
    return _declared(pa.chunked_array([array]), dtype, name=name)


def _scalars(values: Sequence[Any], kind: str, raw: Any) -> pa.Array | None:
    """None where some value is of another kind."""
    values = list(values)  # a repeated field makes a value anew each time that it is asked
    read: list[Any] = list(map(attrgetter(kind), values))
    for i, value in enumerate(read):
        if not value:
            held = values[i].WhichOneof("val")
            if held is None:
                read[i] = None
            elif held != kind:
                return None
    if kind == "unix_timestamp_val":
        read = [None if value == _NO_TIME else value for value in read]
    return pa.array(read, raw)


def _lists(values: Sequence[Any], kind: str, raw: Any) -> pa.Array | None:
    """None where some value is of another kind. An empty list is not a missing one: Feast keeps
    the message of an empty list, and every store that keeps whole protos gives it back."""
    values = list(values)
    # a slice of a repeated field is a list, made twice as fast as by asking element after element
    read = [inner[:] for inner in map(attrgetter(f"{kind}.val"), values)]
    missing = np.zeros(len(values), bool)
    for i, inner in enumerate(read):
        if not inner:
            held = values[i].WhichOneof("val")
            if held is None:
                missing[i] = True
            elif held != kind:
                return None
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(inner) for inner in read], out=offsets[1:])
    flat: list[Any] = list(itertools.chain.from_iterable(read))
    if kind.startswith("unix_timestamp"):
        flat = [None if value == _NO_TIME else value for value in flat]
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, raw), mask=mask)


def _by_python(values: Sequence[Any], dtype: str, *, name: str) -> pa.Array:
    """Whatever the protos hold, through Feast's own Python values."""
    from adc_features.store import _compat as feast

    shown = [feast.feast_value_type_to_python_type(value) for value in values]
    shown = [sorted(v, key=str) if isinstance(v, set) else v for v in shown]
    if arrow_type(dtype) == pa.string() or element(dtype) in ("Uuid", "TimeUuid", "Decimal"):
        shown = [_text(value) for value in shown]
    try:
        return _declared(pa.chunked_array([pa.array(shown)]), dtype, name=name)
    except MISFITS as error:
        raise ArtifactError(_misfit(name, dtype, error)) from error


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [None if v is None else str(v) for v in value]
    return None if value is None else str(value)


def _declared(column: pa.ChunkedArray, dtype: str, *, name: str) -> pa.Array:
    try:
        made = in_declared_type(column, dtype, name=name)
    except MISFITS as error:
        raise ArtifactError(_misfit(name, dtype, error)) from error
    return made.chunk(0) if made.num_chunks == 1 else pa.concat_arrays(made.chunks)


def _misfit(name: str, dtype: str, error: Exception) -> str:
    return (
        f"feature {name} is declared {dtype}, and the online store holds something else ({error});"
        " materialize the view again, or correct its declaration"
    )
