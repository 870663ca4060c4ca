"""What each feature, key and request field of a service becomes by the rules. Reads: a service's
columns and tags. Writes: candidates for inputs; a declaration may replace them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from adc_features.inputs import declaration as d
from adc_features.inputs.checks import type_problems
from adc_features.inputs.declaration import Input
from adc_features.inputs.kind_rules import VALUES, default_kind, element
from adc_features.inputs.references import Columns, UnknownName
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.schema import FeatureSchema
from adc_features.inputs.sides import joint
from adc_features.inputs.tags import Tagged, applied, tagged

SID_COLUMNS = {
    "codes": "sid",
    "weights": "sid_weight",
    "reliability": "reliability",
    "second": "sid_second",
    "second_weights": "sid_second_weight",
}
"""Role -> feature of a published view of codes."""
SECOND_ROLES = ("second", "second_weights")
"""Those of second codes, which only inputs read that ask for them."""
_SID_TAGS = ("generation", "codebook_hash")
ID_DROPOUT = 0.1
"""Of ids of users and items: rarer values than other categories, so that "unknown" is met more."""


@dataclass(frozen=True)
class Candidate:
    """An input by the rules.

    owns: columns that no other inferred input reads. gate: tagged adc.gate. problems: of its tags.
    """

    input: ResolvedInput
    owns: frozenset[str]
    gate: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inferred:
    """candidates: in the order of the service. skipped: features that tags leave out. problems: of
    tags that belong to no input."""

    candidates: tuple[Candidate, ...]
    skipped: frozenset[str]
    problems: tuple[str, ...]


def inferred(columns: Columns) -> Inferred:
    """What the rules make of every column of a service."""
    keys = [_key(columns, key) for key, kind in columns.schema.join_keys.items() if kind in VALUES]
    found: list[Candidate] = []
    histories: dict[tuple[str, str], list[tuple[FeatureSchema, Tagged]]] = {}
    skipped: set[str] = set()
    problems: list[str] = []
    views = sid_views(columns)
    for feature in columns.features():
        if feature.view in views:
            continue
        said, wrong = tagged(feature)
        wrong += _side_problems(columns, feature, said)
        if said.history is not None:
            histories.setdefault((feature.view, said.history), []).append((feature, said))
            problems += wrong
        elif said.kind is None:
            skipped |= {feature.key} if said.skip else set()
            problems += wrong
        else:
            found.append(_single(columns, feature, said, wrong))
    for (view, group), members in histories.items():
        found.append(_history(columns, view, group, members))
    codes = [_codes(columns, view, len(views)) for view in views]
    fields = [_request(columns, name) for name in columns.schema.request_fields]
    request = [c for c in fields if c is not None]
    return Inferred((*keys, *found, *codes, *request), frozenset(skipped), tuple(problems))


def sid_views(columns: Columns) -> list[str]:
    """Projected names of the views of codes that this package published."""
    return [
        f.view
        for f in columns.features()
        if f.name == SID_COLUMNS["codes"] and all(tag in f.tags for tag in _SID_TAGS)
    ]


def sid_columns(
    columns: Columns, view: str, *, weights: bool, expected: bool = False
) -> dict[str, SourceColumn]:
    """Role -> column of a view of codes, as far as the service projects them. expected: of both
    codes of a position and their probabilities.
    """
    read = {"codes"} | (set(SID_COLUMNS) - {*SECOND_ROLES} if weights else set())
    read |= {"weights", *SECOND_ROLES} if expected else set()
    found = {f.name: f for f in columns.features() if f.view == view}
    return {
        role: columns.of_feature(found[name])
        for role, name in SID_COLUMNS.items()
        if name in found and role in read
    }


def item_codes(columns: Columns) -> str:
    """The one view of codes of the candidate. Raises UnknownName where there is none, or two."""
    views = [v for v in sid_views(columns) if columns.keys.side(columns.schema.view(v)) == "item"]
    if len(views) == 1:
        return views[0]
    raise UnknownName(
        f"its items are read as codes, and service {columns.schema.service!r} has"
        f" {len(views)} views of the candidate's codes {views}; expected one, or codes=False"
    )


def item_key(columns: Columns) -> str:
    """The candidate's only join key. Raises UnknownName where there are none or several."""
    if len(columns.keys.item) == 1:
        return columns.keys.item[0]
    raise UnknownName(
        f"which join key is the candidate item? The item side has {list(columns.keys.item)}; name"
        " it: item_history(candidate=...)"
    )


def _key(columns: Columns, key: str) -> Candidate:
    column = columns.of_key(key)
    kind = d.Category(source=key, dropout=ID_DROPOUT)
    made = ResolvedInput(key, kind, {"source": column}, column.side, "type")
    return Candidate(made, frozenset((key,)))


def _single(
    columns: Columns, feature: FeatureSchema, said: Tagged, problems: Iterable[str]
) -> Candidate:
    assert said.kind is not None
    column = columns.of_feature(feature)
    kind = with_source(said.kind, column)
    made = ResolvedInput(feature.key, kind, {"source": column}, column.side, said.origin)
    return Candidate(made, frozenset((feature.key,)), said.gate, tuple(problems))


def with_source(kind: Input, column: SourceColumn) -> Input:
    """The kind with what its column tells filled in."""
    kind = replace(kind, source=column.name, request=column.side == "request")
    if isinstance(kind, d.Vector) and kind.length is None and column.vector_length:
        return replace(kind, length=column.vector_length)
    return kind


