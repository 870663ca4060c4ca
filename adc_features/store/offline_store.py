"""A Feast offline store over Parquet. Reads: Parquet files that views declare. Writes: joined
features, new Parquet parts.

    offline_store:
      type: adc_features.store.offline_store.AsofOfflineStore

Feast finds the class by this path and instantiates it without arguments; the settings are
`AsofOfflineStoreConfig`, in this module because Feast looks for it here. The join itself is
`store.join`; this module translates Feast's views into it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from adc_features.clock import moment, utc
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, is_time, microseconds
from adc_features.store import _compat as feast
from adc_features.store.casts import cut_to_seconds
from adc_features.store.column_names import refuse_doubled, refuse_shared
from adc_features.store.join.asof import AsofIndex
from adc_features.store.join.engine import BATCH_ROWS, PreparedView, ViewSource, joined_batches
from adc_features.store.lmdb.feature_values import arrow_type, declared_types
from adc_features.store.offline_writes import (
    add_parts,
    as_declared,
    as_written,
    exists,
    holds_files,
    in_the_files_names,
    is_directory,
    write_whole,
)
from adc_features.store.pushes import pushed_table
from adc_features.store.sources import Declared, open_source, refuse_table_formats

TIME = "event_timestamp"
_RENAME = (
    "rename a view or a feature, give one view an alias (with_name), or ask for them in two calls"
)


class AsofOfflineStoreConfig(feast.FeastConfigBaseModel):
    """Settings. memory_limit: bytes that the features of one view may take in memory; larger ones
    are mapped from a file in spill_directory.
    """

    type: Literal["adc_features.store.offline_store.AsofOfflineStore"] = (
        "adc_features.store.offline_store.AsofOfflineStore"
    )
    memory_limit: int = 2 << 30
    spill_directory: str | None = None
    batch_rows: int = BATCH_ROWS


class AsofRetrievalJob(feast.RetrievalJob):
    """A join or a scan that runs when its result is asked for. batches: the result in pieces, of
    one schema.
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[pa.Table]],
        *,
        full_feature_names: bool = False,
        on_demand: list[Any] | None = None,
        metadata: Any = None,
        repo_path: Path | None = None,
    ) -> None:
        super().__init__()
        self._batches, self._full_feature_names, self._on_demand, self._metadata = (
            batches,
            full_feature_names,
            on_demand or [],
            metadata,
        )
        self._repo_path = repo_path

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return self._on_demand

    @property
    def metadata(self) -> Any:
        return self._metadata

    def to_batches(self) -> Iterator[pa.Table]:
        """The result in pieces, for frames larger than memory. Without on-demand views, which Feast
        computes on whole tables.
        """
        if self._on_demand:
            raise InputError(
                f"on-demand views {[v.name for v in self._on_demand]} are computed on the whole"
                " result; use to_arrow, or leave them out"
            )
        return self._batches()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return pa.concat_tables(self._batches())

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal().to_pandas()

    def persist(
        self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the result, on-demand features included, as Parquet; a reader sees the file when it
        is complete.
        """
        source = storage.to_data_source()
        filesystem, path = _location(source, self._repo_path)
        if not allow_overwrite and exists(filesystem, path):
            raise feast.SavedDatasetLocationAlreadyExists(location=source.path)
        tables = iter([self.to_arrow()]) if self._on_demand else self._batches()
        write_whole(tables, path, filesystem, as_directory=is_directory(filesystem, path))


class AsofOfflineStore(feast.OfflineStore):
    """Point-in-time joins that keep every entity row, in order; scans for materialization; writes
    that add parts.
    """

    supports_filter_by_created_timestamp = True
    streams = True
    """The jobs of this store have `to_batches`."""

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        *,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        filter_by_created_timestamp: bool = False,
        **_: Any,
    ) -> AsofRetrievalJob:
        """Each entity row with the newest values known at its time.

        entity_df: pandas, Arrow or polars frame, a pyarrow Dataset, which is streamed, SQL that
        DuckDB runs, or None: then every (key, time) of the views between the dates.
        """
        on_demand = feast.OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        sources = view_sources(
            config,
            feature_views,
            feature_refs,
            full_feature_names=full_feature_names,
            on_demand=on_demand,
        )
        if entity_df is None:
            start, end = _bound(start_date, "start_date"), _bound(end_date, "end_date")
            start, end = feast.compute_non_entity_date_range(
                feature_views, start_date=start, end_date=end
            )
            entity = _keys_between(sources, start, end)
        else:
            entity = entity_table(entity_df, repo_path=config.repo_path)
            refuse_doubled(entity.schema.names)
        time = time_column(entity.schema)
        span = _time_span(entity, time)
        for source in sources:
            source.check()
            if missing := sorted(set(source.keys) - set(entity.schema.names)):
                raise InputError(
                    f"the entity rows have no column {', '.join(missing)}, a key of view"
                    f" {source.name}; they have {entity.schema.names}"
                )
        settings = config.offline_store
        spill = Path(settings.spill_directory) if settings.spill_directory else None

        def batches() -> Iterator[pa.Table]:
            views = [
                PreparedView(
                    source,
                    until=span[1],
                    entity=None if isinstance(entity, ds.Dataset) else entity,
                    known_only=filter_by_created_timestamp,
                    memory_limit=settings.memory_limit,
                    spill=spill,
                    batch_rows=settings.batch_rows,
                )
                for source in sources
            ]
            frames = (
                part.set_column(
                    part.column_names.index(time),
                    time,
                    pa.array(microseconds(part[time], name=time)).cast(UTC_US),
                )
                for part in _parts(entity, settings.batch_rows)
            )
            return joined_batches(frames, views, time=time, batch_rows=settings.batch_rows)

        return AsofRetrievalJob(
            batches,
            full_feature_names=full_feature_names,
            on_demand=on_demand,
            metadata=feast.RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity.schema.names if name != time],
                min_event_timestamp=span[0],
                max_event_timestamp=span[1],
            ),
            repo_path=config.repo_path,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        types: Mapping[str, pa.DataType] | None = None,
        **_: Any,
    ) -> AsofRetrievalJob:
        """Every row with start_date <= time <= end_date; no feature names means all columns.

        types: what the view declares for columns of the source; others take the files' widest.
        """
        times = (timestamp_field, *([created_timestamp_column] if created_timestamp_column else []))
        filesystem, path = _location(data_source, config.repo_path)
        source = open_source(
            path,
            filesystem=filesystem,
            of=f"source {data_source.name or path}",
            declared=Declared(
                types or {},
                keys=tuple(join_key_columns),
                times=times,
                seconds=cut_to_seconds(types or {}, but=(*join_key_columns, *times)),
            ),
        )
        wanted = [*join_key_columns, *(feature_name_columns or source.names), *times]
        columns = list(dict.fromkeys(wanted))
        source.check(columns)
        start, end = _bound(start_date, "start_date"), _bound(end_date, "end_date")

        def batches() -> Iterator[pa.Table]:
            for table in source.tables(columns, start=start, end=end):
                yield _with_dummy_key(table, join_key_columns)

        return AsofRetrievalJob(batches, repo_path=config.repo_path)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
        types: Mapping[str, pa.DataType] | None = None,
        **_: Any,
    ) -> AsofRetrievalJob:
        """The newest row of every key with start_date <= time <= end_date."""
        everything = AsofOfflineStore.pull_all_from_table_or_query(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
            types=types,
        )

        def batches() -> Iterator[pa.Table]:
            table = everything._to_arrow_internal()
            created = table[created_timestamp_column] if created_timestamp_column else None
            newest = AsofIndex.of_columns(
                [table[name] for name in join_key_columns], table[timestamp_field], created=created
            ).newest()
            yield table.take(pa.array(np.sort(newest)))

        return AsofRetrievalJob(batches, repo_path=config.repo_path)

    @staticmethod
    def offline_write_batch(
        config: Any, feature_view: Any, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to a view's files: a new part in a directory; a single file is written anew
        beside and moved into place.
        """
        filesystem, path = _destination(config, feature_view)
        table, before, partitions = _to_be_written(feature_view, table, filesystem, path)
        if partitions:
            add_parts(table, path, filesystem, partitions)
        elif is_directory(filesystem, path):
            write_whole(iter([table]), f"{path}/part-{uuid.uuid4().hex}.parquet", filesystem)
        else:
            write_whole(itertools.chain(before, [table]), path, filesystem)
        if progress:
            progress(len(table))

    @staticmethod
    def check_push(config: Any, feature_view: Any, frame: Any) -> None:
        """Raise InputError, as `offline_write_batch` of a pushed frame would, without writing."""
        rows = pushed_table(feature_view, frame)
        rows = rows.select([name for name in rows.column_names if name != feast.DUMMY_ENTITY_ID])
        _to_be_written(feature_view, rows, *_destination(config, feature_view))

    @staticmethod
    def write_logged_features(
        config: Any, data: pa.Table | Path, source: Any, logging_config: Any, registry: Any
    ) -> None:
        """Add logged features as new parts of the destination's directory."""
        destination = logging_config.destination
        filesystem, path = _location(destination.to_data_source(), config.repo_path)
        refuse_table_formats(path, filesystem=filesystem, of=f"destination {path}")
        rows: Any = data
        if isinstance(data, Path):
            logs = open_source(str(data), of="logged features")
            schema = logs.schema(logs.names)
            batches = (b for table in logs.tables(logs.names) for b in table.to_batches())
            rows = pa.RecordBatchReader.from_batches(schema, batches)
        add_parts(rows, path, filesystem, destination.partition_by or [])


def view_sources(
    config: Any,
    feature_views: list[Any],
    feature_refs: list[str],
    *,
    full_feature_names: bool,
    on_demand: Sequence[Any] = (),
) -> list[ViewSource]:
    """Feast's views as the join reads them: field mappings undone, join-key maps and full names
    applied.

    Two versions of one view asked for at once get their version into the full name. Raises
    InputError when two features would have one name.
    """
    bases = [view.projection.name_alias or view.name for view in feature_views]
    sources: list[ViewSource] = []
    shown: list[tuple[str, str]] = []
    for view, base in zip(feature_views, bases, strict=True):
        asked = view.projection.name_to_use()
        prefix = asked if bases.count(base) > 1 else base
        names = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == asked]
        source = view.batch_source
        if source is None:
            raise InputError(
                f"view {view.name} has no batch source, so it has no history; give it one or leave"
                " it out"
            )
        filesystem, path = _location(source, config.repo_path)
        original = {new: old for old, new in (source.field_mapping or {}).items()}
        key_map = view.projection.join_key_map or {}
        types = {f.name: kind for f in view.features if (kind := arrow_type(f.dtype)) is not None}
        out = {name: f"{prefix}__{name}" if full_feature_names else name for name in names}
        kinds = {out[name]: types[name] for name in names if name in types}
        shown += [(column, f"view {asked} feature {name}") for name, column in out.items()]
        sources.append(
            ViewSource(
                name=view.name,
                path=path,
                filesystem=filesystem,
                keys={
                    key_map.get(f.name, f.name): original.get(f.name, f.name)
                    for f in view.entity_columns
                    if f.name != feast.DUMMY_ENTITY_ID
                },
                features={out[name]: original.get(name, name) for name in names},
                types=kinds,
                seconds=cut_to_seconds(kinds),
                key_types={
                    key_map.get(f.name, f.name): kind
                    for f in view.entity_columns
                    if f.name != feast.DUMMY_ENTITY_ID and (kind := arrow_type(f.dtype)) is not None
                },
                time=original.get(source.timestamp_field, source.timestamp_field),
                created=original.get(
                    source.created_timestamp_column, source.created_timestamp_column
                )
                or None,
                ttl=view.ttl,
            )
        )
    shown += _on_demand_columns(on_demand, feature_refs, full_feature_names=full_feature_names)
    keys = {
        key: f"join key {key} of view {source.name}" for source in sources for key in source.keys
    }
    refuse_shared([*keys.items(), *shown], advice=_RENAME)
    return sources


