"""Feast's registry of a repository. Reads: declarations. Writes: the registry and the online
store's tables (apply).

`apply` does in-process what `feast apply` does as a command (17-33 s, most of it imports), from the
same declarations.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store.column_names import refuse_shared
from adc_features.store.definitions import (
    JOIN_KEY,
    OWNED,
    entities,
    id_type,
    services,
    sid_views,
    statistics_views,
)
from adc_features.store.repository import (
    UNSAFE_OFFLINE_STORES,
    live_generations,
    offline_store_type,
    read_config,
    registry_beside,
)

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore, FeatureView

_log = logging.getLogger(__name__)


def open_store(repo: Path) -> FeatureStore:
    """Feast's own handle on a repository, usable from any working directory.

    Raises InputError when the repository uses Feast's Dask store, which silently loses and corrupts
    training rows.
    """
    repo = Path(repo).resolve()
    config = read_config(repo)
    if (kind := offline_store_type(config)) in UNSAFE_OFFLINE_STORES:
        raise InputError(
            f"the offline store of {repo} is {kind!r}, which silently loses and corrupts training"
            " rows; set offline_store.type to adc_features.store.offline_store.AsofOfflineStore"
        )
    return open_any_store(repo)


def open_any_store(repo: Path, *, pinned: bool = False) -> FeatureStore:
    """Feast's own handle on a repository of any stores: what is declared there can be read. Rows
    are joined through `open_store`, or by code that knows which stores lose rows.

    pinned: the registry is read once and stands: what is applied later changes nothing, and a view
    answers while it is materialized (by default Feast refuses to read it meanwhile).
    """
    from adc_features.store import _compat as feast

    repo = Path(repo).resolve()
    config = read_config(repo)
    registry = config.get("registry")
    if pinned:
        registry = {"path": registry} if isinstance(registry, str) else dict(registry or {})
        registry |= {"cache_ttl_seconds": 0, "cache_mode": "sync"}  # 0: for ever
    if isinstance(registry, dict):
        places = {
            name: registry_beside(registry[name], repo)
            for name in ("path", "read_path")
            if isinstance(registry.get(name), str)
        }
        config["registry"] = {**registry, **places}
    store = feast.FeatureStore(
        repo_path=str(repo), config=feast.RepoConfig(**config, repo_path=repo)
    )
    if pinned:
        store.registry.serve_features_while_materializing = True
    return store


def apply(repo: Path) -> None:
    """Declare to Feast what is published: entities, views, and a service for each ranker.

    What we declared before and declare no more is deleted, with its online rows; what others
    declared stays. Repeating it changes nothing.

    Parameters
    ----------
    repo : Path
        A repository into which something was published.

    Raises
    ------
    InputError
        Nothing is published yet.

    Examples
    --------
    >>> apply(repo)
    >>> sorted(view.name for view in service_views(open_store(repo), "ranker_g1"))
    ['item_profile', 'item_sid_g1', 'user_activity']

    Source
    ------
    Feast documentation, "Registry":
    https://docs.feast.dev/getting-started/components/registry
    """
    from adc_features.store import _compat as feast

    views, named = [*sid_views(repo), *statistics_views(repo)], services(repo)
    if not views:
        raise InputError(
            f"nothing is published in {repo}; publish a generation or statistics first"
        )
    declared = {*(view.name for view in views), *(service.name for service in named)}
    with feast.quiet():
        store = open_store(repo)
        known: list[Any] = [
            *store.list_feature_services(),
            *store.list_feature_views(),
            *store.list_data_sources(),
        ]
        gone = [o for o in known if OWNED.items() <= o.tags.items() and o.name not in declared]
        store.apply([*entities(repo), *views, *named], objects_to_delete=gone, partial=False)
    _log.info("stage=apply views=%d services=%d deleted=%d", len(views), len(named), len(gone))


def service_views(store: FeatureStore, service: str) -> list[FeatureView]:
    """The views that a service reads, in its order.

    Raises InputError when the service is not applied,
    or two of its views have a feature of one name.
    """
    from adc_features.store import _compat as feast

    known = {s.name: s for s in store.list_feature_services()}
    if service not in known:
        raise InputError(
            f"feature service {service!r} is not declared; declared are {sorted(known) or 'none'},"
            " apply the repository first"
        )
    with feast.quiet():
        views = [
            store.get_feature_view(projection.name)
            for projection in known[service].feature_view_projections
        ]
    shown = [
        (field.name, f"view {view.name} feature {field.name}")
        for view in views
        for field in view.features
    ]
    refuse_shared(shown, advice=f"feature names are unique within service {service}, rename one")
    return views


def join_key(view: FeatureView) -> str:
    """`item_id` or `user_id`."""
    return JOIN_KEY[view.entities[0]]


def check_ids(views: Sequence[FeatureView], schema: pa.Schema) -> None:
    """Raise InputError when the key columns of a table are not of the declared id types.

    They would match nothing, or fail late.
    """
    from adc_features.store import _compat as feast

    for view in views:
        key = join_key(view)
        wanted = "string" if view.entity_columns[0].dtype == feast.String else "int64"
        if (got := id_type(schema, key)) != wanted:
            raise InputError(f"{key} is {got}, view {view.name} has {wanted} ids; convert the ids")


def registry_problems(repo: Path) -> list[str]:
    """Where Feast's registry differs from what is published.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    list of str
        A sentence for each view that is missing, has a ttl or reads from elsewhere, and for each
        generation under another codebook; empty when all agree.
        It imports feast, which takes seconds.
    """
    registered = {view.name: view for view in open_store(repo).list_feature_views()}
    problems = []
    for view in (*sid_views(repo), *statistics_views(repo)):
        source: Any = view.batch_source
        known: Any = registered.get(view.name)
        if known is None:
            problems.append(f"view {view.name} is published but not declared; apply the repository")
        elif known.ttl not in (None, timedelta(0)):
            problems.append(
                f"view {view.name} has ttl {known.ttl}: rows older than that would vanish from"
                " joins; apply the repository to set it to 0"
            )
        elif (place := _rows_of(known.batch_source)) != (wanted := _rows_of(source)):
            problems.append(
                f"view {view.name} reads {place}, the repository's rows are in {wanted}; apply the"
                " repository"
            )
    problems += [
        f"generation {g.id} is live but its tags name another codebook; apply the repository"
        for g in live_generations(repo)
        if g.view in registered and registered[g.view].tags.get("codebook_hash") != g.codebook_hash
    ]
    return problems


def _rows_of(source: Any) -> str:
    """Where the rows of a source are: a file, or a table of a database."""
    return str(source.path if hasattr(source, "path") else source.get_table_query_string())
