"""Rows of a run as declared inputs read them. Reads: joined rows, the sides of a request. Writes:
Parts.

Inputs name their columns; nothing here does. A run's rows have features under their own names, a
declaration reads them by their keys `<view>__<feature>`.

Legend: N rows.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import CodeTimeline, find_rows
from adc_features.errors import InputError
from adc_features.inputs.candidates import SID_COLUMNS
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.rows import FeatureRows, Parts, Side
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.recipes import Exchange, Recipe, Sources


class RequestSide(Protocol):
    """One side of a request: the asker, one row, or the candidates. times: datetime64[us] [n]."""

    @property
    def times(self) -> np.ndarray: ...

    def arrow(self, name: str) -> pa.Array:
        """A key, a feature, or codes, by its own name."""
        ...


def own_name(column: str) -> str:
    """The own name of a feature of this key; a join key is its own."""
    return column.rpartition("__")[2]


def columns_read(specs: Iterable[ResolvedInput]) -> dict[str, SourceColumn]:
    """Every column that inputs read, by name."""
    return {c.name: c for spec in specs for c in spec.columns.values()}


def keyed(table: pa.Table, specs: Sequence[ResolvedInput]) -> pa.Table:
    """The columns that inputs read, of rows whose features have their own names. Raises InputError
    for those that are missing.
    """
    wanted = columns_read(specs)
    if missing := sorted({own_name(name) for name in wanted} - set(table.column_names)):
        raise InputError(
            f"the rows lack {', '.join(missing)}, which the ranker reads; join the features of the"
            " service that it was trained on"
        )
    return pa.table({name: table[own_name(name)] for name in wanted})


def recipe_table(
    frame: TrainingFrame, recipe: Recipe, sources: Sources, exchanged: Exchange | None = None
) -> pa.Table:
    """The rows with what a recipe changes or adds: weights of other items, raw vectors.

    Raises InputError when the recipe needs codes or vectors that are not given.
    """
    table = frame.table
    if recipe.codes != "none":
        timeline = sources.codes(frame, recipe)
        if exchanged is not None:
            row, _ = find_rows(exchanged.item_ids, frame.item_ids)
            weight = timeline.gather(exchanged.source_ids[row], frame.times)[1]
            place = table.column_names.index(SID_COLUMNS["weights"])
            table = table.set_column(place, SID_COLUMNS["weights"], lists_of(weight))
    if recipe.vectors:
        if sources.vectors is None:
            raise InputError(
                f"recipe {recipe.name!r} reads raw vectors and none are given; pass"
                " Sources(vectors=VectorTimeline(...))"
            )
        for name, column in sources.vectors.columns(frame).items():
            table = table.append_column(name, column)
    return table


def request_parts(
    specs: Sequence[ResolvedInput],
    user: RequestSide,
    offered: RequestSide,
    *,
    timeline: CodeTimeline | None,
) -> Parts:
    """A request by side; the user's one row stands for all candidates."""
    rows = {}
    for side, of in (("user", user), ("item", offered)):
        read = [c.name for c in columns_read(specs).values() if c.side == side]
        columns = {name: of.arrow(own_name(name)) for name in read}
        rows[side] = FeatureRows.of_columns(columns, of.times)
    one, each = rows["user"], rows["item"]
    sides: dict[Side, FeatureRows] = {"user": one, "request": one, "global": one}
    return Parts({**sides, "item": each, "pair": each}, len(offered.times), timeline)


def lists_of(matrix: np.ndarray) -> pa.ListArray:
    """The rows of a matrix [N, L] as lists."""
    count, length = matrix.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * np.int32(length))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix).ravel()))
