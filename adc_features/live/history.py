"""The history of live rows and of accepted events as files. Reads: the live directory. Writes:
Parquet segments by publish time, lines of refused events.

    <place>/history/<view>/*.parquet     each served row, `event_timestamp` = its publish time
    <place>/events/<stream>/*.parquet    each accepted event once, values on their grids
    <place>/dead_letters/*.jsonl         each refused event, with the reason
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events, event_schema
from adc_features.file_lock import file_lock
from adc_features.live.ledger import LETTERS, Ledger, accepted_table, parsed
from adc_features.live.outbox import Outbox


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

    def events(self, stream: EventStream) -> Events:
        """Every accepted event of a stream."""
        outbox = self._events(stream.name)
        tables = [pq.read_table(path) for _, _, path in outbox.segments()]
        tables += [parsed(data) for _, data in outbox.waiting(self.ledger.environment)]
        return Events.accepted(stream, pa.concat_tables([event_schema(stream).empty_table(), *tables]))

    def history(self, view: str) -> Path:
        """The directory of a view's rows."""
        return self.place / "history" / view

    def _outboxes(self) -> list[Outbox]:
        return [
            *(
                Outbox(one.history, self.history(one.declared.name), "parquet", _parquet)
                for one in self.ledger.views
            ),
            *(self._events(name) for name in self.ledger.streams),
            Outbox(LETTERS, self.place / "dead_letters", "jsonl", b"".join),
        ]

    def _events(self, stream: str) -> Outbox:
        place = self.place / "events" / stream
        return Outbox(accepted_table(stream), place, "parquet", _parquet)


def _parquet(pieces: Sequence[bytes]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.concat_tables([parsed(piece) for piece in pieces])
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
