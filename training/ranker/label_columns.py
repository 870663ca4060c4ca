"""Which columns a ranker needs of a label log, and of which types. Reads: declarations, schemas.
Writes: column names and types, problems in words.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from adc_features.event_times import is_time
from adc_features.inputs.column_types import feast_type, fits, plain_type
from adc_features.inputs.declaration import Cross, Input, Inputs, Ranker, Skip
from adc_features.inputs.schema import ServiceSchema, ViewSchema

OURS = ("row_id", "weight")
"""Columns that a label log gets from us."""


@dataclass(frozen=True)
class LabelColumns:
    """What is read of a label log.

    Parameters
    ----------
    time : str
        The column of row times.
    keys, requests : mapping of str to str or None
        Join keys and request fields -> Feast type, None where the log's own counts.
    labels, known_at : tuple of str
        One column for each task; "" for a task without known_at.
    request, weight : str, optional
        The columns of request ids and of sample weights.
    """

    time: str
    keys: Mapping[str, str | None]
    requests: Mapping[str, str | None]
    labels: tuple[str, ...]
    known_at: tuple[str, ...]
    request: str | None
    weight: str | None

    @property
    def names(self) -> list[str]:
        """Every column that is read, once."""
        optional = [c for c in (*self.known_at, self.request, self.weight) if c]
        return list(dict.fromkeys([self.time, *self.keys, *self.requests, *self.labels, *optional]))


def key_columns(ranker: Ranker, schema: ServiceSchema) -> dict[str, str | None]:
    """The join keys of the service, and keys that only the ranker names -> Feast type."""
    others = {key: None for key in (*ranker.user, *ranker.item) if key not in schema.join_keys}
    return {**schema.join_keys, **others}


def request_columns(ranker: Ranker, schema: ServiceSchema) -> dict[str, str | None]:
    """Request fields that the log must have -> Feast type, None where only the log knows it: those
    of declared inputs, and those that on-demand views read whose features the ranker reads.
    """
    inputs = ranker.inputs if isinstance(ranker.inputs, Inputs) else Inputs(ranker.inputs)
    read = {
        name: _columns_of(name, kind)
        for name, kind in inputs.declared.items()
        if isinstance(kind, Input)
    }
    known = {feature.key for feature in schema.features} | set(schema.join_keys)
    fields: dict[str, str | None] = {
        column: None
        for name, columns in read.items()
        if getattr(inputs.declared[name], "request", False)
        for column in columns
        if column not in known
    }
    named = {column for columns in read.values() for column in columns}
    skipped = {name for name, kind in inputs.declared.items() if isinstance(kind, Skip)}
    for view in schema.views:
        if view.request_fields and _is_read(view, schema, named, skipped, inputs.inferred):
            fields |= view.request_fields
    return fields


def missing_columns(columns: LabelColumns, found: Sequence[str]) -> list[str]:
    """Each column that the log lacks, with what it is for and the nearest name."""
    uses = {
        **dict.fromkeys(columns.keys, "a join key"),
        **dict.fromkeys(columns.requests, "a request field of an input or of an on-demand view"),
        **dict.fromkeys(columns.labels, "the label of a task"),
        **dict.fromkeys(filter(None, columns.known_at), "the time at which labels became known"),
        **{c: "the request of each row" for c in (columns.request,) if c},
        **{c: "the weight of each row" for c in (columns.weight,) if c},
    }
    problems = []
    for name, use in uses.items():
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(found)}"
            problems.append(f"column {name!r} ({use}) is missing; {hint}")
    return problems


def type_problems(columns: LabelColumns, schema: pa.Schema) -> list[str]:
    """Row times that are none, and each key and request field whose type is not the service's."""
    problems, kind = [], schema.field(columns.time).type
    if not is_time(kind):
        problems.append(
            f"{columns.time} is of type {kind}; expected timestamps or dates, cast the column"
        )
    for name, dtype in {**columns.requests, **columns.keys}.items():
        kind = plain_type(schema.field(name).type)
        if dtype is not None and not fits(kind, dtype):
            problems.append(
                f"column {name!r} is of type {kind}, the service's is {dtype}; cast it where the"
                " log is written: an id is never cast here, as 12 and '12' are two ids"
                if name in columns.keys
                else f"column {name!r} is of type {kind}, the on-demand view reads {dtype}; cast it"
            )
        elif dtype is None and name in columns.requests and feast_type(kind) is None:
            problems.append(f"column {name!r} is of type {kind}, which no kind of input reads")
    outcomes = {*columns.labels, *columns.known_at} - {""}
    if leaks := sorted(outcomes & {*columns.keys, *columns.requests}):
        problems.append(
            f"columns {', '.join(leaks)} hold what a task learns and are read as inputs too: the"
            " answer would leak into the question; take them out of the inputs"
        )
    if taken := sorted({*outcomes, *columns.keys, *columns.requests} & set(OURS)):
        problems.append(f"columns {', '.join(taken)} have names that we need; rename them")
    return problems


def _columns_of(name: str, kind: Input) -> list[str]:
    """The columns that an input reads of a row."""
    if isinstance(kind, Cross):
        return list(kind.of)
    beside = [getattr(kind, role, None) for role in ("times", "labels", "values")]
    return [kind.source or name, *(column for column in beside if column)]


def _is_read(
    view: ViewSchema, schema: ServiceSchema, named: set[str], skipped: set[str], inferred: bool
) -> bool:
    keys = {f.key for f in schema.features if f.view == view.projected}
    return bool(keys & named) or (inferred and bool(keys - skipped))
