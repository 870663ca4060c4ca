"""Accepted events and what follows from them, changed together. Reads, writes: one LMDB directory.

A commit decides of each event whether it is accepted (once, whatever is sent twice), folds the
accepted ones into the states of their keys, serves the rows of these keys, and remembers all of it
for the history, in one transaction. An event is acknowledged after that, so that none that was
acknowledged is lost or counted twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adc_features.aggregates.events import Events
from adc_features.aggregates.record import to_json
from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.live import freshness
from adc_features.live.awaiting import Looked, look
from adc_features.live.commit import (
    COUNTS,
    LAST_COMMIT,
    Commit,
    LiveDirectory,
)
from adc_features.live.decisions import Position, Receipt
from adc_features.live.incoming import Incoming
from adc_features.live.tables import (
    CORRECTIONS,
    LETTERS,
    META,
    OF_STREAM,
    awaiting_table,
    check_format,
    held_table,
    signed_time,
)
from adc_features.live.tombstones import TOMBSTONES, Tombstones

_LOOK_AGAIN_S = 0.5
"""Seconds between two looks at the items that events wait for."""


class Ledger(LiveDirectory):
    """The live directory of a repository: what it holds, and how it changes."""

    _looked_at = -math.inf

    # ---- reading

    def facts(self) -> dict[str, Any]:
        """What is known of the directory as of now: watermarks, counts, positions, corrections,
        publish time, how long events took, newest rows.
        """
        with self.environment.reading(META) as txn:
            pairs = {} if txn is None else dict(txn.cursor())
        return {
            "published": int(pairs[LAST_COMMIT]) if LAST_COMMIT in pairs else None,
            "watermarks": _named(pairs, b"watermark/"),
            "positions": _named(pairs, b"position/"),
            "corrections": _named(pairs, b"correction/"),
            "counts": json.loads(pairs.get(COUNTS, b"{}")),
            "freshness": freshness.counted(pairs),
            "newest": freshness.newest_rows(pairs),
        }

    def check_declarations(self) -> None:
        """Raise InputError for a view whose states were made by another declaration, and
        NewerFormatError for a directory that a newer version wrote.
        """
        with self.environment.reading(META) as txn:
            check_format(txn, self.environment.path)
            for one in self.views:
                stored = None if txn is None else txn.get(one.declaration)
                if stored is not None and stored != to_json(one.declared).encode():
                    raise InputError(
                        f"the live view {one.declared.name!r} holds states of another declaration;"
                        " give the changed view a name of its own, or move the live directory away"
                        " and begin again, `adc ingest --history FILE.parquet`"
                    )

    def due(self) -> bool:
        """Whether a held event waits no longer; a commit, of no request too, counts it then."""
        now = int(instant(self.clock()).astype(np.int64))
        with self.environment.reading_tables([held_table(name) for name in self.streams]) as held:
            first = [next(table.cursor().iternext(values=False), None) for table in held.values()]
        if any(key is not None and signed_time(key) <= now for key in first):
            return True
        looked = self._look([], awaiting=True)
        return any(one.known for one in looked.values())

    def _look(self, requests: Sequence[Incoming], *, awaiting: bool) -> dict[str, Looked]:
        """Which items are known, by stream: of requests, and of those that events wait for."""
        waiting = dict[str, list[bytes]]()
        if awaiting:
            with self.environment.reading_tables([awaiting_table(n) for n in self.items]) as held:
                waiting = {
                    name: [bytes(value) for _, value in table.cursor()]
                    for name, table in held.items()
                }
        # what is known is read from the same directory: never within another reading of it
        return {
            name: look(
                self.streams[name],
                items,
                requests,
                waiting.get(awaiting_table(name), []) if awaiting else None,
            )
            for name, items in self.items.items()
        }

    def forgotten(self, events: Events) -> np.ndarray:
        """Which of these events are of somebody who was forgotten after them: bool [n]."""
        with self.environment.reading(TOMBSTONES) as txn:
            return Tombstones(txn).covered(events.stream.keys, events.table, events.times)

    # ---- writing

    def tables(self) -> list[str]:
        """The tables that a commit changes."""
        return [
            META,
            LETTERS,
            TOMBSTONES,
            CORRECTIONS,
            *(table(name) for name in self.streams for table in OF_STREAM),
            *(one.history for one in self.views),
            *(one.outbox if one.elsewhere else one.table for one in self.views),
        ]

    def commit(
        self, requests: Sequence[Incoming], *, position: Position | None = None
    ) -> list[Receipt]:
        """Decide of the events of several requests, in their order, and fold what is accepted.

        Parameters
        ----------
        requests : sequence of Incoming
        position : Position, optional
            Where their source stands before and after them.

        Returns
        -------
        list of Receipt
            One for each request. What they say is durable and visible.

        Raises
        ------
        ArtifactError
            The directory cannot be written, or another process has read the source further;
            nothing was changed.
        """
        # before the transaction: what tells known items reads the same directory
        now = time.monotonic()
        awaiting = not requests or now - self._looked_at >= _LOOK_AGAIN_S
        self._looked_at = now if awaiting else self._looked_at
        looked = self._look(requests, awaiting=awaiting) if self.items else {}
        return self.environment.write_tables(
            self.tables(), lambda tables: Commit(self, tables, looked).run(requests, position)
        )

    def begin(
        self,
        stream: str,
        events: Events,
        known_as: Mapping[bytes, bytes],
        *,
        files: Callable[[int], None],
    ) -> int:
        """Take over a whole history, as if each event had been accepted.

        Parameters
        ----------
        stream : str
        events : Events
        known_as : mapping of bytes to bytes
            The id of each accepted event -> what its own id is known as: of the newest ones it is
            remembered, so that one that comes again is known.
        files : callable
            Writes what belongs to the publish time that it is given; called before anything
            becomes visible, and again when the directory had to grow.

        Returns
        -------
        int
            The publish time of the rows.

        Raises
        ------
        InputError
            The stream has accepted events already, or the history ends in the future; nothing was
            changed.
        """
        return self.environment.write_tables(
            self.tables(),
            lambda tables: Commit(self, tables, {}).begin(stream, events, known_as, files=files),
        )


def _named(pairs: Mapping[bytes, bytes], prefix: bytes) -> dict[str, str]:
    return {
        key[len(prefix) :].decode(): value.decode()
        for key, value in pairs.items()
        if key.startswith(prefix)
    }
