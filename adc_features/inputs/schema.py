"""What a feature service offers, as plain values. Made by the store, which reads Feast's registry.

Nothing here imports feast, so a ranker's manifest can hold it and a test can write it by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ViewKind = Literal["batch", "stream", "on_demand", "label"]


@dataclass(frozen=True)
class ViewSchema:
    """One view of a service, as the service projects it.

    Parameters
    ----------
    name : str
        The view's name in the registry.
    projected : str
        The name under which its features are served: the alias, with `@vN` where a version is
        pinned.
    kind : str
        "batch", "stream", "on_demand" or "label".
    join_keys : tuple of str
        The columns of entity rows that it is looked up by, after the projection's join key map;
        empty for a view without entities. Of an on-demand view: the union of its sources'.
    join_key_map : mapping of str to str
        Key of the view -> column of the entity rows, where they differ.
    ttl_seconds : float
        How long a value is valid; 0 for ever.
    definition : str
        sha256 (hex) of what the values mean: source and query, or an on-demand view's function text
        with its mode and sources. Tags, owner and description are left out.
    sources : tuple of str
        Projected names of the views that an on-demand view reads.
    request_fields : mapping of str to str
        Fields that an on-demand view reads of the request: name -> Feast type.
    parts : mapping of str to str
        What `definition` is made of: "source", "fields", "function", "sources" ... -> sha256 of
        it, so that a difference can be named.
    """

    name: str
    projected: str
    kind: ViewKind
    join_keys: tuple[str, ...]
    join_key_map: Mapping[str, str]
    ttl_seconds: float
    definition: str
    sources: tuple[str, ...] = ()
    request_fields: Mapping[str, str] | None = None
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureSchema:
    """One feature of a service.

    Parameters
    ----------
    key : str
        `<projected view>__<feature>`, as Feast names columns with full feature names.
    view : str
        `ViewSchema.projected` of its view.
    name : str
        The feature's own name.
    dtype : str
        The Feast type as text: "Float32", "Array(String)", "Set(Int64)", "UnixTimestamp" ...
    tags : mapping of str to str
        The view's tags, overridden by the field's.
    vector_length : int
        `Field.vector_length`; 0 where none is declared.
    own_tags : mapping of str to str
        The field's tags alone: an option there must fit the feature's kind, one of the view is read
        where it fits.
    """

    key: str
    view: str
    name: str
    dtype: str
    tags: Mapping[str, str]
    vector_length: int = 0
    own_tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceSchema:
    """A feature service of an applied repository.

    Parameters
    ----------
    project, service : str
        Their names in the registry.
    views : tuple of ViewSchema
        In the order of the service.
    features : tuple of FeatureSchema
        In the order of the service; keys are unique.
    join_keys : mapping of str to str
        Every column that entity rows need -> Feast type; not those of label views alone, which no
        input reads.
    """

    project: str
    service: str
    views: tuple[ViewSchema, ...]
    features: tuple[FeatureSchema, ...]
    join_keys: Mapping[str, str]

    def feature(self, key: str) -> FeatureSchema | None:
        """The feature of this key, None where there is none."""
        return next((f for f in self.features if f.key == key), None)

    def view(self, projected: str) -> ViewSchema:
        """The view that is served under this name."""
        return next(v for v in self.views if v.projected == projected)

    @property
    def request_fields(self) -> dict[str, str]:
        """What on-demand views read of the request: name -> Feast type."""
        return {n: t for v in self.views for n, t in (v.request_fields or {}).items()}
