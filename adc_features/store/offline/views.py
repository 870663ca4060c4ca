"""Feast's views in the terms of the join and of the files.

Reads: feature views, the settings of the offline store. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.casts import cut_to_seconds
from adc_features.store.column_names import refuse_shared
from adc_features.store.join.engine import PreparedView, ViewSource
from adc_features.store.join.kept_index import IndexCache
from adc_features.store.lmdb.feature_values import arrow_type, declared_types
from adc_features.store.offline.places import Places, location_of
from adc_features.store.parquet.opening import refuse_table_formats
from adc_features.store.parquet.sources import Declared
from adc_features.store.refresh import RefreshSchedule

_RENAME = (
    "rename a view or a feature, give one view an alias (with_name), or ask for them in two calls"
)


def view_sources(
    config: Any,
    feature_views: list[Any],
    feature_refs: list[str],
    *,
    full_feature_names: bool,
    on_demand: Sequence[Any] = (),
    places: Places | None = None,
) -> list[ViewSource]:
    """Feast's views as the join reads them, in the names that the answer has.

    Field mappings are undone, join-key maps and full names applied. Two versions of one view asked
    for at once get their version into the full name. places: by default fresh ones: tables are
    pinned at their newest version now. Raises InputError when two features would have one name.
    """
    places = places or Places.of(config)
    bases = [view.projection.name_alias or view.name for view in feature_views]
    sources: list[ViewSource] = []
    shown: list[tuple[str, str]] = []
    for view, base in zip(feature_views, bases, strict=True):
        asked = view.projection.name_to_use()
        prefix = asked if bases.count(base) > 1 else base
        names = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == asked]
        out = {name: f"{prefix}__{name}" if full_feature_names else name for name in names}
        shown += [(column, f"view {asked} feature {name}") for name, column in out.items()]
        sources.append(_view_source(places, view, out))
    shown += _on_demand_columns(on_demand, feature_refs, full_feature_names=full_feature_names)
    keys = {
        key: f"join key {key} of view {source.name}" for source in sources for key in source.keys
    }
    refuse_shared([*keys.items(), *shown], advice=_RENAME)
    return sources


def _view_source(places: Places, view: Any, out: Mapping[str, str]) -> ViewSource:
    """One view. out: its features that are asked for -> the names of their columns."""
    source = view.batch_source
    if source is None:
        raise InputError(
            f"view {view.name} has no batch source, so it has no history; give it one or leave"
            " it out"
        )
    place = places.place(source)
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    key_map = view.projection.join_key_map or {}
    types = {f.name: kind for f in view.features if (kind := arrow_type(f.dtype)) is not None}
    kinds = {out[name]: types[name] for name in out if name in types}
    keys = [f for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID]
    created = source.created_timestamp_column
    return ViewSource(
        name=view.name,
        path=place.path,
        filesystem=place.filesystem,
        table=place.table,
        keys={key_map.get(f.name, f.name): original.get(f.name, f.name) for f in keys},
        features={column: original.get(name, name) for name, column in out.items()},
        types=kinds,
        seconds=cut_to_seconds(kinds),
        key_types={
            key_map.get(f.name, f.name): kind
            for f in keys
            if (kind := arrow_type(f.dtype)) is not None
        },
        time=original.get(source.timestamp_field, source.timestamp_field),
        created=original.get(created, created) or None,
        ttl=view.ttl,
    )


def table_facts(sources: Sequence[ViewSource]) -> dict[str, dict[str, str]]:
    """View -> the version of the table that it reads, of views of Delta and Iceberg tables."""
    return {source.name: source.table.facts for source in sources if source.table is not None}


def prepared_views(
    config: Any,
    sources: Sequence[ViewSource],
    *,
    until: datetime | None,
    entity: pa.Table | None = None,
    known_only: bool = False,
    memory_limit: int | None = None,
    refresh: Mapping[str, RefreshSchedule] | None = None,
) -> tuple[PreparedView, ...]:
    """The views, ready to be joined as the offline store is set.

    Every point-in-time join begins here. The arguments are those of `PreparedView`; memory_limit:
    None takes that of the settings. refresh: view -> its schedule; views without one are fresh.
    """
    settings = config.offline_store
    cache = settings.index_cache and IndexCache(
        Path(config.repo_path or ".") / settings.index_cache.path, settings.index_cache.max_bytes
    )
    return tuple(
        PreparedView(
            source,
            until=until,
            entity=entity,
            known_only=known_only,
            refresh=(refresh or {}).get(source.name),
            memory_limit=settings.memory_limit if memory_limit is None else memory_limit,
            spill=Path(settings.spill_directory) if settings.spill_directory else None,
            batch_rows=settings.batch_rows,
            index_cache=cache,
        )
        for source in sources
    )


def _on_demand_columns(
    views: Sequence[Any], feature_refs: list[str], *, full_feature_names: bool
) -> list[tuple[str, str]]:
    """The columns that on-demand views add, each with what it is."""
    columns = []
    for view in views:
        asked = view.projection.name_to_use()
        names = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == asked]
        columns += [
            (f"{asked}__{name}" if full_feature_names else name, f"view {view.name} feature {name}")
            for name in names
        ]
    return columns


def declared_of(view: Any) -> Declared:
    """What a view says of its source's columns, in the names that they have there."""
    source = view.batch_source
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    times = tuple(
        original.get(time, time)
        for time in (source.timestamp_field, source.created_timestamp_column)
        if time
    )
    keys = tuple(
        original.get(f.name, f.name) for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID
    )
    types = declared_types(view)
    return Declared(
        types, keys=keys, times=times, seconds=cut_to_seconds(types, but=(*keys, *times))
    )


def destination_of(config: Any, view: Any) -> tuple[Any, str]:
    """Where a view's rows are written: file system and path."""
    if view.batch_source is None:
        raise InputError(f"view {view.name} has no batch source to write to; give it one")
    filesystem, path = location_of(view.batch_source, config.repo_path)
    refuse_table_formats(path, filesystem=filesystem, of=f"view {view.name}")
    return filesystem, path
