"""What is declared to Feast. Reads: live generations, the schemas of published Parquet files.
Writes: Feast objects.

Everything derives from what was published: the id type of the entities, the fields of the views,
the services. Feature names are unique across views, so joins need no prefixes. Sources have
absolute paths, because Feast's DuckDB store resolves relative ones against the working directory:
after moving a repository, apply it again.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.codes.rows import SECOND_FEATURES, SID_FEATURES
from adc_features.errors import InputError
from adc_features.parquet_files import reading
from adc_features.store.code_tables import tables_of
from adc_features.store.repository import (
    STATISTICS,
    IdType,
    ItemKey,
    LiveGeneration,
    live_generation,
    live_generations,
    publication_path,
    service_name,
    statistics_path,
)

if TYPE_CHECKING:
    from adc_features.store._compat import Entity, FeatureService, FeatureView

JOIN_KEY = {"item": "item_id", "user": "user_id"}
OWNED = {"managed_by": "adc_features"}
"""The tag of every view and service that we declare; `apply` removes what carries it and is
declared no more.
"""

FEATURE_TYPES = {
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.float32(): "Float32",
    pa.float64(): "Float64",
    pa.string(): "String",
    pa.bool_(): "Bool",
}
"""Arrow type -> Feast type of a feature; lists of these are features too. Times are int64
microseconds: Feast cuts its own to seconds.
"""

KEY_TYPES: dict[str, IdType] = {
    "String": "string",
    "Uuid": "string",
    "TimeUuid": "string",
    "Int32": "int64",
    "Int64": "int64",
}
"""Feast type of a join key that codes can be published for -> type of the ids."""

ENTITY_OF = {"item_profile": "item", "user_activity": "user"}
_TIMES = ("event_timestamp", "created_timestamp")


def entities(repo: Path) -> list[Entity]:
    """The entities `item` and `user`, as far as something was published for them.

    Their value type is that of the published ids.
    """
    from adc_features.store import _compat as feast

    value_types = {"string": feast.ValueType.STRING, "int64": feast.ValueType.INT64}
    types: dict[str, IdType] = {"item": live[0].id_type} if (live := _ours(repo)) else {}
    types |= {
        ENTITY_OF[view]: id_type(schema, JOIN_KEY[ENTITY_OF[view]])
        for view, schema in statistics_schemas(repo).items()
    }
    return [
        feast.Entity(
            name=name, join_keys=[JOIN_KEY[name]], value_type=value_types[kind], tags=OWNED
        )
        for name, kind in types.items()
    ]


def _ours(repo: Path) -> list[LiveGeneration]:
    """Generations of our own entity `item`; those of other entities their repository declares."""
    return [g for g in live_generations(repo) if g.key is None]


def sid_views(repo: Path) -> list[FeatureView]:
    """One view for each live generation.

    The codebook stands in the tags of the view and of each field, since the versions that Feast
    keeps see only fields.
    """
    views = []
    for g in live_generations(repo):
        tags = {
            "generation": g.id,
            "codebook_hash": g.codebook_hash,
            "trained_through": g.trained_through.isoformat(),
        }
        views.append(
            _view(
                repo,
                g.view,
                entity="item",
                path=publication_path(repo, g.id) / "rows",
                schema=_code_schema(repo, g),
                created_column="created_timestamp",
                tags=tags,
                key=g.key,
                source=_of_table(repo, g),
            )
        )
    return views


def _code_schema(repo: Path, live: LiveGeneration) -> pa.Schema:
    """The features of a generation's view: second codes too, where its published rows have them."""
    rows = min((publication_path(repo, live.id) / "rows").glob("*.parquet"), default=None)
    if rows is None:
        return SID_FEATURES
    with reading(rows):
        names = pq.read_schema(rows).names
    return pa.schema([*SID_FEATURES, *(f for f in SECOND_FEATURES if f.name in names)])


def _of_table(repo: Path, live: LiveGeneration) -> Any:
    """The source of codes that lie in a database; None where they are Parquet files."""
    found = tables_of(repo, live)
    return None if found is None else found[0].source(live.view, found[1], tags=OWNED)


def statistics_views(repo: Path) -> list[FeatureView]:
    """`item_profile` and `user_activity`, once published."""
    return [
        _view(
            repo,
            name,
            entity=ENTITY_OF[name],
            path=statistics_path(repo) / f"{name}.parquet",
            schema=feature_schema(schema),
        )
        for name, schema in statistics_schemas(repo).items()
    ]


