"""The one door to feast. Reads: nothing. Writes: nothing.

Importing it costs what `import feast` costs (6-9 s), so the other modules of `store` import it
inside functions. Feast ships monthly and moves private names: every name that we use passes through
here, and a test imports it.
"""

import asyncio
import atexit
import contextlib
import functools
import gc
import io
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.store.repository import registry_beside

os.environ.setdefault("FEAST_USAGE", "False")

from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    RequestSource,
    StreamFeatureView,
    ValueType,
    types,
)
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource, PushMode
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.local.nodes import LocalOutputNode
from feast.infra.compute_engines.utils import create_offline_store_retrieval_job
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.online_stores.helpers import (
    _mmh3,
    compute_versioned_name,
    get_online_store_from_config,
)
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry.caching_registry import CachingRegistry
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.labeling.label_view import LabelView
from feast.metrics import track_feature_statuses
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import (
    BoolList,
    BytesList,
    DoubleList,
    FloatList,
    Int32List,
    Int64List,
    StringList,
)
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel, get_online_config_from_type
from feast.repo_operations import get_repo_files
from feast.type_map import (
    VALUE_TYPE_TO_PROTO_VALUE_MAP,
    feast_value_type_to_python_type,
    python_values_to_proto_values,
)
from feast.types import (
    Array,
    Bool,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    from_feast_to_pyarrow_type,
)
from feast.utils import (
    _convert_arrow_to_proto,
    _get_cached_request_context,
    _get_column_names,
    _get_table_entity_values,
    compute_non_entity_date_range,
)

__all__ = [
    "DUMMY_ENTITY_ID",
    "DUMMY_ENTITY_VAL",
    "TIMESTAMP_POSTFIX",
    "VALUE_TYPE_TO_PROTO_VALUE_MAP",
    "Array",
    "Bool",
    "BoolList",
    "BytesList",
    "DataSource",
    "DeclaredOnDemandView",
    "DeltaFormat",
    "DoubleList",
    "Entity",
    "EntityKeyProto",
    "FeastConfigBaseModel",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "Field",
    "FieldStatus",
    "FileSource",
    "Float32",
    "Float64",
    "FloatList",
    "GetOnlineFeaturesResponse",
    "Int32",
    "Int32List",
    "Int64",
    "Int64List",
    "LabelView",
    "LocalComputeEngine",
    "LocalFeatureBuilder",
    "LocalMaterializationJob",
    "MaterializationJobStatus",
    "MaterializationTask",
    "OfflineStore",
    "OnDemandFeatureView",
    "OnlineResponse",
    "OnlineStore",
    "ParquetFormat",
    "RepoConfig",
    "RequestSource",
    "RetrievalJob",
    "RetrievalMetadata",
    "SavedDatasetLocationAlreadyExists",
    "StreamFeatureView",
    "String",
    "StringList",
    "SupportedAsyncMethods",
    "ValueProto",
    "ValueType",
    "_convert_arrow_to_proto",
    "_get_cached_request_context",
    "_get_column_names",
    "_get_table_entity_values",
    "_mmh3",
    "check_versions",
    "compute_non_entity_date_range",
    "compute_versioned_name",
    "create_offline_store_retrieval_job",
    "feast_value_type_to_python_type",
    "from_feast_to_pyarrow_type",
    "get_online_config_from_type",
    "get_online_store_from_config",
    "get_repo_files",
    "iceberg_source",
    "named_type",
    "offered_by",
    "offline_store",
    "online_store",
    "postgres_connection",
    "postgresql_source",
    "python_values_to_proto_values",
    "quiet",
    "track_feature_statuses",
]

_log = logging.getLogger(__name__)


class DeclaredOnDemandView(OnDemandFeatureView):
    """One whose schema is declared whole: its function is not tried on made-up values."""

    def infer_features(self) -> None:
        """Nothing is to be inferred."""


class _ToldApart:
    """The cached contents of a registry, each with a version of its own.

    Feast (0.67) remembers the entities and views that it listed by `id` and `version_id` of these
    contents. SQL registries leave the version empty, and an address is used again once its object
    is gone: a store that is opened after another of the same project, or refreshed twice, may be
    told what the earlier contents held. Empty contents stay as they are, because Feast compares
    them with an empty message.
    """

    def __set__(self, registry: CachingRegistry, contents: Any) -> None:
        if contents and contents.ByteSize() and not contents.version_id:
            contents.version_id = uuid.uuid4().hex
        vars(registry)["cached_registry_proto"] = contents


