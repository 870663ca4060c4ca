"""Columns in the types that are declared for them. Reads: Arrow columns. Writes: the same values.

One table of conversions (docs/guides/offline_joins.md, "What fits a declared type") for joins,
pulls, what goes online by materialization or push, and what is written back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.event_times import is_time, microseconds, timestamps

MISFITS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
"""What `fitted` raises for values that the type does not hold."""
_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_SHOWN = 60
"""Characters of a refused value in a message."""


def fitted(
    column: pa.ChunkedArray,
    wanted: pa.DataType,
    *,
    name: str,
    whole_lists: bool = True,
    spelled: bool = False,
    seconds: bool = False,
) -> pa.ChunkedArray:
    """The column in another type, with the same values.

    Raises one of MISFITS, naming the value, for others.

    Missing whole numbers that pandas made NaN become null again. Fractions take the nearest value
    of a narrower type, but never an infinite one. Times and dates are floored to the unit asked.
    whole_lists: refuse lists that hold a null. spelled: texts are read as what they spell, as
    names of directories are. seconds: floor times to whole seconds, whatever the type's unit.
    """
    if seconds and holds_times(wanted):
        column = fitted(column, wanted, name=name, whole_lists=whole_lists, spelled=spelled)
        column = fitted(column, _in_seconds(wanted), name=name, whole_lists=whole_lists)
    if column.type == wanted and not (whole_lists and is_list(wanted)):
        return _named(column, wanted)

    def convert(piece: pa.ChunkedArray) -> pa.ChunkedArray:
        return pa.chunked_array(
            [_converted(c, wanted, name, whole_lists, spelled) for c in piece.chunks], wanted
        )

    try:
        answer = convert(column)
        return _named(column, wanted) if column.type == wanted else answer
    except MISFITS as error:
        raise pa.ArrowInvalid(f"value {_first_misfit(column, convert)}: {error}") from error


def _named(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """The same column, its lists' elements named as asked.

    Types that differ in this are equal, and hash apart.
    """
    return column if str(column.type) == str(wanted) else column.cast(wanted)


def family(kind: pa.DataType) -> str:
    """Keys of one family may equal one another: numbers, text, bytes, times; others alone."""
    if pa.types.is_dictionary(kind):
        return family(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if is_time(kind):
        return "times"
    name = str(kind).removeprefix("large_").removesuffix("_view")
    return {"string": "text", "utf8": "text"}.get(name, "bytes" if "binary" in name else name)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of any layout that is read."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def holds_times(kind: pa.DataType) -> bool:
    """Whether values of this type are times, or lists of times."""
    return holds_times(kind.value_type) if is_list(kind) else pa.types.is_timestamp(kind)


def cut_to_seconds(
    types: Mapping[str, pa.DataType], *, but: Collection[str] = ()
) -> tuple[str, ...]:
    """The features that are cut to whole seconds, as Feast's values of times are.

    Keys and times of rows are not.
    """
    return tuple(name for name, kind in types.items() if holds_times(kind) and name not in but)


def _in_seconds(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_in_seconds(kind.value_type)) if is_list(kind) else pa.timestamp("s", kind.tz)


def _converted(
    array: pa.Array, wanted: pa.DataType, name: str, whole_lists: bool, spelled: bool
) -> pa.Array:
    kind = array.type
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(wanted):
        return _converted(array.cast(kind.value_type), wanted, name, whole_lists, spelled)
    if is_list(wanted) and is_list(kind):
        return _list(array, wanted, name, whole_lists, spelled)
    if pa.types.is_null(kind):
        return pa.nulls(len(array), wanted)
    if is_time(kind) and pa.types.is_timestamp(wanted):
        return _times(array, wanted, name)
    if spelled and family(kind) == "text":
        return _spelled(array, wanted)
    return array if kind == wanted else _scalars(array, wanted)


def _scalars(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """What is neither time nor list, in another type."""
    kind = array.type
    theirs, ours = family(kind), family(wanted)
    if theirs in ("numbers", "bool") and ours in ("numbers", "bool"):
        return _number(array, wanted)
    if theirs != ours and not _meets(kind, wanted):
        raise pa.ArrowTypeError(f"{kind} never becomes {wanted}")
    return array.cast(wanted)


def _meets(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of two different families convert all the same.

    Text and bytes do, digits become text, and containers are left to Arrow.
    """
    theirs, ours = family(kind), family(wanted)
    if {theirs, ours} == {"text", "bytes"}:
        return True
    if ours == "text":
        return pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return pa.types.is_nested(kind) and pa.types.is_nested(wanted) and not pa.types.is_list(wanted)


