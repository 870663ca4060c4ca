"""Feature values for requests. Reads: a repository's online store. Writes: the online store (materialize)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.rows import newest_as_of, sid_table
from adc_features.sids import SidTable
from adc_features.store.definitions import arrow_schema
from adc_features.store.history import visible_features
from adc_features.store.publish import published_snapshots
from adc_features.store.registry import check_ids, join_key, open_store, service_views
from adc_features.store.repository import live_generation

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore, FeatureView

_log = logging.getLogger(__name__)
_BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
"""Feast materializes a window; ours starts before any event, so every key's newest row is found however old it is."""
_IDS_AT_ONCE = 5_000
"""Keys in one online read: SQLite refuses statements with too many parameters."""


def materialize(repo: Path, *, now: datetime, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Take the newest row of every key with event_timestamp <= now into the online store, view by view. Idempotent.

    Raises InputError when nothing is applied.
    """
    from adc_features.store import _compat as feast

    now = utc(now, name="now")
    store = open_store(repo)
    names = sorted(view.name for view in store.list_feature_views() if view.online)
    if not names:
        raise InputError(f"{repo} declares no views; apply it first")
    for done, name in enumerate(names):
        if progress:
            progress(f"materialize {name}", done, len(names))
        with feast.quiet():
            store.materialize(_BEGINNING, now, feature_views=[name])
        _log.info("stage=materialize view=%s now=%s", name, now.isoformat())
    if progress:
        progress("materialize", len(names), len(names))


def online_features(repo: Path, *, service: str, item_ids: np.ndarray | None = None, user_ids: np.ndarray | None = None) -> pa.Table:
    """The online values of a service's views, one row per id in the order asked, repeats kept.

    With item_ids alone the item views are read, with user_ids alone the user views, with both (of one length) all. Columns: the
    ids, then found columns and features as `training_features` names and types them; an unknown id is found = False, never zeros.
    """
    store = open_store(repo)
    asked = {name: np.asarray(ids) for name, ids in (("item_id", item_ids), ("user_id", user_ids)) if ids is not None}
    if not asked or len({len(ids) for ids in asked.values()}) > 1:
        raise InputError(f"asked for ids of lengths { {k: len(v) for k, v in asked.items()} }; give item_ids, user_ids, or both of one length")
    views = [view for view in service_views(store, service) if join_key(view) in asked]
    if not views:
        raise InputError(f"service {service} has no view of {sorted(asked)}; ask for the ids that it is about")
    return read_online(repo, store, views, asked)


def lookup(repo: Path, generation: str, item_ids: np.ndarray) -> SidTable:
    """The codes of items as served now: one row per id in the order asked; unknown and removed items have found = False.

    `as_of` is the newest cut-off among the rows. Raises InputError when the generation is not live.
    """
    live = live_generation(repo, generation)
    store = open_store(repo)
    rows = read_online(repo, store, [store.get_feature_view(live.view)], {"item_id": np.asarray(item_ids)})
    as_of = newest_as_of(rows) or published_snapshots(repo, generation)[-1].as_of
    return sid_table(rows, generation=live.id, codebook_size=live.codebook_size, length=live.length, as_of=as_of)


def read_online(repo: Path, store: FeatureStore, views: Sequence[FeatureView], ids: dict[str, np.ndarray]) -> pa.Table:
    """The features of views for aligned id columns [N], read in bounded pieces."""
    keys = pa.table({name: pa.array(column) for name, column in ids.items()})
    check_ids(views, keys.schema)
    starts = range(0, max(len(keys), 1), _IDS_AT_ONCE)
    features = visible_features(repo, views, pa.concat_tables([_read(store, views, keys.slice(start, _IDS_AT_ONCE)) for start in starts]))
    return pa.table(dict(zip([*keys.column_names, *features.column_names], [*keys.columns, *features.columns], strict=True)))


def _read(store: FeatureStore, views: Sequence[FeatureView], keys: pa.Table) -> pa.Table:
    from adc_features.store import _compat as feast

    schema = pa.schema([field for view in views for field in arrow_schema(view)])
    if not len(keys):
        return schema.empty_table()
    columns: dict[str, Any] = {}
    for key in keys.column_names:
        refs = [f"{view.name}:{field.name}" for view in views if join_key(view) == key for field in view.features]
        with feast.quiet():
            columns |= store.get_online_features(refs, entity_rows={key: keys[key].to_pylist()}).to_dict()
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema})
