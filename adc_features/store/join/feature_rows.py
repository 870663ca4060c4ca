"""The rows of a view's files, column by column, and their index. Reads: Parquet files. Writes:
columns in memory, or in files that are mapped; no feast here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.event_times import microseconds
from adc_features.store.join.asof import AsofIndex, created_microseconds
from adc_features.store.join.gather import (
    NO_ROW,
    RowPicks,
    array_of,
    fixed_width,
    numbers_of,
    numbers_type,
)
from adc_features.store.join.key_codes import KeyCodes
from adc_features.store.join.space import Space, arrow_space, mapped_space
from adc_features.store.parquet.sources import Source


@dataclass(frozen=True)
class IndexedColumns:
    """The columns of the files that an index is made of.

    known_only: whether the index answers what was created by a time.
    """

    keys: tuple[str, ...]
    time: str
    created: str | None = None
    known_only: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.keys, self.time, *([self.created] if self.created else []))


class FeatureRows:
    """Row groups in order; a row's number counts from the first row of the first one.

    row_bytes: what is kept of a row, about. Where all of it is more than memory_limit bytes, whole
    columns stand in files of `spill` that are mapped.
    """

    def __init__(
        self,
        files: Source,
        *,
        row_bytes: int = 0,
        memory_limit: int | None = None,
        spill: Path | None = None,
    ) -> None:
        self.files, self.groups = files, files.groups()
        self.starts = np.cumsum([0, *(group.row_groups[0].num_rows for _, group in self.groups)])
        self._spill = spill
        self._mapped = memory_limit is not None and len(self) * row_bytes > memory_limit
        self.space: Space = mapped_space(spill) if self._mapped else arrow_space

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, group: Any, name: str) -> pa.ChunkedArray:
        """One column of one row group."""
        return self.files.column(group, name)

    def read(self, name: str) -> pa.ChunkedArray:
        """One column of all rows, in memory or mapped; numbers and times in one piece."""
        kind = self.files.kind(name)
        if fixed_width(kind):
            whole = self.space(len(self), numbers_type(kind))
            for start, group in zip(self.starts, self.groups, strict=False):
                column = self.column(group, name)
                if column.null_count:
                    break
                whole[start : start + len(column)] = numbers_of(in_one(column))
            else:
                return pa.chunked_array([array_of(kind, whole)])
        if not self._mapped:
            return self.files.table([name])[name]
        # unlinked at once: the mapping keeps it, and nothing is left behind however this process
        # ends
        with tempfile.NamedTemporaryFile(
            dir=self._spill, prefix="adc-join-", suffix=".arrow"
        ) as file:
            with pa.ipc.new_file(file.name, self.files.schema([name])) as writer:
                for table in self.files.tables([name]):
                    writer.write_table(table)
            return pa.ipc.open_file(pa.memory_map(file.name)).read_all()[name]

    def created(self, name: str) -> np.ndarray:
        """int64 [F]: the created times of all rows, microseconds; NEVER where there is none."""
        return created_microseconds(self.read(name), space=self.space)

    def created_of(self, name: str, rows: np.ndarray) -> np.ndarray:
        """int64 [n]: the created times of these rows, one row group in memory at a time."""
        times = np.empty(len(rows), np.int64)
        for part in RowPicks(rows).by_piece(self.starts):
            piece = created_microseconds(self.column(self.groups[part.piece], name))
            times[slice(None) if part.place is None else part.place] = piece[part.rows]
        return times

    def index(
        self,
        columns: IndexedColumns,
        *,
        left_out: Callable[[np.ndarray], np.ndarray] | None = None,
        asked: Callable[[KeyCodes], Iterable[np.ndarray]] | None = None,
    ) -> AsofIndex:
        """The rows by key and time.

        left_out: bool [F] of the event times, rows that nobody sees. asked: the codes of all entity
        rows to come, in pieces.
        """
        times = self.read(columns.time)
        lost = np.asarray(times.is_null()) if times.null_count else None
        # rows without a time are nobody's; until they are left out, any time will do
        if lost is not None:
            any_time = pa.scalar(0, pa.int64()).cast(times.type)
            if times.null_count < len(times):
                any_time = times.drop_null()[0]
            times = pc.fill_null(times, any_time)
        at = microseconds(times, space=self.space)
        del times  # one column in memory beside its numbers, not all
        keys, codes = KeyCodes.of_features(
            [self.read(name) for name in columns.keys],
            rows=len(at),
            space=self.space,
            spoil=True,
        )
        if lost is not None:
            codes[lost] = NO_ROW
        if left_out is not None:
            codes[left_out(at)] = NO_ROW
        return AsofIndex(
            keys,
            codes,
            at,
            created=self._born(columns),
            asked=None if asked is None else asked(keys),
            known_only=columns.known_only,
            space=self.space,
        )

    def _born(self, columns: IndexedColumns) -> Callable[[np.ndarray], np.ndarray] | None:
        name = columns.created
        if name is None:
            return None
        if columns.known_only:
            return self.created(name).__getitem__
        return lambda rows: self.created_of(name, rows)


class Renumbered:
    """Row numbers of all row groups as those of the groups that are read, some of all."""

    def __init__(self, every: FeatureRows, read: FeatureRows) -> None:
        self._starts = every.starts
        places = {_place(group): place for place, group in enumerate(every.groups)}
        # of a group that is not read no row is ever seen: it may stand anywhere
        self._moved = np.zeros(len(every.groups), np.int64)
        self._same = len(every.groups) == len(read.groups)
        for start, group in zip(read.starts, read.groups, strict=False):
            place = places[_place(group)]
            self._moved[place] = every.starts[place] - start

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """int64 [Q]; NO_ROW stays what it is."""
        if self._same:
            return rows
        group = np.searchsorted(self._starts, rows, side="right") - 1
        return np.where(rows < 0, NO_ROW, rows - self._moved[np.maximum(group, 0)])


def in_one(column: pa.ChunkedArray) -> pa.Array:
    """Its values in one array; pyarrow's own ways copy even a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _place(group: tuple[Any, Any]) -> Sequence[Any]:
    return group[1].path, group[1].row_groups[0].id
