"""Join features to rows as they were known at each row's time. Reads: a repository, entity frames.
Writes: nothing.

Rows come back as they went in, duplicates and slates included, in the declared types, with misses
visible: from our own offline store by its engine, from Feast's others, which may lose the order of
rows and widen types, through Feast.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
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
from adc_features.store.join.engine import PreparedView, joined_columns
from adc_features.store.offline.other_stores import joined_by_feast
from adc_features.store.publish import LAST_TIME
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
    """What a point-in-time join did. unmatched: view name -> rows without a known feature row.
    generation: None without codes.
    """

    service: str
    generation: str | None
    rows_in: int
    rows_out: int
    unmatched: dict[str, int]


def training_features(
    repo: Path, entity_frame: pa.Table | pd.DataFrame, *, service: str, event_times: bool = False
) -> pa.Table:
    """The features of a service for each row, as known at its event_timestamp.

    entity_frame: `event_timestamp` (aware), the keys that the service needs (`item_id`, `user_id`)
    and any other columns. Returns the same rows in the same order, duplicates kept: the frame's
    columns (`row_id` int64 added in front when it has none, times as timestamp[us, UTC]), then per
    view `<view>_found` (`sid_found` for codes) and its features in their declared types. Codes are
    never null (-1, weight 0, cold); `sid_as_of` is timestamp[us, UTC]; statistics of unknown keys
    are null. `join_facts` tells counts and the generation. event_times: also `<view>_event_time`
    (timestamp[us, UTC], null without a feature row), when the row that was read became valid, for
    `adc audit`; only our own offline store can say it, with others the columns are not there.
    Raises InputError on a frame without the keys, with naive or null times, or with columns that
    clash with features; ArtifactError when the offline store breaks a guarantee (rows lost or
    added, a feature newer than its row).
    """
    store = open_store(repo)
    views = service_views(store, service)
    if reads_parquet_itself(store):
        times = _checked(entity_frame, [])["event_timestamp"]
        newest = (
            moment(times.cast(pa.int64()).to_numpy().max().astype("datetime64[us]"))
            if len(times)
            else None
        )
        return open_join(repo, service, until=newest).join(entity_frame, event_times=event_times)
    frame = _asked(entity_frame, views)
    return _answered(entity_frame, frame, service, views, features_as_of(repo, store, views, frame))


@dataclass(frozen=True)
class PreparedJoin:
    """The views of a service, read and indexed once, for frames that come in batches. Pickles, so
    that loader workers may hold it.
    """

    repo: Path
    service: str
    views: tuple[FeatureView, ...]
    prepared: tuple[PreparedView, ...]

    def join(self, entity_frame: pa.Table | pd.DataFrame, *, event_times: bool = False) -> pa.Table:
        """What `training_features` returns for these rows."""
        frame = _asked(entity_frame, self.views)
        features = _prepared_features(
            self.repo, self.views, self.prepared, frame, event_times=event_times
        )
        return _answered(entity_frame, frame, self.service, self.views, features)


def open_join(
    repo: Path, service: str, *, until: datetime | None = None, memory_limit: int | None = None
) -> PreparedJoin:
    """Prepare the join of a service's views. until: the time of the newest row that will be asked
    for, when known: later features are not read.

    memory_limit: bytes that one view may take in memory before it is mapped from a file; None: what
    the offline store's settings say. Raises InputError when the repository's offline store is
    another than `store.offline_store`, which alone reads the files itself.
    """
    store = open_store(repo)
    if not reads_parquet_itself(store):
        raise InputError(
            f"the offline store of {repo} is {store.config.offline_store.type!r}; set"
            " offline_store.type to adc_features.store.offline_store.AsofOfflineStore, or use"
            " training_features"
        )
    views = tuple(service_views(store, service))
    return PreparedJoin(
        Path(repo), service, views, _prepared(store, views, until=until, memory_limit=memory_limit)
    )


def reads_parquet_itself(store: FeatureStore) -> bool:
    """Is the repository's offline store ours?"""
    return str(getattr(store.config.offline_store, "type", "")).endswith(".AsofOfflineStore")


def _prepared(
    store: FeatureStore,
    views: Sequence[FeatureView],
    *,
    until: datetime | None,
    memory_limit: int | None = None,
) -> tuple[PreparedView, ...]:
    from adc_features.store.offline.views import prepared_views, view_sources

    refs = [
        f"{view.projection.name_to_use()}:{field.name}" for view in views for field in view.features
    ]
    sources = view_sources(store.config, list(views), refs, full_feature_names=False)
    return prepared_views(store.config, sources, until=until, memory_limit=memory_limit)


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
    )
    _log.info("stage=join service=%s rows=%d unmatched=%s", service, len(frame), facts.unmatched)
    return frame.replace_schema_metadata({_FACTS: json.dumps(facts.__dict__)})


def join_facts(features: pa.Table) -> JoinFacts:
    """The facts that `training_features` left in its result. Raises InputError for another
    table.
    """
    noted = (features.schema.metadata or {}).get(_FACTS)
    if noted is None:
        raise InputError("this table carries no join facts; pass what training_features returned")
    return JoinFacts(**json.loads(noted))


def features_as_of(
    repo: Path, store: FeatureStore, views: Sequence[FeatureView], frame: pa.Table
) -> pa.Table:
    """Per view its found column and features for every row of `frame` (keys, event_timestamp), rows
    in the frame's order.
    """
    if reads_parquet_itself(store):
        return _prepared_features(repo, views, _prepared(store, views, until=None), frame)
    columns: dict[str, pa.ChunkedArray] = {}
    for view in views:
        joined = joined_by_feast(store, view, frame, rows_at_once=settings(repo).join_rows)
        columns |= dict(zip(joined.column_names, joined.columns, strict=True))
    return visible_features(repo, views, pa.table(columns))


def _checked(entity_frame: pa.Table | pd.DataFrame, keys: Sequence[str]) -> pa.Table:
    refuse_doubled(
        entity_frame.column_names
        if isinstance(entity_frame, pa.Table)
        else list(entity_frame.columns)
    )
    frame = (
        entity_frame
        if isinstance(entity_frame, pa.Table)
        else pa.Table.from_pandas(entity_frame, preserve_index=False)
    )
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
    """No feature is newer than its row: cut-offs at most at it, contained events strictly before
    it.
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
