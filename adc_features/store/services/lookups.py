"""One lookup of stored views under keys. Reads: an online store. Writes: feature columns, null
where absent, and which keys have anything.

Feast does not apply a view's ttl online: rows past it are absent here, by their event times at the
moment of the request. A status says only whether a feature is stored: a stored null is PRESENT, so
the value is looked at. Whatever is not PRESENT is absent, OUTSIDE_MAX_AGE too; rows of a service
that Feast computes ahead (precompute_online) never come, as views are read by references here.

Event times: SQLite and Redis keep whole seconds, floored, so a row may expire up to a second early.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.store.services.plan import StoredView
from adc_features.store.services.protos import column_of_protos
from adc_features.store.services.stored import KeptColumn, StoredColumn, arrow_of
from adc_features.store.services.values import MISFITS, arrow_type

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore
    from adc_features.store.lmdb.kept_rows import KeptRows
    from adc_features.store.lmdb.row_table import Answer

_IDS_AT_ONCE = 5_000
"""Keys in one online read: SQLite refuses statements with too many parameters."""


class Found(NamedTuple):
    """The features of one view for n keys. columns: feature -> column [n]; stored: bool [n], rows
    that are stored and have not expired."""

    columns: dict[str, pa.Array | StoredColumn]
    stored: np.ndarray


@dataclass(frozen=True)
class Lookup:
    """Views that are looked up by the same keys in one call.

    views: place in the plan -> view; keys: join key of the views -> column of the entity rows.
    """

    views: Mapping[int, StoredView]
    keys: Mapping[str, str]


def read_by_feast(
    store: FeatureStore, lookup: Lookup, keys: Mapping[str, pa.Array], rows: int, *, now: datetime
) -> dict[int, Found]:
    """Place -> what was found, by Feast's own `get_online_features`. keys: by the views' names."""
    if not keys:
        return {i: _without_key(store, v, rows, now) for i, v in lookup.views.items()}
    refs = [f"{v.name}:{name}" for v in lookup.views.values() for name in v.features]
    values = {name: column.to_pylist() for name, column in keys.items()}
    pieces = [
        _asked(
            store,
            lookup,
            refs,
            {name: column[start : start + _IDS_AT_ONCE] for name, column in values.items()},
            now=now,
        )
        for start in range(0, rows, _IDS_AT_ONCE)
    ]
    if len(pieces) == 1:
        return pieces[0]
    return {place: _joined([piece[place] for piece in pieces]) for place in lookup.views}


def _joined(pieces: Sequence[Found]) -> Found:
    columns: dict[str, Any] = {
        name: pa.concat_arrays([arrow_of(p.columns[name]) for p in pieces]) for name in pieces[0][0]
    }
    return Found(columns, np.concatenate([p.stored for p in pieces]))


def _asked(
    store: FeatureStore,
    lookup: Lookup,
    refs: list[str],
    asked: Mapping[str, list],
    *,
    now: datetime,
) -> dict[int, Found]:
    response = store.get_online_features(refs, asked, full_feature_names=True).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    return {place: _found(view, vectors, now) for place, view in lookup.views.items()}


def _without_key(store: FeatureStore, view: StoredView, rows: int, now: datetime) -> Found:
    """The one row of a view without entities, under the key that Feast makes up for it.

    By the store's own `online_read`: `get_online_features` fails for such a view once any join has
    been asked for in the same process, because it then finds the cached view without its key.
    """
    from adc_features.store import _compat as feast

    key = feast.EntityKeyProto(
        join_keys=[feast.DUMMY_ENTITY_ID],
        entity_values=[feast.ValueProto(string_val=feast.DUMMY_ENTITY_VAL)],
    )
    online = feast.online_store(store)
    ((event, values),) = online.online_read(store.config, view.view, [key], list(view.features))
    held = values or {}
    at = 0 if event is None else int(instant(_aware(event)).astype(np.int64))
    made = _columns(
        view,
        {name: [held.get(name, feast.ValueProto())] for name in view.features},
        {name: np.array([name in held]) for name in view.features},
        np.array([at]),
        now,
    )
    place = pa.array(np.zeros(rows, np.int64))
    return Found(
        {n: arrow_of(c).take(place) for n, c in made.columns.items()}, np.repeat(made.stored, rows)
    )


def _aware(event: datetime) -> datetime:
    """Stores give UTC, some without saying so."""
    return event if event.tzinfo else event.replace(tzinfo=UTC)


def _found(view: StoredView, vectors: Mapping[str, Any], now: datetime) -> Found:
    from adc_features.store import _compat as feast

    names = {name: vectors[f"{view.name}__{name}"] for name in view.features}
    stamps = next(iter(names.values())).event_timestamps
    at = np.array([t.seconds * 1_000_000 + t.nanos // 1_000 for t in stamps], np.int64)
    present = {
        name: np.array(v.statuses, np.int8) == feast.FieldStatus.PRESENT
        for name, v in names.items()
    }
    return _columns(view, {n: v.values for n, v in names.items()}, present, at, now)


def _columns(
    view: StoredView,
    values: Mapping[str, Sequence[Any]],
    present: Mapping[str, np.ndarray],
    at: np.ndarray,
    now: datetime,
) -> Found:
    """Values as columns, those that have expired or are not PRESENT left out.

    at: event times, int64 [n] microseconds, 0 where none. A row is stored where it has one or a
    value: Redis says PRESENT of every feature of a key that it does not hold.
    """
    stale = np.zeros(len(at), bool)
    if view.ttl_seconds:
        stale = at < int(instant(now).astype(np.int64)) - round(view.ttl_seconds * 1_000_000)
    columns: dict[str, Any] = {}
    stored = np.zeros(len(at), bool)
    for name, dtype in view.features.items():
        column = column_of_protos(values[name], dtype, name=f"{view.name}__{name}")
        known = present[name] & ~stale
        columns[name] = _without(column, ~known)
        stored |= known & ((at != 0) | np.asarray(column.is_valid()))
    return Found(columns, stored)


def _without(column: pa.Array, gone: np.ndarray) -> pa.Array:
    if not gone.any():
        return column
    return column.take(pa.array(np.arange(len(column)), mask=gone))


class OurStore:
    """The LMDB store's own rows, without a proto. It sees the ttl at the request's moment, whatever
    its setting `enforce_ttl` says of its own clock."""

    def __init__(self, store: FeatureStore) -> None:
        from adc_features.store import _compat as feast

        self._online: Any = feast.online_store(store)
        self._config = store.config
        self._keeps: dict[tuple[Any, ...], KeptRows] = {}

    def holds(self, view: Any) -> bool:
        """Whether the rows of this view are in LMDB, and not in a delegate or computed ahead."""
        from adc_features.store import _compat as feast
        from adc_features.store.online_store import LmdbOnlineStore

        ours = isinstance(self._online, LmdbOnlineStore)
        return (
            ours
            and self._online.holds(self._config, view)
            and not isinstance(view, feast.OnDemandFeatureView)
        )

    def read(
        self,
        lookup: Lookup,
        keys: Mapping[str, pa.Array],
        rows: int,
        *,
        now: datetime,
        keep: bool = False,
    ) -> dict[int, Found]:
        """As `read_by_feast`. keep: other requests ask for the same rows, so they stay decoded."""
        from adc_features.store.lmdb.entity_keys import key_list, row_key
        from adc_features.store.lmdb.places import table_name
        from adc_features.store.lmdb.row_table import read

        places = key_list(keys) if keys else [row_key({})] * rows
        environment, at = self._online.environment(self._config), int(instant(now).astype(np.int64))
        answers = {}
        for place, view in lookup.views.items():
            oldest = at - round(view.ttl_seconds * 1_000_000) if view.ttl_seconds else None
            table = table_name(self._config, view.view)
            if keep and (found := self._kept(environment, table, view, places, oldest)):
                answers[place] = found
                continue
            answer = read(environment, table, places, oldest=oldest, wanted=list(view.features))
            answers[place] = Found(_lmdb_columns(answer, view), answer.found)
        return answers

    def _kept(
        self, environment: Any, table: str, view: StoredView, keys: list[bytes], oldest: int | None
    ) -> Found | None:
        """From rows that are kept; None where they cannot be."""
        from adc_features.store.lmdb.kept_rows import KeptRows

        name = (environment, table, *view.features)
        if name not in self._keeps:
            self._keeps[name] = KeptRows(environment, table, list(view.features))
        if (kept := self._keeps[name].read(keys, oldest=oldest)) is None:
            return None
        answer = functools.cache(kept.answer)
        columns: dict[str, Any] = {
            name: KeptColumn(kept, name, answer)
            if name in kept.columns and _is_plain(kept.columns[name][0], dtype)
            else _lmdb_column(answer(), name, dtype, view)
            for name, dtype in view.features.items()
        }
        return Found(columns, kept.found)


def _lmdb_columns(answer: Answer, view: StoredView) -> dict[str, Any]:
    """The features of a view, plain ones as they stand in the rows."""
    if len(answer.parts) != 1:
        return {n: _lmdb_column(answer, n, t, view) for n, t in view.features.items()}
    (found, records), n, columns = answer.parts[0], len(answer.found), dict[str, Any]()
    places = None if len(found) == n else found
    where = records.schema.place
    for name, dtype in view.features.items():
        column = records.columns[where[name]] if name in where else None
        columns[name] = (
            StoredColumn(column, places, n)
            if column is not None and _is_plain(column.kind, dtype)
            else _lmdb_column(answer, name, dtype, view)
        )
    return columns


def _lmdb_column(answer: Answer, name: str, dtype: str, view: StoredView) -> pa.Array:
    from adc_features.store.lmdb.columns import OPAQUE
    from adc_features.store.lmdb.feature_values import protos

    wanted = arrow_type(dtype)
    held = [part.records.column(name) for part in answer.parts]
    if wanted is not None and not any(c is not None and c.kind == OPAQUE for c in held):
        try:
            return answer.to_arrow(name, wanted)
        except MISFITS:  # a time that pandas wrote as missing, or a view that changed its types
            pass
    return column_of_protos(protos(answer, name), dtype, name=f"{view.name}__{name}")


@functools.cache
def _is_plain(kind: str, dtype: str) -> bool:
    """Whether rows hold this kind in the very Arrow type of the declared one."""
    from adc_features.store.lmdb.columns import KINDS, OPAQUE

    return kind != OPAQUE and KINDS[kind].arrow == arrow_type(dtype)