def services(repo: Path) -> list[FeatureService]:
    """One service for each ranker.

    `ranker_<generation>` has its codes and the statistics, `ranker_no_sid` the statistics alone.
    """
    from adc_features.store import _compat as feast

    statistics: list[Any] = list(statistics_views(repo))
    named = [
        (service_name(g.id), [view, *statistics])
        for g, view in zip(live_generations(repo), sid_views(repo), strict=True)
        if g.key is None
    ]
    named += [(service_name(None), statistics)] if statistics else []
    return [feast.FeatureService(name=name, features=views, tags=OWNED) for name, views in named]


def with_codes(service: FeatureService, *, repo: Path, generation: str) -> FeatureService:
    """A service that offers what another one does, and the codes of a generation.

    Parameters
    ----------
    service : FeatureService
        As the repository declares it, or as its registry holds it.
    repo : Path
        The repository.
    generation : str
        A published generation.

    Returns
    -------
    FeatureService
        Named `<service>_<generation>`.

    Raises
    ------
    InputError
        The generation is not published.
    """
    from adc_features.store import _compat as feast

    name = live_generation(repo, generation).view
    codes: Any = next(view for view in sid_views(repo) if view.name == name)
    offered = feast.offered_by(service)
    made = feast.FeatureService(
        name=f"{service.name}_{generation}",
        features=[*offered, codes],
        tags=dict(service.tags or {}),
        description=service.description,
        owner=service.owner,
    )
    if not offered:
        made.feature_view_projections[:0] = service.feature_view_projections
    return made


def is_sid_view(view: FeatureView) -> bool:
    """Does the view hold the codes of a generation?"""
    return "generation" in view.tags


def statistics_schemas(repo: Path) -> dict[str, pa.Schema]:
    """View name -> schema of its published file; empty before statistics were published."""
    files = {name: statistics_path(repo) / f"{name}.parquet" for name in STATISTICS}
    found = {}
    for name, path in files.items():
        if path.is_file():
            with reading(path):
                found[name] = pq.read_schema(path)
                _ = found[name].names  # decoded only now
    return found


def feature_schema(schema: pa.Schema) -> pa.Schema:
    """The features among the columns of a published file: neither keys nor times."""
    return pa.schema([f for f in schema if f.name not in (*JOIN_KEY.values(), *_TIMES)])


def id_type(schema: pa.Schema, key: str) -> IdType:
    """'string' or 'int64'. Raises InputError for other id types."""
    kind = schema.field(key).type
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    raise InputError(f"{key} is of type {kind}; expected strings or integers")


def _view(
    repo: Path,
    name: str,
    *,
    entity: str,
    path: Path,
    schema: pa.Schema,
    created_column: str = "",
    tags: dict[str, str] | None = None,
    key: ItemKey | None = None,
    source: Any = None,
) -> FeatureView:
    from adc_features.store import _compat as feast

    if key is None:
        owner = next(e for e in entities(repo) if e.name == entity)
        dtype = feast.String if owner.value_type == feast.ValueType.STRING else feast.Int64
    else:
        # only its name goes into the registry: the entity is declared elsewhere
        dtype = feast.named_type(key.type)
        owner = feast.Entity(
            name=key.entity, join_keys=[key.join_key], value_type=dtype.to_value_type()
        )
    keyed = feast.Field(name=owner.join_key, dtype=dtype)
    source = source or feast.FileSource(
        name=name,
        path=str(path),
        file_format=feast.ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column=created_column,
        tags=OWNED,
    )
    features = [feast.Field(name=f.name, dtype=feast_type(f.type), tags=tags) for f in schema]
    # ttl 0 is no ttl: rows of data that ended years ago still join, on every store
    return feast.FeatureView(
        name=name,
        entities=[owner],
        schema=[keyed, *features],
        source=source,
        ttl=timedelta(0),
        tags={**OWNED, **(tags or {})},
    )


def arrow_schema(view: FeatureView) -> pa.Schema:
    """The declared features of a view as Arrow types: stores return wider ones."""
    from adc_features.store import _compat as feast

    arrow = {getattr(feast, name): kind for kind, name in FEATURE_TYPES.items()}
    types = ((field.name, field.dtype) for field in view.features)
    return pa.schema(
        {
            name: pa.list_(arrow[kind.base_type]) if isinstance(kind, feast.Array) else arrow[kind]
            for name, kind in types
        }
    )


def feast_type(kind: pa.DataType) -> Any:
    """The Feast type of values of an Arrow type."""
    from adc_features.store import _compat as feast

    if pa.types.is_list(kind):
        return feast.Array(feast_type(kind.value_type))
    return getattr(feast, FEATURE_TYPES[kind])
