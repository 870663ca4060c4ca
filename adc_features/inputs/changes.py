"""How a service differs from what a ranker was trained on: types, keys, definitions, request
fields. Reads: pins, ServiceSchema. Writes: differences.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adc_features.inputs.kind_rules import text_alike
from adc_features.inputs.references import near
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.schema import ServiceSchema, ViewSchema

Severity = Literal["fine", "warn", "refuse"]
Use = Literal["serve", "retrain"]
Accept = Literal["inputs"]
WIDER = {"Int32": "Int64", "Float32": "Float64"}
"""Types that hold every value of another."""
CODES = ("generation", "codebook_hash")
"""Tags that name the codebook of a view of codes."""


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
        What a user may accept so that a retraining goes on: "inputs" (--accept-inputs).
    """

    what: str
    inputs: tuple[str, ...]
    message: str
    serve: Severity
    retrain: Severity
    accept: Accept | None = None


def readers(specs: Iterable[ResolvedInput]) -> dict[str, list[str]]:
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


def service_gone(pinned: Mapping[str, Any], specs: Sequence[ResolvedInput]) -> Difference:
    """The service itself is no more."""
    return Difference(
        "gone",
        tuple(s.name for s in specs),
        f"service {pinned['service']!r} of project {pinned['project']!r} is gone; apply it again",
        "refuse",
        "refuse",
    )


def feature_changes(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    """Features that are gone, of another type or length, or codes of another codebook."""
    read = readers(specs)
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
        elif changed := [t for t in CODES if old.get(t) != now.tags.get(t) and t in old]:
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


def key_changes(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    """Join keys of another type, and views that are looked up by others."""
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


def request_changes(
    pinned: Mapping[str, Any],
    specs: Sequence[ResolvedInput],
    schema: ServiceSchema,
    log: Mapping[str, str],
) -> Iterator[Difference]:
    """Request fields of on-demand views that are gone or of another type; and those that are
    columns of the label log, where text became something else or the other way round: numbers of
    any width are read alike. log: its columns -> Feast type.
    """
    read = readers(specs)
    for name, old in pinned["request"].items():
        names = tuple(read[name])
        if not old["on_demand"]:
            if name in log and not text_alike(old["dtype"], log[name]):
                who = f"{_called(names)}: column {name} of the label log"
                yield _retyped(who, names, old["dtype"], log[name])
            continue
        now = schema.request_fields.get(name)
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


def view_changes(
    pinned: Mapping[str, Any], specs: Sequence[ResolvedInput], schema: ServiceSchema
) -> Iterator[Difference]:
    """Views that are defined otherwise: ttl, source, function, sources."""
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
            )


def _ttl(seconds: float) -> str:
    return f"{seconds:g} s" if seconds else "none"


def _short(parts: Mapping[str, str], name: str) -> str:
    return f"{parts[name][:8]}..." if name in parts else "none"
