"""What runs inside Spark's workers: a view's rows prepared, entity rows matched, rows put in order.

Reads: pieces. Writes: pieces; neither feast nor pyspark here. Every function takes and gives one
partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds, timestamps
from adc_features.store.casts import MISFITS, fitted
from adc_features.store.join.asof import AsofIndex
from adc_features.store.join.gather import Gatherer, RowPicks
from adc_features.store.join.key_codes import plain_key
from adc_features.store.spark.pieces import ENTITY, Piece, in_order, in_pieces
from adc_features.store.spark.routes import POSITION, ROW, ByKeys

TIME, CREATED = "adc: event time", "adc: created time"
"""Columns of a view's pieces beside its keys, `key 0` and so on, and its features."""


class Route(Protocol):
    """Sends entity rows to the places of the next step."""

    def of_entity(self, table: pa.Table) -> Iterator[Piece]: ...


@dataclass(frozen=True)
class ViewShape:
    """What workers know of a view.

    of: what it is called in messages. keys: entity column -> (column of the source, the type in
    which it is declared). features: output column -> (column of the source, type). time, created:
    columns of the source. ttl: None or 0 means any age. known_only: only rows created by the entity
    row's time are seen. seconds: output columns that are cut to whole seconds. undeclared: those
    whose lists may hold nulls.
    """

    of: str
    keys: Mapping[str, tuple[str, pa.DataType]]
    features: Mapping[str, tuple[str, pa.DataType]]
    time: str
    created: str | None = None
    ttl: timedelta | None = None
    known_only: bool = False
    seconds: tuple[str, ...] = ()
    undeclared: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns of the source that are read."""
        used = [name for name, _ in (*self.keys.values(), *self.features.values())]
        times = (self.time, *([self.created] if self.created else []))
        return list(dict.fromkeys([*used, *times]))

    @cached_property
    def compared(self) -> dict[str, pa.DataType]:
        """Entity column -> the type in which its values are compared."""
        return {name: plain_key(pa.array([], kind)).type for name, (_, kind) in self.keys.items()}

    @property
    def key_names(self) -> list[str]:
        """The columns of its pieces that hold keys."""
        return [f"key {place}" for place in range(len(self.keys))]

    def rows(self, table: pa.Table) -> pa.Table:
        """Rows of the source as the join takes them; those without a time are nobody's.

        table: columns of the source, and `POSITION`. Raises InputError for values that do not fit
        the declared types.
        """
        columns = {POSITION: table[POSITION], TIME: self._times(table, self.time)}
        if self.created:
            columns[CREATED] = self._times(table, self.created)
        for place, (name, kind) in zip(self.key_names, self.keys.values(), strict=True):
            columns[place] = plain_key(self._fitted(table[name], name, kind))
        for out, (name, kind) in self.features.items():
            options = {"lists": out not in self.undeclared, "seconds": out in self.seconds}
            columns[out] = self._fitted(table[name], name, kind, **options)
        found = pa.table(columns)
        return found.filter(found[TIME].is_valid()) if found[TIME].null_count else found

    def empty(self) -> pa.Table:
        """The pieces' columns without rows."""
        kinds = dict((*self.keys.values(), *self.features.values()))
        kinds |= {name: UTC_US for name in (self.time, self.created) if name}
        kinds[POSITION] = pa.int64()
        return self.rows(pa.schema(list(kinds.items())).empty_table())

    def _times(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        return timestamps(table[name], name=f"{self.of}: {name}")

    def _fitted(
        self,
        column: pa.ChunkedArray,
        name: str,
        kind: pa.DataType,
        *,
        lists: bool = True,
        seconds: bool = False,
    ) -> pa.ChunkedArray:
        try:
            return fitted(
                column, kind, name=f"{self.of}: {name}", whole_lists=lists, seconds=seconds
            )
        except MISFITS as error:
            raise InputError(
                f"{self.of}: {name} is {column.type} in the source and {kind} in the view, which"
                f" does not hold its values ({error}); correct one"
            ) from error


class MatchedView:
    """A view's rows in one place, ready to be joined."""

    def __init__(self, shape: ViewShape, tables: Sequence[pa.Table]) -> None:
        rows = in_order([*tables], POSITION) if tables else shape.empty()
        self._shape = shape
        self._index = AsofIndex.of_columns(
            [rows[name] for name in shape.key_names],
            rows[TIME],
            created=rows[CREATED] if shape.created else None,
            known_only=shape.known_only,
        )
        self._features = {name: Gatherer(rows[name]) for name in shape.features}

    def columns(self, entity: pa.Table, times: np.ndarray) -> dict[str, pa.Array]:
        """What entity rows see of the view at times int64 [Q] microseconds."""
        names = list(self._shape.keys)
        found = self._index.match(
            [entity[name] for name in names], times, names=names, ttl=self._shape.ttl
        )
        picks = RowPicks(found)
        return {name: feature(picks) for name, feature in self._features.items()}


def with_features(table: pa.Table, views: Iterable[MatchedView], *, time: str) -> pa.Table:
    """Entity rows with the features of views appended."""
    times = microseconds(table[time], name=time)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for view in views:
        columns |= view.columns(table, times)
    return pa.table(columns)


_SHARED: dict[str, list[MatchedView]] = {}
"""Of the last join in this process, by its name."""


def shared_views(
    name: str, rows_of: Callable[[], Sequence[Sequence[bytes]]], shapes: Sequence[ViewShape]
) -> list[MatchedView]:
    """Views that every worker has whole, prepared once in each. rows_of: gives their pieces."""
    if name not in _SHARED:
        _SHARED.clear()
        _SHARED[name] = [
            MatchedView(shape, [pa.ipc.open_stream(piece).read_all() for piece in pieces])
            for shape, pieces in zip(shapes, rows_of(), strict=True)
        ]
    return _SHARED[name]


def view_pieces(
    tables: Iterable[pa.Table], shape: ViewShape, route: ByKeys, *, side: int
) -> Iterator[Piece]:
    """A view's rows, read by one task, on their way to the entity rows of their keys."""
    for table in in_pieces(tables):
        yield from route.of_view(shape.rows(table), shape.key_names, side=side)


def joined_pieces(
    pieces: Iterable[Piece], shapes: Sequence[ViewShape], *, time: str, onward: Route
) -> Iterator[Piece]:
    """The entity rows of one place with their features, on their way to the next.

    pieces: those of the views before those of the entity rows. shapes: of the sides 1, 2, ...
    """
    rows_of: dict[int, list[pa.Table]] = {side: [] for side in range(1, len(shapes) + 1)}
    views: list[MatchedView] = []

    def entity() -> Iterator[pa.Table]:
        for piece in pieces:
            if piece.side == ENTITY:
                yield piece.table
            else:
                rows_of[piece.side].append(piece.table)

    for table in in_pieces(entity()):
        if not views:
            views = [MatchedView(s, rows_of.pop(side)) for side, s in enumerate(shapes, start=1)]
        yield from onward.of_entity(with_features(table, views, time=time))


def ordered_tables(pieces: Iterable[Piece], names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Chunks of entity rows in their order, each with its number, in these columns.

    pieces: sorted by `first`, the number of the chunk.
    """
    chunk: list[pa.Table] = []
    number = -1
    for piece in pieces:
        if piece.first != number and chunk:
            yield number, in_order(chunk, ROW).select(names)
            chunk = []
        number = piece.first
        chunk.append(piece.table)
    if chunk:
        yield number, in_order(chunk, ROW).select(names)


def rows_within(table: pa.Table, start: datetime | None, end: datetime | None) -> pa.Table:
    """The rows of a view with start <= event time <= end."""
    times = microseconds(table[TIME])
    keep = np.ones(len(times), bool)
    if start is not None:
        keep &= times >= microseconds(pa.array([start]))[0]
    if end is not None:
        keep &= times <= microseconds(pa.array([end]))[0]
    return table if keep.all() else table.filter(pa.array(keep))


def newest_rows(pieces: Iterable[Piece], shape: ViewShape) -> Iterator[pa.Table]:
    """The newest row of every key of a view in one place, in the order of positions."""
    tables = [piece.table for piece in pieces]
    if not tables:
        return
    rows = in_order(tables, POSITION)
    index = AsofIndex.of_columns(
        [rows[name] for name in shape.key_names],
        rows[TIME],
        created=rows[CREATED] if shape.created else None,
    )
    yield rows.take(pa.array(np.sort(index.newest())))


def under_names(
    rows: pa.Table, shape: ViewShape, names: Sequence[str], *, alone: tuple[str, str]
) -> pa.Table:
    """A view's rows in columns of its source. alone: name and value of the key of a view without
    one.
    """
    columns = {name: rows[name] for name in shape.features}
    for place, (name, kind) in zip(shape.key_names, shape.keys.values(), strict=True):
        columns[name] = rows[place].cast(kind)
    columns[shape.time] = rows[TIME]
    if shape.created:
        columns[shape.created] = rows[CREATED]
    chosen = pa.table({name: columns[name] for name in names})
    if shape.keys:
        return chosen
    return chosen.append_column(alone[0], pa.array([alone[1]] * len(rows), pa.string()))
