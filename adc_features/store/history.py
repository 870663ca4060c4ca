"""Join features to rows as they were known at each row's time. Reads: a repository, entity frames.
Writes: nothing.

Rows come back as they went in, duplicates and slates included, in the declared types, with misses
visible: from our own offline store by its engine, from Feast's others, which may lose the order of
rows and widen types, through Feast.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import moment
from adc_features.codes.rows import check_timed
from adc_features.data.statistics import NO_TIME
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import timestamps
from adc_features.store.column_names import refuse_doubled
from adc_features.store.definitions import is_sid_view
from adc_features.store.freshness import as_read, check_views
from adc_features.store.join.engine import PreparedView, joined_columns
from adc_features.store.offline.other_stores import joined_by_feast
from adc_features.store.publish import LAST_TIME
from adc_features.store.refresh import RefreshSchedule, stale_only
from adc_features.store.registry import check_ids, join_key, open_store, service_views
from adc_features.store.repository import settings
from adc_features.store.visible import found_column, visible_features

if TYPE_CHECKING:
    import pandas as pd

    from adc_features.store._compat import FeatureStore, FeatureView

_log = logging.getLogger(__name__)
EVENT_TIME = "_event_time"
"""Ends the name of the column that says when a view's row became valid."""

_FACTS = b"adc_features"


@dataclass(frozen=True)
class JoinFacts:
    """What a point-in-time join did.

    Attributes
    ----------
    service : str
        The feature service that was joined.
    generation : str or None
        The generation whose codes were joined; None for a service without codes.
    rows_in, rows_out : int
        Rows of the entity frame, and of the answer; always equal.
    unmatched : dict of str to int
        View name -> rows for which the view knew no feature row.
    tables : dict of str to dict
        View name -> format, address and version of the Delta or Iceberg table that it was read
        from; views of Parquet files are not in it.
    """

    service: str
    generation: str | None
    rows_in: int
    rows_out: int
    unmatched: dict[str, int]
    tables: dict[str, dict[str, str]] = field(default_factory=dict)


def training_features(
    repo: Path,
    entity_frame: pa.Table | pd.DataFrame,
    *,
    service: str,
    event_times: bool = False,
    refresh: Mapping[str, RefreshSchedule] | None = None,
) -> pa.Table:
    """Join the features of a service to rows, as they were known at each row's time.

    Parameters
    ----------
    repo : Path
        A Feast repository in which the service was applied.
    entity_frame : pyarrow.Table or pandas.DataFrame, N rows
        `event_timestamp` (timestamps with a time zone, no nulls), the keys that the service needs
        (`item_id`, `user_id`, of the published types), and any other columns.
    service : str
        A feature service: `service_name(generation)` for codes and statistics.
    event_times : bool
        Add `<view>_event_time` for each view: timestamp[us, UTC], when the row that was read became
        valid, null without one. Other offline stores than ours cannot tell;
        there the columns are missing.
    refresh : mapping of str to RefreshSchedule, optional
        View -> how it is refreshed online: its values are those that could be read there at each
        row's time. Views without a schedule are fresh.

    Returns
    -------
    pyarrow.Table, N rows
        The rows in their order, duplicates kept: the columns of the frame (`row_id` int64 in front
        when there is none; times as timestamp[us, UTC], nanoseconds floored), then for each view
        `<view>_found` bool (`sid_found` for codes) and its features in their declared types. Of
        items without codes `sid` is -1 and `sid_weight` 0, never null; statistics of unknown keys
        are null. A feature row counts from its event time on, that moment included. `join_facts`
        reads what the join did.

    Raises
    ------
    InputError
        Keys are missing or of another type, times are naive or null,
        or a column has the name of a feature.
    ArtifactError
        The offline store lost or added rows, or returned a feature that is newer than its row.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> noon = datetime(2014, 1, 15, 12, tzinfo=UTC)
    >>> events = pa.table(
    ...     {"item_id": ["a", "x"], "user_id": ["u", "u"], "event_timestamp": [noon, noon]}
    ... )
    >>> rows = training_features(repo, events, service="ranker_g1")
    >>> rows["sid"].to_pylist(), rows["sid_found"].to_pylist()
    ([[1, 1, -1], [-1, -1, -1]], [True, False])
    >>> join_facts(rows).unmatched["item_sid_g1"]
    1

    Source
    ------
    Feast documentation, "Point-in-time joins":
    https://docs.feast.dev/getting-started/concepts/point-in-time-joins
    """
    store = open_store(repo)
    views = service_views(store, service)
    if reads_parquet_itself(store):
        times = _checked(entity_frame, [])["event_timestamp"]
        newest = None
        if len(times):
            newest = moment(times.cast(pa.int64()).to_numpy().max().astype("datetime64[us]"))
        join = open_join(repo, service, until=newest, refresh=refresh)
        return join.join(entity_frame, event_times=event_times)
    frame, stale = _asked(entity_frame, views), _stale(refresh, views)
    features = features_as_of(repo, store, views, frame, refresh=stale)
    return _answered(entity_frame, frame, service, views, features)


