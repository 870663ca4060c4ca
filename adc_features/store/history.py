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
from adc_features.codes.rows import check_timed, with_missing_visible
from adc_features.data.statistics import NO_TIME
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import microseconds, timestamps
from adc_features.store.column_names import refuse_doubled, refuse_shared
from adc_features.store.definitions import arrow_schema, is_sid_view
from adc_features.store.join.engine import PreparedView
from adc_features.store.publish import LAST_TIME
from adc_features.store.registry import check_ids, join_key, open_store, service_views
from adc_features.store.repository import live_generation, settings

if TYPE_CHECKING:
    import pandas as pd

    from adc_features.store._compat import FeatureStore, FeatureView

_log = logging.getLogger(__name__)
EVENT_TIME = "_event_time"
"""Ends the name of the column that says when a view's row became valid."""

_FACTS = b"adc_features"
_ROW = "adc_row"


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
    from adc_features.store.offline_store import view_sources

    refs = [
        f"{view.projection.name_to_use()}:{field.name}" for view in views for field in view.features
    ]
    settings = store.config.offline_store
    spill = Path(settings.spill_directory) if settings.spill_directory else None
    limit = settings.memory_limit if memory_limit is None else memory_limit
    sources = view_sources(store.config, list(views), refs, full_feature_names=False)
    return tuple(
        PreparedView(source, until=until, memory_limit=limit, spill=spill) for source in sources
    )


def _prepared_features(
    repo: Path,
    views: Sequence[FeatureView],
    prepared: Sequence[PreparedView],
    frame: pa.Table,
    *,
    event_times: bool = False,
) -> pa.Table:
    at = microseconds(frame["event_timestamp"])
    raw: dict[str, pa.Array] = {}
    read_at: dict[str, pa.Array] = {}
    for view in prepared:
        rows = view.match(frame, at)
        raw |= view.gathered(rows)
        if event_times:
            read_at[view.source.name + EVENT_TIME] = view.event_times(rows)
    features = visible_features(repo, views, pa.table(raw))
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


def found_column(view: FeatureView) -> str:
    """The column that says whether a view knew the key: `sid_found` for codes, else
    `<view>_found`.
    """
    return "sid_found" if is_sid_view(view) else f"{view.name}_found"


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
        joined = _join(store, view, frame, rows_at_once=settings(repo).join_rows)
        columns |= dict(zip(joined.column_names, joined.columns, strict=True))
    return visible_features(repo, views, pa.table(columns))


def visible_features(repo: Path, views: Sequence[FeatureView], raw: pa.Table) -> pa.Table:
    """Feature columns as a store returned them, in declared types and with misses visible: the same
    for offline and online.

    Raises InputError when two columns would have one name.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    names = [
        (found_column(view), f"view {view.name}, to say whether it knew the key,") for view in views
    ]
    names += [
        (field.name, f"view {view.name} feature {field.name}")
        for view in views
        for field in view.features
    ]
    refuse_shared(names, advice="rename a view or a feature")
    for view in views:
        typed = {
            field.name: (
                raw[field.name]
                if raw.schema.field(field.name).type == field.type
                else raw[field.name].cast(field.type)
            )
            for field in arrow_schema(view)
        }
        declared = pa.table(typed)
        if is_sid_view(view):
            shown = with_missing_visible(
                declared, length=live_generation(repo, view.tags["generation"]).length
            )
        else:
            shown = declared.add_column(0, found_column(view), pa.array(_any_valid(declared)))
        columns |= dict(zip(shown.column_names, shown.columns, strict=True))
    return pa.table(columns)


def _any_valid(table: pa.Table) -> np.ndarray:
    """bool [N]: rows with a value in any column."""
    known = np.zeros(len(table), bool)
    for column in table.columns:
        known |= column.is_valid().to_numpy()
        if known.all():
            break
    return known


def _join(
    store: FeatureStore, view: FeatureView, frame: pa.Table, *, rows_at_once: int
) -> pa.Table:
    """Feast's own point-in-time join of one view, in the frame's order.

    Only distinct (key, time) pairs are asked, a bounded number at once: the DuckDB store pairs each
    entity row with all of its key's history before it picks the newest row, which for popular items
    is nearly all of the cost.
    """
    from adc_features.store import _compat as feast

    key, names = join_key(view), [field.name for field in view.features]
    pairs = frame.select([key, "event_timestamp"])
    first, place = _distinct(pairs)
    asked = pairs.take(pa.array(first)).append_column(_ROW, pa.array(np.arange(len(first))))
    pieces = max(1, -(-len(asked) // rows_at_once))
    joined = []
    for piece in range(pieces):
        rows = np.arange(piece, len(asked), pieces)  # strides spread the popular keys evenly
        with feast.quiet():
            got = store.get_historical_features(
                asked.take(pa.array(rows)).to_pandas(), [f"{view.name}:{name}" for name in names]
            ).to_arrow()
        if not np.array_equal(np.sort(got[_ROW].to_numpy()), rows):
            raise ArtifactError(
                f"the offline store returned {len(got)} rows for {len(rows)}, or others than asked;"
                " set offline_store.type to adc_features.store.offline_store.AsofOfflineStore"
            )
        joined.append(got.select([_ROW, *names]))
    features = pa.concat_tables(joined)
    return features.select(names).take(pa.array(np.argsort(features[_ROW].to_numpy())[place]))


def _distinct(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each distinct pair, and for every row the place of its pair among them:
    int64 [distinct], int64 [N].
    """
    key, time = (
        pc.rank(pairs[name], tiebreaker="dense").to_numpy().astype(np.int64)
        for name in pairs.column_names
    )
    _, first, place = np.unique(
        key * (time.max(initial=0) + 1) + time, return_index=True, return_inverse=True
    )
    return first, place


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
