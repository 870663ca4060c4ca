"""One lookup of stored views under keys. Reads: an online store. Writes: feature columns, null
where absent, and which keys have anything.

Feast does not apply a view's ttl online: rows past it are absent here, by their event times at the
moment of the request. A status says only whether a feature is stored: a stored null is PRESENT, so
the value is looked at. Whatever is not PRESENT is absent, OUTSIDE_MAX_AGE too; rows of a service
that Feast computes ahead (precompute_online) never come, as views are read one by one here.

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

    views: place in the plan -> view; keys: join key of the views -> column of the entity rows;
    ours: whether `OurStore` holds their rows.
    """

    views: Mapping[int, StoredView]
    keys: Mapping[str, str]
    ours: bool = False


def read_by_feast(
    store: FeatureStore, lookup: Lookup, keys: Mapping[str, pa.Array], rows: int, *, now: datetime
) -> dict[int, Found]:
    """Place -> what was found, from any store of Feast's. keys: by the views' names.

    Views are asked one by one for their rows where that is what the store's `get_online_features`
    does: its response, of copies of every value, costs as much as the reading. A store that answers
    in a way of its own, such as a feature server, is asked for its response.
    """
    asked = _by_rows if not keys or _reads_rows(store) else _by_response
    values = {name: column.to_pylist() for name, column in keys.items()}
    pieces = [
        asked(
            store,
            lookup,
            {name: column[start : start + _IDS_AT_ONCE] for name, column in values.items()},
            now,
        )
        for start in range(0, rows, _IDS_AT_ONCE)
    ]
    if len(pieces) == 1:
        return pieces[0]
    return {place: _joined([piece[place] for piece in pieces]) for place in lookup.views}


def row_time(store: FeatureStore, view: StoredView, keys: Mapping[str, Any]) -> datetime | None:
    """The event time, aware, of the row that a view has online for one key, expired or not; None
    where there is none. keys: column of the entity rows -> its value.
    """
    from adc_features.store import _compat as feast

    asked, feature = {own: [keys[c]] for own, c in view.keys.items()}, next(iter(view.features))
    if not asked or _reads_rows(store):
        online, entity = (
            feast.online_store(store),
            _entity_keys(Lookup({0: view}, view.keys), asked),
        )
        ((at, _),) = online.online_read(store.config, view.view, entity, [feature])
    else:
        name = f"{view.name}:{feature}"
        response = store.get_online_features([name], asked, full_feature_names=True).proto
        stamps = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
        at = stamps[f"{view.name}__{feature}"].event_timestamps[0].ToDatetime(UTC)
    if at is None:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at if at.timestamp() else None  # Redis gives what it does not hold, at 1970


def _joined(pieces: Sequence[Found]) -> Found:
    columns: dict[str, Any] = {
        name: pa.concat_arrays([arrow_of(p.columns[name]) for p in pieces]) for name in pieces[0][0]
    }
    return Found(columns, np.concatenate([p.stored for p in pieces]))


def _reads_rows(store: FeatureStore) -> bool:
    """Whether `get_online_features` of the store is `online_read` of each view, and a response."""
    from adc_features.store import _compat as feast
    from adc_features.store.online_store import LmdbOnlineStore

    plain = feast.OnlineStore.get_online_features, LmdbOnlineStore.get_online_features
    return type(feast.online_store(store)).get_online_features in plain


def _by_rows(
    store: FeatureStore, lookup: Lookup, asked: Mapping[str, list], now: datetime
) -> dict[int, Found]:
    """By the store's own `online_read`.

    asked: the values of each key; empty for views without entities, of whose one row Feast makes up
    the key.
    """
    from adc_features.store import _compat as feast

    online, keys = feast.online_store(store), _entity_keys(lookup, asked)
    feast.check_versions(online, [view.view for view in lookup.views.values()])
    return {
        place: _found_rows(
            view, online.online_read(store.config, view.view, keys, list(view.features)), now
        )
        for place, view in lookup.views.items()
    }


