"""A Feast offline store on Spark. Reads: Spark's sources, Parquet files. Writes: joined features.

Feast finds the class as `adc_features.store.spark.SparkAsofOfflineStore` and instantiates it
without arguments; its settings are `SparkAsofOfflineStoreConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.column_names import refuse_clashes
from adc_features.store.offline.entity_rows import refuse_missing_keys
from adc_features.store.offline.views import view_sources
from adc_features.store.offline_store import AsofOfflineStore
from adc_features.store.spark.entity import entity_rows
from adc_features.store.spark.job import SparkRetrievalJob
from adc_features.store.spark.plan import Settings, joined
from adc_features.store.spark.pulls import Scanned, key_times
from adc_features.store.spark.session import spark_session
from adc_features.store.spark.sources import SparkPlaces, is_spark_source, spark_view


class SparkAsofOfflineStoreConfig(feast.FeastConfigBaseModel):
    """The `offline_store:` block of feature_store.yaml.

    Attributes
    ----------
    spark_conf : dict of str to str or None
        Settings of the Spark session that is started when none is active.
    partitions : int
        Places that rows are sent to; 0 derives them from the sizes of sources and entity rows, at
        most `spark.sql.shuffle.partitions`.
    broadcast_bytes : int
        Views up to about this size are sent whole to every worker instead of shuffled.
    staging_location, region : str or None
        Taken for Feast's own Spark sources and engines; this store needs neither.
    """

    type: Literal["adc_features.store.spark.SparkAsofOfflineStore"] = (
        "adc_features.store.spark.SparkAsofOfflineStore"
    )
    spark_conf: dict[str, str] | None = None
    partitions: int = 0
    broadcast_bytes: int = 32 << 20
    staging_location: str | None = None
    region: str | None = None


class SparkAsofOfflineStore(feast.OfflineStore):
    """Feast's offline store on Spark: the joins of `AsofOfflineStore`, on the cluster.

    Set `offline_store.type` to `adc_features.store.spark.SparkAsofOfflineStore`; Feast makes the
    object. Sources are `SparkSource` (a table, a query, a path) and Parquet through `FileSource`.

    Spark moves the rows; `AsofIndex` matches them in its workers, with the answers, types and order
    of `AsofOfflineStore`. Of rows of one key, time and created time the last by position is seen:
    in Parquet that of the files' names and of the rows inside, elsewhere that in which Spark gives
    them.
    """

    supports_filter_by_created_timestamp = True
    streams = "newest"
    """Materialization takes the newest row of each key, which the tasks find, from `to_batches`:
    one partition in the driver's memory at a time."""

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
    ) -> SparkRetrievalJob:
        """Join features to entity rows, each as of its own time.

        Parameters
        ----------
        entity_df : Spark, pandas, Arrow or polars frame, pyarrow Dataset, str or None
            N rows with the keys and one column of times, `event_timestamp` or the only one there
            is. A text is SQL that Spark runs; a Dataset of Parquet is read by the executors; None
            stands for every (key, time) of the views between the dates.
        start_date, end_date : datetime, optional
            Bounds, both included, for entity_df None; aware.
        filter_by_created_timestamp : bool
            See only rows whose created time is not after the entity row's time.
        config, feature_views, feature_refs, registry, project, full_feature_names
            As Feast passes them.

        Returns
        -------
        SparkRetrievalJob
            N rows in their order, duplicates kept, when its result is asked for; features in their
            declared types, null where none is known.

        Raises
        ------
        InputError
            A key or the times are missing, two columns would share a name, a value does not fit the
            type that the view declares, or Spark cannot be used.
        ArtifactError
            Files are missing or damaged.
        MissingExtraError
            pyspark is not installed.
        """
        on_demand = feast.OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        sources = view_sources(
            config,
            feature_views,
            feature_refs,
            full_feature_names=full_feature_names,
            on_demand=on_demand,
            places=SparkPlaces.of(config),
        )
        spark = spark_session(config.offline_store.spark_conf)
        batch_sources = [view.batch_source for view in feature_views]
        if entity_df is None:
            start, end = _bounds(start_date, end_date)
            dates = feast.compute_non_entity_date_range(
                feature_views, start_date=start, end_date=end
            )
            entity_df = key_times(spark, sources, batch_sources, config.repo_path, dates)
        entity = entity_rows(spark, entity_df)
        views = [
            spark_view(
                spark,
                source,
                batch_source,
                until=entity.span[1],
                known_only=filter_by_created_timestamp,
            )
            for source, batch_source in zip(sources, batch_sources, strict=True)
        ]
        for source in sources:
            refuse_missing_keys(entity.schema, source)
        refuse_clashes(entity.schema.names, [out for s in sources for out in s.features])
        store = config.offline_store
        settings = Settings(store.partitions, store.broadcast_bytes)
        return SparkRetrievalJob(
            lambda: joined(spark, entity, views, settings),
            spark_conf=store.spark_conf,
            full_feature_names=full_feature_names,
            on_demand=on_demand,
            metadata=feast.RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity.schema.names if name != entity.time],
                min_event_timestamp=entity.span[0],
                max_event_timestamp=entity.span[1],
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
    ) -> SparkRetrievalJob:
        """Every row with start_date <= time <= end_date, as a job.

        The arguments are those of `AsofOfflineStore`. The rows come in the order in which the tasks
        read them.
        """
        return _pulled(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            (timestamp_field, created_timestamp_column),
            (start_date, end_date),
            types,
            newest=False,
        )

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
    ) -> SparkRetrievalJob:
        """The newest row of every key with start_date <= time <= end_date, in no order."""
        return _pulled(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            (timestamp_field, created_timestamp_column),
            (start_date, end_date),
            types,
            newest=True,
        )

    @staticmethod
    def offline_write_batch(
        config: Any, feature_view: Any, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to the files of a `FileSource`, as `AsofOfflineStore` does.

        Raises InputError for other sources.
        """
        if is_spark_source(feature_view.batch_source):
            raise InputError(
                f"view {feature_view.name} is read through a SparkSource, which this store does not"
                " write to; append the rows with Spark"
            )
        AsofOfflineStore.offline_write_batch(config, feature_view, table, progress)

    @staticmethod
    def write_logged_features(
        config: Any, data: pa.Table | Path, source: Any, logging_config: Any, registry: Any
    ) -> None:
        """Add logged features as new parts of a directory of Parquet."""
        AsofOfflineStore.write_logged_features(config, data, source, logging_config, registry)


def _bounds(
    start: datetime | None, end: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """The bounds of a scan in UTC. Raises InputError for one without a zone."""
    return (
        None if start is None else utc(start, name="start_date"),
        None if end is None else utc(end, name="end_date"),
    )


def _pulled(
    config: Any,
    data_source: Any,
    keys: list[str],
    features: list[str],
    times: tuple[str, str | None],
    dates: tuple[datetime | None, datetime | None],
    types: Mapping[str, pa.DataType] | None,
    *,
    newest: bool,
) -> SparkRetrievalJob:
    """A scan of one source, as a job."""
    settings = config.offline_store
    spark = spark_session(settings.spark_conf)
    start, end = _bounds(*dates)
    source = Scanned(data_source, tuple(keys), tuple(features), *times, types=types or {})
    pull = source.pull(spark, config.repo_path, start=start, end=end)
    places = settings.partitions or spark.sparkContext.defaultParallelism
    return SparkRetrievalJob(
        lambda: replace(pull, places=places if newest else 0),
        spark_conf=settings.spark_conf,
        repo_path=config.repo_path,
    )
