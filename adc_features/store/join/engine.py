"""Point-in-time joins of views in Parquet. Reads: Parquet files, entity rows. Writes: joined
columns; no feast here.

A view is prepared once (read, indexed) and joined many times: a frame of any length streams through
in batches, and only the features stay in memory. Features larger than the memory allowed are
decoded once into an uncompressed file that is mapped, so the system may drop its pages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds
from adc_features.input_files import check_all, unchanged
from adc_features.store.casts import MISFITS, fitted
from adc_features.store.column_names import refuse_clashes
from adc_features.store.join.asof import NEVER, AsofIndex, oldest_read
from adc_features.store.join.feature_rows import (
    FeatureRows,
    IndexedColumns,
    Renumbered,
    in_one,
)
from adc_features.store.join.gather import (
    NO_ROW,
    Gatherer,
    Gathering,
    RowPicks,
    RowStore,
    numbers_of,
    row_field,
)
from adc_features.store.join.kept_index import IndexCache
from adc_features.store.join.key_codes import KeyCodes
from adc_features.store.join.side_by_side import each
from adc_features.store.parquet.opening import open_source
from adc_features.store.parquet.sources import Declared, Source
from adc_features.store.refresh import RefreshSchedule

_log = logging.getLogger(__name__)
BATCH_ROWS = 1 << 20
"""Entity rows joined at once: enough to sort questions well, few enough to stay small."""
_SAMPLE_ROWS = 1 << 10
"""First rows of a view that say how its columns can be kept."""


@dataclass(frozen=True)
class ViewSource:
    """Where one view's rows are, in whatever names they have there.

    keys: entity column -> source column. features: output column -> source column. types: output
    column -> the type it is returned in; a column without one keeps its own; seconds: those cut to
    whole seconds. key_types: entity column -> declared type, likewise. time, created: source
    columns. ttl: None or 0 means any age. table: a TableVersion, which is read instead of `path`.
    """

    name: str
    path: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    time: str
    created: str | None = None
    ttl: timedelta | None = None
    filesystem: Any = None
    key_types: Mapping[str, pa.DataType] = field(default_factory=dict)
    seconds: tuple[str, ...] = ()
    table: Any = None

    @property
    def declared(self) -> Declared:
        """What is said of the source's columns, by their names there."""
        types = {self.features[out]: kind for out, kind in self.types.items()}
        types |= {self.keys[key]: kind for key, kind in self.key_types.items()}
        times = (self.time, *([self.created] if self.created else []))
        keys = tuple(self.keys.values())
        seconds = tuple(
            name for out in self.seconds if (name := self.features[out]) not in (*keys, *times)
        )
        return Declared(types, keys=keys, times=times, seconds=seconds)

    @cached_property
    def files(self) -> Source:
        """The files, opened; raises ArtifactError naming what is missing or not Parquet."""
        options = {"filesystem": self.filesystem, "table": self.table, "declared": self.declared}
        return open_source(self.path, of=f"view {self.name}", **options)

    def check(self) -> None:
        """Raise InputError when a declared column is not in the files, or never of its type."""
        self.files.check([*self.keys.values(), *self.features.values(), *self.files.declared.times])