def _entity_keys(lookup: Lookup, asked: Mapping[str, list]) -> list[Any]:
    """The keys as Feast's stores take them."""
    from adc_features.store import _compat as feast

    if not asked:
        made_up = feast.ValueProto(string_val=feast.DUMMY_ENTITY_VAL)
        names, columns = [feast.DUMMY_ENTITY_ID], [[made_up]]
    else:
        fields = [f for view in lookup.views.values() for f in view.view.entity_columns]
        types = {field.name: field.dtype.to_value_type() for field in fields}
        names = list(asked)
        columns = [
            feast.python_values_to_proto_values(values, types[name])
            for name, values in asked.items()
        ]
    return [
        feast.EntityKeyProto(join_keys=names, entity_values=values)
        for values in zip(*columns, strict=True)
    ]


def _found_rows(
    view: StoredView, rows: Sequence[tuple[datetime | None, dict | None]], now: datetime
) -> Found:
    from adc_features.store import _compat as feast
    from adc_features.store.lmdb.incoming import microseconds_of

    absent = feast.ValueProto()
    held = [values or {} for _, values in rows]
    columns = {
        name: column_of_protos(
            [values.get(name, absent) for values in held], dtype, name=f"{view.name}__{name}"
        )
        for name, dtype in view.features.items()
    }
    some = np.array([not view.features.keys().isdisjoint(values) for values in held], bool)
    at = [0 if event is None else microseconds_of(event) for event, _ in rows]
    return _fresh(columns, some, np.array(at, np.int64), _oldest(view, now))


def _by_response(
    store: FeatureStore, lookup: Lookup, asked: Mapping[str, list], now: datetime
) -> dict[int, Found]:
    """By Feast's own `get_online_features`."""
    refs = [f"{v.name}:{name}" for v in lookup.views.values() for name in v.features]
    response = store.get_online_features(refs, dict(asked), full_feature_names=True).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    return {place: _found(view, vectors, now) for place, view in lookup.views.items()}


def _found(view: StoredView, vectors: Mapping[str, Any], now: datetime) -> Found:
    from adc_features.store import _compat as feast

    names = {name: vectors[f"{view.name}__{name}"] for name in view.features}
    stamps = next(iter(names.values())).event_timestamps
    at = np.array([t.seconds * 1_000_000 + t.nanos // 1_000 for t in stamps], np.int64)
    columns, some = {}, np.zeros(len(at), bool)
    for name, vector in names.items():
        present = np.array(vector.statuses, np.int8) == feast.FieldStatus.PRESENT
        column = column_of_protos(vector.values, view.features[name], name=f"{view.name}__{name}")
        columns[name] = _without(column, ~present)
        some |= present
    return _fresh(columns, some, at, _oldest(view, now))


def _fresh(
    columns: Mapping[str, pa.Array], some: np.ndarray, at: np.ndarray, oldest: int | None
) -> Found:
    """The columns without rows that have expired.

    some: bool [n], rows that have a feature; at: their event times, int64 [n] microseconds, 0 where
    none. A row is stored where it has one or a value: Redis gives every feature of a key that it
    does not hold, at 1970.
    """
    stored = some & (at != 0)
    for column in columns.values():
        if stored.all():
            break
        stored |= np.asarray(column.is_valid())
    stale = np.zeros(len(at), bool) if oldest is None else at < oldest
    return Found({n: _without(c, stale) for n, c in columns.items()}, stored & ~stale)


def _without(column: pa.Array, gone: np.ndarray) -> pa.Array:
    if not gone.any():
        return column
    return column.take(pa.array(np.arange(len(column)), mask=gone))


def _oldest(view: StoredView, now: datetime) -> int | None:
    """Before this event time, in microseconds, rows have expired; None where none expire."""
    if not view.ttl_seconds:
        return None
    return int(instant(now).astype(np.int64)) - round(view.ttl_seconds * 1_000_000)


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
        answers = {}
        for place, view in lookup.views.items():
            oldest = _oldest(view, now)
            environment = self._online.environment(self._config, view.view)
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