def _on_demand_columns(
    views: Sequence[Any], feature_refs: list[str], *, full_feature_names: bool
) -> list[tuple[str, str]]:
    """The columns that on-demand views add, each with what it is."""
    columns = []
    for view in views:
        asked = view.projection.name_to_use()
        names = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == asked]
        columns += [
            (f"{asked}__{name}" if full_feature_names else name, f"view {view.name} feature {name}")
            for name in names
        ]
    return columns


def entity_table(entity: Any, *, repo_path: Path | None = None) -> pa.Table | ds.Dataset:
    """Entity rows as Arrow: a table or dataset as it is, pandas and polars converted, text run as
    DuckDB SQL (file names relative to the repository).

    Raises InputError for anything else, and for SQL that DuckDB refuses.
    """
    if isinstance(entity, pa.Table | ds.Dataset):
        return entity
    if isinstance(entity, str):
        import duckdb

        with duckdb.connect() as connection:
            if repo_path is not None:
                connection.execute("SET file_search_path = ?", [str(repo_path)])
            connection.execute("SET TimeZone = 'UTC'")
            try:
                found = connection.sql(entity)
                if found is None:
                    raise InputError(
                        "the entity query returns no rows; give a SELECT, it is run by DuckDB"
                    )
                return found.to_arrow_table()
            except duckdb.Error as error:
                raise InputError(
                    f"the entity query failed: {error}; correct the SQL, it is run by DuckDB"
                ) from error
    if hasattr(entity, "to_arrow"):  # polars; its large types are ours by the key's plain form
        return entity.to_arrow()
    if hasattr(entity, "columns") and hasattr(entity, "index"):
        return _from_pandas(entity)
    raise InputError(
        f"the entity rows are a {type(entity).__name__}; give a pandas, Arrow or polars frame,"
        " or SQL"
    )


