"""The history of live rows and of accepted events as files. Reads: the live directory. Writes:
Parquet segments by publish time, lines of refused events and of corrections.

    <place>/history/<view>/*.parquet     each served row, `event_timestamp` = its publish time
    <place>/events/<stream>/*.parquet    each accepted event once, values on their grids
    <place>/dead_letters/*.jsonl         each refused event, with the reason
    <place>/corrections/*.jsonl          what each correction changed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events, event_schema
from adc_features.event_times import UTC_US
from adc_features.file_lock import file_lock
from adc_features.live.ledger import Ledger
from adc_features.live.outbox import Outbox
from adc_features.live.tables import (
    CORRECTIONS,
    LETTERS,
    PUBLISHED,
    accepted_table,
    parsed,
    published_at,
)


@dataclass(frozen=True)
class Histories:
    """The files under `place` that follow a ledger."""

    ledger: Ledger
    place: Path

    def drain(self) -> int:
        """Write what waits; returns how many commits. Raises OSError for a full disk: what waits
        goes on waiting in the live directory.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        with file_lock(self.place, wait=None):
            return sum(one.drain(self.ledger.environment) for one in self._outboxes())

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
        outbox = self._events(stream.name)
        if waiting is None:
            pairs = outbox.waiting(self.ledger.environment)
        else:
            pairs = [(int.from_bytes(key, "big"), value) for key, value in waiting.cursor()]
        # after the table was read: what left it meanwhile is in a segment by now
        segments = outbox.segments()
        covered = max((last for _, last, _ in segments), default=-1)
        tables = [pq.read_table(path) for _, last, path in segments if last > since]
        tables += [parsed(data) for time, data in pairs if time > covered]
        empty = published_at(event_schema(stream).empty_table(), 0)
        table = pa.concat_tables([empty, *tables])
        table = table.filter(pc.greater(table[PUBLISHED], pa.scalar(since, UTC_US)))
        if until is not None:
            limit = pa.scalar(until, UTC_US)
            table = table.filter(pc.less_equal(table[PUBLISHED], limit))
        return Events.accepted(stream, table)

    def history(self, view: str) -> Path:
        """The directory of a view's rows."""
        return self.place / "history" / view

    @property
    def letters(self) -> Path:
        """The directory of refused events."""
        return self.place / "dead_letters"

    def _outboxes(self) -> list[Outbox]:
        return [
            *(
                Outbox(one.history, self.history(one.declared.name), "parquet", parquet_segment)
                for one in self.ledger.views
            ),
            *(self._events(name) for name in self.ledger.streams),
            Outbox(LETTERS, self.letters, "jsonl", b"".join),
            Outbox(CORRECTIONS, self.place / "corrections", "jsonl", b"".join),
        ]

    def accepted_place(self, stream: str) -> Path:
        """The directory of a stream's accepted events."""
        return self.place / "events" / stream

    def _events(self, stream: str) -> Outbox:
        place = self.accepted_place(stream)
        return Outbox(accepted_table(stream), place, "parquet", parquet_segment)


def parquet_segment(pieces: Sequence[bytes]) -> bytes:
    """Serialized tables as one Parquet file."""
    return as_parquet(pa.concat_tables([parsed(piece) for piece in pieces]))


def as_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file, its pages with checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
