"""Does a registry still offer what a ranker was trained on? Reads: pins of a manifest,
ServiceSchema. Writes: pins, differences.

Compared is what changes a value or its meaning: types, keys, definitions of views. Tags, owner and
description count only where the declaration would now resolve otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs.declaration import Ranker
from adc_features.inputs.facts import (
    input_from_facts,
    input_to_facts,
    ranker_from_facts,
    ranker_to_facts,
)
from adc_features.inputs.references import near
from adc_features.inputs.resolution import resolution
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.schema import ServiceSchema, ViewSchema

Severity = Literal["fine", "warn", "refuse"]
Use = Literal["serve", "retrain"]
Accept = Literal["inputs", "definition"]
WIDER = {"Int32": "Int64", "Float32": "Float64"}
"""Types that hold every value of another."""
_CODES = ("generation", "codebook_hash")


@dataclass(frozen=True)
class Difference:
    """One thing that the registry has otherwise than when the ranker was trained.

    Parameters
    ----------
    what : str
        "added", "resolves otherwise", "gone", "type", "keys", "definition" or "codebook".
    inputs : tuple of str
        The inputs that it concerns; those start anew where a retraining accepts it.
    message : str
        Input, old, new and what to do.
    serve, retrain : str
        "fine", "warn" (goes on, and says so) or "refuse".
    accept : str, optional
        What a user may accept so that it is refused no more: "inputs" (--accept-inputs, for
        retraining) or "definition" (--accept-definition, for serving).
    """

    what: str
    inputs: tuple[str, ...]
    message: str
    serve: Severity
    retrain: Severity
    accept: Accept | None = None


def pins(schema: ServiceSchema, specs: Sequence[ResolvedInput], ranker: Ranker) -> dict[str, Any]:
    """What a ranker's manifest holds of its inputs, as JSON values.

    Parameters
    ----------
    schema : ServiceSchema
        That the inputs were resolved with.
    specs : sequence of ResolvedInput
        The inputs.
    ranker : Ranker
        The declaration, of `Resolution.ranker`.
    """
    read = _read(specs)
    features = [f for f in schema.features if f.key in read]
    views = [v for v in schema.views if v.projected in {f.view for f in features}]
    keys = {k for v in views for k in v.join_keys} | set(read)
    request = [c for i in specs for c in i.columns.values() if c.side == "request"]
    return {
        "project": schema.project,
        "service": schema.service,
        "ranker": ranker_to_facts(ranker),
        "inputs": [input_to_facts(i) for i in specs],
        "offered": [f.key for f in schema.features],
        "features": {
            f.key: {
                "view": f.view,
                "dtype": f.dtype,
                "vector_length": f.vector_length,
                **{tag: f.tags[tag] for tag in _CODES if tag in f.tags},
            }
            for f in features
        },
        "views": {v.projected: _view_facts(v) for v in views},
        "join_keys": {k: t for k, t in schema.join_keys.items() if k in keys},
        "request": {
            c.name: {"dtype": c.dtype, "on_demand": c.name in schema.request_fields}
            for c in request
        },
    }


def differences(pinned: Mapping[str, Any], schema: ServiceSchema | None) -> list[Difference]:
    """What is otherwise now, the gravest first.

    Parameters
    ----------
    pinned : mapping
        Of `pins`.
    schema : ServiceSchema or None
        The service as it is applied now; None where it is gone.

    Raises
    ------
    ArtifactError
        The pins cannot be read.
    """
    try:
        specs = [input_from_facts(i) for i in pinned["inputs"]]
        if schema is None:
            return [_service_gone(pinned, specs)]
        found = [
            *_features(pinned, specs, schema),
            *_keys(pinned, specs, schema),
            *_request(pinned, specs, schema),
            *_views(pinned, specs, schema),
        ]
        found += _resolved(pinned, specs, schema, {n for f in found for n in f.inputs})
        found += _added(pinned, schema)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"the pinned inputs of a ranker cannot be read ({type(error).__name__}: {error}); the"
            " manifest was altered, or written by another version: train again"
        ) from error
    order = ("refuse", "warn", "fine")
    return sorted(found, key=lambda f: (order.index(f.serve), order.index(f.retrain)))


def refuse(found: Iterable[Difference], *, use: Use, accept: Iterable[Accept] = ()) -> None:
    """Raise InputError with every difference that a use does not go on with.

    accept: what the user accepts; see `Difference.accept`.
    """
    accept = set(accept)
    refused = [f for f in found if getattr(f, use) == "refuse" and f.accept not in accept]
    if refused:
        options = sorted({f"--accept-{f.accept}" for f in refused if _lifts(f, use)})
        advice = f"\nTo go on all the same: {', '.join(options)}" if options else ""
        what = "serve" if use == "serve" else "retrain"
        raise InputError(
            f"the registry is not what the ranker was trained on; refusing to {what}:\n"
            + "\n".join(f"- {f.message}" for f in refused)
            + advice
        )


def _lifts(found: Difference, use: Use) -> bool:
    return found.accept == ("definition" if use == "serve" else "inputs")


def _view_facts(view: ViewSchema) -> dict[str, Any]:
    return {
        "name": view.name,
        "kind": view.kind,
        "join_keys": list(view.join_keys),
        "join_key_map": dict(view.join_key_map),
        "ttl_seconds": view.ttl_seconds,
        "definition": view.definition,
        "parts": dict(view.parts),
        "sources": list(view.sources),
        "request_fields": dict(view.request_fields or {}),
    }


def _read(specs: Iterable[ResolvedInput]) -> dict[str, list[str]]:
    """Column -> the inputs that read it."""
    read: dict[str, list[str]] = {}
    for spec in specs:
        for column in spec.columns.values():
            names = read.setdefault(column.name, [])
            if spec.name not in names:
                names.append(spec.name)
    return read


def _called(names: Sequence[str]) -> str:
    return f"input{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _service_gone(pinned: Mapping[str, Any], specs: Sequence[ResolvedInput]) -> Difference:
    return Difference(
        "gone",
        tuple(s.name for s in specs),
        f"service {pinned['service']!r} of project {pinned['project']!r} is gone; apply it again",
        "refuse",
        "refuse",
    )


def _features(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    read = _read(specs)
    for key, old in pinned["features"].items():
        names = tuple(read[key])
        who = f"{_called(names)}: {key}"
        now = schema.feature(key)
        if now is None:
            yield _gone(who, names, key, old["dtype"], schema)
        elif now.dtype != old["dtype"]:
            yield _retyped(who, names, old["dtype"], now.dtype)
        elif now.vector_length != old["vector_length"]:
            yield Difference(
                "type",
                names,
                f"{who} was of length {old['vector_length']}, now {now.vector_length}; give it back"
                " its length, or train the input anew",
                "refuse",
                "refuse",
                "inputs",
            )
        elif changed := [t for t in _CODES if old.get(t) != now.tags.get(t) and t in old]:
            told = ", ".join(f"{t} {old[t]!r} to {now.tags.get(t)!r}" for t in changed)
            yield Difference(
                "codebook",
                names,
                f"{who} holds codes of another codebook now ({told}); serve the ranker of that"
                " generation, or train one",
                "refuse",
                "warn",
            )


def _gone(
    who: str, names: tuple[str, ...], name: str, dtype: str, schema: ServiceSchema
) -> Difference:
    alike = [f.key for f in schema.features if f.dtype == dtype]
    others = near(name, alike) if alike else f"; none of service {schema.service!r} is {dtype}"
    return Difference(
        "gone",
        names,
        f"{who} ({dtype}) is gone from service {schema.service!r}, or has another name{others}",
        "refuse",
        "refuse",
    )


def _retyped(who: str, names: tuple[str, ...], old: str, new: str) -> Difference:
    if WIDER.get(old) == new:
        return Difference(
            "type",
            names,
            f"{who} was {old} and is {new} now, which holds every {old}; a retraining pins it",
            "warn",
            "fine",
        )
    return Difference(
        "type",
        names,
        f"{who} was {old} and is {new} now; give it back its type, or train the input anew",
        "refuse",
        "refuse",
        "inputs",
    )


def _keys(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    views = {v.projected: v for v in schema.views}
    for key, old in pinned["join_keys"].items():
        now = schema.join_keys.get(key)
        names = _by_key(pinned, specs, key)
        told = f"{_called(names)}: join key {key!r} was {old} and is"
        if now is None and _moved(pinned, views, key):
            continue  # the view says where it went
        if now != old:
            end = f"{now} now" if now else f"gone{near(key, schema.join_keys)}"
            yield Difference("keys", names, f"{told} {end}", "refuse", "refuse", "inputs")
    for projected, facts in pinned["views"].items():
        view = views.get(projected)
        if view is None:
            continue
        names = _by_view(pinned, specs, projected)
        before = (sorted(facts["join_keys"]), facts["join_key_map"])
        after = (sorted(view.join_keys), dict(view.join_key_map))
        if before != after:
            yield Difference(
                "keys",
                names,
                f"{_called(names)}: view {projected!r} was looked up by {_looked_up(*before)}, now"
                f" by {_looked_up(*after)}",
                "refuse",
                "refuse",
                "inputs",
            )


def _moved(pinned: Mapping[str, Any], views: Mapping[str, ViewSchema], key: str) -> bool:
    """Is a key gone because views that had it are looked up by others now?"""
    return any(
        key in facts["join_keys"] and name in views and key not in views[name].join_keys
        for name, facts in pinned["views"].items()
    )


def _looked_up(keys: Sequence[str], renamed: Mapping[str, str]) -> str:
    return f"{list(keys)}" + (f" (mapped {dict(renamed)})" if renamed else "")


def _by_view(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], projected: str
) -> tuple[str, ...]:
    of_view = {key for key, f in pinned["features"].items() if f["view"] == projected}
    return tuple(s.name for s in specs if any(c.name in of_view for c in s.columns.values()))


def _by_key(pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], key: str) -> tuple[str, ...]:
    views = [name for name, facts in pinned["views"].items() if key in facts["join_keys"]]
    by_view = {n for view in views for n in _by_view(pinned, specs, view)}
    return tuple(
        s.name for s in specs if s.name in by_view or any(c.name == key for c in s.columns.values())
    )


def _request(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    read = _read(specs)
    for name, old in pinned["request"].items():
        if not old["on_demand"]:
            continue  # a column of the label log: no business of the registry
        names, now = tuple(read[name]), schema.request_fields.get(name)
        who = f"{_called(names)}: request field {name}"
        if now is None:
            yield Difference(
                "gone",
                names,
                f"{who} ({old['dtype']}) is read by no on-demand view now"
                f"{near(name, schema.request_fields)}",
                "refuse",
                "refuse",
            )
        elif now != old["dtype"]:
            yield _retyped(who, names, old["dtype"], now)


def _views(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    views = {v.projected: v for v in schema.views}
    for projected, old in pinned["views"].items():
        if (now := views.get(projected)) is None:
            continue  # each of its features is gone, and said to be
        names = _by_view(pinned, specs, projected)
        told = []
        if now.ttl_seconds != old["ttl_seconds"]:
            told.append(f"ttl {_ttl(old['ttl_seconds'])} to {_ttl(now.ttl_seconds)}")
        parts = {*old["parts"], *now.parts} - {"entity keys"}
        changed = [p for p in sorted(parts) if old["parts"].get(p) != now.parts.get(p)]
        told += [
            f"{part} {_short(old['parts'], part)} to {_short(now.parts, part)}" for part in changed
        ]
        if now.kind != old["kind"]:
            told.append(f"kind {old['kind']} to {now.kind}")
        if told:
            yield Difference(
                "definition",
                names,
                f"{_called(names)}: view {projected!r} is defined otherwise ({'; '.join(told)});"
                " the values may mean something else",
                "refuse",
                "warn",
                "definition",
            )


def _ttl(seconds: float) -> str:
    return f"{seconds:g} s" if seconds else "none"


def _short(parts: Mapping[str, str], name: str) -> str:
    return f"{parts[name][:8]}..." if name in parts else "none"


def _resolved(
    pinned: Mapping[str, Any],
    specs: Sequence[ResolvedInput],
    schema: ServiceSchema,
    explained: set[str],
) -> Iterator[Difference]:
    """Inputs that the declaration would resolve otherwise now, for another reason than those that
    are told of already."""
    if any(s.name in explained for s in specs) and len(explained) == len(specs):
        return
    ranker = ranker_from_facts(pinned["ranker"])
    log = {n: r["dtype"] for n, r in pinned["request"].items() if not r["on_demand"]}
    try:
        now = resolution(ranker, schema, columns=log)
    except InputError as error:
        if not explained:
            yield _otherwise((), f"the declaration does not resolve any more: {error}")
        return
    again = {i.name: i for i in now.inputs}
    for spec in specs:
        if spec.name in explained:
            continue
        other = again.get(spec.name)
        if other is None:
            yield _otherwise((spec.name,), f"input {spec.name!r} would be left out now")
        elif (other.kind, other.columns) != (spec.kind, spec.columns):
            yield _otherwise(
                (spec.name,),
                f"input {spec.name!r} would be {_told(other, spec)} now, and was"
                f" {_told(spec, other)}",
            )
    if gates := [g for g in now.ranker.gates if g not in ranker.gates and g not in explained]:
        yield _otherwise(tuple(gates), f"inputs {gates} would be gates now")


def _otherwise(names: tuple[str, ...], message: str) -> Difference:
    return Difference(
        "resolves otherwise",
        names,
        f"{message}; tags changed, and the ranker keeps what it was trained with",
        "fine",
        "refuse",
        "inputs",
    )


def _told(spec: ResolvedInput, other: ResolvedInput) -> str:
    """A resolved input in words: its kind, and the options in which it differs from another."""
    facts, others = input_to_facts(spec), input_to_facts(other)
    differ = {
        name: value
        for name, value in facts["options"].items()
        if others["options"].get(name) != value or facts["kind"] != others["kind"]
    }
    if facts["kind"] != others["kind"]:
        return f"a {facts['kind']}"
    options = ", ".join(f"{name}={value!r}" for name, value in differ.items())
    return f"{facts['kind']}({options})"


def _added(pinned: Mapping[str, Any], schema: ServiceSchema) -> Iterator[Difference]:
    labels = {v.projected for v in schema.views if v.kind == "label"}
    offered = set(pinned["offered"])
    new = [f.key for f in schema.features if f.key not in offered and f.view not in labels]
    if new:
        yield Difference(
            "added", (), f"new features could be inputs: {new}; train to use them", "fine", "warn"
        )
