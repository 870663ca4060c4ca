"""The features of a service as of each row's time, from any offline store. Reads: a Feast
repository, entity rows. Writes: the rows with their features, in the order given.

Our own store answers all rows at once. Every other store is asked one view at a time for the
distinct (keys, time) pairs, each with a number by which its answer is put back in order. Both have
reasons (Feast 0.67, tests/store/services/test_service_rows.py):
- Dask ("file") keeps one row of those that share the keys of the views joined so far and the time,
  and drops rows whose key has only later or expired values; in a join of one view over distinct
  pairs the first cannot happen, and the second means that nothing is known.
- DuckDB returns rows in any order, and pairs a row with all of its key's history: rows of one key
  and time would each pay for it.
- Two versions of one view in one call fail on DuckDB, and an alias or a renamed key comes only with
  a whole service.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.casts import family
from adc_features.store.column_names import refuse_doubled
from adc_features.store.freshness import as_read, check_views
from adc_features.store.history import reads_parquet_itself
from adc_features.store.parquet.table_version import note_tables
from adc_features.store.refresh import RefreshSchedule, stale_only
from adc_features.store.registry import open_any_store
from adc_features.store.repository import settings
from adc_features.store.services.by_feast import (
    TIME,
    Progress,
    by_feast,
    declared_column,
    keyed_rows,
    put_back,
)
from adc_features.store.services.on_demand import computed, read_at
from adc_features.store.services.plan import ServicePlan, StoredView, service_plan
from adc_features.store.services.values import MISFITS, arrow_type, in_declared_type

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore
    from adc_features.store.join.engine import JoinedColumns, PreparedView

_log = logging.getLogger(__name__)


def join_service(
    repo: Path,
    schema: ServiceSchema,
    entity_rows: pa.Table,
    *,
    features: Sequence[str] | None = None,
    refresh: Mapping[str, RefreshSchedule] | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """Join the features of a service to rows, each as of its own time.

    Parameters
    ----------
    repo : Path
        A Feast repository that was applied; its offline store may be any.
    schema : ServiceSchema
        The service, as `service_schema` reads it.
    entity_rows : pyarrow.Table
        N rows: the join keys, `event_timestamp`, and what on-demand views read of the request.
    features : sequence of str, optional
        Keys of features (`<view>__<feature>`). By default all that are no labels.
    refresh : mapping of str to RefreshSchedule, optional
        View (its name in the registry) -> how it is refreshed online: its values are those that
        could be read there at each row's time. Views without a schedule are fresh.
    progress : callable, optional
        Called with a label, the steps done and their number.

    Returns
    -------
    pyarrow.Table, N rows
        The entity rows in their order, keys in their declared types and times as timestamp[us,
        UTC], then the features in the order asked, in the Arrow types of their declared Feast
        types; null where nothing is known, where it expired, and where a key is null. Its metadata
        says which versions of Delta and Iceberg tables were read: `tables_read`.

    Raises
    ------
    InputError
        Columns are missing (all are named), of another type than the keys, or named like a
        feature; a value does not fit its declared type; an on-demand view fails.
    ArtifactError
        The offline store lost rows, or gave some twice.
    """
    store = open_any_store(repo)
    plan = service_plan(store, schema, features)
    refresh = _stale(refresh, plan, schema)
    frame = _checked(entity_rows, plan, schema)
    tables: dict[str, dict[str, str]] = {}
    if reads_parquet_itself(store):
        stored = _by_our_store(_our_joins(store, plan, frame, refresh, tables=tables))
    else:
        stored = _by_other_store(
            store, plan, frame, refresh, rows_at_once=settings(repo).join_rows, progress=progress
        )
    if progress:
        progress("joined", len(plan.stored), len(plan.stored))
    joined = _with_features(frame, plan, stored, tables)
    _log.info(
        "stage=join service=%s rows=%d features=%d", schema.service, len(frame), len(plan.order)
    )
    return joined


def join_in_pieces(
    repo: Path,
    schema: ServiceSchema,
    entity_rows: pa.Table,
    *,
    sizes: Sequence[int],
    features: Sequence[str] | None = None,
    refresh: Mapping[str, RefreshSchedule] | None = None,
    progress: Progress | None = None,
) -> Iterator[pa.Table]:
    """`join_service` of consecutive rows at a time, so that one piece is in memory.

    Our own store reads and indexes every view once, for all pieces; their history is in memory
    meanwhile, or mapped from files, as the store's `memory_limit` says. Every other store is asked
    anew for each piece.

    Parameters
    ----------
    repo, schema, entity_rows, features, refresh, progress
        As for `join_service`; the entity rows are in memory.
    sizes : sequence of int
        Rows of each piece; their sum is N.

    Yields
    ------
    pyarrow.Table
        The rows of a piece, as `join_service` returns them among all.

    Raises
    ------
    InputError, ArtifactError
        As `join_service`.
    """
    store = open_any_store(repo)
    plan = service_plan(store, schema, features)
    refresh = _stale(refresh, plan, schema)
    frame = _checked(entity_rows, plan, schema)
    tables: dict[str, dict[str, str]] = {}
    prepared = None
    if reads_parquet_itself(store):
        prepared = list(_our_views(store, plan, frame, refresh, tables=tables))
    first = 0
    for done, size in enumerate(sizes):
        if progress:
            progress("join in pieces", done, len(sizes))
        piece = frame.slice(first, size)
        if prepared is None:
            stored = _by_other_store(
                store, plan, piece, refresh, rows_at_once=settings(repo).join_rows
            )
        else:
            stored = _by_our_store(_matched(piece, prepared))
        yield _with_features(piece, plan, stored, tables)
        first += size
    _log.info("stage=join service=%s rows=%d pieces=%d", schema.service, len(frame), len(sizes))


def _with_features(
    frame: pa.Table,
    plan: ServicePlan,
    stored: Sequence[Mapping[str, pa.ChunkedArray]],
    tables: Mapping[str, Mapping[str, str]],
) -> pa.Table:
    """The rows with the features that were asked for, in their order. stored: feature -> column, of
    each stored view."""
    columns: dict[str, Any] = {key: stored[p.stored][p.feature] for key, p in plan.places.items()}
    for view in plan.on_demand.values():
        read = {name: stored[p.stored][p.feature] for name, p in view.inputs.items()}
        read |= {name: frame[name] for name in (*view.keys, *view.request)} | read_at(view, frame)
        for name, column in computed(view, read, len(frame)).items():
            columns[f"{view.projected}__{name}"] = column
    for key in plan.order:
        frame = frame.append_column(key, columns[key])
    return frame.replace_schema_metadata(note_tables(tables))


def _stale(
    refresh: Mapping[str, RefreshSchedule] | None, plan: ServicePlan, schema: ServiceSchema
) -> dict[str, RefreshSchedule]:
    """The schedules of views that are not fresh. Raises InputError for those of no stored view."""
    known = {view.name for view in schema.views if view.kind in ("batch", "stream")}
    check_views(refresh or {}, known | {stored.view.name for stored in plan.stored})
    return stale_only(refresh or {})


def read_times(
    repo: Path,
    schema: ServiceSchema,
    entity_rows: pa.Table,
    *,
    features: Sequence[str] | None = None,
    refresh: Mapping[str, RefreshSchedule] | None = None,
) -> dict[str, pa.Array]:
    """When what rows read of each view became valid: view -> timestamp[us, UTC] [N], null for
    nothing. The arguments are those of `join_service`; {} for other offline stores than ours, which
    cannot tell."""
    store = open_any_store(repo)
    plan = service_plan(store, schema, features)
    if not reads_parquet_itself(store):
        return {}
    frame, times = _checked(entity_rows, plan, schema), {}
    for stored, joined, place in _our_joins(
        store, plan, frame, _stale(refresh, plan, schema), event_times=True
    ):
        column = pa.chunked_array(joined.event_times[stored.view.name])
        times[stored.view.name] = put_back(column, place).combine_chunks()
    return times


def _step(progress: Progress | None, place: int, plan: ServicePlan) -> Progress | None:
    """Pieces of one view's join as steps of the whole."""
    if progress is None:
        return None
    views = len(plan.stored)
    return lambda label, done, count: progress(label, place * count + done, views * count)


