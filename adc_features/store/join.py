"""Point-in-time joins of views in Parquet. Reads: Parquet files, entity rows. Writes: joined columns; no feast here.

A view is prepared once (read, indexed) and joined many times: a frame of any length streams through in batches, and only the features
stay in memory. Features larger than the memory allowed are decoded once into an uncompressed file that is mapped, so the
system may drop its pages.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adc_features.clock import utc
from adc_features.errors import ArtifactError, InputError
from adc_features.store.asof import AsofIndex, microseconds
from adc_features.store.gather import NO_ROW, Gatherer, Gathering, RowPicks, numbers_of

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_log = logging.getLogger(__name__)
BATCH_ROWS = 1 << 20
"""Entity rows joined at once: enough to sort questions well, few enough to stay small."""


@dataclass(frozen=True)
class ViewSource:
    """Where one view's rows are, in whatever names they have there.

    keys: entity column -> source column. features: output column -> source column. types: output column -> the type it is returned in;
    a column without one keeps its own. time, created: source columns. ttl: None or 0 means any age.
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

    @cached_property
    def dataset(self) -> ds.Dataset:
        """The files, opened; raises ArtifactError naming what is missing or not Parquet."""
        return open_parquet(self.path, filesystem=self.filesystem, of=f"view {self.name}")

    def check(self) -> None:
        """Raise InputError when a declared column is not in the files."""
        wanted = [*self.keys.values(), *self.features.values(), self.time, *([self.created] if self.created else [])]
        if missing := sorted(set(wanted) - set(self.dataset.schema.names)):
            raise InputError(
                f"view {self.name}: {self.path} has no column {', '.join(missing)}; it has {self.dataset.schema.names}, correct the view's schema or field mapping"
            )


def open_parquet(path: str, *, filesystem: Any = None, of: str = "source") -> ds.Dataset:
    """A Parquet file, directory or hive-partitioned directory as a dataset. Raises ArtifactError when there is none, or it is broken."""
    import pyarrow.dataset as ds  # brings pandas: not at import
    from pyarrow import fs

    try:
        filesystem = filesystem or fs.LocalFileSystem(use_mmap=True)
        found = ds.dataset(path, format="parquet", filesystem=filesystem, partitioning="hive")
    except FileNotFoundError as error:
        raise ArtifactError(f"{of}: there is no file at {path} yet; write the first rows there, or correct the path") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{of}: {path} is not readable as Parquet ({error}); the file is damaged or half-written, write it again") from error
    if not found.schema.names:
        raise ArtifactError(f"{of}: {path} holds no Parquet file yet; write the first rows there, or correct the path")
    return found


def time_bounds(dataset: ds.Dataset, column: str, *, start: datetime | None, end: datetime | None) -> ds.Expression | None:
    """The scan filter start <= column <= end, in the column's own type; None when nothing bounds it or its type cannot be compared safely."""
    import pyarrow.dataset as ds

    kind = dataset.schema.field(column).type
    if not pa.types.is_timestamp(kind):
        return None
    bound = None
    for limit, keep in ((start, ds.field(column).__ge__), (end, ds.field(column).__le__)):
        if limit is not None:
            at = pa.scalar(utc(limit), pa.timestamp("us", "UTC")).cast(pa.timestamp("us", kind.tz) if kind.tz else pa.timestamp("us"), safe=False)
            part = keep(at)
            bound = part if bound is None else bound & part
    return bound


