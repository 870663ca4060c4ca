"""How a task reads its rows.

Reads: parts of files, batches of Spark's. Writes: tables with a column of row numbers; neither
feast nor pyspark here.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError
from adc_features.store.parquet.sources import Source
from adc_features.store.spark.pieces import pieces_of

PARTS = "place int, start long, part binary"
"""Spark's schema of parts that tasks read by themselves. start: the number of the first row."""
FILE, LINE = "adc: file", "adc: line"
"""Columns that Spark reads beside a file's own: a hash of its name, and the row inside."""
_LINE_BITS = 40


class Part(Protocol):
    """Rows that one task reads, in order."""

    def tables(self) -> Iterator[pa.Table]: ...


@dataclass(frozen=True)
class SourcePart:
    """A row group of a view's files. names: the columns that are read."""

    source: Source
    names: tuple[str, ...]

    def tables(self) -> Iterator[pa.Table]:
        return self.source.tables(self.names)


@dataclass(frozen=True)
class FragmentPart:
    """A row group of a dataset of entity rows."""

    fragment: Any
    schema: pa.Schema

    def tables(self) -> Iterator[pa.Table]:
        yield self.fragment.to_table(self.schema, use_threads=False)


def packed_part(part: Part) -> bytes:
    """A part as it travels to its task."""
    return pickle.dumps(part)


def of_parts(batches: Iterable[pa.RecordBatch], number: str) -> Iterator[pa.Table]:
    """The rows of parts, numbered in the column `number`."""
    for batch in batches:
        for place, part in enumerate(batch["part"]):
            end = batch["start"][place].as_py()
            for table in pickle.loads(part.as_buffer()).tables():
                start, end = end, end + len(table)
                yield table.append_column(number, pa.array(np.arange(start, end)))


def of_frame(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows of a Spark frame that are numbered already."""
    return (pa.Table.from_batches([batch]) for batch in batches)


def of_files(
    batches: Iterable[pa.RecordBatch], number: str, hashes: Sequence[int]
) -> Iterator[pa.Table]:
    """Rows that Spark read from files, numbered by the order of the files.

    hashes: those of the names of all files, in order.
    """
    known = np.array(hashes, np.int64)
    order = np.argsort(known)
    for batch in batches:
        table = pa.Table.from_batches([batch])
        found = np.asarray(table[FILE])
        place = np.minimum(np.searchsorted(known[order], found), len(known) - 1)
        if len(found) and not (known[order][place] == found).all():
            raise ArtifactError(
                "Spark read a file that was not there when the join was planned; retrieve again"
            )
        rows = (order[place] << _LINE_BITS) + np.asarray(table[LINE])
        yield table.drop_columns([FILE, LINE]).append_column(number, pa.array(rows, pa.int64()))


def of_pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows that came in pieces from the driver."""
    return (piece.table for piece in pieces_of(batches))
