"""Declarations and resolved inputs as JSON, for manifests. Reads, writes: values.

What is read is what was written: `ranker_from_facts(ranker_to_facts(r)) == r`.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from adc_features.errors import ArtifactError
from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import AnyInput, Input, Inputs, Ranker, Task
from adc_features.inputs.resolved import ResolvedInput, SourceColumn

_TUPLES = ("clip", "of", "gates", "user", "item")


def ranker_to_facts(ranker: Ranker) -> dict[str, Any]:
    """A declaration as JSON values."""
    plain = {
        f.name: _plain(getattr(ranker, f.name))
        for f in fields(ranker)
        if f.name not in ("tasks", "inputs")
    }
    inputs = ranker.declared
    return {
        **plain,
        "tasks": [_of(task) for task in ranker.tasks],
        "inputs": {
            "inferred": inputs.inferred,
            "declared": {name: kind_to_facts(kind) for name, kind in inputs.declared.items()},
        },
    }


def ranker_from_facts(facts: Mapping[str, Any]) -> Ranker:
    """What `ranker_to_facts` wrote. Raises ArtifactError for anything else."""
    try:
        inputs = facts["inputs"]
        declared = {name: kind_from_facts(k) for name, k in inputs["declared"].items()}
        rest = {k: _value(k, v) for k, v in facts.items() if k not in ("tasks", "inputs")}
        tasks = [Task(**{k: _value(k, v) for k, v in task.items()}) for task in facts["tasks"]]
        return Ranker(tasks=tasks, inputs=Inputs(declared, inputs["inferred"]), **rest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable("a ranker's declaration", error) from error


def input_to_facts(resolved: ResolvedInput) -> dict[str, Any]:
    """A resolved input as JSON values."""
    return {
        "name": resolved.name,
        **kind_to_facts(resolved.kind),
        "columns": {role: _of(column) for role, column in resolved.columns.items()},
        "side": resolved.side,
        "origin": resolved.origin,
    }


def input_from_facts(facts: Mapping[str, Any]) -> ResolvedInput:
    """What `input_to_facts` wrote. Raises ArtifactError for anything else."""
    try:
        kind = kind_from_facts(facts)
        columns = {role: SourceColumn(**column) for role, column in facts["columns"].items()}
        if not isinstance(kind, Input):
            raise ValueError("a skipped input")
        return ResolvedInput(facts["name"], kind, columns, facts["side"], facts["origin"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable("an input", error) from error


def kind_to_facts(kind: AnyInput) -> dict[str, Any]:
    """{"kind": its name, "options": {...}}."""
    return {"kind": d.NAMES[type(kind)], "options": _of(kind)}


def kind_from_facts(facts: Mapping[str, Any]) -> AnyInput:
    """What `kind_to_facts` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    made = d.KINDS[facts["kind"]]
    kind: AnyInput = made(**{k: _value(k, v) for k, v in facts["options"].items()})
    return kind


def _of(value: Any) -> dict[str, Any]:
    """The fields of a flat dataclass."""
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, timedelta):
        return {"microseconds": value // timedelta(microseconds=1)}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple | list) else value


def _value(name: str, value: Any) -> Any:
    if name in _TUPLES and isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict) and set(value) == {"time"} and name == "default":
        return datetime.fromisoformat(value["time"])
    if isinstance(value, dict) and set(value) == {"microseconds"} and name == "delay":
        return timedelta(microseconds=value["microseconds"])
    return value


def _unreadable(what: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"a manifest holds {what} that cannot be read ({type(error).__name__}: {error}); it was"
        " altered, or written by another version: train again"
    )