def time_column(entity: pa.Schema) -> str:
    """`event_timestamp`, or the only column of times. Raises InputError when there is none, or a
    choice.
    """
    if TIME in entity.names:
        return TIME
    times = [f.name for f in entity if is_time(f.type)]
    if len(times) != 1:
        raise InputError(
            f"the entity rows have no column {TIME!r} and {len(times)} columns of times {times};"
            f" name the one to join by {TIME!r}"
        )
    return times[0]


def _parts(entity: pa.Table | ds.Dataset, rows: int) -> Iterator[pa.Table]:
    """A table whole; a dataset in tables of at least `rows` rows, one after the other, at least
    one.
    """
    if isinstance(entity, pa.Table):
        yield entity
        return
    waiting = [entity.schema.empty_table()]
    for fragment in entity.get_fragments():
        _check_entity_file(fragment, entity.schema)
        for group in (
            fragment.split_by_row_group()
            if isinstance(fragment, ds.ParquetFileFragment)
            else [fragment]
        ):
            waiting.append(group.to_table(entity.schema, batch_size=1 << 30, use_threads=False))
            if sum(map(len, waiting)) >= rows:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _check_entity_file(fragment: Any, wanted: pa.Schema) -> None:
    """Raise InputError for a file whose times Arrow would change into the dataset's type."""
    for field in fragment.physical_schema if isinstance(fragment, ds.ParquetFileFragment) else ():
        place = wanted.get_field_index(field.name)
        kind = wanted.field(place).type if place >= 0 else field.type
        if kind != field.type and (is_time(kind) or is_time(field.type)):
            raise InputError(
                f"the entity rows have {field.name} as {field.type} in {fragment.path} and as"
                f" {kind} in their schema; write the files alike"
            )


