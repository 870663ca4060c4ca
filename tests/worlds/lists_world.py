"""Specs and rows of list inputs, written by hand, and plain-Python answers."""

from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.inputs.declaration import Input
from adc_features.inputs.encoded import Block, Layout
from adc_features.inputs.encoders.base import Fitting, State, table_of
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.rows import FeatureRows, Parts, Side

UTC_US = pa.timestamp("us", tz="UTC")
NOW = np.datetime64("2024-03-01T00:00:00", "us")


def spec(name: str, kind: Input, *, side: Side = "user", **columns: str) -> ResolvedInput:
    """An input whose columns are given as role="name" (user side) or role="name@side"."""
    read = {}
    for role, column in columns.items():
        at, _, where = column.partition("@")
        read[role] = SourceColumn(at, "", where or "user")
    return ResolvedInput(name, kind, read, side, "declared")


def joined(table: dict[str, Any] | pa.Table, *, times: np.ndarray | None = None, timeline=None):
    """N joined rows, all of them NOW."""
    table = table if isinstance(table, pa.Table) else pa.table(table)
    return Parts.joined(
        table, np.full(len(table), NOW) if times is None else times, timeline=timeline
    )


def request(parts: Parts, row: int, candidates: list[int]) -> Parts:
    """The user's row once and the candidates' rows, as they arrive online."""
    rows = parts["user"]
    user = FeatureRows(rows.table.slice(row, 1), rows.times[row : row + 1])
    item = FeatureRows(rows.table.take(pa.array(candidates)), rows.times[candidates])
    sides = {"user": user, "request": user, "global": user, "item": item, "pair": item}
    return Parts(sides, len(candidates), parts.timeline)


def taken(parts: Parts, rows: list[int]) -> Parts:
    """These joined rows."""
    of = parts["user"]
    return joined(of.table.take(pa.array(rows)), times=of.times[rows], timeline=parts.timeline)


def fitted(encoder: type, of: ResolvedInput, parts: Parts, fitting: Fitting | None = None):
    """One encoder fitted on joined rows that all weigh 1."""
    fitting = fitting or Fitting(np.ones(len(parts["user"])))
    found = encoder.fit(of, parts, fitting)
    fitting.layouts[of.name] = found.layout
    return found


def restored(encoder: Any) -> Any:
    """From its state, and its vocabulary where it has one."""
    vocabulary = getattr(encoder, "vocabulary", getattr(encoder, "reader", None))
    table = encoder.layout.slots[0].tables[0] if encoder.layout.slots else ""
    state = encoder.state()
    import json

    state = State(json.loads(json.dumps(state.facts)), state.arrays)
    names = {table_of(encoder.spec): vocabulary, table: vocabulary}
    return type(encoder).restore(encoder.spec, state, names)


def arrays(block: Block) -> list[np.ndarray]:
    """Every array of a block."""
    found = [block.dense]
    for slot in block.slots:
        found += [a for a in vars(slot).values() if a is not None]
    return found


def assert_same(one: Block, other: Block) -> None:
    """Same types, shapes and bits."""
    assert len(one.slots) == len(other.slots)
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def layout_of(*encoders: Any) -> Layout:
    """The layout of these encoders alone."""
    tables: dict[str, int] = {}
    for encoder in encoders:
        tables |= getattr(encoder, "tables", {})
        vocabulary = getattr(encoder, "vocabulary", None)
        if vocabulary is not None:
            tables[table_of(encoder.spec)] = vocabulary.size
    return Layout({e.spec.name: e.layout for e in encoders}, tables)
