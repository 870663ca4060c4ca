"""Scans of one source: all rows of a range, or the newest of every key.

Reads: Feast's Spark and file sources. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.input_files import InputFiles
from adc_features.store import _compat as feast
from adc_features.store.casts import cut_to_seconds
from adc_features.store.join.engine import ViewSource
from adc_features.store.offline.entity_rows import TIME as ENTITY_TIME
from adc_features.store.parquet.sources import Declared
from adc_features.store.spark.matching import (
    ViewShape,
    newest_rows,
    rows_within,
    under_names,
)
from adc_features.store.spark.pieces import ENTITY, PIECES, Piece, as_batch, in_pieces, pieces_of
from adc_features.store.spark.plan import fetched, gathered
from adc_features.store.spark.routes import ByKeys
from adc_features.store.spark.session import in_words
from adc_features.store.spark.sources import (
    Rows,
    SparkPlaces,
    file_rows,
    frame_rows,
    is_spark_source,
    opened,
    quoted,
)
from adc_features.store.spark.task_rows import TaskRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ALONE = (feast.DUMMY_ENTITY_ID, feast.DUMMY_ENTITY_VAL)
"""The one key under which Feast keeps views without an entity."""


@dataclass(frozen=True)
class Pull:
    """Rows of a source that Spark reads when it is asked to.

    names: the columns of the answer. start, end: bounds of the event time, both included. places:
    where the newest rows of keys are found; 0 for all rows.
    """

    rows: Rows
    shape: ViewShape
    names: tuple[str, ...]
    start: datetime | None
    end: datetime | None
    places: int = 0

    @property
    def schema(self) -> pa.Schema:
        return under_names(self.shape.empty(), self.shape, self.names, alone=_ALONE).schema

    @property
    def inputs(self) -> Sequence[InputFiles]:
        """The files that are read."""
        return self.rows.inputs

    def pieces(self) -> DataFrame:
        """The rows, each task's in the order of the files."""
        shape, start, end, names, alone = self.shape, self.start, self.end, self.names, _ALONE

        def kept(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
            return (rows_within(shape.rows(table), start, end) for table in in_pieces(tables))

        def sent(tables: Iterator[pa.Table]) -> Iterator[Piece]:
            return (
                Piece(0, 0, ENTITY, under_names(rows, shape, names, alone=alone))
                for rows in kept(tables)
            )

        if not self.places:
            return self.rows.pieces(sent)
        route = ByKeys(shape.compared, self.places)

        def apart(tables: Iterator[pa.Table]) -> Iterator[Piece]:
            for rows in kept(tables):
                yield from route.of_view(rows, shape.key_names, side=ENTITY)

        def newest(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for rows in newest_rows(pieces_of(batches), shape):
                yield as_batch(Piece(0, 0, ENTITY, under_names(rows, shape, names, alone=alone)))

        return gathered(self.rows.pieces(apart), self.places).mapInArrow(newest, PIECES)

    def in_rows(self) -> TaskRows:
        """The rows, left with the tasks."""
        return TaskRows(self.pieces(), lambda pieces: (p.table for p in pieces), self.schema)

    def tables(self) -> Iterator[pa.Table]:
        """The rows in pieces, one partition in memory at a time."""
        return (piece.table for piece in fetched(self.pieces()))

    def table(self) -> pa.Table:
        """The rows in one table."""
        with in_words():
            found = self.pieces().toArrow()
        tables = [piece.table for piece in pieces_of(found.to_batches())]
        return pa.concat_tables([self.schema.empty_table(), *tables])


@dataclass(frozen=True)
class Scanned:
    """What is asked of a source. features: none means all columns. types: what a view declares."""

    source: Any
    keys: tuple[str, ...]
    features: tuple[str, ...]
    time: str
    created: str | None
    types: Mapping[str, pa.DataType] = field(default_factory=dict)

    def pull(
        self,
        spark: SparkSession,
        repo_path: Path | None,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Pull:
        """The rows with start <= time <= end. Raises InputError when a column is missing."""
        times = (self.time, *([self.created] if self.created else []))
        declared = Declared(
            self.types,
            keys=self.keys,
            times=times,
            seconds=cut_to_seconds(self.types, but=(*self.keys, *times)),
        )
        place = SparkPlaces(repo_path).place(self.source)
        of = f"source {self.source.name or place.path}"
        if is_spark_source(self.source):
            frame, files = opened(spark, self.source, place.path, of=of, declared=declared)
        else:
            frame, files = None, place.opened(of=of, declared=declared)
        names = tuple(dict.fromkeys([*self.keys, *(self.features or files.names), *times]))
        files.check(names)
        features = [name for name in names if name not in (*self.keys, *times)]
        shape = ViewShape(
            of=of,
            keys={name: (name, files.kind(name)) for name in self.keys},
            features={name: (name, files.kind(name)) for name in features},
            undeclared=tuple(name for name in features if name not in self.types),
            seconds=declared.seconds,
            time=self.time,
            created=self.created or None,
        )
        if frame is None:
            rows = file_rows(spark, files.within(start=start, end=end), shape.columns)
        else:
            rows = frame_rows(frame, shape.columns, time=self.time, start=start, end=end)
        return Pull(rows, shape, names, start, end)


def key_times(
    spark: SparkSession,
    sources: Sequence[ViewSource],
    batch_sources: Sequence[Any],
    repo_path: Path | None,
    dates: tuple[datetime, datetime],
) -> DataFrame:
    """Every distinct (key, time) of the views between the dates, both included, in that order.

    They are the entity rows when none are given.
    """
    keys = list(dict.fromkeys(key for source in sources for key in source.keys))
    found: DataFrame | None = None
    for view, source in zip(sources, batch_sources, strict=True):
        if missing := sorted(set(keys) - set(view.keys)):
            raise InputError(
                f"without entity rows all views need the same keys; {view.name} has no"
                f" {', '.join(missing)}, give entity rows"
            )
        columns = tuple(view.keys[key] for key in keys)
        types = {view.keys[key]: kind for key, kind in view.key_types.items()}
        scan = Scanned(source, columns, columns, view.time, None, types)
        pull = scan.pull(spark, repo_path, start=dates[0], end=dates[1])
        chosen = [quoted(name) for name in (view.time, *columns)]
        rows = pull.in_rows().frame().select(*chosen).toDF(ENTITY_TIME, *keys)
        found = rows if found is None else found.union(rows)
    if found is None:
        raise InputError("no feature was asked for; name at least one")
    return found.distinct().sort(ENTITY_TIME, *map(quoted, keys))
