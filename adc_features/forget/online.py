"""Online rows of ordinary views, without some users or without what is old. Reads: the registry of
a repository. Writes: its online store.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.forget.subject import Subject
from adc_features.store.live_views import is_live
from adc_features.store.lmdb.entity_keys import key_part, row_key
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.places import directory_of, tables_of
from adc_features.store.lmdb.row_table import ROWS_AT_ONCE, delete, keyed_times
from adc_features.store.registry import open_any_store


class View(NamedTuple):
    """A view of a store. keys: its join keys, sorted, and whether each is a whole number.
    tables: in our store, of all its versions; elsewhere: the type of another store that has it.
    """

    name: str
    keys: dict[str, bool]
    environment: Environment | None
    tables: list[str]
    elsewhere: str
    declared: Any
    store: Any


def stored_views(repo: Path) -> list[View]:
    """The views of a repository whose rows a store holds: all but the live ones of our store."""
    store = open_any_store(repo)
    online = store.config.online_store
    ours = hasattr(online, "live_path")
    environment = directory_of(store.config) if ours else None
    held = environment.tables() if environment is not None else []
    found = []
    for view in sorted(store.list_feature_views(), key=lambda view: view.name):
        if is_live(view) and ours:  # `forget_live` deletes these
            continue
        keys = {f.name: "INT" in f.dtype.to_value_type().name for f in view.entity_columns}
        delegated = ours and view.name in online.delegate_views
        here = ours and not delegated
        found.append(
            View(
                view.name,
                dict(sorted(keys.items())),
                environment if here else None,
                tables_of(store.config, [view], held) if here else [],
                "" if here else str(online.delegate["type"] if delegated else online.type),
                view,
                store,
            )
        )
    return found


def forget_online(views: list[View], subject: Subject, *, dry_run: bool = False) -> int:
    """Delete the rows of users from the views of our store; returns how many."""
    deleted = 0
    for view in views:
        if subject.key not in view.keys or view.environment is None:
            continue
        for table in view.tables:
            keys = _keys(view, view.environment, table, subject)
            deleted += len(keys) if dry_run else delete(view.environment, table, keys)
    return deleted


def expire_online(views: list[View], before: datetime, *, dry_run: bool = False) -> int:
    """Delete the rows of our store whose event is older than a time; returns how many."""
    limit, deleted = int(instant(before).astype(np.int64)), 0
    for view in views:
        for table in view.tables:
            assert view.environment is not None
            rows = keyed_times(view.environment, table)
            keys = [key for key, time in rows if time < limit]
            deleted += len(keys) if dry_run else delete(view.environment, table, keys)
    return deleted


def _keys(view: View, place: Environment, table: str, subject: Subject) -> list[bytes]:
    """The keys of their rows: found by name, or among all where a key has several parts."""
    kind = pa.int64() if view.keys[subject.key] else pa.string()
    theirs = {row_key({subject.key: one}) for one in subject.typed(kind).to_pylist()}
    with place.reading(table) as txn:
        if txn is None:
            return []
        if len(view.keys) == 1:
            return [key for key in theirs if txn.get(key) is not None]
        at = list(view.keys).index(subject.key)
        return [k for k in _all(txn) if key_part(k, at, len(view.keys)) in theirs]


def _all(txn: Any) -> Iterator[bytes]:
    cursor = txn.cursor().iternext(keys=True, values=False)
    while piece := list(islice(cursor, ROWS_AT_ONCE)):
        yield from piece
