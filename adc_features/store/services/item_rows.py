"""Features of every item as of a time, from any offline store. Reads: a Feast repository. Writes:
columns by item.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.event_times import microseconds, timestamps
from adc_features.inputs.references import near
from adc_features.store.casts import MISFITS
from adc_features.store.definitions import KEY_TYPES
from adc_features.store.registry import open_any_store
from adc_features.store.repository import ItemKey
from adc_features.store.services.values import in_declared_type

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore

_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ItemFeature:
    """A feature of items as it is declared.

    name: `<view>__<feature>`. dtype: its Feast type. key: of its view.
    """

    name: str
    view: str
    feature: str
    dtype: str
    key: ItemKey


@dataclass(frozen=True)
class ItemColumn:
    """A feature of N items.

    ids: their keys, without nulls, each once. values: null where a value is absent.
    """

    name: str
    ids: pa.Array
    values: pa.ChunkedArray


def item_features(repo: Path, names: Sequence[str]) -> list[ItemFeature]:
    """Features `<view>__<feature>` of an applied repository, all of one entity.

    Raises
    ------
    InputError
        A view or feature that is not applied, one that is computed on demand, a view with several
        keys, features of two entities, or a key of a type that codes cannot be published for.
    """
    store = open_any_store(repo)
    views = _views(store)
    found = [_feature(store, views, name) for name in names]
    if len(keys := {f.key for f in found}) > 1:
        told = {f.name: f"{f.key.entity} ({f.key.join_key} {f.key.type})" for f in found}
        raise InputError(
            f"the features belong to {len(keys)} entities: {told}; name features of one item entity"
        )
    return found


def views_of_items(store: FeatureStore, key: ItemKey) -> list[Any]:
    """The stored views that are looked up by the key of the items alone, by name."""
    return [
        view
        for _, view in sorted(_views(store).items())
        if list(view.entities) == [key.entity] and [f.name for f in _keys(view)] == [key.join_key]
    ]


def features_of_items(repo: Path, key: ItemKey, types: Collection[str]) -> list[str]:
    """The features `<view>__<feature>` of these Feast types in the stored views that are looked up
    by the key of the items alone.

    Parameters
    ----------
    repo : Path
        An applied repository.
    key : ItemKey
    types : collection of str
        Such as "Array(Float32)".

    Returns
    -------
    list of str
    """
    return [
        f"{view.name}__{field.name}"
        for view in views_of_items(open_any_store(repo), key)
        for field in view.features
        if str(field.dtype) in types
    ]


def entity_key(repo: Path, columns: Sequence[str], entity: str | None = None) -> ItemKey:
    """The key of an entity of an applied repository: of the name given, or whose join key is among
    the columns of a file. Raises InputError where there is none, or there are several.
    """
    store = open_any_store(repo)
    entities = {e.name: e for e in store.list_entities() if e.name != "__dummy"}
    if entity is not None:
        if entity not in entities:
            raise InputError(f"entity {entity!r} is not applied{near(entity, entities)}")
        return _key(store, entity, entities[entity].join_key)
    matching = [e for e in entities.values() if e.join_key in columns]
    if len(matching) != 1:
        keys = {e.name: e.join_key for e in entities.values()}
        raise InputError(
            f"which entity are these items? Columns {list(columns)} hold the join keys of"
            f" {[e.name for e in matching] or 'none'}; the entities are {keys}: name the column"
            " after the join key, and give --entity where several fit"
        )
    return _key(store, matching[0].name, matching[0].join_key)


def item_rows(
    repo: Path, features: Sequence[ItemFeature], *, as_of: datetime
) -> dict[str, ItemColumn]:
    """The newest values of features with a time before `as_of`, for every item that has a row.

    Parameters
    ----------
    repo : Path
        An applied repository with any offline store.
    features : sequence of ItemFeature
        As `item_features` found them.
    as_of : datetime
        Aware; exclusive. A row that its view's ttl has let expire by then is left out.

    Returns
    -------
    dict of str to ItemColumn
        By the feature's name.

    Raises
    ------
    InputError
        Values do not fit their declared types, or a key stands twice.
    """
    store, as_of = open_any_store(repo), utc(as_of, name="as_of")
    views = _views(store)
    found: dict[str, ItemColumn] = {}
    for view in dict.fromkeys(f.view for f in features):
        wanted = [f for f in features if f.view == view]
        found |= _latest(store, views[view], wanted, as_of)
    return {f.name: found[f.name] for f in features}


def _latest(
    store: FeatureStore, view: Any, features: Sequence[ItemFeature], as_of: datetime
) -> dict[str, ItemColumn]:
    from adc_features.store import _compat as feast

    key, source = features[0].key, view.batch_source
    own = {shown: name for name, shown in (source.field_mapping or {}).items()}
    with feast.quiet():
        keys, columns, time, created = feast._get_column_names(view, [store.get_entity(key.entity)])
        wanted = {own.get(f.feature, f.feature) for f in features}
        rows = (
            feast.offline_store(store)
            .pull_latest_from_table_or_query(
                config=store.config,
                data_source=source,
                join_key_columns=keys,
                feature_name_columns=[name for name in columns if name in wanted],
                timestamp_field=time,
                created_timestamp_column=created,
                start_date=_START,
                end_date=as_of - timedelta(microseconds=1),
            )
            .to_arrow()
        )
    times = microseconds(timestamps(rows[source.timestamp_field], name=source.timestamp_field))
    kept = times.astype("datetime64[us]") < np.datetime64(as_of.replace(tzinfo=None), "us")
    if view.ttl:
        oldest = as_of - view.ttl
        kept &= times.astype("datetime64[us]") >= np.datetime64(oldest.replace(tzinfo=None), "us")
    try:
        ids = in_declared_type(
            rows[own.get(key.join_key, key.join_key)], key.type, name=key.join_key
        )
        kept &= np.asarray(ids.is_valid())
        mask = pa.array(kept)
        ids = ids.filter(mask).combine_chunks()
        ids = pa.concat_arrays(ids.chunks) if isinstance(ids, pa.ChunkedArray) else ids
        values = {
            f.name: in_declared_type(
                rows[own.get(f.feature, f.feature)].filter(mask), f.dtype, name=f.name
            )
            for f in features
        }
    except MISFITS as error:
        raise InputError(
            f"view {view.name!r}: its rows do not fit their declaration ({error}); correct the"
            " declaration or the rows"
        ) from error
    if doubled := len(ids) - pc.count_distinct(ids).as_py():
        raise InputError(
            f"view {view.name!r} gives {doubled} items more than once; keep one row of each key"
            " and time"
        )
    return {name: ItemColumn(name, ids, column) for name, column in values.items()}


def _views(store: FeatureStore) -> dict[str, Any]:
    views = [*store.list_feature_views(), *store.list_stream_feature_views()]
    return {view.name: view for view in views}


def _feature(store: FeatureStore, views: dict[str, Any], name: str) -> ItemFeature:
    known = {f"{v.name}__{f.name}": (v, f) for v in views.values() for f in v.features}
    if name not in known:
        computed = [v.name for v in store.list_on_demand_feature_views()]
        if any(name.startswith(f"{view}__") for view in computed):
            raise InputError(
                f"{name!r} is computed on demand, for one request at a time; name a feature of a"
                " stored view"
            )
        raise InputError(f"feature {name!r} is not applied in the repository{near(name, known)}")
    view, field = known[name]
    if len(view.entities) != 1 or len(_keys(view)) != 1:
        raise InputError(
            f"view {view.name!r} is looked up by {[f.name for f in _keys(view)]}; vectors and text"
            " of items need a view with the item's key alone"
        )
    key = ItemKey(view.entities[0], _keys(view)[0].name, str(_keys(view)[0].dtype))
    return ItemFeature(name, view.name, field.name, str(field.dtype), _checked(key))


def _keys(view: Any) -> list[Any]:
    from adc_features.store import _compat as feast

    return [f for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID]


def _key(store: FeatureStore, entity: str, join_key: str) -> ItemKey:
    """The key in the type that views declare for it."""
    types = {
        str(f.dtype)
        for view in _views(store).values()
        if entity in view.entities
        for f in _keys(view)
        if f.name == join_key
    }
    if len(types) != 1:
        raise InputError(
            f"join key {join_key!r} of entity {entity!r} is declared {sorted(types) or 'nowhere'};"
            " declare it with one type in a view of that entity"
        )
    return _checked(ItemKey(entity, join_key, types.pop()))


def _checked(key: ItemKey) -> ItemKey:
    if key.type not in KEY_TYPES:
        raise InputError(
            f"join key {key.join_key!r} of entity {key.entity!r} is {key.type}; expected one of"
            f" {', '.join(KEY_TYPES)}"
        )
    return key
