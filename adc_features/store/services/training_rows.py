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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import timestamps
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.casts import family
from adc_features.store.column_names import refuse_doubled
from adc_features.store.freshness import as_read, check_views
from adc_features.store.history import reads_parquet_itself
from adc_features.store.offline.other_stores import distinct_rows
from adc_features.store.parquet.table_version import note_tables
from adc_features.store.refresh import RefreshSchedule, stale_only
from adc_features.store.registry import open_any_store
from adc_features.store.repository import UNSAFE_OFFLINE_STORES, settings
from adc_features.store.services.on_demand import computed, read_at
from adc_features.store.services.plan import ServicePlan, StoredView, service_plan
from adc_features.store.services.values import MISFITS, arrow_type, in_declared_type

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore
    from adc_features.store.join.engine import JoinedColumns

_log = logging.getLogger(__name__)
_TIME, _ROW = "event_timestamp", "adc_row"
Progress = Callable[[str, int, int], None]
"""Called with a label, the steps done and their number."""


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
        stored = _by_our_store(store, plan, frame, refresh, tables)
    else:
        rows = settings(repo).join_rows
        stored = [
            _by_feast(
                store,
                view,
                as_read(frame, refresh.get(view.view.name), view.view),
                rows_at_once=rows,
                progress=_step(progress, i, plan),
            )
            for i, view in enumerate(plan.stored)
        ]
    if progress:
        progress("joined", len(plan.stored), len(plan.stored))
    columns: dict[str, Any] = {key: stored[p.stored][p.feature] for key, p in plan.places.items()}
    for view in plan.on_demand.values():
        read = {name: stored[p.stored][p.feature] for name, p in view.inputs.items()}
        read |= {name: frame[name] for name in (*view.keys, *view.request)} | read_at(view, frame)
        for name, column in computed(view, read, len(frame)).items():
            columns[f"{view.projected}__{name}"] = column
    for key in plan.order:
        frame = frame.append_column(key, columns[key])
    _log.info(
        "stage=join service=%s rows=%d features=%d", schema.service, len(frame), len(plan.order)
    )
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
        times[stored.view.name] = _put_back(column, place).combine_chunks()
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
    needed = [*plan.keys, *plan.request, _TIME]
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
    times = timestamps(rows[_TIME], name=_TIME)
    if times.null_count:
        raise InputError(
            f"{times.null_count} of {len(rows)} rows have no {_TIME}; drop them or fill it in"
        )
    types = {name: schema.join_keys.get(name) or _key_type(plan, name) for name in plan.keys}
    frame = _replaced(rows, _TIME, times)
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


def _by_our_store(
    store: FeatureStore,
    plan: ServicePlan,
    frame: pa.Table,
    refresh: Mapping[str, RefreshSchedule],
    tables: dict[str, dict[str, str]],
) -> list[dict[str, pa.ChunkedArray]]:
    """Feature -> column, for each stored view: by the join of AsofOfflineStore, without a job.
    tables: is filled with the versions of tables that were read.
    """
    return [
        {
            name: _declared(
                _put_back(pa.chunked_array(joined.features[f"{stored.view.name}__{name}"]), place),
                stored,
                name,
            )
            for name in stored.features
        }
        for stored, joined, place in _our_joins(store, plan, frame, refresh, tables=tables)
    ]


def _our_joins(
    store: FeatureStore,
    plan: ServicePlan,
    frame: pa.Table,
    refresh: Mapping[str, RefreshSchedule],
    *,
    event_times: bool = False,
    tables: dict[str, dict[str, str]] | None = None,
) -> Iterator[tuple[StoredView, JoinedColumns, np.ndarray | None]]:
    """Each stored view, what was joined for the rows with all keys, and every row's place among
    them (see `_known`). tables: as for `_by_our_store`."""
    from adc_features.store.join.engine import joined_columns
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
        rows, place = _known(frame, list(stored.keys.values()))
        keyed = rows.select([*stored.keys.values(), _TIME])
        until = pc.max(keyed[_TIME]).as_py() if len(keyed) else None
        prepared = prepared_views(store.config, sources, until=until, entity=keyed, refresh=refresh)
        joined = joined_columns(keyed, prepared, time=_TIME, event_times=event_times)
        yield stored, joined, place


