"""Items that came or went since the newest snapshot. Reads: the live directory of a repository.
Writes: nothing; no feast here.

A packed snapshot never changes. What is added or removed after it lies in the live directory, an
entry for each commit, and is laid over the snapshots when codes are read: of an item the row that
became servable last is served, whichever of the two it is in.

Legend: M items asked for, R rows of items, L positions. Times are microseconds since 1970 UTC.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.codes.rows import SECOND_FEATURES
from adc_features.codes.sids import LISTS, SidTable, list_matrix
from adc_features.store.lmdb.arrow_values import table_bytes, table_of
from adc_features.store.lmdb.environment import Environment, environment
from adc_features.store.packed.layout import SHARED, profile_type, shared_columns
from adc_features.store.repository import LiveGeneration, read_config

SERVABLE = "servable_at"
"""The column of a row that says from when on it is served."""
AS_OF = "sid_as_of"
"""The column of a row, and the field of a profile, that holds its cut-off."""
DEFAULT_PLACE = "data/live/lmdb"
_MAP_SIZE = 1 << 30
_REQUEST = 5_000
"""Ids of one request at most: for so few a dictionary is quicker than a hash table made anew."""


def live_environment(repo: Path) -> Environment:
    """The live directory of a repository, whichever online store it has."""
    online = read_config(repo).get("online_store")
    place = online.get("live_path", DEFAULT_PLACE) if isinstance(online, dict) else DEFAULT_PLACE
    return environment(os.path.realpath(Path(repo) / place), map_size=_MAP_SIZE)


def items_table(live: LiveGeneration) -> str:
    """The table of rows of items of a generation: publish time -> the rows of a commit.

    Its codebook is in the name: codes of another one are never laid over its snapshots.
    """
    return f"items/{live.id}/{live.codebook_hash[:16]}"


def row_bytes(rows: SidTable, servable_at: Sequence[int]) -> bytes:
    """Rows of items and when each becomes servable, as an entry of the table."""
    return table_bytes(rows.to_arrow().append_column(SERVABLE, pa.array(servable_at, pa.int64())))


def _rows_of(entry: bytes) -> pa.Table:
    """The rows that `row_bytes` wrote, each with its cut-off."""
    rows = table_of(entry)
    cutoff = instant(datetime.fromisoformat(rows.schema.metadata[b"as_of"].decode()))
    repeated = pa.repeat(pa.scalar(int(cutoff.astype(np.int64))), len(rows))
    return rows.replace_schema_metadata(None).append_column(AS_OF, repeated)


class Overlay:
    """Rows of items, to be laid over what snapshots say; threads may share it.

    Parameters
    ----------
    table : pyarrow.Table, R rows
        Of an `OverlayReader`: in the order of their commits, in one piece.
    length : int
        L.
    """

    def __init__(self, table: pa.Table, length: int) -> None:
        self.table = table
        # those of one time in the order of their commits: the last one holds
        ids, servable = id_array(table["item_id"]), table[SERVABLE].to_numpy()
        self._ids, number = np.unique(ids, return_inverse=True)
        self._known = pa.array(self._ids)
        self._number_of = {item: place for place, item in enumerate(self._ids.tolist())}
        order = np.lexsort((np.arange(len(ids)), servable, number))
        self._times = np.unique(servable)
        ranks = np.searchsorted(self._times, servable[order])
        self._places = number[order] * (len(self._times) + 1) + ranks + 1
        self._number, self._servable = number[order], servable[order]
        self._sid = list_matrix(table["sid"], length, np.int32)[order]
        self._weight = list_matrix(table["sid_weight"], length, np.float32)[order]
        second = [name for name in SECOND_FEATURES.names if name in table.column_names]
        self._profile = np.empty(len(ids), profile_type(length if second else 0))
        for name in (AS_OF, *SHARED):
            self._profile[name] = table[name].to_numpy()[order]
        for name in second:
            self._profile[name] = list_matrix(table[name], length, LISTS[name])[order]

    @property
    def item_ids(self) -> np.ndarray:
        """Every item that it has a row of, sorted: int64 or str."""
        return self._ids

    @property
    def found(self) -> np.ndarray:
        """Of each row: False where it removes its item. bool [R]."""
        return self._profile["found"]

    def rows(self, item_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The row that holds for each item at its time, -1 where there is none: int64 [M].

        times: int64 [M].
        """
        number = self._numbers(item_ids)
        ranks = np.searchsorted(self._times, times, side="right")
        row = np.searchsorted(self._places, number * (len(self._times) + 1) + ranks, "right") - 1
        known = (number >= 0) & (row >= 0)
        known[known] = self._number[row[known]] == number[known]
        return np.where(known, row, -1)

    def _numbers(self, item_ids: np.ndarray) -> np.ndarray:
        """Place of each id in `item_ids`, -1 where it is not there: int64 [M]."""
        if len(item_ids) <= _REQUEST:
            known = self._number_of
            return np.array([known.get(item, -1) for item in item_ids.tolist()], np.int64)
        found = pc.index_in(pa.array(item_ids), value_set=self._known)
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def over(
        self,
        item_ids: np.ndarray,
        times: np.ndarray,
        gathered: tuple[np.ndarray, np.ndarray, np.ndarray],
        since: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is served: of each item the row here, unless a snapshot's became servable later.

        gathered: codes [M, L], weights [M, L] and profile [M] of the snapshots. since: int64 [M],
        from when on those are served.
        """
        row = self.rows(item_ids, times)
        place = np.flatnonzero(row >= 0)
        place = place[self._servable[row[place]] >= since[place]]
        if not len(place):
            return gathered
        sid, weight, profile = (np.array(column) for column in gathered)
        mine = row[place]
        sid[place], weight[place] = self._sid[mine], self._weight[mine]
        profile[place] = self._profile[mine]
        return sid, weight, profile

    def removed(self, item_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Whether the newest row here of each item, at its time, removes it: bool [M]."""
        row = self.rows(item_ids, times)
        return (row >= 0) & ~self._profile["found"][row]

    def newest(self, until: int) -> Iterator[tuple[Any, int, int]]:
        """Each item's newest row that is servable at a time: id, when since, number of the row."""
        row = self.rows(self._ids, np.full(len(self._ids), until))
        for item, one in zip(self._ids.tolist(), row.tolist(), strict=True):
            if one >= 0:
                yield item, int(self._servable[one]), one

    def columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Fields of a SidTable, of these rows."""
        shared = shared_columns(self._profile[rows])
        return {"sid": self._sid[rows], "sid_weight": self._weight[rows], **shared}


class OverlayReader:
    """The overlay of a generation as of now; threads may share it.

    A look costs a read transaction that asks for one key; only what came since the last look is
    read.
    """

    def __init__(self, repo: Path, live: LiveGeneration) -> None:
        self._environment, self._table = live_environment(repo), items_table(live)
        self._length = live.length
        self._last, self._lock = b"", Lock()
        self._overlay: Overlay | None = None

    def now(self) -> Overlay | None:
        """All rows that are committed; None where there is none. Raises ArtifactError when the
        directory is damaged, or was there and is gone.
        """
        with self._environment.reading(self._table) as txn:
            if txn is None:
                return None
            cursor = txn.cursor()
            if not cursor.last():
                return None
            if bytes(cursor.key()) == self._last:
                return self._overlay
        with self._lock, self._environment.reading(self._table) as txn:
            if txn is not None:
                self._follow(txn)
            return self._overlay

    def _follow(self, txn: Any) -> None:
        cursor, fresh = txn.cursor(), []
        more = cursor.set_range(self._last) if self._last else cursor.first()
        while more:
            key = bytes(cursor.key())
            if key > self._last:
                fresh.append(_rows_of(bytes(cursor.value())))
                last = key
            more = cursor.next()
        if fresh:
            before = [] if self._overlay is None else [self._overlay.table]
            # in one piece: of thousands of commits each would cost as much as hundreds of rows
            table = pa.concat_tables([*before, *fresh]).combine_chunks()
            self._overlay = Overlay(table, self._length)
            self._last = last
