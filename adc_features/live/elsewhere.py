"""Rows of live views on their way into online stores that are not ours. Reads: outboxes of the live
directory. Writes: these stores.

A commit leaves its rows in the view's outbox, in its own transaction. One process at a time takes
them to the store, in the order of their commits, and only then they leave the outbox: a process
that dies, or a store that is away, repeats rows and loses none. Of several rows of a key that wait,
the newest alone is sent; its event time is its publish time, so that a store which compares keeps
the newest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import TIMESTAMP
from adc_features.aggregates.finalise import column_of
from adc_features.clock import instant
from adc_features.errors import ArtifactError
from adc_features.file_lock import file_lock
from adc_features.live.ledger import Ledger
from adc_features.live.tables import (
    ServedView,
)
from adc_features.store.lmdb.arrow_values import table_of
from adc_features.store.lmdb.entity_keys import key_array
from adc_features.store.lmdb.incoming import as_protos, microseconds_of
from adc_features.store.services.protos import column_of_protos

log = logging.getLogger(__name__)
_AT_ONCE = 64
"""Entries of an outbox that are sent together, roughly."""
_ROWS = 5_000
"""Rows in one call of a store: SQLite refuses statements with too many parameters."""
_WAIT_S = 1.0
"""Seconds to wait for another process that delivers."""
_LONGEST_PAUSE = 30.0
"""Seconds between two attempts to reach a store, at most."""
LOCK = "online.lock"


class Elsewhere:
    """The rows of a repository's live views that an online store of another kind serves.

    Parameters
    ----------
    ledger : Ledger
    place : Path
        The live directory; it holds the lock of who delivers.
    store : feast.FeatureStore
        Of the repository.

    Attributes
    ----------
    error : str or None
        Why the last attempt failed.
    """

    def __init__(self, ledger: Ledger, place: Path, store: Any) -> None:
        from adc_features.store import _compat as feast

        self.ledger = ledger
        self.error: str | None = None
        self.views = tuple(view for view in ledger.views if view.elsewhere)
        self._place, self._config = place, store.config
        self._online: Any = feast.online_store(store)
        self._pause = self._again = 0.0

    # ---- delivering

    def follow(self) -> None:
        """Deliver what waits. A store that is away is asked again after growing pauses, by later
        calls; `error` says why."""
        if time.monotonic() < self._again:
            return
        try:
            self.deliver()
        except Exception as error:  # whatever the store raises: rows wait until it takes them
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause or 0.5)
            self._again = time.monotonic() + self._pause
            if self.error != str(error):
                log.exception("stage=online store=%s error=%s", self.kind, error)
            self.error = str(error)
        else:
            self.error, self._pause = None, 0.0

    def deliver(self) -> int:
        """Take every row that waits to the store; returns how many entries of the outboxes.

        Raises what the store raises: what was not sent goes on waiting.
        """
        self._place.mkdir(parents=True, exist_ok=True)
        with file_lock(self._place / LOCK, wait=_WAIT_S) as mine:
            return sum(map(self._delivered, self.views)) if mine else 0

    def _delivered(self, view: ServedView) -> int:
        sent = 0
        while entries := self._first(view):
            self._send(view, newest(view, [table_of(value) for _, value in entries]))
            taken = partial(_drop, keys=[key for key, _ in entries])
            self.ledger.environment.write(view.outbox, taken)
            sent += len(entries)
        return sent

    def _first(self, view: ServedView) -> list[tuple[bytes, bytes]]:
        """The oldest entries; those of one publish time stay together, as a store that compares
        would refuse the second."""
        with self.ledger.environment.reading(view.outbox) as txn:
            if txn is None:
                return []
            entries = txn.cursor()
            found = list(islice(entries, _AT_ONCE))
            for key, value in entries:
                if key[:8] != found[-1][0][:8]:
                    break
                found.append((key, value))
            return found

    def _send(self, view: ServedView, rows: pa.Table) -> None:
        for start in range(0, len(rows), _ROWS):
            piece = rows.slice(start, _ROWS)
            protos = as_protos(view.view, piece, event=TIMESTAMP, created=None)
            self._online.online_write_batch(self._config, view.view, protos, None)

    # ---- how far behind

    @property
    def kind(self) -> str:
        """What the configuration calls the store."""
        return str(getattr(self._config.online_store, "type", "unknown"))

    def waiting(self) -> dict[str, int]:
        """View -> entries of its outbox, at most one for each commit."""
        return {name: entries for name, (entries, _) in self._outboxes().items()}

    def lag(self) -> timedelta:
        """The age of the oldest row that no store has."""
        first = [first for _, first in self._outboxes().values() if first is not None]
        now = int(instant(self.ledger.clock()).astype(np.int64))
        return timedelta(microseconds=max(0, now - min(first))) if first else timedelta(0)

    @property
    def overdue(self) -> bool:
        """Whether so much waits that no more is to be accepted."""
        return self.lag() > self.ledger.settings.online_lag

    def _outboxes(self) -> dict[str, tuple[int, int | None]]:
        """View -> the number of its entries, and the publish time of the first."""
        tables = {view.outbox: view.declared.name for view in self.views}
        found: dict[str, tuple[int, int | None]] = dict.fromkeys(tables.values(), (0, None))
        with self.ledger.environment.reading_tables(list(tables)) as held:
            for table, name in tables.items():
                first = next(iter(held[table].cursor()), None) if table in held else None
                if first is not None:
                    count = held[table].stat()["entries"]
                    found[name] = count, int.from_bytes(first[0][:8], "big")
        return found

    # ---- what the store answers

    def answers(self, view: ServedView, keys: pa.Table) -> tuple[dict[str, pa.Array], np.ndarray]:
        """The features of a view as its store has them, and the event time of each row: int64
        microseconds, -1 of an absent one.

        keys: rows of the view; their features are not read.

        Raises
        ------
        ArtifactError
            The store cannot be read.
        """
        from adc_features.store import _compat as feast

        features, absent = view.declared.features.items(), feast.ValueProto()
        names = [column_of(name, feature) for name, feature in features]
        asked = [row[0] for row in as_protos(view.view, keys, event=TIMESTAMP, created=None)]
        try:
            rows = [
                row
                for start in range(0, len(asked), _ROWS)
                for row in self._online.online_read(
                    self._config, view.view, asked[start : start + _ROWS], [*names]
                )  # a copy, to which Feast's Redis store adds
            ]
        except Exception as error:
            raise ArtifactError(
                f"the online store ({self.kind}) cannot be read ({error}); verify again when it"
                " can be reached"
            ) from error
        types = {field.name: str(field.dtype) for field in view.view.features}
        columns = {
            name: column_of_protos(
                [(values or {}).get(name, absent) for _, values in rows],
                types[name],
                name=f"{view.declared.name}__{name}",
            )
            for name in names
        }
        times = [-1 if at is None else microseconds_of(at) for at, _ in rows]
        return columns, np.array(times, np.int64)


def _drop(txn: Any, *, keys: Sequence[bytes]) -> None:
    for key in keys:
        txn.delete(key)


def newest(view: ServedView, tables: Sequence[pa.Table]) -> pa.Table:
    """The last row of each key, of rows that come in the order of their publish times."""
    rows = pa.concat_tables(tables)
    places = {key: place for place, key in enumerate(row_keys(view, rows))}
    return rows.take(pa.array(sorted(places.values()), pa.int64()))


def row_keys(view: ServedView, rows: pa.Table | Mapping[str, Any]) -> list[bytes]:
    """The key of each row of a view."""
    columns = {name: rows[name].combine_chunks() for name in view.declared.key}
    keys: list[bytes] = key_array(columns).to_pylist()
    return keys
