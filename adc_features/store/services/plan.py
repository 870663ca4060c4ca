"""What has to be looked up for a service. Reads: Feast's registry, a ServiceSchema. Writes:
ServicePlan.

Feast takes an alias or a renamed join key from a whole service only, never from feature references.
So views are looked up here by their own names and keys, one by one, and are named as the service
projects them afterwards; that holds for every store, and no view is read twice.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adc_features.errors import InputError
from adc_features.inputs.schema import ServiceSchema, ViewSchema
from adc_features.store.services.definition import reads_time

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore

_VERSION = re.compile(r".*@v(\d+)")


@dataclass
class StoredView:
    """A view that is looked up by keys.

    Parameters
    ----------
    view : feast.FeatureView
        As the registry has it, in the pinned version.
    version : int or None
        The pinned version.
    keys : dict of str to str
        Join key of the view -> column of the entity rows.
    ttl_seconds : float
        0 for ever.
    features : dict of str to str
        Feature -> Feast type.
    """

    view: Any
    version: int | None
    keys: dict[str, str]
    ttl_seconds: float
    features: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The view as feature references name it."""
        return self.view.name if self.version is None else f"{self.view.name}@v{self.version}"


@dataclass(frozen=True)
class Place:
    """Where a value is read: a stored view, by its place in the plan, and the feature there."""

    stored: int
    feature: str


@dataclass
class OnDemandView:
    """A view that Feast computes.

    Parameters
    ----------
    view : feast.OnDemandFeatureView
    projected : str
        The name under which the service offers it.
    inputs : dict of str to Place
        `<source view>__<feature>` as its function reads it -> where that is.
    keys : tuple of str
        Columns of the entity rows that its sources are looked up by.
    request : dict of str to str
        Fields that it reads of the request -> Feast type.
    features : dict of str to str
        Feature -> Feast type, those that are asked for.
    at_read : bool
        Whether it reads the time of the request, or of the row.
    """

    view: Any
    projected: str
    inputs: dict[str, Place]
    keys: tuple[str, ...]
    request: dict[str, str]
    features: dict[str, str] = field(default_factory=dict)
    at_read: bool = False


@dataclass
class ServicePlan:
    """The lookups behind features of a service. places: feature key -> where it is read, for
    stored ones. order: all feature keys, as asked. types: feature key -> Feast type."""

    stored: list[StoredView] = field(default_factory=list)
    on_demand: dict[str, OnDemandView] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Columns of the entity rows that are needed, in the order of the views."""
        return list(dict.fromkeys(column for v in self.stored for column in v.keys.values()))

    @property
    def request(self) -> dict[str, str]:
        """Fields of the request that on-demand views read -> Feast type."""
        return {n: t for view in self.on_demand.values() for n, t in view.request.items()}


def service_plan(
    store: FeatureStore, schema: ServiceSchema, features: Sequence[str] | None = None
) -> ServicePlan:
    """What has to be looked up for these features (by default all but labels).

    Raises InputError for a feature that the service does not offer, or that is a label, and for a
    view that the registry no longer has.
    """
    labels = {view.projected for view in schema.views if view.kind == "label"}
    if features is None:
        features = [f.key for f in schema.features if f.view not in labels]
    _check(schema, features, labels)
    plan = ServicePlan(order=tuple(dict.fromkeys(features)))
    for key in plan.order:
        feature = schema.feature(key)
        assert feature is not None
        view = schema.view(feature.view)
        plan.types[key] = feature.dtype
        if view.kind == "on_demand":
            _on_demand(store, plan, view).features[feature.name] = feature.dtype
        else:
            key_map, version = dict(view.join_key_map), _version(view.projected)
            place = _stored(store, plan, view.name, version, key_map)
            plan.stored[place].features[feature.name] = feature.dtype
            plan.places[key] = Place(place, feature.name)
    return plan


def _check(schema: ServiceSchema, features: Sequence[str], labels: set[str]) -> None:
    known = [f.key for f in schema.features]
    if unknown := [key for key in features if key not in known]:
        raise InputError(
            f"service {schema.service!r} offers no {unknown}; it offers {known}: ask for these, or"
            " apply the service again"
        )
    if wrong := [f.key for f in schema.features if f.key in features and f.view in labels]:
        raise InputError(
            f"{wrong} are labels, known only after the request, so they are never an input; leave"
            " them out, and name them as a task's label"
        )
    if not features:
        raise InputError(f"no feature of service {schema.service!r} is asked for; name some")


def _version(projected: str) -> int | None:
    found = _VERSION.fullmatch(projected)
    return int(found[1]) if found else None


def _registered(store: FeatureStore, name: str, version: int | None) -> Any:
    from adc_features.store import _compat as feast

    registry: Any = store.registry
    try:
        with feast.quiet():
            if version is None:
                return registry.get_any_feature_view(name, store.project, allow_cache=True)
            return registry.get_feature_view_by_version(name, store.project, version, True)
    except Exception as error:  # each registry has its own way to say that it is not there
        raise InputError(
            f"the registry does not give view {name!r}"
            f"{'' if version is None else f' in version {version}'}: {error}; run `feast apply`"
        ) from error


def _stored(
    store: FeatureStore, plan: ServicePlan, name: str, version: int | None, key_map: dict[str, str]
) -> int:
    """The place of a stored view in the plan, added where it is new."""
    from adc_features.store import _compat as feast

    for place, known in enumerate(plan.stored):
        if (
            known.view.name == name
            and known.version == version
            and known.keys == {own: key_map.get(own, own) for own in known.keys}
        ):
            return place
    view = copy.copy(_registered(store, name, version))
    own = [f.name for f in view.entity_columns if f.name != feast.DUMMY_ENTITY_ID]
    view.projection = copy.copy(view.projection)
    view.projection.version_tag = version
    ttl = getattr(view, "ttl", None)
    plan.stored.append(
        StoredView(
            view,
            version,
            {key: key_map.get(key, key) for key in own},
            ttl.total_seconds() if ttl else 0.0,
        )
    )
    return len(plan.stored) - 1


def _on_demand(store: FeatureStore, plan: ServicePlan, view: ViewSchema) -> OnDemandView:
    """An on-demand view of the plan, with the views that it reads; added where it is new."""
    if view.projected in plan.on_demand:
        return plan.on_demand[view.projected]
    registered = _registered(store, view.name, None)
    inputs: dict[str, Place] = {}
    projections = registered.source_feature_view_projections.values()
    for projection in sorted(projections, key=lambda p: p.name_to_use()):
        key_map = dict(projection.join_key_map or {})
        place = _stored(store, plan, projection.name, projection.version_tag, key_map)
        declared = {f.name: str(f.dtype) for f in plan.stored[place].view.features}
        for feature in projection.features:
            kind = declared.get(feature.name, str(feature.dtype))
            plan.stored[place].features[feature.name] = kind
            inputs[f"{projection.name}__{feature.name}"] = Place(place, feature.name)
    read = {place.stored for place in inputs.values()}
    keys = dict.fromkeys(c for i in sorted(read) for c in plan.stored[i].keys.values())
    made = OnDemandView(
        registered,
        view.projected,
        inputs,
        tuple(keys),
        dict(view.request_fields or {}),
        at_read=reads_time(registered),
    )
    plan.on_demand[view.projected] = made
    return made
