"""Point-in-time joins of views in Parquet. Reads: Parquet files, entity rows. Writes: joined
columns; no feast here.

A view is prepared once (read, indexed) and joined many times: a frame of any length streams through
in batches, and only the features stay in memory. Features larger than the memory allowed are
decoded once into an uncompressed file that is mapped, so the system may drop its pages.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds
from adc_features.store.casts import MISFITS, fitted
from adc_features.store.column_names import refuse_clashes
from adc_features.store.join.asof import (
    NEVER,
    AsofIndex,
    created_microseconds,
    oldest_read,
)
from adc_features.store.join.gather import (
    NO_ROW,
    Gatherer,
    Gathering,
    RowPicks,
    RowStore,
    array_of,
    fixed_width,
    numbers_of,
    numbers_type,
    row_field,
)
from adc_features.store.join.key_codes import KeyCodes
from adc_features.store.join.space import arrow_space, mapped_space
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
    `spill` when it is more.
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
    ) -> None:
        if known_only and refresh is not None:
            raise InputError(
                f"view {source.name} has a refresh schedule and created-time filtering; choose one,"
                " a schedule in mode incremental loads what was created by its refreshes"
            )
        source.check()
        self._refresh = None if refresh is None or refresh.is_fresh else refresh
        self.source, self._known_only, self._spill = source, known_only, spill
        self._files = source.files.within(end=until)
        self._groups = self._files.groups()
        self._starts = np.cumsum([0, *(group.row_groups[0].num_rows for _, group in self._groups)])
        self._asked = None if entity is None else entity.select(list(source.keys))
        # one batch picks its few values while the files are read; more batches need the columns
        # again and again
        self._once = entity is not None and len(entity) <= batch_rows
        self._mapped = memory_limit is not None and self._kept_bytes() > memory_limit
        self._space = mapped_space(spill) if self._mapped else arrow_space
        self._rows, self._columns = (None, {}) if self._once else self._features()
        if not self._once:
            self.index  # noqa: B018  (built now, not in the first batch)
        _log.debug("stage=prepare view=%s rows=%d", source.name, self._starts[-1])

    @cached_property
    def index(self) -> AsofIndex:
        """Which rows there are, by key and time."""
        source = self.source
        times = self._read(source.time)
        lost = np.asarray(times.is_null()) if times.null_count else None
        # rows without a time are nobody's; until they are left out, any time will do
        if lost is not None:
            any_time = pa.scalar(0, pa.int64()).cast(times.type)
            if times.null_count < len(times):
                any_time = times.drop_null()[0]
            times = pc.fill_null(times, any_time)
        at = microseconds(times, space=self._space)
        del times  # one column in memory beside its numbers, not all
        keys, codes = KeyCodes.of_features(
            [self._read(name) for name in source.keys.values()],
            rows=len(at),
            space=self._space,
            spoil=True,
        )
        if lost is not None:
            codes[lost] = NO_ROW
        if self._refresh is not None and self._refresh.mode == "incremental":
            codes[~self._refresh.loaded(at, self._landed(at))] = NO_ROW
        created = None
        if source.created:
            created = (
                created_microseconds(self._read(source.created), space=self._space).__getitem__
                if self._known_only
                else self._created
            )
        asked = None
        if self._asked is not None and source.keys:
            pieces = (
                self._asked.slice(start, BATCH_ROWS)
                for start in range(0, len(self._asked), BATCH_ROWS)
            )
            asked = (keys.of(piece.columns, names=list(source.keys)) for piece in pieces)
        return AsofIndex(
            keys,
            codes,
            at,
            created=created,
            asked=asked,
            known_only=self._known_only,
            space=self._space,
        )

    def _landed(self, at: np.ndarray) -> np.ndarray | None:
        """int64 [F]: when the rows of these event times were created, where the files tell; a row
        that does not say was there at once."""
        if not self.source.created:
            return None
        created = created_microseconds(self._read(self.source.created), space=self._space)
        return np.where(created == NEVER, at, created)

    def _created(self, rows: np.ndarray) -> np.ndarray:
        """int64 [n]: the created times of these rows, one row group in memory at a time."""
        times = np.empty(len(rows), np.int64)
        for part in RowPicks(rows).by_piece(self._starts):
            piece = created_microseconds(
                self._column(self._groups[part.piece], str(self.source.created))
            )
            times[slice(None) if part.place is None else part.place] = piece[part.rows]
        return times

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
        picks = RowPicks(rows)
        if self._once:
            return self._read_at(picks)
        found = {} if self._rows is None else self._rows.gathered(picks)
        return {
            name: found[name] if name in found else self._columns[name](picks)
            for name in self.source.features
        }

    def _features(self) -> tuple[RowStore | None, dict[str, Gatherer]]:
        """What is kept of the files: columns that can stand side by side, and the others."""
        features, store = self.source.features, None
        if self._groups and features:
            first = {
                out: self._files.column(self._groups[0], name, head=_SAMPLE_ROWS)
                for out, name in features.items()
            }
            kinds = {
                out: row_field(self._declared(column, out).combine_chunks())
                for out, column in first.items()
            }
            if fields := {out: kind for out, kind in kinds.items() if kind is not None}:
                store = RowStore(int(self._starts[-1]), fields, space=self._space)
                for start, group in zip(self._starts, self._groups, strict=False):
                    for out in list(store.fields):
                        store.fill(out, start, self._piece(group, out))
        kept = store.fields if store else {}
        return store, {
            out: Gatherer(self._declared(self._read(name), out))
            for out, name in features.items()
            if out not in kept
        }

    def _read_at(self, picks: RowPicks) -> dict[str, pa.Array]:
        """Columns from the files, one column of one row group in memory at a time.

        Groups of which nothing is asked are not read.
        """
        parts = picks.by_piece(self._starts)
        answer = {}
        for out, name in self.source.features.items():
            gathering = Gathering(picks, self.source.types.get(out, self._files.kind(name)))
            for part in parts:
                piece = self._piece(self._groups[part.piece], out)
                gathering.add(part, piece, numbers_of(piece))
            answer[out] = gathering.result()
        return answer

    def _piece(self, group: Any, out: str) -> pa.Array:
        """One column of one row group, in its declared type."""
        return _in_one(self._declared(self._column(group, self.source.features[out]), out))

    def _column(self, group: Any, name: str) -> pa.ChunkedArray:
        return self._files.column(group, name)

    def _read(self, name: str) -> pa.ChunkedArray:
        """One column of the files, in memory or mapped; numbers and times in one piece."""
        kind = self._files.kind(name)
        if fixed_width(kind):
            whole = self._space(int(self._starts[-1]), numbers_type(kind))
            for start, group in zip(self._starts, self._groups, strict=False):
                column = self._column(group, name)
                if column.null_count:
                    break
                whole[start : start + len(column)] = numbers_of(_in_one(column))
            else:
                return pa.chunked_array([array_of(kind, whole)])
        if not self._mapped:
            return self._files.table([name])[name]
        # unlinked at once: the mapping keeps it, and nothing is left behind however this process
        # ends
        with tempfile.NamedTemporaryFile(
            dir=self._spill, prefix="adc-join-", suffix=".arrow"
        ) as file:
            with pa.ipc.new_file(file.name, self._files.schema([name])) as writer:
                for table in self._files.tables([name]):
                    writer.write_table(table)
            return pa.ipc.open_file(pa.memory_map(file.name)).read_all()[name]

    def _kept_bytes(self) -> int:
        """About how many bytes the view takes in memory.

        Index and columns count by the widths of their types, lists and texts as 64 bytes.
        """
        width = 8 * (3 + self._known_only)
        for name in () if self._once else self.source.features.values():
            kind = self._files.kind(name)
            width += kind.bit_width // 8 + 1 if pa.types.is_primitive(kind) else 64
        return int(self._starts[-1]) * width

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


def _in_one(column: pa.ChunkedArray) -> pa.Array:
    """Its values in one array; pyarrow's own ways copy even a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


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