def _checked(rows: pa.Table, plan: ServicePlan, schema: ServiceSchema) -> pa.Table:
    """The entity rows with keys, times and request fields in their declared types."""
    refuse_doubled(rows.column_names)
    needed = [*plan.keys, *plan.request, TIME]
    if missing := [name for name in dict.fromkeys(needed) if name not in rows.column_names]:
        asked = {n: t for v in plan.on_demand.values() for n, t in v.request.items()}
        of = [f"{n} ({asked[n]}, read by an on-demand view)" if n in asked else n for n in missing]
        raise InputError(
            f"the rows for service {schema.service!r} lack the columns {of}; they have"
            f" {rows.column_names}: add or rename them"
        )
    if clash := sorted(set(rows.column_names) & set(plan.order)):
        raise InputError(
            f"the rows have columns {clash}, which are features of service {schema.service!r};"
            " rename or drop them"
        )
    times = timestamps(rows[TIME], name=TIME)
    if times.null_count:
        raise InputError(
            f"{times.null_count} of {len(rows)} rows have no {TIME}; drop them or fill it in"
        )
    types = {name: schema.join_keys.get(name) or _key_type(plan, name) for name in plan.keys}
    frame = _replaced(rows, TIME, times)
    for name, dtype in {**types, **plan.request}.items():
        frame = _replaced(frame, name, _typed(rows[name], dtype, name))
    return frame.replace_schema_metadata(None)


