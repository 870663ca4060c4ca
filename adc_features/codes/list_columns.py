"""Arrow list columns as matrices. Reads: Arrow. Writes: arrays [N, length]."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.spec import NO_CODE
from adc_features.errors import InputError


def list_matrix(column: pa.ChunkedArray | pa.Array, length: int, dtype: type) -> np.ndarray:
    """A list column as [N, length] by flatten + reshape.

    Raises InputError on nulls, other lengths, lists of text and the like, and values that an
    integer dtype does not hold.
    """
    array = (
        pa.concat_arrays(column.chunks)
        if isinstance(column, pa.ChunkedArray) and column.num_chunks
        else column
    )
    flat = array.flatten() if not isinstance(array, pa.ChunkedArray) else pa.array([], pa.float32())
    kind = flat.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            f"a list column holds lists of {kind}; expected lists of numbers, {length} in every row"
        )
    lengths = pc.unique(pc.list_value_length(array)).drop_null().to_pylist()
    if array.null_count or flat.null_count or set(lengths) - {length}:
        raise InputError(
            f"a list column holds lists of lengths {sorted(lengths)} and"
            f" {array.null_count + flat.null_count} nulls; expected {length} values in every row"
        )
    values = np.asarray(flat)
    if np.dtype(dtype).kind in "iu" and values.dtype != dtype:
        values = _whole(values, np.dtype(dtype))
    return values.astype(dtype, copy=False).reshape(len(array), length)


def code_matrix(
    column: pa.ChunkedArray | pa.Array, length: int, *, codebook_size: int | None = None
) -> np.ndarray:
    """A list column of codes as int64 [N, length].

    Raises InputError as `list_matrix`, and for what is not a whole number in -1..codebook_size - 1;
    without a size only codes that int32 does not hold are too large.
    """
    codes = list_matrix(column, length, np.int64)
    largest = np.iinfo(np.int32).max if codebook_size is None else codebook_size - 1
    if codes.size and (codes.min() < NO_CODE or codes.max() > largest):
        raise InputError(
            f"codes range over {codes.min()}..{codes.max()}; expected {NO_CODE}..{largest}, -1 for"
            " no code"
        )
    return codes


def _whole(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers as integers of a type. Raises InputError for the first that is no whole number or
    that the type does not hold.
    """
    limits = np.iinfo(dtype)
    values = values.astype(np.float64) if values.dtype == np.float16 else values
    # 2**63 - 1 is no float: what is compared with is the first number beyond
    fits = (values >= limits.min) & (
        values < float(limits.max) + 1 if values.dtype.kind == "f" else values <= limits.max
    )
    if values.dtype.kind == "f":
        fits &= np.floor(values) == values
    if not fits.all():
        first = values[np.argmin(fits)]
        raise InputError(
            f"a list column holds {first} and {np.count_nonzero(~fits) - 1} more values that are no"
            f" whole numbers of type {dtype}; correct them"
        )
    return values.astype(dtype)
