"""Feature values for requests. Reads: a repository's online store. Writes: the online store (materialize)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.sids import SidTable
from adc_features.store.definitions import arrow_schema
from adc_features.store.entity_keys import key_array
from adc_features.store.history import visible_features
from adc_features.store.online_sids import OnlineSids
from adc_features.store.registry import check_ids, join_key, open_store, service_views
from adc_features.store.repository import live_generations

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore, FeatureView

_log = logging.getLogger(__name__)
_BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
"""Feast materializes a window; ours starts before any event, so every key's newest row is found however old it is."""
_IDS_AT_ONCE = 5_000
"""Keys in one online read: SQLite refuses statements with too many parameters."""
ITEMS_KEPT = 100_000
"""Items whose rows a reader keeps decoded, a few hundred bytes each."""


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


class _Kept(NamedTuple):
    """Answers about items as of one version of the online store. place: item id -> row."""

    version: Any
    place: dict[Any, int]
    rows: pa.Table


class OnlineReader:
    """The views of a service, open for many reads; threads may share it. What is materialized later is seen, what is applied later is not."""

    def __init__(self, repo: Path, store: FeatureStore, views: Sequence[FeatureView]) -> None:
        self._repo, self._store, self._views = repo, store, views
        self._schemas = {view.name: arrow_schema(view) for view in views}
        self._kept: _Kept | None = None
        self._missed: dict[Any, None] = {}
        self._seen: Any = None

    def read(self, *, item_ids: np.ndarray | None = None, user_ids: np.ndarray | None = None) -> pa.Table:
        """The online values, one row per id in the order asked, repeats kept.

        With item_ids alone the item views are read, with user_ids alone the user views, with both (of one length) all. Columns: the
        ids, then found columns and features as `training_features` names and types them; an unknown id is found = False, never
        zeros. Raises InputError for ids of other lengths or types than declared.
        """
        asked = {name: np.asarray(ids) for name, ids in (("item_id", item_ids), ("user_id", user_ids)) if ids is not None}
        if not asked or len({len(ids) for ids in asked.values()}) > 1:
            raise InputError(f"asked for ids of lengths { {k: len(v) for k, v in asked.items()} }; give item_ids, user_ids, or both of one length")
        views = [view for view in self._views if join_key(view) in asked]
        if not views:
            raise InputError(f"no view is about {sorted(asked)}; ask for the ids that the service is about")
        keys = pa.table({name: pa.array(column) for name, column in asked.items()})
        check_ids(views, keys.schema)
        return self._items(views, keys) if list(asked) == ["item_id"] else self._read(views, keys)

    def keep(self) -> None:
        """Read the items again that were asked for lately, so that further reads take their rows from one table: for a service to call now and then.

        At most ITEMS_KEPT, the newest; only of a store that tells its version, has no ttl, and did not change since the last call. A row that was kept is never
        answered after the store has changed.
        """
        version, missed, kept = self._version(), self._missed, self._kept
        unsettled, self._seen = version != self._seen, version
        if version is None or unsettled or (kept is not None and kept.version == version and not missed):
            return
        self._missed = {}
        ids = list(dict.fromkeys([*(kept.place if kept else ()), *missed]))[-ITEMS_KEPT:]
        views = [view for view in self._views if join_key(view) == "item_id"]
        pieces = [self._read(views, pa.table({"item_id": pa.array(ids[start : start + _IDS_AT_ONCE])})) for start in range(0, len(ids), _IDS_AT_ONCE)]
        if pieces and self._version() == version:
            self._kept = _Kept(version, {item: row for row, item in enumerate(ids)}, pa.concat_tables(pieces).combine_chunks())

    def _items(self, views: Sequence[FeatureView], keys: pa.Table) -> pa.Table:
        """As `_read`, with the rows that were kept where the store is still the same."""
        kept, version = self._kept, self._version()
        if version is None:
            return self._read(views, keys)
        ids = keys["item_id"].to_pylist()
        same = kept is not None and kept.version == version
        place = np.fromiter(map(kept.place.get, ids, repeat(-1)), np.int64, len(ids)) if kept is not None and same else np.full(len(ids), -1)
        absent = np.flatnonzero(place < 0)
        if len(absent) and len(self._missed) < ITEMS_KEPT:
            self._missed.update(dict.fromkeys(ids[row] for row in absent.tolist()))
        if kept is None or len(absent) == len(ids):
            return self._read(views, keys)
        known = kept.rows.take(pa.array(place[place >= 0]))
        if not len(absent):
            return known
        rest = self._read(views, keys.take(pa.array(absent)))
        if self._version() != version:
            return self._read(views, keys)  # the two halves would be of two states
        order = np.empty(len(ids), np.int64)
        order[np.concatenate([np.flatnonzero(place >= 0), absent])] = np.arange(len(ids))
        return pa.concat_tables([known, rest]).combine_chunks().take(pa.array(order))

    def _version(self) -> Any:
        """What changes with every write to the item views; None where that, or a ttl, cannot be told."""
        from adc_features.store import _compat as feast
        from adc_features.store.online_store import LmdbOnlineStore

        online_store, config = feast.online_store(self._store), self._store.config
        if not isinstance(online_store, LmdbOnlineStore):
            return None
        if any(view.ttl or not online_store.holds(config, view) for view in self._views if join_key(view) == "item_id"):
            return None
        return live_generations(self._repo), online_store.environment(config).version()

    def _read(self, views: Sequence[FeatureView], keys: pa.Table) -> pa.Table:
        features = visible_features(
            self._repo, views, pa.table({name: column for view in views for name, column in self._raw(view, keys).items()}), schemas=self._schemas
        )
        return pa.table(dict(zip([*keys.column_names, *features.column_names], [*keys.columns, *features.columns], strict=True)))

    def _raw(self, view: FeatureView, keys: pa.Table) -> dict[str, Any]:
        """The declared features of one view, null where absent; without a Feast object when the store is ours."""
        from adc_features.store import _compat as feast
        from adc_features.store.online_store import LmdbOnlineStore

        key, schema = join_key(view), self._schemas[view.name]
        online_store, config = feast.online_store(self._store), self._store.config
        if isinstance(online_store, LmdbOnlineStore) and online_store.holds(config, view):
            names = key_array({key: keys[key].combine_chunks()}).to_numpy(zero_copy_only=False).tolist()
            answer = online_store.read(config, view, names)
            return {field.name: answer.to_arrow(field.name, field.type) for field in schema}
        columns: dict[str, list] = {field.name: [] for field in schema}
        for start in range(0, len(keys), _IDS_AT_ONCE):
            asked = {key: keys[key].slice(start, _IDS_AT_ONCE).to_pylist()}
            with feast.quiet():
                got = self._store.get_online_features([f"{view.name}:{name}" for name in columns], entity_rows=asked).to_dict()
            for name, column in columns.items():
                column.extend(got[name])
        return {field.name: pa.array(columns[field.name], field.type) for field in schema}


def open_reader(repo: Path, *, service: str) -> OnlineReader:
    """A reader of what a service reads. Raises InputError when the service is not applied."""
    store = open_store(repo)
    return OnlineReader(repo, store, service_views(store, service))


def online_features(repo: Path, *, service: str, item_ids: np.ndarray | None = None, user_ids: np.ndarray | None = None) -> pa.Table:
    """One `OnlineReader.read`; who reads often keeps the reader open instead."""
    return open_reader(repo, service=service).read(item_ids=item_ids, user_ids=user_ids)


def read_online(repo: Path, store: FeatureStore, views: Sequence[FeatureView], ids: Mapping[str, np.ndarray]) -> pa.Table:
    """The features of views for aligned id columns [N]: `item_id`, `user_id` or both."""
    return OnlineReader(repo, store, views).read(**{f"{key}s": column for key, column in ids.items()})


def lookup(repo: Path, generation: str, item_ids: np.ndarray, *, now: datetime | None = None) -> SidTable:
    """The codes of items as served at `now` (or now), from the packed snapshots: see `OnlineSids.lookup`, which stays open for many."""
    return OnlineSids(repo, generation).lookup(item_ids, now=now)
