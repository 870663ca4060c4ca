"""What a feature service of an applied repository offers. Reads: Feast's registry, the Python files
of a repository. Writes: nothing.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adc_features.errors import InputError
from adc_features.inputs.schema import FeatureSchema, ServiceSchema, ViewKind, ViewSchema
from adc_features.store.registry import open_any_store
from adc_features.store.repository import CONFIG, read_config, registry_beside
from adc_features.store.services.definition import definition_parts, hashed, request_fields
from adc_features.store.services.rankers import declared_rankers

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore

__all__ = ["declared_rankers", "registry_stamp", "service_names", "service_schema"]
_TICK_S = 2.0
"""Seconds, more than a tick of any file system's clock."""


def service_schema(repo: Path, service: str) -> ServiceSchema:
    """The views, features, join keys and request fields of a service.

    Parameters
    ----------
    repo : Path
        A repository that was applied.
    service : str
        One of its feature services.

    Returns
    -------
    ServiceSchema
        Features have the keys `<projected view>__<feature>`: aliases and pinned versions are part
        of them.

    Raises
    ------
    InputError
        Nothing is applied, there is no such service, it offers nothing, a view that it names is
        gone, or two of its views disagree on a key.
    ArtifactError
        There is no feature_store.yaml.
    """
    store = _applied(repo)
    services = _services(store)
    if service not in services:
        near = _nearest(service, services)
        raise InputError(
            f"feature service {service!r} is not applied in {Path(repo)}; applied are"
            f" {near or 'none'}: name one of them, or declare it and run `feast apply`"
        )
    reader = _Reader(store, Path(repo).resolve(), service)
    views, features = [], []
    for projection in services[service].feature_view_projections:
        view = reader.view(projection)
        views.append(reader.schema(view, projection))
        features += reader.features(view, projection)
    if not features:
        raise InputError(
            f"feature service {service!r} offers no feature; add views to it and run `feast apply`"
        )
    _refuse_doubled(features, service)
    return ServiceSchema(store.project, service, tuple(views), tuple(features), reader.keys)


def service_names(repo: Path) -> list[str]:
    """The feature services of an applied repository, sorted. Raises as `service_schema`."""
    return sorted(_services(_applied(repo)))


def registry_stamp(repo: Path) -> object | None:
    """Equal to an earlier one: `service_schema` would find what it found then.

    None where only reading tells: the registry is no plain file, or changed a moment ago, since
    two changes within a tick of the file system's clock look alike.
    """
    repo = Path(repo).resolve()
    place, registry = _registry(repo), read_config(repo).get("registry")
    kind = registry.get("registry_type") if isinstance(registry, dict) else None
    if kind not in (None, "file") or "://" in place or place.startswith("sqlite"):
        return None
    try:
        states = [(repo / name).stat() for name in (CONFIG, place)]
    except OSError:
        return None
    if time.time() - max(state.st_mtime for state in states) < _TICK_S:
        return None
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)


def _registry(repo: Path) -> str:
    """Where the registry is, as feature_store.yaml has it."""
    registry = read_config(repo).get("registry")
    place = registry.get("path") if isinstance(registry, dict) else registry
    return str(place or "data/registry.db")


def _applied(repo: Path) -> FeatureStore:
    repo = Path(repo).resolve()
    local = _registry(repo)
    if local.startswith("sqlite"):
        local = registry_beside(local, repo).partition(":///")[2].partition("?")[0]
    if "://" not in local and not (repo / local).is_file():
        raise InputError(
            f"{repo} has no registry yet ({local} is missing); run `feast apply` there first"
        )
    return open_any_store(repo)


def _services(store: FeatureStore) -> dict[str, Any]:
    from adc_features.store import _compat as feast

    with feast.quiet():
        return {s.name: s for s in store.list_feature_services()}


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, those like `name` first."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=len(known) or 1, cutoff=0.5)
    return [*near, *(n for n in known if n not in near)]


def _refuse_doubled(features: list[FeatureSchema], service: str) -> None:
    keys = [f.key for f in features]
    if doubled := sorted({k for k in keys if keys.count(k) > 1}):
        raise InputError(
            f"feature service {service!r} offers {doubled} more than once; give one of the views an"
            " alias: view.with_name(...)"
        )


@dataclass(frozen=True)
class _Source:
    """A view behind an on-demand view, and how it projects it."""

    view: Any
    projection: Any


