"""`batch_engine: {type: adc_features.store.compute_engine.ArrowComputeEngine}`: materialization
that stays in Arrow.

Reads: what the offline store pulls. Writes: an online store that takes Arrow, one view as one
transaction, so that a killed materialization leaves what was there; or Feast's Redis store, whose
rows become the same bytes without Feast's conversion of every value. Everything else (other online
stores, views with transformations or aggregations, views that are written back offline) goes
through Feast's own engine unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from adc_features.store import _compat as feast
from adc_features.store.lmdb.feature_values import declared_types
from adc_features.store.redis_rows import takes_rows, write_rows
from adc_features.store.refresh_log import note_refresh

PIECE_ROWS = 1_000_000
"""Rows in memory at a time when the offline store streams: the online store keeps the newest of
each key, so they need not be pulled as one.
"""

_log = logging.getLogger(__name__)


class ArrowComputeEngineConfig(feast.FeastConfigBaseModel):
    """The `batch_engine:` block of feature_store.yaml."""

    type: Literal["adc_features.store.compute_engine.ArrowComputeEngine"] = (
        "adc_features.store.compute_engine.ArrowComputeEngine"
    )


class ArrowComputeEngine(feast.LocalComputeEngine):
    """Feast's batch engine that materializes in Arrow, one view in one transaction.

    Set `batch_engine.type` to `adc_features.store.compute_engine.ArrowComputeEngine`; Feast makes
    the object. A view goes this way when the online store takes Arrow, or is Feast's Redis store on
    one server, and the view has neither transformation, aggregation nor filter. A killed
    materialization leaves what was there, in Redis the rows that it wrote besides. Every other view
    goes through Feast's local engine, unchanged.
    """

    online_store: Any

    def __init__(self, **settings: Any) -> None:
        super().__init__(backend="pandas", **settings)

    def _materialize_one(
        self, registry: Any, task: feast.MaterializationTask, **options: Any
    ) -> feast.LocalMaterializationJob:
        if not self._stays_in_arrow(task.feature_view):
            job = super()._materialize_one(registry, task, **options)
            if job.status() == feast.MaterializationJobStatus.SUCCEEDED:
                self._note(task)
            return job
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._load(registry, task)
            self._note(task)
        except Exception as error:  # Feast raises what a job brings back
            return feast.LocalMaterializationJob(
                job_id=job_id, status=feast.MaterializationJobStatus.ERROR, error=error
            )
        return feast.LocalMaterializationJob(
            job_id=job_id, status=feast.MaterializationJobStatus.SUCCEEDED
        )

    def _note(self, task: feast.MaterializationTask) -> None:
        """Say in the repository that a view was refreshed, up to when and at what time."""
        end: Any = task.end_time
        if self.repo_config.repo_path is not None and end is not None:
            cut = end if end.tzinfo else end.replace(tzinfo=UTC)  # Feast's own are UTC
            repo = Path(self.repo_config.repo_path)
            note_refresh(repo, task.feature_view.name, cut=cut, visible=datetime.now(UTC))

    def _stays_in_arrow(self, view: Any) -> bool:
        changed = (
            "feature_transformation",
            "aggregations",
            "filter",
            "enable_validation",
            "source_views",
            "offline",
        )
        if isinstance(view, feast.StreamFeatureView):
            return False
        plain = (
            view.online
            and view.batch_source is not None
            and not any(getattr(view, name, None) for name in changed)
        )
        return plain and (self._takes_arrow(view) or self._is_redis(view))

    def _takes_arrow(self, view: Any) -> bool:
        takes_arrow = getattr(self.online_store, "takes_arrow", None)
        return takes_arrow is not None and bool(takes_arrow(self.repo_config, view))

    def _is_redis(self, view: Any) -> bool:
        return takes_rows(self.online_store, self.repo_config, view)

    def _load(self, registry: Any, task: feast.MaterializationTask) -> None:
        view: Any = task.feature_view
        backend: Any = self._backend
        columns = feast.LocalFeatureBuilder(registry, task, backend=backend).get_column_info(view)
        names = view.batch_source.field_mapping or {}

        def named(table: pa.Table) -> pa.Table:
            return table.rename_columns([names.get(name, name) for name in table.column_names])

        event, created = columns.ts_col, columns.created_ts_col or None
        times = {"event": names.get(event, event), "created": names.get(created, created)}
        if self._takes_arrow(view):
            tables = self._pulled(registry, task, columns)
            written = self.online_store.write_arrow_pieces(
                self.repo_config, view, lambda: map(named, tables()), **times
            )
        else:  # Redis keeps no created time: all rows of a key are compared before they are sent
            written = sum(
                write_rows(self.online_store, self.repo_config, view, rows, **times)
                for rows in map(named, self._newest(registry, task, columns)())
            )
        _log.info("stage=load view=%s written=%d", view.name, written)

    def _newest(
        self, registry: Any, task: feast.MaterializationTask, columns: Any
    ) -> Callable[[], Iterator[pa.Table]]:
        """What gives at least the newest row of every key, all rows of a key in one piece: the one
        table of Feast's interface, unless the offline store streams them.
        """
        if getattr(self.offline_store, "streams", None) == "newest":
            return self._streamed("pull_latest_from_table_or_query", task, columns)
        view: Any = task.feature_view
        job = feast.create_offline_store_retrieval_job(
            data_source=view.batch_source,
            column_info=columns,
            context=self.get_execution_context(registry, task),
            start_time=task.start_time,
            end_time=task.end_time,
        )
        return lambda: iter([job.to_arrow()])

    def _pulled(
        self, registry: Any, task: feast.MaterializationTask, columns: Any
    ) -> Callable[[], Iterator[pa.Table]]:
        """What gives the rows of the task in bounded pieces where the offline store streams, the
        same ones whenever it is called.
        """
        if getattr(self.offline_store, "streams", None) == "all":
            return self._streamed("pull_all_from_table_or_query", task, columns)
        return self._newest(registry, task, columns)

    def _streamed(
        self, pull: str, task: feast.MaterializationTask, columns: Any
    ) -> Callable[[], Iterator[pa.Table]]:
        """The rows of the task by a method of the offline store, in pieces."""
        view: Any = task.feature_view
        job: Any = getattr(self.offline_store, pull)(
            config=self.repo_config,
            data_source=view.batch_source,
            join_key_columns=columns.join_keys,
            feature_name_columns=columns.feature_cols,
            timestamp_field=columns.ts_col,
            created_timestamp_column=columns.created_ts_col,
            start_date=task.start_time,
            end_date=task.end_time,
            types=declared_types(view),
        )
        for name, table in getattr(job, "tables", {}).items():
            _log.info("stage=pull source=%s table=%s version=%s", name, *list(table.values())[1:])
        return lambda: _in_pieces(job.to_batches())


def _in_pieces(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least PIECE_ROWS, but for the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= PIECE_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
