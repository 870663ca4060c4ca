"""The history of live rows and of accepted events as files. Reads: the live directory. Writes:
Parquet segments by publish time, lines of refused events.

    <place>/history/<view>/*.parquet     each served row, `event_timestamp` = its publish time
    <place>/events/<stream>/*.parquet    each accepted event once, values on their grids
    <place>/dead_letters/*.jsonl         each refused event, with the reason
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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
from adc_features.live.tables import LETTERS, PUBLISHED, accepted_table, parsed, published_at

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
        self.place.mkdir(parents=True, exist_ok=True)
        settings = self.ledger.settings
        with file_lock(self.place, wait=None):
            outboxes = self._outboxes()
            drained = sum(one.drain(self.ledger.environment) for one in outboxes)
            for one in outboxes:
                one.tidy(most=settings.segments, grace=settings.merged_after.total_seconds())
        return drained

    def accepted(
        self, stream: EventStream, waiting: Any = None, *, until: int | None = None
    ) -> Events:
        """Every event of a stream that was accepted until a publish time, or until now.

        waiting: the table of those that no segment holds, as of a moment; by default as of now.
        """
        outbox = self._events(stream.name)
        if waiting is None:
            pairs = outbox.waiting(self.ledger.environment)
        else:
            pairs = [(int.from_bytes(key, "big"), value) for key, value in waiting.cursor()]
        # after the table was read: what left it meanwhile is in a segment by now
        segments = outbox.segments()
        covered = max((last for _, last, _ in segments), default=-1)
        tables = [pq.read_table(path) for _, _, path in segments]
        tables += [parsed(data) for time, data in pairs if time > covered]
        empty = published_at(event_schema(stream).empty_table(), 0)
        table = pa.concat_tables([empty, *tables])
        if until is not None:
            limit = pa.scalar(until, UTC_US)
            table = table.filter(pc.less_equal(table[PUBLISHED], limit))
        return Events.accepted(stream, table)

    def history(self, view: str) -> Path:
        """The directory of a view's rows."""
        return self.place / "history" / view

    def _outboxes(self) -> list[Outbox]:
        return [
            *(
                Outbox(one.history, self.history(one.declared.name), "parquet", *PARQUET)
                for one in self.ledger.views
            ),
            *(self._events(name) for name in self.ledger.streams),
            Outbox(LETTERS, self.place / "dead_letters", "jsonl", b"".join, _joined_lines),
        ]

    def accepted_place(self, stream: str) -> Path:
        """The directory of a stream's accepted events."""
        return self.place / "events" / stream

    def _events(self, stream: str) -> Outbox:
        return Outbox(accepted_table(stream), self.accepted_place(stream), "parquet", *PARQUET)


def parquet_segment(pieces: Sequence[bytes]) -> bytes:
    """Serialized tables as one Parquet file."""
    return as_parquet(pa.concat_tables([parsed(piece) for piece in pieces]))


def joined_parquet(paths: Sequence[Path], file: BinaryIO) -> None:
    """The rows of Parquet files, in order, as one file of large row groups."""
    writer: Any = None
    waiting: list[pa.Table] = []
    try:
        for path in paths:
            read = pq.ParquetFile(path).read()
            if writer is None:
                schema = read.schema
                writer = pq.ParquetWriter(
                    file, schema, compression="zstd", write_page_checksum=True
                )
            waiting.append(read.select(schema.names).cast(schema))
            if sum(map(len, waiting)) >= _GROUP or path is paths[-1]:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
    finally:
        if writer is not None:
            writer.close()


def _joined_lines(paths: Sequence[Path], file: BinaryIO) -> None:
    for path in paths:
        with path.open("rb") as lines:
            shutil.copyfileobj(lines, file)


PARQUET = parquet_segment, joined_parquet
"""How segments of tables are written and joined."""


def as_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file, its pages with checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
