"""The history of live rows and of accepted events as files. Reads: the live directory. Writes:
Parquet segments by publish time, lines of refused events and of corrections.

    <place>/history/<view>/*.parquet     each served row, `event_timestamp` = its publish time
    <place>/events/<stream>/*.parquet    each accepted event once, values on their grids
    <place>/dead_letters/*.jsonl         each refused event, with the reason
    <place>/corrections/*.jsonl          what each correction changed
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events, event_schema
from adc_features.event_times import UTC_US
from adc_features.file_lock import file_lock
from adc_features.live.elsewhere import Elsewhere
from adc_features.live.ledger import Ledger
from adc_features.live.outbox import Outbox
from adc_features.live.tables import (
    ANONYMOUS,
    CORRECTIONS,
    LETTERS,
    PUBLISHED,
    accepted_table,
    published_at,
)
from adc_features.parquet_files import read_parquet, write_table
from adc_features.store.lmdb.arrow_values import table_of

_GROUP = 100_000
"""Rows of a row group of a merged segment, roughly."""


@dataclass(frozen=True)
class Histories:
    """What follows a ledger: the files under `place`, and where there are some, the rows in online
    stores that are not ours.
    """

    ledger: Ledger
    place: Path
    elsewhere: Elsewhere | None = None

    def drain(self) -> int:
        """Write what waits; returns how many commits. Raises OSError for a full disk: what waits
        goes on waiting in the live directory.
        """
        settings, outboxes = self.ledger.settings, self._outboxes()
        with self.alone():
            drained = sum(one.drain(self.ledger.environment) for one in outboxes)
            for one in outboxes:
                one.tidy(most=settings.segments, grace=settings.merged_after.total_seconds())
        return drained

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes files meanwhile; commits go on."""
        self.place.mkdir(parents=True, exist_ok=True)
        with file_lock(self.place, wait=None):
            yield

    def accepted(
        self,
        stream: EventStream,
        waiting: Any = None,
        *,
        since: int = -1,
        until: int | None = None,
    ) -> Events:
        """Every event of a stream that was accepted after a publish time, and until another or now.

        waiting: the table of those that no segment holds, as of a moment; by default as of now.
        """
        rows = self.accepted_rows(stream, waiting, since=since, until=until)
        return Events.accepted(stream, rows)

    def accepted_rows(
        self,
        stream: EventStream,
        waiting: Any = None,
        *,
        since: int = -1,
        until: int | None = None,
    ) -> pa.Table:
        """The same as a table, with the columns PUBLISHED and ANONYMOUS."""
        outbox = self.events(stream.name)
        if waiting is None:
            pairs = outbox.waiting(self.ledger.environment)
        else:
            pairs = [(int.from_bytes(key, "big"), value) for key, value in waiting.cursor()]
        # after the table was read: what left it meanwhile is in a segment by now
        segments = outbox.segments()
        covered = max((last for _, last, _ in segments), default=-1)
        tables = [read_parquet(path) for _, last, path in segments if last > since]
        tables += [table_of(data) for time, data in pairs if time > covered]
        empty = published_at(event_schema(stream).empty_table(), 0)
        empty = empty.append_column(ANONYMOUS, pa.array([], pa.string()))
        table = pa.concat_tables([empty, *tables], promote_options="default")
        table = table.filter(pc.greater(table[PUBLISHED], pa.scalar(since, UTC_US)))
        if until is not None:
            limit = pa.scalar(until, UTC_US)
            table = table.filter(pc.less_equal(table[PUBLISHED], limit))
        return table

    def history(self, view: str) -> Path:
        """The directory of a view's rows."""
        return self.place / "history" / view

    def _outboxes(self) -> list[Outbox]:
        return [
            *(
                Outbox(one.history, self.history(one.declared.name), "parquet", *PARQUET)
                for one in self.ledger.views
            ),
            *(self.events(name) for name in self.ledger.streams),
            self.letters(),
            Outbox(CORRECTIONS, self.place / "corrections", "jsonl", b"".join, _joined_lines),
        ]

    def letters(self) -> Outbox:
        """Refused events on their way into files."""
        return Outbox(LETTERS, self.place / "dead_letters", "jsonl", b"".join, _joined_lines)

    def accepted_place(self, stream: str) -> Path:
        """The directory of a stream's accepted events."""
        return self.place / "events" / stream

    def events(self, stream: str) -> Outbox:
        """Accepted events on their way into files."""
        return Outbox(accepted_table(stream), self.accepted_place(stream), "parquet", *PARQUET)


def parquet_segment(pieces: Sequence[bytes]) -> bytes:
    """Serialized tables as one Parquet file."""
    tables = [table_of(piece) for piece in pieces]
    return as_parquet(pa.concat_tables(tables, promote_options="default"))


def joined_parquet(paths: Sequence[Path], file: BinaryIO) -> None:
    """The rows of Parquet files, in order, as one file of large row groups."""
    # a file in which somebody was forgotten has a column more
    schema = pa.unify_schemas([pq.read_schema(path) for path in paths])
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        for path in paths:
            waiting += [schema.empty_table(), read_parquet(path)]
            if sum(map(len, waiting)) >= _GROUP or path is paths[-1]:
                rows = pa.concat_tables(waiting, promote_options="default")
                writer.write_table(rows.combine_chunks())
                waiting = []


def _joined_lines(paths: Sequence[Path], file: BinaryIO) -> None:
    for path in paths:
        with path.open("rb") as lines:
            shutil.copyfileobj(lines, file)


PARQUET = parquet_segment, joined_parquet
"""How segments of tables are written and joined."""


def as_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file, its pages with checksums."""
    sink = pa.BufferOutputStream()
    write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
