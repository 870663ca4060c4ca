"""Keys of views as bytes. Reads: key columns. Writes: bytes.

One column: text as UTF-8, a whole number as 8 bytes whose order is that of the numbers. Several
columns: each with its length, 4 bytes, before it. No column: everybody, the empty key.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events, codes_of

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


class Keyed(NamedTuple):
    """code: int64 [N], the number of each row's key, -1 where an attribute is unknown. keys: the K
    keys. row: int64 [K], a row of each.
    """

    code: np.ndarray
    keys: list[bytes]
    row: np.ndarray


def keyed_events(events: Events, columns: tuple[str, ...]) -> Keyed:
    """The keys of events; found once."""
    if columns not in events.by_key:
        events.by_key[columns] = different_keys(events.stream, events.table, columns, ordered=False)
    found: Keyed = events.by_key[columns]
    return found


def with_rows(events: Events, columns: tuple[str, ...], rows: pa.Table) -> tuple[Keyed, np.ndarray]:
    """(the keys of events and of further rows, whose own follow; the number of each row's key)."""
    known = keyed_events(events, columns)
    if not columns:
        return known, np.zeros(len(rows), np.int64)
    place = {key: number for number, key in enumerate(known.keys)}
    asked = keys_of(events.stream, rows, columns)
    for key in asked:
        if key not in place:
            place[key] = len(place)
    code = [place[key] for key in asked]
    unknown = np.zeros(len(rows), bool)
    for name in columns:
        if name in events.stream.attributes:
            unknown |= pc.equal(rows[name], "").to_numpy(zero_copy_only=False)
    return known._replace(keys=list(place)), np.where(unknown, -1, np.array(code, np.int64))


def different_keys(
    stream: EventStream, table: pa.Table, columns: Sequence[str], *, ordered: bool = True
) -> Keyed:
    """The keys of a table's rows, in their order or else in any."""
    code, size = codes_of(stream, table, columns, ordered=ordered)
    known = np.flatnonzero(code >= 0)[::-1]
    first = np.full(size, -1)
    first[code[known]] = known  # the last that is written is the first row
    found = first >= 0
    row = first[found]
    keys = [b""] * len(row)
    if columns:
        keys = keys_of(stream, table.select(list(columns)).take(pa.array(row)), columns)
    return Keyed(np.append(np.cumsum(found) - 1, -1)[code], keys, row)


def _bytes(stream: EventStream, column: pa.ChunkedArray, name: str) -> list[bytes]:
    if stream.kind_of(name) == "int64":
        raw = (column.to_numpy().view(np.uint64) ^ _SIGN).astype(">u8").tobytes()
        return [raw[at : at + 8] for at in range(0, len(raw), 8)]
    return column.cast(pa.binary()).to_pylist()