@dataclass(frozen=True)
class PreparedJoin:
    """The views of a service, read and indexed once, for frames that come in batches.

    It can be pickled, so that the workers of a loader may hold it. `open_join` makes one.

    Parameters
    ----------
    repo : Path
        The Feast repository.
    service : str
        The feature service that is joined.
    views : tuple of feast.FeatureView
        Its views, as applied when the join was prepared.
    prepared : tuple of PreparedView
        The rows of each view, sorted by key and time.

    Examples
    --------
    >>> import pickle
    >>> join = open_join(repo, "ranker_g1")
    >>> pickle.loads(pickle.dumps(join)).service
    'ranker_g1'

    Source
    ------
    Feast documentation, "Point-in-time joins":
    https://docs.feast.dev/getting-started/concepts/point-in-time-joins
    """

    repo: Path
    service: str
    views: tuple[FeatureView, ...]
    prepared: tuple[PreparedView, ...]

    def join(self, entity_frame: pa.Table | pd.DataFrame, *, event_times: bool = False) -> pa.Table:
        """The features of these rows, as they were known at each row's time.

        Parameters
        ----------
        entity_frame : pyarrow.Table or pandas.DataFrame, N rows
            As for `training_features`.
        event_times : bool
            Add `<view>_event_time` for each view: timestamp[us, UTC], null without a row.

        Returns
        -------
        pyarrow.Table, N rows
            As `training_features` returns it.

        Raises
        ------
        InputError
            Keys are missing or of another type, times are naive or null, or a column has the name
            of a feature.
        ArtifactError
            A feature is newer than its row.
        """
        from adc_features.store.offline.views import table_facts

        frame = _asked(entity_frame, self.views)
        features = _prepared_features(
            self.repo, self.views, self.prepared, frame, event_times=event_times
        )
        read = table_facts([view.source for view in self.prepared])
        return _answered(entity_frame, frame, self.service, self.views, features, tables=read)


def open_join(
    repo: Path,
    service: str,
    *,
    until: datetime | None = None,
    memory_limit: int | None = None,
    refresh: Mapping[str, RefreshSchedule] | None = None,
) -> PreparedJoin:
    """Prepare the join of a service for many frames.

    Parameters
    ----------
    repo : Path
        A Feast repository whose offline store is `AsofOfflineStore`.
    service : str
        A feature service that was applied.
    until : datetime, optional
        The time of the newest row that will be asked for (aware). Later features are not read.
    memory_limit : int, optional
        Bytes that one view may take in memory; a larger one is mapped from a file. By default what
        the offline store's settings say.
    refresh : mapping of str to RefreshSchedule, optional
        As for `training_features`.

    Returns
    -------
    PreparedJoin
        Its `join` answers as `training_features` does.

    Raises
    ------
    InputError
        The repository has another offline store, which reads its files itself.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> events = pa.table(
    ...     {
    ...         "item_id": ["b"],
    ...         "user_id": ["v"],
    ...         "event_timestamp": [datetime(2014, 1, 25, tzinfo=UTC)],
    ...     }
    ... )
    >>> open_join(repo, "ranker_g1").join(events)["sid"].to_pylist()
    [[2, 2, -1]]

    Source
    ------
    Feast documentation, "Point-in-time joins":
    https://docs.feast.dev/getting-started/concepts/point-in-time-joins
    """
    store = open_store(repo)
    if not reads_parquet_itself(store):
        raise InputError(
            f"the offline store of {repo} is {store.config.offline_store.type!r}; set"
            " offline_store.type to adc_features.store.offline_store.AsofOfflineStore, or use"
            " training_features"
        )
    views = tuple(service_views(store, service))
    stale = _stale(refresh, views)
    prepared = _prepared(store, views, until=until, memory_limit=memory_limit, refresh=stale)
    return PreparedJoin(Path(repo), service, views, prepared)


