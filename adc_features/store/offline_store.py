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
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import Field

from adc_features.clock import utc
from adc_features.input_files import all_of
from adc_features.store import _compat as feast
from adc_features.store.casts import cut_to_seconds
from adc_features.store.column_names import refuse_doubled
from adc_features.store.join.asof import AsofIndex
from adc_features.store.join.engine import BATCH_ROWS, joined_batches
from adc_features.store.offline.entity_rows import (
    check_keys,
    entity_table,
    inputs_of,
    keys_between,
    table_pieces,
    time_column,
    time_span,
    with_utc_times,
)
from adc_features.store.offline.job import AsofRetrievalJob
from adc_features.store.offline.places import Places, location_of
from adc_features.store.offline.views import (
    declared_of,
    destination_of,
    prepared_views,
    table_facts,
    view_sources,
)
from adc_features.store.parquet.additions import (
    add_parts,
    as_declared,
    as_written,
    exists,
    holds_files,
    in_the_files_names,
    is_directory,
    write_whole,
)
from adc_features.store.parquet.opening import open_source, refuse_table_formats
from adc_features.store.parquet.sources import Declared
from adc_features.store.pushes import pushed_table, source_frame


class IndexCacheConfig(feast.FeastConfigBaseModel):
    """Where the indices of views are kept for the next join, and how much of them.

    Attributes
    ----------
    path : str
        A directory; relative to the repository. It is created when the first index is kept.
    max_bytes : int
        What its files may take; those that were unused for longest are removed.
    """

    path: str
    max_bytes: int = Field(4 << 30, gt=0)


class AsofOfflineStoreConfig(feast.FeastConfigBaseModel):
    """The `offline_store:` block of feature_store.yaml.

    Attributes
    ----------
    memory_limit : int
        Bytes that the features of one view may take in memory; a larger view is mapped from files.
    spill_directory : str or None
        Where those files are; by default the system's directory for temporary files.
    batch_rows : int
        Entity rows joined at a time.
    index_cache : IndexCacheConfig or None
        Where built indices are kept; by default none is.
    """

    type: Literal["adc_features.store.offline_store.AsofOfflineStore"] = (
        "adc_features.store.offline_store.AsofOfflineStore"
    )
    memory_limit: int = 2 << 30
    spill_directory: str | None = None
    batch_rows: int = BATCH_ROWS
    index_cache: IndexCacheConfig | None = None