def _number(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Numbers and truth values: what is out of range or inexact is refused."""
    kind = array.type
    if pa.types.is_boolean(wanted):
        whole = _number(array, pa.int64())
        ends = pc.min_max(whole)
        if ends["max"].is_valid and (ends["max"].as_py() > 1 or ends["min"].as_py() < 0):
            raise pa.ArrowInvalid("of numbers only 0 and 1 are truth values")
        return whole.cast(wanted)
    if pa.types.is_floating(kind) and (pa.types.is_integer(wanted) or pa.types.is_decimal(wanted)):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
    if pa.types.is_integer(kind) and pa.types.is_floating(wanted):
        return _exact(array, wanted)
    if pa.types.is_decimal(kind) and pa.types.is_integer(wanted):
        array = array.cast(pa.int64())
    answer = array.cast(wanted)
    if pa.types.is_floating(wanted) and not pa.types.is_boolean(kind):
        infinite = pc.is_inf(answer)
        if pa.types.is_floating(kind):
            infinite = pc.and_not(infinite, pc.is_inf(array))
        if pc.any(infinite).as_py():
            raise pa.ArrowInvalid(f"it is beyond the greatest {wanted}")
    return answer


def _exact(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Whole numbers as fractions. Arrow's own check refuses all beyond 2^53, exact ones, too."""
    whole = np.asarray(array.fill_null(0) if array.null_count else array)
    answer = whole.astype(wanted.to_pandas_dtype())
    limits = np.iinfo(whole.dtype)
    wide = answer.astype(np.float64)
    inside = (wide >= float(limits.min)) & (wide < float(limits.max) + (limits.bits < 64))
    back = np.where(inside, wide, 0).astype(whole.dtype)
    if (~inside | (back != whole)).any():
        raise pa.ArrowInvalid(f"{wanted} holds no such whole number exactly")
    return pa.array(answer, wanted, mask=np.asarray(array.is_null()) if array.null_count else None)


def _spelled(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Texts as the numbers, times or truth values that they spell."""
    if pa.types.is_floating(wanted) and wanted != pa.float64():
        return _number(array.cast(pa.float64()), wanted)
    return array.cast(wanted)


def _list(
    array: pa.Array, wanted: pa.DataType, name: str, whole_lists: bool, spelled: bool
) -> pa.Array:
    kind = array.type
    if whole_lists and array.values.null_count and array.flatten().null_count:
        raise pa.ArrowInvalid("a list holds a null; fill or drop it at the source")
    if kind == wanted and not is_list(wanted.value_type):
        return array
    if not pa.types.is_list(wanted):
        return array.cast(wanted)
    inner = _converted(array.flatten(), wanted.value_type, name, whole_lists, spelled)
    if whole_lists and inner.null_count:
        raise pa.ArrowInvalid("a list holds a NaN, which is a null; fill or drop it at the source")
    if kind == wanted:
        return array
    ends = np.zeros(len(array) + 1, np.int64)
    lengths = pc.list_value_length(array)
    np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), out=ends[1:])
    mask = pa.array(np.asarray(array.is_null())) if array.null_count else None
    offsets = pa.array(ends).cast(pa.int32())
    return pa.ListArray.from_arrays(offsets, inner, type=wanted, mask=mask)


def _times(array: pa.Array, wanted: pa.DataType, name: str) -> pa.Array:
    plain = timestamps(pa.chunked_array([array]), name=name).combine_chunks()
    if plain.type == wanted:
        return plain
    if wanted.unit == "ns":
        return plain.cast(wanted)
    whole, known = np.zeros(len(plain), np.int64), np.asarray(plain.is_valid())
    whole[known] = microseconds(plain.drop_null(), name=name) // _TICKS[wanted.unit]
    return pa.array(whole, mask=~known).cast(wanted)


def _first_misfit(column: pa.ChunkedArray, convert: Callable[[pa.ChunkedArray], object]) -> str:
    """The first value that does not convert, found by halves."""
    while len(column) > 1:
        half = column.slice(0, len(column) // 2)
        try:
            convert(half)
        except MISFITS:
            column = half
        else:
            column = column.slice(len(half))
    try:
        text = repr(column[0].as_py())
    except (ValueError, OverflowError, IndexError):
        text = str(column)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