def _known(frame: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, np.ndarray | None]:
    """The rows with all keys, and the place of every row among them, -1 for others."""
    if not any(frame[key].null_count for key in keys):
        return frame, None
    known = np.ones(len(frame), bool)
    for key in keys:
        known &= np.asarray(frame[key].is_valid())
    place = np.where(known, np.cumsum(known) - 1, -1)
    return frame.filter(pa.array(known)), place


def _put_back(column: pa.ChunkedArray, place: np.ndarray | None) -> pa.ChunkedArray:
    if place is None:
        return column
    return column.take(pa.array(place, mask=place < 0))


def _by_feast(
    store: FeatureStore,
    stored: StoredView,
    frame: pa.Table,
    *,
    rows_at_once: int,
    progress: Progress | None,
) -> dict[str, pa.ChunkedArray]:
    """Feature -> column, by Feast's own point-in-time join of one view."""
    names, columns = list(stored.features), list(stored.keys.values())
    keyed, place = _known(frame, columns)
    first, pair = distinct_rows(keyed.select([*columns, _TIME]))
    asked = keyed.select([*columns, _TIME]).take(pa.array(first))
    asked = asked.rename_columns([*stored.keys, _TIME])
    asked = asked.append_column(_ROW, pa.array(np.arange(len(asked))))
    pieces, found = [], []
    # pieces of neighbouring times, so that a database can leave the rest of its table alone
    steps = range(0, len(asked), rows_at_once)
    for done, start in enumerate(steps):
        if progress:
            progress(f"join {stored.name}", done, len(steps))
        piece = asked.slice(start, rows_at_once)
        got = _asked(store, stored, piece, names)
        found.append(got[_ROW].cast(pa.int64()).to_numpy())
        pieces.append(got)
    at = np.full(len(asked) + 1, -1)
    if found:
        numbers = np.concatenate(found)
        at[numbers] = np.arange(len(numbers))
    at = at[:-1][pair]
    if place is not None:
        at = np.where(place < 0, -1, at[np.maximum(place, 0)] if len(at) else -1)
    take = pa.array(at, pa.int64(), mask=at < 0)
    answer = {}
    for name in names:
        whole = [_declared(piece[name], stored, name) for piece in pieces]
        kind = arrow_type(stored.features[name]) or pa.null()
        column = pa.chunked_array(
            [c for w in whole for c in w.chunks], whole[0].type if whole else kind
        )
        answer[name] = column.take(take)
    return answer


def _asked(
    store: FeatureStore, stored: StoredView, piece: pa.Table, names: Sequence[str]
) -> pa.Table:
    """One call of Feast: the row numbers and features that came back."""
    from adc_features.store import _compat as feast

    with feast.quiet():
        got = store.get_historical_features(
            piece.to_pandas(),
            [f"{stored.name}:{name}" for name in names],
            full_feature_names=True,
        ).to_arrow()
    numbers = got[_ROW].cast(pa.int64()).to_numpy()
    lost, extra = len(piece) - len(np.unique(numbers)), len(numbers) - len(np.unique(numbers))
    if extra or (lost and not _drops_the_unmatched(store)):
        raise ArtifactError(
            f"the offline store lost {lost} of {len(piece)} rows of view {stored.name!r} and gave"
            f" {extra} more than once; use another offline store, such as"
            " adc_features.store.offline_store.AsofOfflineStore"
        )
    # a pinned version is in the names of some stores and not in those of others
    shown = {
        name: next(
            c
            for c in (f"{stored.name}__{name}", f"{stored.view.name}__{name}")
            if c in got.column_names
        )
        for name in names
    }
    return pa.table({_ROW: got[_ROW]} | {name: got[column] for name, column in shown.items()})


def _drops_the_unmatched(store: FeatureStore) -> bool:
    """Whether the store leaves rows out for which a view has only later or expired values."""
    offline: Any = store.config.offline_store
    return getattr(offline, "type", offline) in UNSAFE_OFFLINE_STORES


def _declared(column: pa.ChunkedArray, stored: StoredView, name: str) -> pa.ChunkedArray:
    dtype = stored.features[name]
    try:
        return in_declared_type(column, dtype, name=name)
    except MISFITS as error:
        raise InputError(
            f"view {stored.name}: {name} is declared {dtype} and the offline store gives"
            f" {column.type}, which does not fit ({error}); correct the declaration or the rows"
        ) from error
