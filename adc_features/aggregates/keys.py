"""Keys of views as bytes. Reads: key columns. Writes: bytes, values.

One column: text as UTF-8, a whole number as 8 bytes whose order is that of the numbers. Several
columns: each with its length, 4 bytes, before it. No column: everybody, the empty key.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import codes_of

_SIGN = np.uint64(1 << 63)


def keys_of(stream: EventStream, table: pa.Table, columns: Sequence[str]) -> list[bytes]:
    """The key of each row."""
    if not columns:
        return [b""] * len(table)
    each = [_bytes(stream, table[name], name) for name in columns]
    if len(each) == 1:
        return each[0]
    return [
        b"".join(len(one).to_bytes(4, "big") + one for one in row)
        for row in zip(*each, strict=True)
    ]


def decode_key(stream: EventStream, columns: Sequence[str], key: bytes) -> tuple[str | int, ...]:
    """The values of a key's columns."""
    if not columns:
        return ()
    parts, at = [key], 0
    if len(columns) > 1:
        parts = []
        for _ in columns:
            size = int.from_bytes(key[at : at + 4], "big")
            parts.append(key[at + 4 : at + 4 + size])
            at += 4 + size
    return tuple(
        int.from_bytes(part, "big") - 2**63 if stream.kind_of(name) == "int64" else part.decode()
        for name, part in zip(columns, parts, strict=True)
    )


def different_keys(
    stream: EventStream, table: pa.Table, columns: Sequence[str]
) -> tuple[np.ndarray, list[bytes], np.ndarray]:
    """(the number of each row's key, -1 where an attribute is unknown; the K keys in order; a row
    of each).
    """
    code, _ = codes_of(stream, table, columns)
    found, row = np.unique(code, return_index=True)
    known = found >= 0
    number = np.where(known, np.cumsum(known) - 1, -1)
    row = row[known]
    keys = keys_of(stream, table.take(pa.array(row)), columns) if columns else [b""] * len(row)
    return number[np.searchsorted(found, code)], keys, row


def _bytes(stream: EventStream, column: pa.ChunkedArray, name: str) -> list[bytes]:
    if stream.kind_of(name) == "int64":
        raw = (column.to_numpy().view(np.uint64) ^ _SIGN).astype(">u8").tobytes()
        return [raw[at : at + 8] for at in range(0, len(raw), 8)]
    return column.cast(pa.binary()).to_pylist()
