"""`adc inputs`: how the features of a service would enter a ranker. Reads: a Feast repository, a
label log. Writes: a declaration.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adc_features.cli.console import JsonOption, log, report, table
from adc_features.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from adc_features.inputs.declaration import Ranker
    from adc_features.inputs.resolution import Resolution
    from adc_features.inputs.schema import ServiceSchema

SAMPLE = 10_000
"""Rows of the label log that are joined to tell shares and hints."""
TIME = "event_timestamp"
_JOIN = "adc_features.store.services.training_rows"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(inputs)


def inputs(
    repo: Annotated[Path, typer.Option("--repo", metavar="DIR", help="A Feast repository.")],
    service: Annotated[
        str | None, typer.Option(help="One of its feature services; default the ranker's.")
    ] = None,
    ranker: Annotated[
        str | None,
        typer.Option(help="A ranker that its Python files declare; default every feature by rule."),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A join key that is constant within a request."),
    ] = None,
    item: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A join key of the candidate.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A task of the declaration that --write writes."),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the label log that names a request."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A label log (Parquet): shares missing and hints."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="Write the declaration to edit.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Show how each feature of a service would enter a ranker, and what is left out and why."""
    from adc_features.inputs.resolution import resolution
    from adc_features.store.services.schema import service_schema

    if write is not None and write.exists():
        raise InputError(f"{write} exists; name another file, or delete it first")
    declared = _declared(repo, ranker, service, tasks=task, request=request)
    schema = service_schema(repo, declared.service)
    sample = None if labels is None else _sample(labels, schema)
    declared = _with_sides(declared, schema, sample, user=user, item=item)
    made = resolution(declared, schema, columns=_request_columns(sample, schema))
    facts = _facts(made, _joined(repo, schema, made, sample))
    if write is not None:
        from adc_features.artifact import write_atomically
        from adc_features.inputs.source_text import declaration_text

        write_atomically(write, declaration_text(made))
        facts["written"] = str(write)
    report(facts, json, text=_text)


def _declared(
    repo: Path,
    name: str | None,
    service: str | None,
    *,
    tasks: list[str] | None,
    request: str | None,
) -> Ranker:
    from dataclasses import replace

    from adc_features.inputs.declaration import Ranker, Task
    from adc_features.inputs.references import near
    from adc_features.store.services.schema import declared_rankers, service_names

    if name is not None:
        rankers = declared_rankers(repo)
        if name not in rankers:
            raise InputError(
                f"no Python file of {repo} declares a ranker {name!r}{near(name, rankers)}"
            )
        ranker = rankers[name]
        if service not in (None, ranker.service):
            raise InputError(
                f"ranker {name!r} reads service {ranker.service!r}, not {service!r}; leave out"
                " --service"
            )
        return ranker if request is None else replace(ranker, request=request)
    if service is None:
        raise InputError(
            f"which service? Name one by --service; applied in {repo} are {service_names(repo)}"
        )
    return Ranker(service=service, tasks=[Task(t) for t in tasks or ["click"]], request=request)