class PreparedView:
    """A view read and indexed, ready to be joined.

    until: rows after it are not needed and not read. entity: all rows that will be joined, when
    known: other keys are left out, and for a single batch nothing is kept: it is indexed when it is
    matched, and features are read when they are gathered. known_only: only feature rows with
    created time <= the entity row's time are seen. refresh: when rows get online; each entity row
    sees what it would have read there. memory_limit: bytes; what is kept is mapped from files in
    `spill` when it is more. index_cache: where the index of the whole files is kept for the next
    time; a schedule in mode incremental has rows of its own, whose index is not kept.
    Raises InputError when known_only has no created times to go by, or comes with a schedule.
    """

    def __init__(
        self,
        source: ViewSource,
        *,
        until: datetime | None = None,
        entity: pa.Table | None = None,
        known_only: bool = False,
        refresh: RefreshSchedule | None = None,
        memory_limit: int | None = None,
        spill: Path | None = None,
        batch_rows: int = BATCH_ROWS,
        index_cache: IndexCache | None = None,
    ) -> None:
        if known_only and refresh is not None:
            raise InputError(
                f"view {source.name} has a refresh schedule and created-time filtering; choose one,"
                " a schedule in mode incremental loads what was created by its refreshes"
            )
        source.check()
        self._refresh = None if refresh is None or refresh.is_fresh else refresh
        self.source = source
        self._indexed = IndexedColumns(
            tuple(source.keys.values()), source.time, source.created, known_only
        )
        self._asked = None if entity is None else entity.select(list(source.keys))
        # one batch picks its few values while the files are read; more batches need the columns
        # again and again
        self._once = entity is not None and len(entity) <= batch_rows
        rows_of = partial(
            FeatureRows, row_bytes=self._row_bytes(), memory_limit=memory_limit, spill=spill
        )
        self._read = rows_of(source.files.within(end=until))
        self._cache, self._every, self._as_read = None, self._read, None
        if index_cache is not None and not self._is_incremental:
            every = rows_of(source.files)
            if index_cache.has_room_for(every, self._indexed):
                self._cache, self._every = index_cache, every
                self._as_read = Renumbered(every, self._read)
        self._rows, self._columns = (None, {}) if self._once else self._features()
        if not self._once:
            self.index  # noqa: B018  (built now, not in the first batch)
            check_all(source.files.inputs)  # what is asked for later is kept
        _log.debug("stage=prepare view=%s rows=%d", source.name, len(self._read))

    @property
    def _is_incremental(self) -> bool:
        return self._refresh is not None and self._refresh.mode == "incremental"

    @cached_property
    def index(self) -> AsofIndex:
        """Which rows there are, by key and time; those of all files where it is kept."""
        if self._cache is not None:
            return self._cache.index(self._every, self._indexed)
        return self._read.index(
            self._indexed,
            left_out=self._never_loaded if self._is_incremental else None,
            asked=self._asked_codes if self._asked is not None and self.source.keys else None,
        )

    def _asked_codes(self, keys: KeyCodes) -> Iterator[np.ndarray]:
        """int64 codes of the keys of all entity rows, in pieces."""
        assert self._asked is not None
        for start in range(0, len(self._asked), BATCH_ROWS):
            piece = self._asked.slice(start, BATCH_ROWS)
            yield keys.of(piece.columns, names=list(self.source.keys))

    def _never_loaded(self, at: np.ndarray) -> np.ndarray:
        """bool [F]: rows of these event times that no refresh loads; without a created time a row
        was there at once."""
        assert self._refresh is not None
        landed = None
        if self.source.created:
            created = self._read.created(self.source.created)
            landed = np.where(created == NEVER, at, created)
        return ~self._refresh.loaded(at, landed)

    def match(self, entity: pa.Table, times: np.ndarray) -> np.ndarray:
        """int64 [Q] feature rows, NO_ROW for none.

        Raises InputError when the entity rows lack a key or it can never match.
        """
        if missing := sorted(set(self.source.keys) - set(entity.column_names)):
            raise InputError(
                f"the entity rows have no column {', '.join(missing)}, a key of view"
                f" {self.source.name}; they have {entity.column_names}"
            )
        names, ttl = list(self.source.keys), self.source.ttl
        keys = [entity[name] for name in names]
        if self._refresh is None:
            rows = self.index.match(keys, times, names=names, ttl=ttl)
        else:
            rows = self.index.match(keys, self._refresh.reads(times), names=names)
            if ttl:  # of what was read, at the time of the request
                rows[self.index.times_of(rows) < oldest_read(times, ttl)] = NO_ROW
        if self._once:
            del self.index  # the next view's takes its memory
        return rows

    def gathered(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """The view's columns at these rows."""
        picks = RowPicks(rows if self._as_read is None else self._as_read(rows))
        if self._once:
            with unchanged(self.source.files.inputs):
                return self._read_at(picks)
        found = {} if self._rows is None else self._rows.gathered(picks)
        return {
            name: found[name] if name in found else self._columns[name](picks)
            for name in self.source.features
        }

    def _features(self) -> tuple[RowStore | None, dict[str, Gatherer]]:
        """What is kept of the files: columns that can stand side by side, and the others."""
        features, store = self.source.features, None
        groups, files = self._read.groups, self._read.files
        if groups and features:
            first = {
                out: files.column(groups[0], name, head=_SAMPLE_ROWS)
                for out, name in features.items()
            }
            kinds = {
                out: row_field(self._declared(column, out).combine_chunks())
                for out, column in first.items()
            }
            if fields := {out: kind for out, kind in kinds.items() if kind is not None}:
                store = RowStore(len(self._read), fields, space=self._read.space)
                for start, group in zip(self._read.starts, groups, strict=False):
                    for out in list(store.fields):
                        store.fill(out, start, self._piece(group, out))
        kept = store.fields if store else {}
        return store, {
            out: Gatherer(self._declared(self._read.read(name), out))
            for out, name in features.items()
            if out not in kept
        }

    def _read_at(self, picks: RowPicks) -> dict[str, pa.Array]:
        """Columns from the files, in each thread one column of one row group in memory at a time.

        Groups of which nothing is asked are not read.
        """
        parts = picks.by_piece(self._read.starts)

        def values(out: str) -> pa.Array:
            name = self.source.features[out]
            gathering = Gathering(picks, self.source.types.get(out, self._read.files.kind(name)))
            for part in parts:
                piece = self._piece(self._read.groups[part.piece], out)
                gathering.add(part, piece, numbers_of(piece))
            return gathering.result()

        columns = list(self.source.features)
        return dict(zip(columns, each(values, columns), strict=True))

    def _piece(self, group: Any, out: str) -> pa.Array:
        """One column of one row group, in its declared type."""
        return in_one(self._declared(self._read.column(group, self.source.features[out]), out))

    def _row_bytes(self) -> int:
        """About how many bytes a row of the view takes in memory.

        Index and columns count by the widths of their types, lists and texts as 64 bytes.
        """
        width = 8 * (3 + self._indexed.known_only)
        for name in () if self._once else self.source.features.values():
            kind = self.source.files.kind(name)
            width += kind.bit_width // 8 + 1 if pa.types.is_primitive(kind) else 64
        return width

    def _declared(self, column: pa.ChunkedArray, out: str) -> pa.ChunkedArray:
        """The column in the type of this feature, where it is a time or a key of another."""
        wanted = self.source.types.get(out)
        seconds = out in self.source.seconds
        if wanted is None or (column.type == wanted and not seconds):
            return column
        name = f"view {self.source.name}: {self.source.features[out]}"
        try:
            return fitted(column, wanted, name=name, seconds=seconds)
        except MISFITS as error:
            raise InputError(
                f"{name} is {column.type} in the files and {wanted} in the view, which does not"
                f" hold its values ({error}); correct one"
            ) from error

    def event_times(self, rows: np.ndarray) -> pa.Array:
        """timestamp[us, UTC]: the event times of these rows, null for NO_ROW."""
        times = self.index.times_of(rows)
        return pa.array(times, pa.int64(), mask=rows == NO_ROW).cast(UTC_US)


class JoinedColumns(NamedTuple):
    """What entity rows see of views.

    features: output column -> its values. event_times: name of a view -> timestamp[us, UTC], when
    the row that was read became valid, null for none; empty unless asked for.
    """

    features: dict[str, pa.Array]
    event_times: dict[str, pa.Array]


def joined_columns(
    entity: pa.Table, views: Iterable[PreparedView], *, time: str, event_times: bool = False
) -> JoinedColumns:
    """The views' columns for these entity rows, in their order, as known at their times."""
    at = microseconds(entity[time], name=time)
    joined = JoinedColumns({}, {})
    for view in views:
        rows = view.match(entity, at)
        joined.features.update(view.gathered(rows))
        if event_times:
            joined.event_times[view.source.name] = view.event_times(rows)
    return joined


def joined_batches(
    entity: Iterable[pa.Table],
    views: Sequence[PreparedView],
    *,
    time: str,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.Table]:
    """Entity rows with the views' columns appended, at most batch_rows at once."""
    for whole in entity:
        if time not in whole.column_names:
            raise InputError(
                f"the entity rows have no column {time!r}; they have {whole.column_names}"
            )
        refuse_clashes(whole.column_names, [out for v in views for out in v.source.features])
        for start in range(0, max(len(whole), 1), batch_rows):
            batch = whole.slice(start, batch_rows)
            columns = dict(zip(batch.column_names, batch.columns, strict=True))
            yield pa.table(columns | joined_columns(batch, views, time=time).features)
