"""Columns in the types that are declared for them. Reads: Arrow columns. Writes: the same values.

One rule for the join, for scans, for what goes online and for what is written back.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.event_times import is_time, microseconds, timestamps

MISFITS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
"""What `fitted` raises for values that the type does not hold."""
_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def fitted(column: pa.ChunkedArray, wanted: pa.DataType, *, name: str) -> pa.ChunkedArray:
    """The column in another type, with the same values; raises one of MISFITS for others.

    Missing whole numbers that pandas made NaN become null again. Fractions take the nearest value
    of a narrower type, but never an infinite one. Times and dates are floored to the unit asked.
    """
    kind = column.type
    if kind == wanted and str(kind) == str(wanted):  # the items of lists have a name, too
        return column
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(wanted):
        return fitted(column.cast(kind.value_type), wanted, name=name)
    if is_time(kind) and pa.types.is_timestamp(wanted):
        return _times(column, wanted, name)
    if pa.types.is_integer(wanted) and pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    answer = column.cast(wanted)
    if overflows(answer, column):
        raise pa.ArrowInvalid(f"a value is beyond the greatest of {wanted}")
    return answer


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


def overflows(answer: pa.ChunkedArray, column: pa.ChunkedArray) -> bool:
    """Whether finite fractions became infinite, in lists too: Arrow's cast says nothing."""
    while _nested(answer.type) and _nested(column.type):
        answer, column = pc.list_flatten(answer), pc.list_flatten(column)
    kinds = (answer.type, column.type)
    if not all(map(pa.types.is_floating, kinds)) or kinds[0].bit_width >= kinds[1].bit_width:
        return False
    found = pc.any(pc.and_not(pc.is_inf(answer), pc.is_inf(column))).as_py()
    return bool(found)


def _nested(kind: pa.DataType) -> bool:
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in checks)


def _times(column: pa.ChunkedArray, wanted: pa.DataType, name: str) -> pa.ChunkedArray:
    plain = timestamps(column, name=name)
    if plain.type == wanted:
        return plain
    if wanted.unit == "ns":
        return plain.cast(wanted)
    whole, known = np.zeros(len(plain), np.int64), plain.is_valid().to_numpy()
    whole[known] = microseconds(plain.drop_null(), name=name) // _TICKS[wanted.unit]
    return pa.chunked_array([pa.array(whole, mask=~known).cast(wanted)])