def _sample(labels: Path, schema: ServiceSchema) -> pa.Table:
    """Rows of the log at even distances, with their keys, times and other columns."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not labels.exists():
        raise InputError(f"{labels} does not exist; name a Parquet file, or a directory of them")
    try:
        rows = ds.dataset(labels, format="parquet")
        count = rows.count_rows()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{labels} cannot be read as Parquet: {error}") from error
    missing = [c for c in (TIME, *schema.join_keys) if c not in rows.schema.names]
    if missing:
        raise InputError(
            f"{labels} has no columns {missing}, which service {schema.service!r} is joined by; it"
            f" has {rows.schema.names}"
        )
    if not count:
        raise InputError(f"{labels} has no row; name a label log with some")
    return rows.take(np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(np.int64)))


def _with_sides(
    ranker: Ranker,
    schema: ServiceSchema,
    sample: pa.Table | None,
    *,
    user: list[str] | None,
    item: list[str] | None,
) -> Ranker:
    """The ranker with the sides that options name, or that requests of the log tell."""
    from dataclasses import replace

    from adc_features.inputs.hints import keys_by_log

    if user or item:
        return replace(ranker, user=user or (), item=item or ())
    if ranker.user or ranker.item or sample is None or ranker.request is None:
        return ranker
    if ranker.request not in sample.column_names:
        raise InputError(
            f"the label log has no column {ranker.request!r}; it has {sample.column_names}"
        )
    sides = keys_by_log(sample, list(schema.join_keys), ranker.request)
    log.info("stage=inputs user=%s item=%s by=%s", sides["user"], sides["item"], ranker.request)
    return replace(ranker, user=sides["user"], item=sides["item"])


def _request_columns(sample: pa.Table | None, schema: ServiceSchema) -> dict[str, str]:
    from adc_features.inputs.column_types import feast_type

    if sample is None:
        return {}
    types = {f.name: feast_type(f.type) for f in sample.schema}
    return {n: t for n, t in types.items() if t and n != TIME and n not in schema.join_keys}


def _joined(
    repo: Path, schema: ServiceSchema, made: Resolution, sample: pa.Table | None
) -> pa.Table | None:
    """The sample with the features that inputs read."""
    if sample is None:
        return None
    read = {c.name for i in made.inputs for c in i.columns.values()}
    features = [f.key for f in schema.features if f.key in read]
    asked = [TIME, *schema.join_keys, *schema.request_fields]
    if lost := [c for c in schema.request_fields if c not in sample.column_names]:
        raise InputError(
            f"the label log has no columns {lost}, which on-demand views of service"
            f" {schema.service!r} are computed from; it has {sample.column_names}"
        )
    try:
        rows: Any = importlib.import_module(_JOIN)
    except ModuleNotFoundError as error:
        if error.name != _JOIN:
            raise
        return sample  # without the join the log's own columns remain
    joined: pa.Table = rows.join_service(repo, schema, sample.select(asked), features=features)
    for name in sample.column_names:
        if name in read and name not in joined.column_names:
            joined = joined.append_column(name, sample[name])
    return joined


def _facts(made: Resolution, joined: pa.Table | None) -> dict[str, Any]:
    from adc_features.inputs.hints import hint, share_missing
    from adc_features.inputs.kind_rules import transform, width

    rows = []
    for i in made.inputs:
        main = i.columns.get("source") or i.columns.get("codes") or i.columns["left"]
        row: dict[str, Any] = {
            "input": i.name,
            "reads": ", ".join(dict.fromkeys(c.name for c in i.columns.values())),
            "type": main.dtype,
            "side": i.side,
            "kind": i.kind_name,
            "transform": transform(i.kind),
            "width": width(i),
        }
        column = None
        if joined is not None and main.name in joined.column_names:
            column = joined[main.name]
        if joined is not None:
            row["missing"] = None if column is None else share_missing(column)
        row["from"] = i.origin
        if joined is not None:
            row["hint"] = "" if column is None else hint(i, column)
        rows.append(row)
    return {
        "service": made.ranker.service,
        "user": list(made.ranker.user),
        "item": list(made.ranker.item),
        "gates": list(made.ranker.gates),
        "inputs": rows,
        "left_out": [
            {"feature": x.name, "type": x.dtype, "side": x.side, "reason": x.reason}
            for x in made.left_out
        ],
    }


def _text(facts: Mapping[str, Any]) -> str:
    lines = [
        f"service {facts['service']}: user keys {_named(facts['user'])}, item keys"
        f" {_named(facts['item'])}",
        "",
        table([_shown(row) for row in facts["inputs"]]),
    ]
    if facts["left_out"]:
        lines += ["", "left out:", table(facts["left_out"])]
    if facts["gates"]:
        lines += ["", f"gates: {_named(facts['gates'])}"]
    if "written" in facts:
        lines += ["", f"written: {facts['written']}"]
    return "\n".join(lines)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what repeats its name, its share as a percentage."""
    shown = {k: v for k, v in row.items() if k != "reads"}
    if row.get("missing") is not None:
        shown["missing"] = f"{row['missing']:.1%}"
    return shown


def _named(names: list[str]) -> str:
    return ", ".join(names) or "none"