def _key_type(plan: ServicePlan, column: str) -> str:
    """The Feast type of a key that only an on-demand view's source has."""
    return next(
        str(f.dtype)
        for view in plan.stored
        for f in view.view.entity_columns
        if view.keys.get(f.name) == column
    )


def _replaced(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _typed(column: pa.ChunkedArray, dtype: str, name: str) -> pa.ChunkedArray:
    """Raises InputError where the types never meet: 12 is not "12"."""
    wanted = arrow_type(dtype)
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        both = wanted is not None and not pa.types.is_null(kind) and not pa.types.is_nested(kind)
        if both and family(kind) != family(wanted) and dtype != "Decimal":
            raise pa.ArrowTypeError(f"{kind} never becomes {wanted}")
        return in_declared_type(column, dtype, name=name)
    except MISFITS as error:
        raise InputError(
            f"column {name} of the rows is {column.type}, and it is declared {dtype} ({error});"
            " convert the column"
        ) from error


def _by_other_store(
    store: FeatureStore,
    plan: ServicePlan,
    frame: pa.Table,
    refresh: Mapping[str, RefreshSchedule],
    *,
    rows_at_once: int,
    progress: Progress | None = None,
) -> list[dict[str, pa.ChunkedArray]]:
    """Feature -> column, for each stored view, by Feast."""
    return [
        by_feast(
            store,
            view,
            as_read(frame, refresh.get(view.view.name), view.view),
            rows_at_once=rows_at_once,
            progress=_step(progress, i, plan),
        )
        for i, view in enumerate(plan.stored)
    ]


_Joins = Iterator[tuple["StoredView", "JoinedColumns", "np.ndarray | None"]]
"""Each stored view, what was joined for the rows with all keys, and every row's place among them
(see `keyed_rows`)."""


def _by_our_store(joins: _Joins) -> list[dict[str, pa.ChunkedArray]]:
    """Feature -> column, for each stored view: by the join of AsofOfflineStore, without a job."""
    return [
        {
            name: declared_column(
                put_back(pa.chunked_array(joined.features[f"{stored.view.name}__{name}"]), place),
                stored,
                name,
            )
            for name in stored.features
        }
        for stored, joined, place in joins
    ]


def _our_joins(
    store: FeatureStore,
    plan: ServicePlan,
    frame: pa.Table,
    refresh: Mapping[str, RefreshSchedule],
    *,
    event_times: bool = False,
    tables: dict[str, dict[str, str]] | None = None,
) -> _Joins:
    """Every view prepared and joined, one after the other. tables: is filled with the versions of
    tables that were read."""
    views = _our_views(store, plan, frame, refresh, tables=tables)
    return _matched(frame, views, event_times=event_times)


def _our_views(
    store: FeatureStore,
    plan: ServicePlan,
    frame: pa.Table,
    refresh: Mapping[str, RefreshSchedule],
    *,
    tables: dict[str, dict[str, str]] | None = None,
) -> Iterator[tuple[StoredView, tuple[PreparedView, ...]]]:
    """Each stored view, ready to be joined to the rows of `frame`."""
    from adc_features.store.offline.places import Places
    from adc_features.store.offline.views import prepared_views, table_facts, view_sources

    places = Places.of(store.config)  # a table that two views read has one version
    for stored in plan.stored:
        view = copy.copy(stored.view)
        view.projection = copy.copy(view.projection)
        view.projection.version_tag = None
        view.projection.name_alias = None
        view.projection.join_key_map = {
            own: column for own, column in stored.keys.items() if own != column
        }
        refs = [f"{view.name}:{name}" for name in stored.features]
        sources = view_sources(store.config, [view], refs, full_feature_names=True, places=places)
        if tables is not None:
            tables |= table_facts(sources)
        keyed, _ = keyed_rows(frame, stored)
        until = pc.max(keyed[TIME]).as_py() if len(keyed) else None
        yield (
            stored,
            prepared_views(store.config, sources, until=until, entity=keyed, refresh=refresh),
        )


def _matched(
    frame: pa.Table,
    views: Iterable[tuple[StoredView, tuple[PreparedView, ...]]],
    *,
    event_times: bool = False,
) -> _Joins:
    """These rows, joined to each view."""
    from adc_features.store.join.engine import joined_columns

    for stored, prepared in views:
        keyed, place = keyed_rows(frame, stored)
        yield stored, joined_columns(keyed, prepared, time=TIME, event_times=event_times), place