CachingRegistry.cached_registry_proto = _ToldApart()  # type: ignore[assignment]


def _frames_pass_whole() -> None:
    """Hand pushed frames to an online store that takes them, before Feast makes protos of them.

    Feast (0.67) converts on the way, in silence:
    2.5 to 2, null in a list of texts to "", 1e300 to inf.
    """
    checked = FeatureStore._get_feature_view_and_df_for_online_write
    ingest, ingest_async = PassthroughProvider.ingest_df, PassthroughProvider.ingest_df_async

    @functools.wraps(checked)
    def check(self: FeatureStore, *args: Any, **kwargs: Any) -> Any:
        view, frame = checked(self, *args, **kwargs)
        store: Any = online_store(self)
        if frame is not None and hasattr(store, "checked_frame"):
            frame = store.checked_frame(view, frame)
        return view, frame

    @functools.wraps(ingest)
    def ingest_df(
        self: PassthroughProvider, feature_view: Any, df: Any, field_mapping: dict | None = None
    ) -> None:
        store: Any = self.online_store
        if not hasattr(store, "write_frame") or not store.write_frame(
            self.repo_config, feature_view, df
        ):
            ingest(self, feature_view, df, field_mapping)

    @functools.wraps(ingest_async)
    async def ingest_df_async(
        self: PassthroughProvider, feature_view: Any, df: Any, field_mapping: dict | None = None
    ) -> None:
        store: Any = self.online_store
        if not hasattr(store, "write_frame") or not await asyncio.to_thread(
            store.write_frame, self.repo_config, feature_view, df
        ):
            await ingest_async(self, feature_view, df, field_mapping)

    changed: Any = FeatureStore, PassthroughProvider
    changed[0]._get_feature_view_and_df_for_online_write = check
    changed[1].ingest_df, changed[1].ingest_df_async = ingest_df, ingest_df_async


_frames_pass_whole()


def _tables_pass_whole() -> None:
    """Hand materialized tables whole to an online store that takes them.

    Feast (0.67) makes protos of them before, and converts values as it does with pushed frames.
    """
    execute = LocalOutputNode.execute

    @functools.wraps(execute)
    def write(self: LocalOutputNode, context: Any) -> Any:
        view: Any = self.feature_view
        if (
            not hasattr(context.online_store, "write_table")
            or not view.online
            or view.batch_source is None
        ):
            return execute(self, context)
        output: Any = self.get_single_table(context)
        context.node_outputs[self.name] = output
        if len(output.data):
            context.online_store.write_table(context.repo_config, view, output.data)
            if view.offline:
                context.offline_store.offline_write_batch(
                    config=context.repo_config,
                    feature_view=view,
                    table=output.data,
                    progress=lambda _: None,
                )
        return output

    changed: Any = LocalOutputNode
    changed.execute = write


_tables_pass_whole()


