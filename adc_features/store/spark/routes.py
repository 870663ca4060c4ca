"""Where rows go next. Reads: key columns, row numbers. Writes: places int64 [N]; neither feast nor
pyspark here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from adc_features.store.join.key_codes import Column, comparable_key
from adc_features.store.spark.pieces import ENTITY, PIECE_ROWS, Piece, split

ROW, POSITION = "adc: row number", "adc: position"
"""Columns of pieces beside those of the user: the order of entity rows, and that of a view's."""


@dataclass(frozen=True)
class ByKeys:
    """Rows of equal keys meet in one place.

    keys: entity column -> the type that its values are compared in. places: how many there are.
    hot: hashes of keys with so many entity rows that these are spread over all places; the view's
    rows of such a key go to every place.
    """

    keys: Mapping[str, pa.DataType]
    places: int
    hot: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def of_entity(self, table: pa.Table) -> Iterator[Piece]:
        """Entity rows on their way. Those with a null key match nothing, and go anywhere."""
        hashes, known = self.hashes([table[name] for name in self.keys])
        rows = np.asarray(table[ROW]).astype(np.uint64)
        spread = ~known | np.isin(hashes, self.hot)
        places = np.where(spread, hashes + rows, hashes) % np.uint64(self.places)
        yield from split(table, places.astype(np.int64), first=ROW, side=ENTITY)

    def of_view(self, table: pa.Table, keys: Sequence[str], *, side: int) -> Iterator[Piece]:
        """A view's rows on their way; null keys are left out. keys: its key columns."""
        hashes, known = key_hashes([table[name] for name in keys], rows=len(table))
        hot = known & np.isin(hashes, self.hot)
        places = (hashes % np.uint64(self.places)).astype(np.int64)
        places[~known | hot] = -1
        yield from split(table, places, first=POSITION, side=side)
        if hot.any():
            rows = table.filter(pa.array(hot)).combine_chunks()
            for place in range(self.places):
                yield Piece(place, rows[POSITION][0].as_py(), side, rows)

    def knowing(self, sample: pa.Table) -> ByKeys:
        """The same with the hot keys of a sample of entity rows: those with the rows of more than
        one place.
        """
        if self.places < 2 or not len(sample):
            return self
        hashes, known = self.hashes([sample[name] for name in self.keys])
        found, counts = np.unique(hashes[known], return_counts=True)
        return replace(self, hot=found[counts * self.places > len(sample)])

    def hashes(self, columns: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
        """Entity keys as `key_hashes` has them, compared in the types of the view's."""
        asked = zip(columns, self.keys.items(), strict=True)
        plain = [comparable_key(column, kind, name=name) for column, (name, kind) in asked]
        return key_hashes(plain, rows=len(plain[0]) if plain else 0)


@dataclass(frozen=True)
class ByOrder:
    """Entity rows go back to the order in which they came.

    end: row numbers are below it. places: how many there are; their rows follow one another.
    """

    end: int
    places: int

    def of_entity(self, table: pa.Table) -> Iterator[Piece]:
        chunks = np.asarray(table[ROW]) // PIECE_ROWS
        for piece in split(table, chunks, first=ROW, side=ENTITY):
            yield piece._replace(place=self.place(piece.place), first=piece.place)

    def place(self, chunk: int) -> int:
        """Where a chunk of `PIECE_ROWS` row numbers goes: never before the chunk ahead of it."""
        step = -(-max(self.end, 1) // self.places)
        return min(chunk * PIECE_ROWS // step, self.places - 1)


def key_hashes(columns: Sequence[Column], *, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """uint64 [N], equal for equal keys, and bool [N]: rows without a null in their key.

    columns: as `plain_key` gives them. Each value is hashed by its type and the hashes are mixed in
    the order of the columns: (1, 12) and (11, 2) differ.
    """
    mixed, known = np.zeros(rows, np.uint64), np.ones(rows, bool)
    for column in columns:
        if column.null_count:
            known &= np.asarray(column.is_valid())
        with np.errstate(over="ignore"):
            mixed = _mixed(mixed * np.uint64(0x9E3779B97F4A7C15) + _values(column))
    return mixed, known


def _values(column: Column) -> np.ndarray:
    """uint64 [N], equal for equal values; those of nulls mean nothing."""
    from pandas.util import hash_array  # a third of a second to import: not at import

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = whole.type
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind) or pa.types.is_date64(kind):
        whole = whole.cast(pa.int64())
    elif pa.types.is_date32(kind):
        whole = whole.cast(pa.int32()).cast(pa.int64())
    elif pa.types.is_boolean(kind):
        whole = whole.cast(pa.int64())
    if pa.types.is_integer(whole.type):
        numbers = np.asarray(whole.fill_null(0) if whole.null_count else whole)
        return _mixed(numbers.astype(np.int64).view(np.uint64))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        empty = "" if pa.types.is_string(kind) else b""
        values = whole.fill_null(empty) if whole.null_count else whole
        return hash_array(np.asarray(values, dtype=object), categorize=False)
    return np.zeros(len(whole), np.uint64)  # rare kinds meet in one place, where they are compared


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: neighbouring numbers get far apart."""
    with np.errstate(over="ignore"):
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