class _Reader:
    """Views of one service as plain values. keys: column of the entity rows -> Feast type."""

    def __init__(self, store: FeatureStore, repo: Path, service: str) -> None:
        self._store, self._repo, self._service = store, repo, service
        self._owner: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    def view(self, projection: Any) -> Any:
        """The view as the registry holds it now, or in the version that is pinned."""
        from adc_features.store import _compat as feast

        registry: Any = self._store.registry
        project, version = self._store.project, projection.version_tag
        try:
            with feast.quiet():
                if version is None:
                    return registry.get_any_feature_view(projection.name, project)
                return registry.get_feature_view_by_version(projection.name, project, version)
        except Exception as error:  # each registry has its own way to say that it is not there
            raise InputError(
                f"service {self._service!r} names view {projection.name_to_use()!r}, which the"
                f" registry does not give: {error}; declare it and run `feast apply`"
            ) from error

    def schema(self, view: Any, projection: Any) -> ViewSchema:
        kind = _kind(view)
        sources = self._sources(view)
        named = [
            {
                "view": s.projection.name_to_use(),
                "features": [f.name for f in _fields(s.view, s.projection)],
                "join keys": dict(s.projection.join_key_map or {}),
                "ttl": _ttl(s.view),
                "definition": hashed(definition_parts(s.view, repo=self._repo)),
            }
            for s in sources
        ]
        parts = definition_parts(view, repo=self._repo, sources=named)
        # an on-demand view is looked up by what its sources are looked up by
        joined = [(s.view, s.projection) for s in sources] or [(view, projection)]
        keys = {column: kind_ for v, p in joined for column, kind_ in _keys(v, p).items()}
        if kind != "label":
            self._note(keys, projection.name_to_use())
        return ViewSchema(
            name=projection.name,
            projected=projection.name_to_use(),
            kind=kind,
            join_keys=tuple(keys),
            join_key_map=dict(projection.join_key_map or {}),
            ttl_seconds=_ttl(view),
            definition=hashed(parts),
            sources=tuple(s.projection.name_to_use() for s in sources),
            request_fields=request_fields(view) or None,
            parts=parts,
        )

    def features(self, view: Any, projection: Any) -> list[FeatureSchema]:
        projected = projection.name_to_use()
        return [
            FeatureSchema(
                key=f"{projected}__{field.name}",
                view=projected,
                name=field.name,
                dtype=str(field.dtype),
                tags={**(view.tags or {}), **(field.tags or {})},
                vector_length=int(field.vector_length or 0),
                own_tags=dict(field.tags or {}),
            )
            for field in _fields(view, projection)
        ]

    def _sources(self, view: Any) -> list[_Source]:
        # a map in the registry's file: each process reads it in another order
        projections = getattr(view, "source_feature_view_projections", None) or {}
        found = sorted(projections.values(), key=lambda p: p.name_to_use())
        return [_Source(self.view(p), p) for p in found]

    def _note(self, keys: dict[str, str], owner: str) -> None:
        for column, kind in keys.items():
            if self.keys.setdefault(column, kind) != kind:
                raise InputError(
                    f"service {self._service!r}: join key {column!r} is {self.keys[column]} in view"
                    f" {self._owner[column]!r} and {kind} in {owner!r}; one column of the entity"
                    " rows cannot be both, give the keys one type or map one of them to another"
                    " column (with_join_key_map)"
                )
            self._owner.setdefault(column, owner)


def _kind(view: Any) -> ViewKind:
    from adc_features.store import _compat as feast

    if isinstance(view, feast.OnDemandFeatureView):
        return "on_demand"
    if isinstance(view, feast.LabelView):
        return "label"
    return "stream" if isinstance(view, feast.StreamFeatureView) else "batch"


def _fields(view: Any, projection: Any) -> list[Any]:
    """The fields that are projected, as the view has them now: a service that was applied before
    its view holds older ones. What the view has no more is left out."""
    now = {field.name: field for field in view.features}
    names = [field.name for field in projection.features] or list(projection.desired_features)
    return [now[name] for name in names or now if name in now]


def _keys(view: Any, projection: Any) -> dict[str, str]:
    """Column of the entity rows -> Feast type."""
    from adc_features.store import _compat as feast

    renamed = projection.join_key_map or {}
    columns = [f for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID]
    return {renamed.get(f.name, f.name): str(f.dtype) for f in columns}


def _ttl(view: Any) -> float:
    ttl = getattr(view, "ttl", None)
    return ttl.total_seconds() if ttl else 0.0
