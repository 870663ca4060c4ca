"""Does a registry still offer what a ranker was trained on? Reads: pins of a manifest,
ServiceSchema. Writes: pins, differences.

Compared is what changes a value or its meaning: types, keys, definitions of views. Tags, owner and
description count only where the declaration would now resolve otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs.changes import (
    CODES,
    Accept,
    Difference,
    Use,
    feature_changes,
    key_changes,
    readers,
    request_changes,
    service_gone,
    view_changes,
)
from adc_features.inputs.declaration import Ranker
from adc_features.inputs.facts import (
    input_from_facts,
    input_to_facts,
    ranker_from_facts,
    ranker_to_facts,
)
from adc_features.inputs.resolution import resolution
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.schema import ServiceSchema, ViewSchema

__all__ = ["Difference", "differences", "pins", "refuse"]


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
    read = readers(specs)
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
                **{tag: f.tags[tag] for tag in CODES if tag in f.tags},
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


def differences(
    pinned: Mapping[str, Any],
    schema: ServiceSchema | None,
    *,
    log: Mapping[str, str] | None = None,
) -> list[Difference]:
    """What is otherwise now, the gravest first.

    Parameters
    ----------
    pinned : mapping
        Of `pins`.
    schema : ServiceSchema or None
        The service as it is applied now; None where it is gone.
    log : mapping of str to str, optional
        Columns of a label log that is to be read -> Feast type: "12" of a log is not the 12 that
        its ranker was trained on.

    Raises
    ------
    ArtifactError
        The pins cannot be read.
    """
    try:
        specs = [input_from_facts(i) for i in pinned["inputs"]]
        if schema is None:
            return [service_gone(pinned, specs)]
        found = [
            *feature_changes(pinned, specs, schema),
            *key_changes(pinned, specs, schema),
            *request_changes(pinned, specs, schema, log or {}),
            *view_changes(pinned, specs, schema),
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

    accept: what the user accepts, for a retraining; see `Difference.accept`.
    """
    accept = set(accept) if use == "retrain" else set()
    refused = [f for f in found if getattr(f, use) == "refuse" and f.accept not in accept]
    if refused:
        raise InputError(
            f"what is read is not what the ranker was trained on; refusing to {use}:\n"
            + "\n".join(f"- {f.message}" for f in refused)
            + _advice(refused, use)
        )


def _advice(refused: Iterable[Difference], use: Use) -> str:
    """What to do about what is refused, as a line of its own; nothing where no command helps."""
    if use == "serve":
        return (
            "\nApply again what the ranker was trained on, or train on what is applied now:"
            " `adc retrain` where it accepts the change, else `adc train`"
        )
    options = sorted({f"--accept-{f.accept}" for f in refused if f.accept})
    return f"\nTo go on all the same: {', '.join(options)}" if options else ""


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


def _resolved(
    pinned: Mapping[str, Any],
    specs: Sequence[ResolvedInput],
    schema: ServiceSchema,
    explained: set[str],
) -> Iterator[Difference]:
    """Inputs that the declaration would resolve otherwise now, for another reason than those that
    are told of already."""
    if explained >= {s.name for s in specs}:
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
