"""Raw events of Parquet files, piece by piece. Reads: Parquet files. Writes: Arrow tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from adc_features.aggregates.declaration import TIME, EventStream
from adc_features.aggregates.events import EVENT_ID, numbered_ids
from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.parquet_files import reading, table_format

_SAMPLED = 997
"""Of so many events the time of one is looked at."""


def files_of(place: Path) -> list[Path]:
    """The Parquet files of a directory in the order of their names, or the one file.

    Raises InputError when there is none, and for the directory of a Delta, Hudi or Iceberg table.
    """
    if place.is_file():
        return [place]
    if kind := table_format(str(place), LocalFileSystem()):
        raise InputError(
            f"{place} is a {kind} table, whose Parquet files hold deleted rows as well; write what"
            " it holds now as Parquet, and give that"
        )
    if not (found := sorted(place.glob("*.parquet"))):
        raise InputError(
            f"{place} holds no Parquet files; give a directory of *.parquet, or one file"
        )
    return found


def sampled_times(files: Sequence[Path], piece_rows: int) -> tuple[int, np.ndarray]:
    """(how many events there are; int64, some of their times)."""
    rows, times = 0, []
    for path in files:
        with reading(path), _opened(path) as file:
            if TIME not in file.schema_arrow.names:
                raise InputError(f"{path} lacks the column {TIME}; name the events' time so")
            for batch in _batches(file, piece_rows, [TIME]):
                rows += len(batch)
                times.append(microseconds(batch.column(0).slice(0)[::_SAMPLED], name=TIME))
    return rows, np.concatenate([np.zeros(0, np.int64), *times])


def event_pieces(
    files: Sequence[Path], stream: EventStream, piece_rows: int
) -> Iterator[tuple[pa.Table, bool]]:
    """(raw events, of which `piece_rows` at most are in memory; whether they came with ids)."""
    number = 0
    wanted = [TIME, *stream.keys, *stream.attributes, *stream.values]
    named: bool | None = None
    for path in files:
        with reading(path), _opened(path) as file:
            names = file.schema_arrow.names
            if named is not None and named != (EVENT_ID in names):
                raise InputError(
                    f"{path} and the files before it do not agree whether there is a column"
                    f" {EVENT_ID}; give it in all of them or in none"
                )
            named = EVENT_ID in names
            columns = [n for n in (EVENT_ID, *wanted) if n in names]
            for batch in _batches(file, piece_rows, columns):
                table = pa.Table.from_batches([batch])
                if not named:
                    table = table.append_column(EVENT_ID, numbered_ids(number, len(table)))
                number += len(table)
                yield table, named


def _opened(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)


def _batches(
    file: pq.ParquetFile, piece_rows: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Batches of one row group after the other: read together, Arrow holds what it has read of all
    of them.
    """
    for group in range(file.num_row_groups):
        yield from file.iter_batches(piece_rows, row_groups=[group], columns=columns)