class PreparedView:
    """A view read and indexed, ready to be joined.

    until: rows after it are not needed and not read. entity: all rows that will be joined, when known: other keys are left out, and for a
    single batch the features are read when they are gathered.
    """

    def __init__(
        self,
        source: ViewSource,
        *,
        until: datetime | None = None,
        entity: pa.Table | None = None,
        memory_limit: int | None = None,
        spill: Path | None = None,
    ) -> None:
        source.check()
        self.source = source
        # finer times than microseconds are cut to them: a row of the same microsecond is still seen
        end = None if until is None else until + timedelta(microseconds=1)
        self._files = _pruned(source.dataset, time_bounds(source.dataset, source.time, start=None, end=end))
        keys = [*source.keys.values(), source.time, *([source.created] if source.created else [])]
        # one batch picks its few values while the files are read; more batches need the columns again and again
        self._once = entity is not None and len(entity) <= BATCH_ROWS
        table = _read(source, self._files, list(dict.fromkeys(keys if self._once else [*keys, *source.features.values()])), memory_limit, spill)
        self._kept = None
        if table[source.time].null_count:
            self._kept = np.flatnonzero(table[source.time].is_valid())
            table = table.take(pa.array(self._kept))
        created = table[source.created] if source.created else None
        asked = None if entity is None else [entity[name] for name in source.keys]
        key_columns = [table[name] for name in source.keys.values()]
        self.index = AsofIndex(key_columns, table[source.time], created=created, asked=asked, names=list(source.keys))
        self._columns = {} if self._once else {out: Gatherer(self._declared(table[name], out)) for out, name in source.features.items()}
        _log.debug("stage=prepare view=%s rows=%d", source.name, len(table))

    def match(self, entity: pa.Table, times: np.ndarray, *, known_only: bool = False) -> np.ndarray:
        """int64 [Q] feature rows, NO_ROW for none. Raises InputError when the entity rows lack a key or it can never match."""
        if missing := sorted(set(self.source.keys) - set(entity.column_names)):
            raise InputError(f"the entity rows have no column {', '.join(missing)}, a key of view {self.source.name}; they have {entity.column_names}")
        names = list(self.source.keys)
        return self.index.match([entity[name] for name in names], times, names=names, ttl=self.source.ttl, known_only=known_only)

    def gathered(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """The view's columns at these rows."""
        if not self.source.features:
            return {}
        if not self._once:
            picks = RowPicks(rows, next(iter(self._columns.values())).start)  # all columns are in the same pieces
            return {name: column(picks) for name, column in self._columns.items()}
        return self._read_at(rows if self._kept is None else np.where(rows < 0, NO_ROW, self._kept[rows]))

    def _read_at(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """The same from the files, one row group in memory at a time; groups of which nothing is asked are not read."""
        groups = [group for part in self._files.get_fragments() for group in part.split_by_row_group() if group.row_groups[0].num_rows]
        starts = np.cumsum([0, *(group.row_groups[0].num_rows for group in groups)])
        names = list(dict.fromkeys(self.source.features.values()))
        schema = self._files.schema
        kinds = {out: self.source.types.get(out, schema.field(name).type) for out, name in self.source.features.items()}
        if not groups:  # a view without rows
            return {out: pa.nulls(len(rows), kind) for out, kind in kinds.items()}
        picks = RowPicks(rows, starts)
        gatherings = {out: Gathering(picks, kind) for out, kind in kinds.items()}
        for part in picks.parts:
            table = groups[part.piece].to_table(schema, columns=names, batch_size=1 << 30)
            for out, name in self.source.features.items():
                piece = pa.concat_arrays(self._declared(table[name], out).chunks)
                gatherings[out].add(part, piece, numbers_of(piece))
        return {out: gathering.result() for out, gathering in gatherings.items()}

    def _declared(self, column: pa.ChunkedArray, out: str) -> pa.ChunkedArray:
        """The column in the type that the view declares."""
        wanted = self.source.types.get(out)
        if wanted is None or column.type == wanted:
            return column
        name = f"view {self.source.name}: {self.source.features[out]}"
        try:
            return column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{name} is {column.type} in the files and {wanted} in the view, which does not hold its values ({error}); correct one") from error

    def event_times(self, rows: np.ndarray) -> pa.Array:
        """timestamp[us, UTC]: the event times of these rows, null for NO_ROW."""
        return pa.array(self.index.times_of(rows), pa.int64(), mask=rows == NO_ROW).cast(pa.timestamp("us", "UTC"))


def joined_batches(
    entity: Iterable[pa.Table], views: Sequence[PreparedView], *, time: str, known_only: bool = False, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """Entity rows with the views' columns appended: the same rows in the same order, at most batch_rows at once.

    Raises InputError for missing or null times, and when a feature would take the name of an entity column.
    """
    for whole in entity:
        if time not in whole.column_names:
            raise InputError(f"the entity rows have no column {time!r}; they have {whole.column_names}")
        if clash := sorted(set(whole.column_names) & {name for view in views for name in view.source.features}):
            raise InputError(f"the entity rows have columns {clash}, which are also features; rename them or ask for full feature names")
        for start in range(0, max(len(whole), 1), batch_rows):
            batch = whole.slice(start, batch_rows)
            at = microseconds(batch[time], name=time)
            columns = dict(zip(batch.column_names, batch.columns, strict=True))
            for view in views:
                columns |= view.gathered(view.match(batch, at, known_only=known_only))
            yield pa.table(columns)


def _read(source: ViewSource, dataset: ds.Dataset, columns: list[str], memory_limit: int | None, spill: Path | None) -> pa.Table:
    """The columns in memory, or mapped from a file when they would take more than memory_limit bytes."""
    scanner = dataset.scanner(columns=columns)
    if memory_limit is None or _decoded_bytes(dataset, columns) <= memory_limit:
        try:
            return scanner.to_table()
        except (pa.ArrowInvalid, OSError) as error:
            raise ArtifactError(f"view {source.name}: {source.path} cannot be read ({error}); the file is damaged or half-written, write it again") from error
    # unlinked at once: the mapping keeps it, and nothing is left behind however this process ends
    with tempfile.NamedTemporaryFile(dir=spill, prefix="adc-join-", suffix=".arrow") as file:
        with pa.ipc.new_file(file.name, scanner.projected_schema) as writer:
            for batch in scanner.to_batches():
                writer.write_batch(batch)
        return pa.ipc.open_file(pa.memory_map(file.name)).read_all()


def _pruned(dataset: ds.Dataset, keep: ds.Expression | None) -> ds.Dataset:
    """The row groups that may hold rows of `keep`. Rows are not filtered: later ones match nothing, and copying costs more than they do."""
    import pyarrow.dataset as ds

    if keep is None:
        return dataset
    fragments = [part.subset(keep) for part in dataset.get_fragments(filter=keep)]
    return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)


def _decoded_bytes(dataset: ds.Dataset, columns: Sequence[str]) -> int:
    """About how much the columns take in memory, from the widths of their types; lists and texts from the files' metadata."""
    rows, total = dataset.count_rows(), 0
    for name in columns:
        kind = dataset.schema.field(name).type
        total += rows * (kind.bit_width // 8 + 1 if pa.types.is_primitive(kind) else 64)
    return total