def _stale(
    refresh: Mapping[str, RefreshSchedule] | None, views: Sequence[FeatureView]
) -> dict[str, RefreshSchedule]:
    """The schedules of views that are not fresh. Raises InputError for those of no view."""
    check_views(refresh or {}, [view.name for view in views])
    return stale_only(refresh or {})


def reads_parquet_itself(store: FeatureStore) -> bool:
    """Is the repository's offline store ours?"""
    return str(getattr(store.config.offline_store, "type", "")).endswith(".AsofOfflineStore")


def _prepared(
    store: FeatureStore,
    views: Sequence[FeatureView],
    *,
    until: datetime | None,
    memory_limit: int | None = None,
    refresh: Mapping[str, RefreshSchedule] | None = None,
) -> tuple[PreparedView, ...]:
    from adc_features.store.offline.views import prepared_views, view_sources

    refs = [
        f"{view.projection.name_to_use()}:{field.name}" for view in views for field in view.features
    ]
    sources = view_sources(store.config, list(views), refs, full_feature_names=False)
    return prepared_views(
        store.config, sources, until=until, memory_limit=memory_limit, refresh=refresh
    )


def _prepared_features(
    repo: Path,
    views: Sequence[FeatureView],
    prepared: Sequence[PreparedView],
    frame: pa.Table,
    *,
    event_times: bool = False,
) -> pa.Table:
    joined = joined_columns(frame, prepared, time="event_timestamp", event_times=event_times)
    features = visible_features(repo, views, pa.table(joined.features))
    read_at = {name + EVENT_TIME: times for name, times in joined.event_times.items()}
    if clash := sorted(set(read_at) & set(features.column_names)):
        raise InputError(
            f"features {clash} have the names of columns that say when a row became valid; rename"
            " them, or ask without event_times"
        )
    for name, times in read_at.items():
        features = features.append_column(name, times)
    return features


def _asked(entity_frame: pa.Table | pd.DataFrame, views: Sequence[FeatureView]) -> pa.Table:
    frame = _checked(entity_frame, [join_key(view) for view in views])
    check_ids(views, frame.schema)
    return frame


def _answered(
    entity_frame: Any,
    frame: pa.Table,
    service: str,
    views: Sequence[FeatureView],
    features: pa.Table,
    *,
    tables: dict[str, dict[str, str]] | None = None,
) -> pa.Table:
    """The frame with its features, both checked, and the facts of the join."""
    if clash := sorted(set(frame.column_names) & set(features.column_names)):
        raise InputError(
            f"the entity frame has columns {clash}, which are feature names of {service}; rename or"
            " drop them"
        )
    _refuse_newer(frame["event_timestamp"], features)
    for name in features.column_names:
        frame = frame.append_column(name, features[name])
    generations = [view.tags["generation"] for view in views if is_sid_view(view)]
    facts = JoinFacts(
        service,
        generations[0] if generations else None,
        len(entity_frame),
        len(frame),
        _unmatched(views, features),
        tables or {},
    )
    _log.info("stage=join service=%s rows=%d unmatched=%s", service, len(frame), facts.unmatched)
    return frame.replace_schema_metadata({_FACTS: json.dumps(facts.__dict__)})


