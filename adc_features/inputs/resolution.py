"""A declaration and what a service offers -> inputs ready to be fitted. Reads: Ranker,
ServiceSchema. Writes: ResolvedInputs.

A declared input comes before the rules for tags and types: the columns that it reads alone are
inferred no more. A cross and a match read columns of others beside them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adc_features.errors import InputError
from adc_features.inputs import declaration as d
from adc_features.inputs.candidates import (
    SECOND_ROLES,
    Candidate,
    Inferred,
    candidate_problems,
    completed_history,
    inferred,
    sid_columns,
    sid_views,
    with_source,
)
from adc_features.inputs.checks import (
    id_gate_problems,
    option_problems,
    ranker_problems,
    train_only_problems,
    tree_problems,
    type_problems,
)
from adc_features.inputs.declaration import Input, Ranker
from adc_features.inputs.kind_rules import VALUES, default_kind, why_left_out
from adc_features.inputs.references import Columns, UnknownName, near
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.rows import Side
from adc_features.inputs.schema import ServiceSchema
from adc_features.inputs.sides import joint, named_keys


@dataclass(frozen=True)
class LeftOut:
    """A column of the service that no input reads, and why."""

    name: str
    dtype: str
    side: Side
    reason: str


@dataclass(frozen=True)
class Resolution:
    """A ranker's inputs.

    Parameters
    ----------
    ranker : Ranker
        As declared, with the keys of both sides, and gates and the domain by the names of inputs;
        inputs tagged adc.gate are among the gates.
    inputs : tuple of ResolvedInput
        In the order of the service, then those declared.
    left_out : tuple of LeftOut
        In the order of the service.
    """

    ranker: Ranker
    inputs: tuple[ResolvedInput, ...]
    left_out: tuple[LeftOut, ...]


def resolve(
    ranker: Ranker, schema: ServiceSchema, *, columns: Mapping[str, str] | None = None
) -> tuple[ResolvedInput, ...]:
    """The inputs of a ranker; see `resolution`."""
    return resolution(ranker, schema, columns=columns).inputs


def resolution(
    ranker: Ranker, schema: ServiceSchema, *, columns: Mapping[str, str] | None = None
) -> Resolution:
    """What each feature of a service becomes.

    Parameters
    ----------
    ranker : Ranker
        The declaration.
    schema : ServiceSchema
        Of the ranker's service.
    columns : mapping of str to str, optional
        Columns of the label log that may be request fields: name -> Feast type.

    Returns
    -------
    Resolution
        Inputs with every option filled in, and what is left out.

    Raises
    ------
    InputError
        All that is wrong with the declaration, its tags and its names, in one message; where the
        sides of join keys are not known, that alone, as everything else depends on it.
    """
    keys, problems = named_keys(schema, ranker.user, ranker.item)
    if problems:  # what histories, crosses and sides lack then follows from it
        _refuse([*problems, *ranker_problems(ranker)], ranker)
    problems += ranker_problems(ranker)
    known = Columns(schema, keys, columns or {})
    rules = inferred(known)
    declared = _Declared(known, rules)
    for name, kind in ranker.declared.declared.items():
        declared.add(name, kind)
    problems += declared.problems
    kept = declared.left() if ranker.declared.inferred else []
    problems += rules.problems if ranker.declared.inferred else ()
    kept = _with_used_requests(known, kept, declared.inputs)
    problems += [p for c in kept for p in candidate_problems(c)]
    inputs = (*(c.input for c in kept), *declared.inputs)
    names = [i.name for i in inputs]
    problems += [f"two inputs are named {n!r}" for n in set(names) if names.count(n) > 1]
    problems += [f"input {i.name!r}: {p}" for i in inputs for p in _problems(i, known)]
    problems += train_only_problems(inputs)
    problems += id_gate_problems(inputs)
    problems += tree_problems(ranker.model, inputs)
    if not inputs:
        problems.append("it has no input; declare some, or infer()")
    tagged = [c.input.name for c in kept if c.gate]
    ranker = replace(ranker, user=keys.user, item=keys.item)
    ranker, wrong = _gated(ranker, inputs, tagged)
    problems += wrong
    _refuse(problems, ranker)
    return Resolution(ranker, inputs, _left_out(known, inputs, declared.skipped | rules.skipped))


def _refuse(problems: Iterable[str], ranker: Ranker) -> None:
    if problems := list(dict.fromkeys(problems)):
        name = ranker.name or ranker.service
        count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        raise InputError(
            f"{count} wrong with ranker {name!r} of service {ranker.service!r}:\n"
            + "\n".join(f"- {p}" for p in problems)
        )


class _Declared:
    """Inputs as declared, and what they take from the rules."""

    def __init__(self, columns: Columns, rules: Inferred) -> None:
        self._columns, self._rules = columns, rules
        self._taken: set[str] = set()
        self.skipped: set[str] = set()
        self.inputs: list[ResolvedInput] = []
        self.problems: list[str] = []

    def add(self, name: str, kind: d.AnyInput) -> None:
        """One entry of the declaration."""
        try:
            if isinstance(kind, d.Skip):
                self._skip(name)
            else:
                self._declare(name, kind)
        except UnknownName as error:
            self.problems.append(f"input {name!r}: {error}")

    def left(self) -> list[Candidate]:
        """What is inferred beside the declared inputs."""
        names = {i.name for i in self.inputs}
        return [
            c
            for c in self._rules.candidates
            if not c.owns & self._taken and c.input.name not in names
        ]

    def _skip(self, name: str) -> None:
        for candidate in self._rules.candidates:
            kind = candidate.input.kind
            codes = isinstance(kind, d.SemanticId) and kind.source == name
            if candidate.input.name == name or codes:
                gone = candidate.owns
                break
        else:
            gone = frozenset((self._found(name).name,))
        self._taken |= gone
        self.skipped |= gone

    def _found(self, name: str) -> SourceColumn:
        try:
            return self._columns.find(name)
        except UnknownName as error:
            names = [c.input.name for c in self._rules.candidates]
            if self._columns.schema.feature(name) or "may be any" in str(error):
                raise
            known = [*names, *self._columns.names()]
            raise UnknownName(
                f"it is skipped, but there is no such input{near(name, known)}"
            ) from error

    def _declare(self, name: str, kind: Input) -> None:
        if not isinstance(kind, Input):
            raise UnknownName(f"it is declared as {kind!r}; expected a kind such as number()")
        match kind:
            case d.SemanticId():
                kind, used = self._codes(name, kind)
                self._taken |= {c.name for role, c in used.items() if role != "count"}
            case d.Cross():
                kind, used = self._cross(kind)
            case d.Match():
                kind, used = self._match(name, kind)
            case d.Remainder():
                kind, used = self._remainder(name, kind)
            case d.ItemHistory():
                kind, used = self._history(name, kind)
                self._taken |= {used[r].name for r in ("source", "times", "labels") if r in used}
            case _:
                column = self._columns.find(kind.source or name, request=kind.request)
                kind, used = with_source(kind, column), {"source": column}
                self._taken.add(column.name)
        side = joint({c.side for c in used.values()})
        self.inputs.append(ResolvedInput(name, kind, used, side, "declared"))

    def _codes(self, name: str, kind: d.SemanticId) -> tuple[Input, dict[str, SourceColumn]]:
        views = sid_views(self._columns)
        view = kind.source or (name if name in views else None)
        if view is None and len(views) == 1:
            view = views[0]
        if view not in views:
            asked = f"{view!r} is no view of codes" if view else "which view of codes does it read?"
            raise UnknownName(
                f"{asked}; the service has {views}: name one, semantic_id(source=...)"
            )
        found = sid_columns(self._columns, view, weights=kind.weights, expected=kind.expected)
        if kind.weights and "weights" not in found:
            raise UnknownName(
                f"the service leaves out the weights of {view!r}; add sid_weight to it, or declare"
                " semantic_id(weights=False)"
            )
        if kind.expected and not {"weights", *SECOND_ROLES} <= set(found):
            raise UnknownName(
                f"the service has no second codes of {view!r}, or leaves out sid_weight; publish a"
                " generation of the tokenizer posterior_second, or declare"
                " semantic_id(expected=False)"
            )
        if kind.id_count is not None:
            found["count"] = self._columns.find(kind.id_count)
            kind = replace(kind, id_count=found["count"].name)
        return replace(kind, source=view), found

    def _cross(self, kind: d.Cross) -> tuple[Input, dict[str, SourceColumn]]:
        if len(kind.of) != 2 or not all(kind.of) or kind.of[0] == kind.of[1]:
            raise UnknownName(f"of={kind.of!r}; expected the names of two different categories")
        left, right = (self._either(part) for part in kind.of)
        return replace(kind, of=(left.name, right.name)), {"left": left, "right": right}

    def _either(self, name: str) -> SourceColumn:
        """A column, or the source of a declared input of this name."""
        for made in self.inputs:
            if made.name == name and "source" in made.columns:
                return made.columns["source"]
        try:
            return self._columns.find(name)
        except UnknownName:
            if name in self._columns.log:
                return self._columns.find(name, request=True)
            raise

    def _match(self, name: str, kind: d.Match) -> tuple[Input, dict[str, SourceColumn]]:
        if not kind.candidate:
            raise UnknownName("match needs the candidate's column: match(candidate=...)")
        used = {"source": self._columns.find(kind.source or name)}
        view = used["source"].name.rpartition("__")[0]
        used["candidate"] = self._columns.find(kind.candidate)
        if kind.values is not None:
            used["values"] = self._columns.find(kind.values, view=view)
        values = used["values"].name if "values" in used else None
        return replace(
            kind, source=used["source"].name, candidate=used["candidate"].name, values=values
        ), used

    def _remainder(self, name: str, kind: d.Remainder) -> tuple[Input, dict[str, SourceColumn]]:
        if not kind.times:
            raise UnknownName("a remainder needs the times of recent events: remainder(times=...)")
        used = {"source": self._columns.find(kind.source or name)}
        view = used["source"].name.rpartition("__")[0]
        for role in ("times", "values", "count"):
            if (named := getattr(kind, role)) is not None:
                used[role] = self._columns.find(named, view=view)
        names: dict[str, Any] = {role: column.name for role, column in used.items()}
        return replace(kind, **names), used

    def _history(self, name: str, kind: d.ItemHistory) -> tuple[Input, dict[str, SourceColumn]]:
        source = self._columns.find(kind.source or name)
        view = source.name.rpartition("__")[0]
        used = {"source": source}
        for role in ("times", "labels", "mean"):
            if (named := getattr(kind, role)) is not None:
                used[role] = self._columns.find(named, view=view)
        return completed_history(self._columns, kind, used)


def _with_used_requests(
    columns: Columns, kept: Sequence[Candidate], declared: Sequence[ResolvedInput]
) -> list[Candidate]:
    """Without request fields of on-demand views that no input reads."""
    inputs = [*(c.input for c in kept), *declared]
    read = {c.name for i in inputs for c in i.columns.values()}
    views = {f.view for f in columns.features() if f.key in read}
    asked = {
        name
        for v in columns.schema.views
        if v.projected in views
        for name in v.request_fields or {}
    }
    return [c for c in kept if c.input.side != "request" or not c.owns.isdisjoint(asked)]


def _problems(i: ResolvedInput, columns: Columns) -> Iterable[str]:
    yield from option_problems(i.kind, i.columns.get("source"))
    if i.origin == "declared":
        yield from type_problems(i.kind, i.columns)
    source = i.columns.get("source")
    if i.kind.optional and source and source.name in columns.schema.request_fields:
        yield (
            f"optional=True, but an on-demand view is computed from request field {source.name!r};"
            " it is always needed"
        )


def _gated(
    ranker: Ranker, inputs: Sequence[ResolvedInput], tagged: Sequence[str]
) -> tuple[Ranker, list[str]]:
    """The ranker with gates and domain by the names of inputs, and what is wrong with them."""
    by_name = {i.name: i for i in inputs}
    problems: list[str] = []

    def named(name: str, what: str) -> str:
        found = [by_name[name]] if name in by_name else _reading(name, inputs)
        if len(found) != 1:
            again = (
                f"; it may be any of {[i.name for i in found]}" if found else near(name, by_name)
            )
            problems.append(f"{what} {name!r} is no input{again}")
            return name
        if found[0].kind.train_only:
            problems.append(f"{what} {name!r} is train-only: serving does not know it")
        elif isinstance(found[0].kind, d.ItemHistory | d.Match):
            problems.append(f"{what} {name!r} depends on each candidate's history; leave it out")
        elif what == "domain" and not isinstance(found[0].kind, d.Category | d.Cross):
            problems.append(f"domain {name!r} is no category; name one, such as a country")
        return found[0].name

    gates = tuple(dict.fromkeys([*(named(g, "gate") for g in ranker.gates), *tagged]))
    domain = None if ranker.domain is None else named(ranker.domain, "domain")
    return replace(ranker, gates=gates, domain=domain), problems


def _reading(name: str, inputs: Sequence[ResolvedInput]) -> list[ResolvedInput]:
    """Inputs whose one source has this key, or this own name."""
    sources = [(i, i.columns["source"].name) for i in inputs if "source" in i.columns]
    exact = [i for i, key in sources if key == name]
    return exact or [i for i, key in sources if key.rpartition("__")[2] == name]


def _left_out(
    columns: Columns, inputs: Sequence[ResolvedInput], skipped: Iterable[str]
) -> tuple[LeftOut, ...]:
    read = {c.name for i in inputs for c in i.columns.values()}
    sids = {i.kind.source for i in inputs if isinstance(i.kind, d.SemanticId)}
    labels = {v.projected for v in columns.schema.views if v.kind == "label"}
    skipped = set(skipped)
    out = []
    for f in columns.schema.features:
        if f.key in read:
            continue
        column = columns.of_feature(f)
        if f.view in labels:
            reason = "a label, known only after its row: name it a task"
        elif f.key in skipped:
            reason = "skipped, as declared or tagged"
        elif f.view in sids:
            reason = f"beside the codes of {f.view!r}; declare it to read it"
        elif default_kind(f.dtype) is not None:
            reason = "not declared"
        else:
            reason = why_left_out(f.dtype)
        out.append(LeftOut(f.key, f.dtype, column.side, reason))
    for key, dtype in columns.schema.join_keys.items():
        if key not in read:
            reason = "not declared" if dtype in VALUES else why_left_out(dtype)
            reason = "skipped, as declared or tagged" if key in skipped else reason
            out.append(LeftOut(key, dtype, columns.keys.key_side(key), reason))
    return tuple(out)
