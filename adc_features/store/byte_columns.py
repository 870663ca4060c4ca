"""Columns of bytes, made for all rows at once. Reads: arrays. Writes: large_binary arrays.

No feast here.

Legend: N rows.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MOST_VARINT = 10
_SEVEN = np.arange(_MOST_VARINT, dtype=np.uint64) * np.uint64(7)


def joined(*pieces: pa.Array | pa.Scalar | bytes) -> pa.LargeBinaryArray:
    """The pieces of each row, one after the other."""
    whole = [pa.scalar(p, pa.large_binary()) if isinstance(p, bytes) else p for p in pieces]
    return pc.binary_join_element_wise(*whole, pa.scalar(b"", pa.large_binary()))


def of_bytes(data: np.ndarray, offsets: np.ndarray) -> pa.LargeBinaryArray:
    """data: of all rows, any fixed-size type. offsets: integers [N + 1], in bytes."""
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(),
        len(offsets) - 1,
        [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(np.ascontiguousarray(data))],
    )


def of_numbers(values: np.ndarray) -> pa.LargeBinaryArray:
    """The bytes of each number as they are in memory."""
    return of_bytes(values, np.arange(len(values) + 1) * values.dtype.itemsize)


def varints(values: np.ndarray) -> pa.LargeBinaryArray:
    """Whole numbers as varints of protocol buffers; negative ones take ten bytes."""
    whole = values.astype(np.int64).view(np.uint64)
    shifted = whole[:, None] >> _SEVEN
    more = np.append(shifted[:, 1:] > 0, np.zeros((len(whole), 1), bool), axis=1)
    digits = (shifted & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
    used = np.append(np.ones((len(whole), 1), bool), more[:, :-1], axis=1)
    return of_bytes(digits[used], np.concatenate([[0], np.cumsum(used.sum(axis=1))]))


def lengths(values: pa.LargeBinaryArray) -> np.ndarray:
    """int64 [N]: how many bytes each row has."""
    return pc.binary_length(values).to_numpy()


def grouped(values: pa.LargeBinaryArray, offsets: np.ndarray) -> pa.LargeBinaryArray:
    """Rows that follow each other as one. offsets: integers [N + 1], in rows of `values`."""
    whole = np.frombuffer(values.buffers()[1], np.int64)[: len(values) + 1] if len(values) else [0]
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(),
        len(offsets) - 1,
        [None, pa.py_buffer(np.asarray(whole, np.int64)[offsets]), values.buffers()[2]],
    )