def _pushes_are_refused_whole() -> None:
    """Ask every store of a push whether it takes the frame, before the first one writes.

    Feast (0.67) writes view after view, online then offline: what the second refuses has gone into
    the first.
    """
    push, push_async = FeatureStore.push, FeatureStore.push_async

    def check(self: FeatureStore, source: str, frame: Any, cached: bool, to: PushMode) -> None:
        provider: Any = self._get_provider()
        stores = [provider.online_store] * (to != PushMode.OFFLINE) + [provider.offline_store] * (
            to != PushMode.ONLINE
        )
        views = self._fvs_for_push_source_or_raise(source, cached)
        frame = self._validate_and_convert_input_data(frame, None)
        # a write of its own refuses before it writes
        if len(views) * len(stores) < 2 or frame is None or frame.empty:
            return
        for view in sorted(views, key=lambda view: view.name):
            for store in stores:
                if hasattr(store, "check_push"):
                    store.check_push(self.config, view, frame)

    @functools.wraps(push)
    def pushed(
        self: FeatureStore,
        push_source_name: str,
        df: Any,
        allow_registry_cache: bool = True,
        to: PushMode = PushMode.ONLINE,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        check(self, push_source_name, df, allow_registry_cache, to)
        push(self, push_source_name, df, allow_registry_cache, to, *args, **kwargs)

    @functools.wraps(push_async)
    async def pushed_async(
        self: FeatureStore,
        push_source_name: str,
        df: Any,
        allow_registry_cache: bool = True,
        to: PushMode = PushMode.ONLINE,
        **kwargs: Any,
    ) -> None:
        await asyncio.to_thread(check, self, push_source_name, df, allow_registry_cache, to)
        await push_async(self, push_source_name, df, allow_registry_cache, to, **kwargs)

    changed: Any = FeatureStore
    changed.push, changed.push_async = pushed, pushed_async


_pushes_are_refused_whole()


def _rows_are_written_back_by_either_name() -> None:
    """Take rows for our offline store under the view's names as well as the source's.

    Feast (0.67) knows only the source's, and its refusal names no view.
    """
    write = FeatureStore.write_to_offline_store

    @functools.wraps(write)
    def written(
        self: FeatureStore,
        feature_view_name: str,
        df: Any,
        allow_registry_cache: bool = True,
        reorder_columns: bool = True,
    ) -> None:
        view: Any = self.registry.get_any_feature_view(
            feature_view_name, self.project, allow_cache=allow_registry_cache
        )
        provider: Any = self._get_provider()
        ours = hasattr(provider.offline_store, "source_frame")
        if ours and getattr(view, "batch_source", None) is not None:
            df = provider.offline_store.source_frame(view, df)
        try:
            write(self, feature_view_name, df, allow_registry_cache, reorder_columns)
        except ValueError as error:
            if type(error) is not ValueError or not ours:  # what Arrow raises is one, too
                raise
            raise InputError(f"view {feature_view_name}: {error}") from error

    changed: Any = FeatureStore
    changed.write_to_offline_store = written


_rows_are_written_back_by_either_name()


def _beside_the_repository(create: Any) -> Any:
    """Feast (0.67) opens a relative SQLite registry in the current folder.

    From elsewhere it sees nothing, and leaves an empty registry behind.

    Paths of stores and sources are relative to the repository, and so is the registry's from here
    on. Feast loads this module with any of our stores, before it opens a registry.
    """

    @functools.wraps(create)
    def created(self: FeatureStore) -> Any:
        config = self.config.registry
        if getattr(config, "registry_type", None) == "sql":
            for name in ("path", "read_path"):
                if location := getattr(config, name, None):
                    setattr(
                        config,
                        name,
                        registry_beside(location, Path(self.config.repo_path or self.repo_path)),
                    )
        return create(self)

    return created


_changed: Any = FeatureStore
_changed._create_registry = _beside_the_repository(_changed._create_registry)


@atexit.register
def _release_duckdb() -> None:
    """Let go of the DuckDB connection that ibis keeps until the interpreter ends.

    DuckDB would print forty lines about leaks.
    """
    with contextlib.suppress(ImportError):
        import ibis

        ibis.options.default_backend = None
        gc.collect()


def offline_store(store: FeatureStore) -> OfflineStore:
    """The offline store object behind a feature store."""
    return store._get_provider().offline_store


def online_store(store: FeatureStore) -> OnlineStore:
    """The online store object behind a feature store."""
    return store._get_provider().online_store


def check_versions(online: OnlineStore, views: Sequence[FeatureView]) -> None:
    """Raise Feast's own error where views are pinned to a version and the store knows of none."""
    online._check_versioned_read_support([(view, []) for view in views])


def postgresql_source() -> Any:
    """The class of PostgreSQL sources. Raises ModuleNotFoundError without psycopg."""
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

    return PostgreSQLSource


def iceberg_source() -> Any:
    """The class of Iceberg sources; it needs no further package."""
    from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource

    return IcebergSource


def postgres_connection(config: Any) -> Any:
    """A psycopg connection as Feast's PostgreSQL store opens them, of its configuration."""
    from feast.infra.utils.postgres.connection_utils import _get_conn

    return _get_conn(config)


def redis_client(store: Any, config: Any) -> Any:
    """The client of Feast's Redis store, which connects once."""
    return store._get_client(config.online_store)


def named_type(name: str) -> Any:
    """A scalar type of Feast by its name, such as "Int64"."""
    return getattr(types, name)


def offered_by(service: FeatureService) -> list[Any]:
    """The views and references that a service was declared with; none when a registry gave it."""
    return list(service._features)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what Feast prints (coloured headings, progress bars) out of the output.

    It goes to the debug log; errors are raised as ever.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        if text := said.getvalue().strip():
            _log.debug("feast said: %s", text)