def join_facts(features: pa.Table) -> JoinFacts:
    """What `training_features` noted about the join that made a table.

    Parameters
    ----------
    features : pyarrow.Table
        A table that `training_features` or `PreparedJoin.join` returned.

    Returns
    -------
    JoinFacts

    Raises
    ------
    InputError
        The table carries no facts.

    Examples
    --------
    >>> import pyarrow as pa
    >>> join_facts(pa.table({"row_id": [1]}))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    adc_features.errors.InputError: this table carries no join facts; ...
    """
    noted = (features.schema.metadata or {}).get(_FACTS)
    if noted is None:
        raise InputError("this table carries no join facts; pass what training_features returned")
    return JoinFacts(**json.loads(noted))


def features_as_of(
    repo: Path,
    store: FeatureStore,
    views: Sequence[FeatureView],
    frame: pa.Table,
    *,
    refresh: Mapping[str, RefreshSchedule] | None = None,
) -> pa.Table:
    """The found column and the features of each view, for every row of `frame`.

    frame: keys and event_timestamp. The rows keep the frame's order. refresh: view -> its schedule.
    """
    refresh = refresh or {}
    if reads_parquet_itself(store):
        prepared = _prepared(store, views, until=None, refresh=refresh)
        return _prepared_features(repo, views, prepared, frame)
    columns: dict[str, pa.ChunkedArray] = {}
    for view in views:
        asked = as_read(frame, refresh.get(view.name), view)
        joined = joined_by_feast(store, view, asked, rows_at_once=settings(repo).join_rows)
        columns |= dict(zip(joined.column_names, joined.columns, strict=True))
    return visible_features(repo, views, pa.table(columns))


def _checked(entity_frame: pa.Table | pd.DataFrame, keys: Sequence[str]) -> pa.Table:
    if isinstance(entity_frame, pa.Table):
        refuse_doubled(entity_frame.column_names)
        frame = entity_frame
    else:
        refuse_doubled(list(entity_frame.columns))
        frame = pa.Table.from_pandas(entity_frame, preserve_index=False)
    check_timed(frame, keys, name="the entity frame")
    for key in keys:
        # pandas: categorical; its values count
        if pa.types.is_dictionary(kind := frame.schema.field(key).type):
            frame = frame.set_column(
                frame.column_names.index(key), key, frame[key].cast(kind.value_type)
            )
    # nanoseconds are floored, never rounded up: a row must not see later
    times = timestamps(frame["event_timestamp"], name="event_timestamp")
    frame = frame.set_column(
        frame.column_names.index("event_timestamp"), "event_timestamp", times
    ).replace_schema_metadata(None)
    if "row_id" not in frame.column_names:
        frame = frame.add_column(0, "row_id", pa.array(np.arange(len(frame))))
    return frame


def _refuse_newer(times: pa.ChunkedArray, features: pa.Table) -> None:
    """Raise ArtifactError when a feature is newer than its row.

    Cut-offs may be as late as the row; events that a row contains must be earlier.
    """
    row = times.cast(pa.int64()).to_numpy()
    for name in features.column_names:
        is_cutoff = name == "sid_as_of"
        if not (is_cutoff or name.endswith(LAST_TIME)):
            continue
        seen = features[name].cast(pa.int64()).fill_null(NO_TIME).to_numpy()
        late = (seen != NO_TIME) & ((seen > row) if is_cutoff else (seen >= row))
        if late.any():
            raise ArtifactError(
                f"{late.sum()} rows got a {name} that is newer than the row (first: row"
                f" {np.flatnonzero(late)[0]}); publish with valid event times"
            )


def _unmatched(views: Sequence[FeatureView], features: pa.Table) -> dict[str, int]:
    return {
        view.name: len(features) - int(pc.sum(features[found_column(view)]).as_py() or 0)
        for view in views
    }