def _request(columns: Columns, name: str) -> Candidate | None:
    column = columns.of_request(name)
    assert column is not None
    if (kind := default_kind(column.dtype)) is None:
        return None
    kind = with_source(kind, column)
    made = ResolvedInput(name, kind, {"source": column}, "request", "type")
    return Candidate(made, frozenset((name,)))


def _codes(columns: Columns, view: str, count: int) -> Candidate:
    found = sid_columns(columns, view, weights=True)
    kind = d.SemanticId(source=view, weights="weights" in found)
    roles = sid_columns(columns, view, weights=kind.weights)
    name = "sid" if count == 1 else view
    made = ResolvedInput(name, kind, roles, joint({c.side for c in roles.values()}), "tag")
    owns = frozenset(c.name for c in roles.values())
    tags = [f.tags for f in columns.features() if f.key in owns]
    gate = any(t.get("adc.gate", "").lower() == "true" for t in tags)
    return Candidate(made, owns, gate)


def _history(
    columns: Columns, view: str, group: str, members: list[tuple[FeatureSchema, Tagged]]
) -> Candidate:
    roles, problems = _roles(view, group, members)
    options = {k: v for _, said in members for k, v in said.options.items()}
    kind: Input = d.ItemHistory(codes=_has_item_codes(columns))
    for feature, said in members:
        kind, wrong = applied(kind, options, feature=feature, own=said.own)
        problems += wrong
    used: dict[str, SourceColumn] = {
        {"ids": "source"}.get(role, role): columns.of_feature(f) for role, f in roles.items()
    }
    assert isinstance(kind, d.ItemHistory)
    try:
        kind, used = completed_history(columns, kind, used)
    except UnknownName as error:
        problems.append(f"history {group!r} of view {view!r}: {error}")
    side = joint({c.side for c in used.values()})
    made = ResolvedInput(f"{view}__{group}", kind, used, side, "tag")
    gate = any(said.gate for _, said in members)
    return Candidate(made, frozenset(f.key for f, _ in members), gate, tuple(problems))


def completed_history(
    columns: Columns, kind: d.ItemHistory, used: Mapping[str, SourceColumn]
) -> tuple[d.ItemHistory, dict[str, SourceColumn]]:
    """A history with its candidate, and with the candidate's codes where it reads codes."""
    candidate = columns.find(kind.candidate or item_key(columns))
    whole = {**used, "candidate": candidate}
    if kind.codes:
        whole |= sid_columns(columns, item_codes(columns), weights=True)
    return replace(
        kind,
        source=whole["source"].name if "source" in whole else None,
        times=whole["times"].name if "times" in whole else None,
        labels=whole["labels"].name if "labels" in whole else None,
        mean=whole["mean"].name if "mean" in whole else None,
        candidate=candidate.name,
    ), whole


def _has_item_codes(columns: Columns) -> bool:
    try:
        item_codes(columns)
    except UnknownName:
        return False
    return True


def _roles(
    view: str, group: str, members: list[tuple[FeatureSchema, Tagged]]
) -> tuple[dict[str, FeatureSchema], list[str]]:
    """Which list holds the ids, the times and the labels: by adc.role, or by type where that tells.

    An Int64 list is the ids unless texts are: moments as integers need adc.role=times.
    """
    roles: dict[str, FeatureSchema] = {}
    problems = []
    rest = []
    for feature, said in members:
        role = said.role or _role_by_type(feature.dtype)
        if role is None:
            rest.append(feature)
        elif role in roles:
            problems.append(
                f"history {group!r} of view {view!r}: {roles[role].key} and {feature.key} both look"
                f" like its {role}; say which is what by adc.role=ids, times or labels"
            )
        else:
            roles[role] = feature
    for feature in rest:
        if "ids" in roles or len(rest) > 1:
            problems.append(
                f"history {group!r} of view {view!r}: {feature.key} ({feature.dtype}) may be ids,"
                " times or labels; say which by the tag adc.role"
            )
        else:
            roles["ids"] = feature
    if "ids" not in roles and not problems:
        problems.append(
            f"history {group!r} of view {view!r} has no list of item ids; tag it adc.kind=history,"
            f" adc.group={group}, adc.role=ids"
        )
    return roles, problems


def _role_by_type(dtype: str) -> str | None:
    if element(dtype) in ("String", "Uuid", "TimeUuid"):
        return "ids"
    if element(dtype) == "UnixTimestamp":
        return "times"
    return "labels" if element(dtype) in ("Float32", "Float64") else None


def _side_problems(columns: Columns, feature: FeatureSchema, said: Tagged) -> list[str]:
    view = columns.schema.view(feature.view)
    side = columns.keys.side(view)
    if said.side in (None, side):
        return []
    return [
        f"tag adc.side of {feature.key} is {said.side!r}, but view {feature.view!r} is looked up by"
        f" {list(view.join_keys)}, which makes it {side!r}; correct the tag, or user=, item="
    ]


def candidate_problems(candidate: Candidate) -> list[str]:
    """What is wrong with the tags of a candidate, and with the types of its columns."""
    i = candidate.input
    return [
        *candidate.problems,
        *(f"input {i.name!r}: {p}" for p in type_problems(i.kind, i.columns)),
    ]
