"""Rows as opaque pieces that Spark moves.

Reads: Arrow tables. Writes: pieces, one Spark row each; neither feast nor pyspark here.

A piece is a table as an Arrow stream in one binary value. Spark shuffles a few thousand of them
instead of rows by the million, converts no value, and every type arrives as it left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

PIECES = "place long, first long, side int, piece binary"
"""Spark's schema of pieces. place: the partition they go to. first: their order there. side: 0 for
entity rows, else the number of a view."""
_SCHEMA = pa.schema(
    [("place", pa.int64()), ("first", pa.int64()), ("side", pa.int32()), ("piece", pa.binary())]
)
PIECE_ROWS = 1 << 17
"""Rows of a table that is taken apart, or joined, at once."""
ENTITY = 0
"""The side of entity rows."""


class Piece(NamedTuple):
    """A table on its way. place, first, side: as in `PIECES`."""

    place: int
    first: int
    side: int
    table: pa.Table


def as_batch(piece: Piece) -> pa.RecordBatch:
    """A piece as the one row that Spark moves."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.table.schema) as writer:
        writer.write_table(piece.table)
    stream = sink.getvalue()
    ends = pa.py_buffer(np.array([0, stream.size], np.int32))
    rows = [
        pa.array([piece.place], pa.int64()),
        pa.array([piece.first], pa.int64()),
        pa.array([piece.side], pa.int32()),
        pa.Array.from_buffers(pa.binary(), 1, [None, ends, stream]),
    ]
    return pa.RecordBatch.from_arrays(rows, schema=_SCHEMA)


def pieces_of(batches: Iterable[pa.RecordBatch]) -> Iterator[Piece]:
    """The pieces of batches of Spark's, without copying their values."""
    for batch in batches:
        place, first, side = (batch[name].to_pylist() for name in ("place", "first", "side"))
        for row, piece in enumerate(batch["piece"]):
            table = pa.ipc.open_stream(piece.as_buffer()).read_all()
            yield Piece(place[row], first[row], side[row], table)


def split(table: pa.Table, places: np.ndarray, *, first: str, side: int) -> Iterator[Piece]:
    """A table taken apart by the places of its rows int64 [N]; negative ones are left out.

    first: the column whose first value orders the pieces. Rows keep their order.
    """
    if not len(table):
        return
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    table = table.take(pa.array(order)).combine_chunks()
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if ordered[start] >= 0:
            rows = table.slice(start, end - start)
            yield Piece(int(ordered[start]), rows[first][0].as_py(), side, rows)


def in_pieces(tables: Iterable[pa.Table], rows: int = PIECE_ROWS) -> Iterator[pa.Table]:
    """The same rows in fewer tables, of at least `rows` rows each except the last."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= rows:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def in_order(tables: list[pa.Table], by: str) -> pa.Table:
    """The rows of some tables, sorted by a column int64 whose values are all different."""
    table = pa.concat_tables(sorted(tables, key=lambda t: t[by][0].as_py() if len(t) else -1))
    place = np.asarray(table[by])
    if (place[1:] > place[:-1]).all():
        return table.combine_chunks()
    return table.take(pa.array(np.argsort(place))).combine_chunks()
