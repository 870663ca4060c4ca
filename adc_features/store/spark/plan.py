"""A join as steps of Spark's. Reads: entity rows, views. Writes: frames of pieces; nothing runs
before it is asked for, but samples and small views.

Entity rows go, in pieces and with all their columns, from one set of keys to the next: to the place
where the view's rows of their key are, and at last back to their order. Nothing is matched up
again by a row number, so that a frame whose rows Spark gives in another order the second time still
gets its own features.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adc_features.event_times import UTC_US
from adc_features.input_files import InputFiles
from adc_features.store.offline.entity_rows import with_utc_times
from adc_features.store.spark.entity import EntityRows
from adc_features.store.spark.matching import (
    Route,
    ViewShape,
    joined_pieces,
    ordered_tables,
    shared_views,
    view_pieces,
    with_features,
)
from adc_features.store.spark.pieces import PIECES, Piece, as_batch, in_pieces, pieces_of
from adc_features.store.spark.routes import ByKeys, ByOrder
from adc_features.store.spark.session import in_words
from adc_features.store.spark.sources import SparkView
from adc_features.store.spark.task_rows import TaskRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PLACE_BYTES = 128 << 20
"""Bytes of rows that one task is meant to join."""


@dataclass(frozen=True)
class Settings:
    """How a join is cut. partitions: 0 to derive them from sizes. broadcast_bytes: views up to this
    size go to every worker.
    """

    partitions: int = 0
    broadcast_bytes: int = 32 << 20


@dataclass(frozen=True)
class Joined:
    """A join that Spark runs when it is asked for.

    schema: of the answer. places: partitions of the answer in order. inputs: the files that are
    read.
    """

    pieces: DataFrame
    schema: pa.Schema
    places: int
    inputs: Sequence[InputFiles]

    def ordered(self) -> DataFrame:
        """Its pieces in the order of the entity rows, over partitions and inside them."""
        return gathered(self.pieces, self.places).sortWithinPartitions("first")

    def in_rows(self) -> TaskRows:
        """The answer in order, left with the tasks."""
        names = self.schema.names

        def tables(pieces: Iterator[Piece]) -> Iterator[pa.Table]:
            return (table for _, table in ordered_tables(pieces, names))

        return TaskRows(self.ordered(), tables, self.schema)

    def tables(self) -> Iterator[pa.Table]:
        """The answer in pieces, in order, one partition in memory at a time."""
        pieces = fetched(self.ordered())
        return (table for _, table in ordered_tables(pieces, self.schema.names))

    def table(self) -> pa.Table:
        """The whole answer, put in order here."""
        with in_words():
            found = self.pieces.toArrow()
        pieces = sorted(pieces_of(found.to_batches()), key=lambda piece: piece.first)
        tables = [table for _, table in ordered_tables(pieces, self.schema.names)]
        return pa.concat_tables(tables or [self.schema.empty_table()])


def joined(
    spark: SparkSession, entity: EntityRows, views: Sequence[SparkView], settings: Settings
) -> Joined:
    """The entity rows with the features of all views."""
    small = [v for v in views if not v.shape.keys or v.rows.size <= settings.broadcast_bytes]
    hops: dict[tuple, list[SparkView]] = {}
    for view in views:
        if view not in small:
            hops.setdefault(tuple(view.shape.compared.items()), []).append(view)
    keys = list(dict.fromkeys(name for hop in hops for name, _ in hop))
    sample = entity.sample(keys)
    places = _places(spark, settings, [entity.rows.size, *(v.rows.size for v in views)])
    routes = [ByKeys(dict(hop), places).knowing(sample.table) for hop in hops]
    onward: list[Route] = [*routes, ByOrder(max(sample.end, 1), places)]
    pieces = _sent(entity, _shared(spark, small), onward[0])
    for route, following, together in zip(routes, onward[1:], hops.values(), strict=True):
        pieces = _hop(pieces, together, route, following, time=entity.time)
    kinds = {f.name: UTC_US if f.name == entity.time else f.type for f in entity.schema}
    for view in views:
        kinds |= {name: kind for name, (_, kind) in view.shape.features.items()}
    inputs = [one for rows in (entity.rows, *(v.rows for v in views)) for one in rows.inputs]
    return Joined(pieces, pa.schema(list(kinds.items())), places, inputs)


def _sent(entity: EntityRows, shared: Any, onward: Route) -> DataFrame:
    """The entity rows with the features of small views, on their way."""
    time = entity.time

    def work(tables: Iterator[pa.Table]) -> Iterator[Piece]:
        for table in in_pieces(with_utc_times(tables, time)):
            yield from onward.of_entity(with_features(table, shared(), time=time))

    return entity.rows.pieces(work)


def _hop(
    pieces: DataFrame, views: Sequence[SparkView], route: ByKeys, onward: Route, *, time: str
) -> DataFrame:
    """Entity rows and the rows of views meet by their keys, and are joined there."""
    shapes: list[ViewShape] = [view.shape for view in views]
    for side, view in enumerate(views, start=1):
        pieces = pieces.union(view_frame(view, route, side=side))

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = joined_pieces(pieces_of(batches), shapes, time=time, onward=onward)
        return map(as_batch, found)

    together = gathered(pieces, route.places).sortWithinPartitions("side", ascending=False)
    return together.mapInArrow(task, PIECES)


def view_frame(view: SparkView, route: ByKeys, *, side: int) -> DataFrame:
    """The pieces of a view's rows."""
    shape = view.shape

    def work(tables: Iterator[pa.Table]) -> Iterator[Piece]:
        return view_pieces(tables, shape, route, side=side)

    return view.rows.pieces(work)


def _shared(spark: SparkSession, views: Sequence[SparkView]) -> Any:
    """Small views, read once and sent to every worker: a function that gives them there."""
    if not views:
        return list
    kept = []
    for view in views:
        frame = view_frame(view, ByKeys(view.shape.compared, 1), side=1)
        with in_words():
            kept.append([piece.as_py() for piece in frame.toArrow()["piece"]])
    shapes = [view.shape for view in views]
    sent, name = spark.sparkContext.broadcast(kept), uuid.uuid4().hex

    def views_there() -> Any:
        return shared_views(name, lambda: sent.value, shapes)

    return views_there


def gathered(pieces: DataFrame, places: int) -> DataFrame:
    """The pieces, each in the partition of its place."""
    return pieces.repartitionById(places, pieces["place"].cast("int"))


def fetched(frame: DataFrame) -> Iterator[Piece]:
    """The pieces of a frame, partition after partition."""
    rows = frame.toLocalIterator()
    while True:
        with in_words():
            row = next(rows, None)
        if row is None:
            return
        table = pa.ipc.open_stream(row["piece"]).read_all()
        yield Piece(row["place"], row["first"], row["side"], table)


def _places(spark: SparkSession, settings: Settings, sizes: Sequence[int]) -> int:
    """How many places rows are sent to: enough for their size, at most Spark's own number."""
    if settings.partitions:
        return settings.partitions
    at_once = spark.sparkContext.defaultParallelism
    most = max(at_once, int(spark.conf.get("spark.sql.shuffle.partitions") or 0))
    return max(1, min(max(at_once, -(-sum(sizes) // _PLACE_BYTES)), most))