def _time_span(entity: pa.Table | ds.Dataset, time: str) -> tuple[datetime | None, datetime | None]:
    """The first and the last time of the entity rows; None without rows."""
    if isinstance(entity, ds.Dataset):
        for fragment in entity.get_fragments():
            _check_entity_file(fragment, entity.schema)
    columns = (
        [entity[time]]
        if isinstance(entity, pa.Table)
        else (batch[time] for batch in entity.to_batches(columns=[time]))
    )
    ends = [
        (at.min(), at.max())
        for at in (microseconds(column, name=time) for column in columns)
        if len(at)
    ]
    if not ends:
        return None, None
    return moment(np.datetime64(int(min(first for first, _ in ends)), "us")), moment(
        np.datetime64(int(max(last for _, last in ends)), "us")
    )


def _from_pandas(frame: Any) -> pa.Table:
    """pandas rows; times that are objects (texts, mixed zones) are parsed, zones become UTC."""
    refuse_doubled(list(frame.columns))
    if TIME in frame.columns and frame[TIME].dtype == object:
        frame = frame.assign(**{TIME: _moments(frame[TIME])})
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _moments(column: Any) -> Any:
    """A pandas column of objects as times. Raises InputError for what is no time."""
    import pandas as pd

    try:
        return pd.to_datetime(column, utc=True)
    except (ValueError, TypeError, OverflowError) as error:
        values = list(column)
        if not all(isinstance(value, datetime) and value is not pd.NaT for value in values):
            raise InputError(
                f"the entity rows' {TIME} holds what is no time ({error}); give datetimes or ISO"
                " 8601 texts"
            ) from error
        # beyond pandas' nanoseconds (years 1677 to 2262); Arrow takes them
        aware = [
            (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
            for value in values
        ]
        return pd.Series(aware, index=column.index, dtype=object)


def _keys_between(sources: list[ViewSource], start: datetime, end: datetime) -> pa.Table:
    """Every distinct (key, time) of the views' rows with start <= time <= end: the entity rows when
    none are given.
    """
    keys = list(dict.fromkeys(key for source in sources for key in source.keys))
    tables = []
    for source in sources:
        source.check()
        if missing := sorted(set(keys) - set(source.keys)):
            raise InputError(
                f"without entity rows all views need the same keys; {source.name} has no"
                f" {', '.join(missing)}, give entity rows"
            )
        rows = source.files.table([*source.keys.values(), source.time], start=start, end=end)
        tables.append(
            pa.table(
                {TIME: rows[source.time], **{key: rows[name] for key, name in source.keys.items()}}
            ).select([TIME, *keys])
        )
    return (
        pa.concat_tables(tables, promote_options="permissive")
        .group_by([TIME, *keys])
        .aggregate([])
        .sort_by(TIME)
    )


def _with_dummy_key(table: pa.Table, keys: list[str]) -> pa.Table:
    """Views without an entity are kept under one key that Feast gives them."""
    return (
        table
        if keys
        else table.append_column(
            feast.DUMMY_ENTITY_ID, pa.array([feast.DUMMY_ENTITY_VAL] * len(table), pa.string())
        )
    )


def _declared(view: Any) -> Declared:
    """What a view says of its source's columns, in the names that they have there."""
    source = view.batch_source
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    times = tuple(
        original.get(time, time)
        for time in (source.timestamp_field, source.created_timestamp_column)
        if time
    )
    keys = tuple(
        original.get(f.name, f.name) for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID
    )
    types = declared_types(view)
    return Declared(
        types, keys=keys, times=times, seconds=cut_to_seconds(types, but=(*keys, *times))
    )


def _destination(config: Any, view: Any) -> tuple[Any, str]:
    """Where a view's rows are written: file system and path."""
    if view.batch_source is None:
        raise InputError(f"view {view.name} has no batch source to write to; give it one")
    filesystem, path = _location(view.batch_source, config.repo_path)
    refuse_table_formats(path, filesystem=filesystem, of=f"view {view.name}")
    return filesystem, path


def _to_be_written(
    view: Any, table: pa.Table, filesystem: Any, path: str
) -> tuple[pa.Table, Iterator[pa.Table], list[str]]:
    """New rows as the files will have them, the rows there are, and the hive partitions."""
    table, of = in_the_files_names(table, view.batch_source), f"view {view.name}"
    if exists(filesystem, path) and (
        not is_directory(filesystem, path) or holds_files(filesystem, path)
    ):
        known = open_source(path, filesystem=filesystem, of=of, declared=_declared(view))
        table, before = as_written(table, known)
        return table, before, known.partitions
    return as_declared(table, _declared(view), of=of), iter(()), []


def _bound(time: datetime | None, name: str) -> datetime | None:
    """A bound of a pull, aware. Raises InputError for one without a zone: Feast's own commands give
    theirs one.
    """
    return None if time is None else utc(time, name=name)


def _location(source: Any, repo_path: Path | None) -> tuple[Any, str]:
    """File system and path of a Parquet source. Raises InputError for other sources and formats."""
    if not isinstance(source, feast.FileSource) or not (
        source.file_format is None or isinstance(source.file_format, feast.ParquetFormat)
    ):
        kind = (
            type(source).__name__
            if not isinstance(source, feast.FileSource)
            else type(source.file_format).__name__
        )
        raise InputError(
            f"the source is a {kind}; this store reads Parquet through FileSource, use another"
            " offline store for it"
        )
    absolute = feast.FileSource.get_uri_for_file_path(
        repo_path=repo_path, uri=source.file_options.uri
    )
    return feast.FileSource.create_filesystem_and_path(
        str(absolute), source.file_options.s3_endpoint_override
    )
