"""A resolved ranker as the Python file that declares it. Reads: Resolution. Writes: text.

Every choice is written out, so that a later change of tags or rules changes nothing.
"""

import datetime as dt
import json
import keyword
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.resolution import Resolution
from adc_features.inputs.resolved import ResolvedInput

WIDEST = 100
_FACTORIES = {
    d.Number: "number",
    d.Category: "category",
    d.Flag: "flag",
    d.Time: "time",
    d.Vector: "vector",
    d.CategorySet: "category_set",
    d.CategorySequence: "category_sequence",
    d.ItemHistory: "item_history",
    d.SemanticId: "semantic_id",
    d.Cross: "cross",
    d.Match: "match",
    d.Remainder: "remainder",
}


def declaration_text(made: Resolution) -> str:
    """A Python file with one ranker; resolving it gives the same inputs.

    Importing it has no side effects, so it may lie in the repository.
    """
    body = _ranker(made)
    used = sorted({_FACTORIES[type(i.kind)] for i in made.inputs})
    names = ["Ranker", "Task", *used]
    plain = f"from adc_features.inputs import {', '.join(names)}"
    if len(plain) > WIDEST:
        listed = "".join(f"    {n},\n" for n in names)
        plain = f"from adc_features.inputs import (\n{listed})"
    clock = "import datetime\n\n" if "datetime." in body else ""
    left = "".join(_comment(f"left out: {x.name} ({x.dtype}): {x.reason}") for x in made.left_out)
    return (
        f'"""A ranker as `adc inputs --write` resolved it. Reads, writes: nothing."""\n\n'
        f"{clock}{plain}\n\n{_variable(made.ranker)} = {body}\n" + (f"\n{left}" if left else "")
    )


def _comment(text: str) -> str:
    """One line, whatever a feature's name holds."""
    return "".join(c if c.isprintable() else " " for c in f"# {text}")[:WIDEST].rstrip() + "\n"


def _ranker(made: Resolution) -> str:
    ranker = made.ranker
    lines = ["Ranker("]
    for f in fields(ranker):
        value = getattr(ranker, f.name)
        if f.name == "inputs":
            lines.append("    inputs={")
            lines += [_input(i) for i in made.inputs]
            lines.append("    },")
        elif f.name == "tasks":
            tasks = [_call("Task", _options(task, Task)) for task in ranker.tasks]
            lines.append(_listed("tasks", tasks))
        elif f.default is MISSING or value != f.default:
            if isinstance(value, tuple):
                lines.append(_listed(f.name, [_literal(v) for v in value]))
            else:
                lines.append(f"    {f.name}={_literal(value)},")
    return "\n".join([*lines, ")"])


def _listed(name: str, values: list[str]) -> str:
    line = f"    {name}=[{', '.join(values)}],"
    if len(line) <= WIDEST:
        return line
    return f"    {name}=[\n" + "".join(f"        {v},\n" for v in values) + "    ],"


def _input(resolved: ResolvedInput) -> str:
    options = _options(resolved.kind, type(resolved.kind))
    if options.get("source") == _literal(resolved.name):
        del options["source"]
    factory = _FACTORIES[type(resolved.kind)]
    head = f"        {_literal(resolved.name)}: "
    line = f"{head}{_call(factory, options)},"
    if len(line) <= WIDEST:
        return line
    inner = "".join(f"            {name}={value},\n" for name, value in options.items())
    return f"{head}{factory}(\n{inner}        ),"


def _options(value: Any, cls: type) -> dict[str, str]:
    """Options that are not the default, as source."""
    return {
        f.name: _literal(getattr(value, f.name))
        for f in fields(cls)
        if f.default is MISSING or getattr(value, f.name) != f.default
    }


def _call(name: str, options: dict[str, str]) -> str:
    first = [options.pop("name")] if name == "Task" else []
    return f"{name}({', '.join([*first, *(f'{k}={v}' for k, v in options.items())])})"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dt.datetime):
        return repr(value.astimezone(dt.UTC))
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _name(ranker: Ranker) -> str:
    return ranker.name or ranker.service


def _variable(ranker: Ranker) -> str:
    """The ranker's name as a Python name that is none of the imported ones."""
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in _name(ranker))
    taken = {*_FACTORIES.values(), "Ranker", "Task", "datetime"}
    if not name or name[0].isdigit() or keyword.iskeyword(name) or name in taken:
        return f"ranker_{name}"
    return name