class AsofOfflineStore(feast.OfflineStore):
    """Feast's offline store over Parquet: point-in-time joins that keep every entity row, in order.

    Set `offline_store.type` to `adc_features.store.offline_store.AsofOfflineStore`; Feast makes the
    object. Sources are Parquet files, directories of them, or directories with hive names.

    Times are aware UTC and count in microseconds. A feature row is seen from its event time on,
    that moment included, until the view's ttl is over. Of rows of one key and time the last by
    created time is seen, then the last by position.
    """

    supports_filter_by_created_timestamp = True
    streams = "all"
    """Materialization takes all rows from `to_batches` of a job, one batch in memory at a time."""

    @staticmethod
    def get_historical_features(  # long by Feast's signature, and what has to be said of it
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
        """Join features to entity rows, each as of its own time.

        Parameters
        ----------
        entity_df : pandas, Arrow or polars frame, pyarrow Dataset, str or None
            N rows with the keys and one column of times, `event_timestamp` or the only one there
            is. A Dataset is streamed; a text is SQL that DuckDB runs; None stands for every
            (key, time) of the views between the dates.
        start_date, end_date : datetime, optional
            Bounds, both included, for entity_df None; aware.
        filter_by_created_timestamp : bool
            See only rows whose created time is not after the entity row's time.
        config, feature_views, feature_refs, registry, project, full_feature_names
            As Feast passes them.

        Returns
        -------
        AsofRetrievalJob
            N rows in their order, duplicates kept, when its result is asked for; features in their
            declared types, null where none is known. `to_batches` gives them in pieces.

        Raises
        ------
        InputError
            A key or the times are missing, two columns would share a name, a value does not fit the
            type that the view declares.
        ArtifactError
            Files are missing or damaged, or changed while they were read.
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
            first, last = _bound(start_date, "start_date"), _bound(end_date, "end_date")
            start, end = feast.compute_non_entity_date_range(
                feature_views, start_date=first, end_date=last
            )
            entity = keys_between(sources, start, end)
        else:
            entity = entity_table(entity_df, repo_path=config.repo_path)
            refuse_doubled(entity.schema.names)
        time, inputs = time_column(entity.schema), inputs_of(entity)
        span = time_span(entity, time)
        check_keys(entity.schema, sources)

        def batches() -> Iterator[pa.Table]:
            views = prepared_views(
                config,
                sources,
                until=span[1],
                entity=None if isinstance(entity, ds.Dataset) else entity,
                known_only=filter_by_created_timestamp,
            )
            rows = config.offline_store.batch_rows
            frames = with_utc_times(table_pieces(entity, rows), time)
            return all_of(joined_batches(frames, views, time=time, batch_rows=rows), inputs)

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
            tables=table_facts(sources),
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
        """Every row with start_date <= time <= end_date, as a job.

        Parameters
        ----------
        feature_name_columns : list of str
            The columns wanted beside keys and times; none means all.
        types : mapping of str to pyarrow.DataType, optional
            What the view declares for columns of the source;
            others take the widest type of the files.
        start_date, end_date : datetime, optional
            Aware; both included.

        Raises
        ------
        InputError
            A column is missing or a bound has no time zone.
        ArtifactError
            Files are missing or damaged.
        """
        times = (timestamp_field, *([created_timestamp_column] if created_timestamp_column else []))
        place = Places.of(config).place(data_source)
        source = place.opened(
            of=f"source {data_source.name or place.path}",
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
            for table in all_of(source.tables(columns, start=start, end=end), source.inputs):
                yield _with_dummy_key(table, join_key_columns)

        read = {data_source.name: place.table.facts} if place.table else {}
        return AsofRetrievalJob(batches, repo_path=config.repo_path, tables=read)

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

        return AsofRetrievalJob(batches, repo_path=config.repo_path, tables=everything.tables)

    @staticmethod
    def offline_write_batch(
        config: Any, feature_view: Any, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to a view's files.

        A directory gets a new part; a single file is written anew beside and moved into place.
        """
        filesystem, path = destination_of(config, feature_view)
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
        _to_be_written(feature_view, rows, *destination_of(config, feature_view))

    @staticmethod
    def source_frame(feature_view: Any, frame: Any) -> Any:
        """A frame that is written back under the names of the view's files."""
        return source_frame(feature_view, frame)

    @staticmethod
    def write_logged_features(
        config: Any, data: pa.Table | Path, source: Any, logging_config: Any, registry: Any
    ) -> None:
        """Add logged features as new parts of the destination's directory."""
        destination = logging_config.destination
        filesystem, path = location_of(destination.to_data_source(), config.repo_path)
        refuse_table_formats(path, filesystem=filesystem, of=f"destination {path}")
        rows: Any = data
        if isinstance(data, Path):
            logs = open_source(str(data), of="logged features")
            schema = logs.schema(logs.names)
            batches = (b for table in logs.tables(logs.names) for b in table.to_batches())
            rows = pa.RecordBatchReader.from_batches(schema, batches)
        add_parts(rows, path, filesystem, destination.partition_by or [])


def _with_dummy_key(table: pa.Table, keys: list[str]) -> pa.Table:
    """Views without an entity are kept under one key that Feast gives them."""
    if keys:
        return table
    key = pa.array([feast.DUMMY_ENTITY_VAL] * len(table), pa.string())
    return table.append_column(feast.DUMMY_ENTITY_ID, key)


def _to_be_written(
    view: Any, table: pa.Table, filesystem: Any, path: str
) -> tuple[pa.Table, Iterator[pa.Table], list[str]]:
    """New rows as the files will have them, the rows there are, and the hive partitions."""
    table, of = in_the_files_names(table, view.batch_source), f"view {view.name}"
    if exists(filesystem, path) and (
        not is_directory(filesystem, path) or holds_files(filesystem, path)
    ):
        known = open_source(path, filesystem=filesystem, of=of, declared=declared_of(view))
        table, before = as_written(table, known)
        return table, before, known.partitions
    return as_declared(table, declared_of(view), of=of), iter(()), []


def _bound(time: datetime | None, name: str) -> datetime | None:
    """A bound of a pull, aware.

    Raises InputError for one without a zone: Feast's own commands give theirs one.
    """
    return None if time is None else utc(time, name=name)
