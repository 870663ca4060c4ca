"""Items that come and go between two snapshots. Reads: ItemChanges. Writes: one transaction of the
live directory for each commit, files beside the published rows, the online store.

items/<generation>/<codebook>          publish time -> rows of codes, laid over the snapshots
items_history/<generation>             publish time -> the same as rows of the view, until a file
                                       has them
items_given/<generation>               id -> what the item was described by: vectors, attributes
items_texts                            key of a text -> the vector that was made of it
meta                                   last publish time, what of a generation is online

An item is visible, and durable, when `commit` returns. A snapshot that was published ahead, with
data from before the commit, does not hide it: the row is written once more for that moment.

Legend: P publish time, microseconds since 1970 UTC.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.clock import instant, moment
from adc_features.codes.sids import SidTable
from adc_features.live.commit import LAST_COMMIT
from adc_features.live.history import PARQUET
from adc_features.live.items_incoming import Encoder, ItemChange
from adc_features.live.outbox import Outbox
from adc_features.live.tables import META, keep_format, time_key
from adc_features.store.lmdb.arrow_values import table_bytes, table_of
from adc_features.store.lmdb.entity_keys import row_key
from adc_features.store.packed.overlay import items_table, live_environment, row_bytes
from adc_features.store.publish.between import code_rows
from adc_features.store.publish.lock import only_publisher
from adc_features.store.repository import (
    LiveGeneration,
    publication_manifest,
    publication_path,
)

log = logging.getLogger(__name__)
TEXTS = "items_texts"


class ItemReceipt(NamedTuple):
    """What became of the items of one request: added or described anew, removed, and as of when
    that is served. sid: the codes, in the order of the items.
    """

    added: int
    removed: int
    published: datetime
    codes: SidTable | None


class Items:
    """The items of one generation that no snapshot has yet.

    Parameters
    ----------
    repo : Path
        A Feast repository with published codes.
    encoder : Encoder
        Of the generation.
    clock : callable
        The time, aware.
    """

    def __init__(
        self,
        repo: Path,
        encoder: Encoder,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.repo, self.encoder, self.clock = Path(repo).resolve(), encoder, clock
        self.live = encoder.live
        self.environment = live_environment(self.repo)
        self._table, self._history = items_table(self.live), f"items_history/{self.live.id}"
        self._given, self._online = (
            _given_table(self.live),
            f"items_online/{self.live.id}".encode(),
        )
        self._store: Any = None

    def commit(self, changes: Sequence[ItemChange]) -> ItemReceipt:
        """Encode items and keep them, all or none; they are served when this returns.

        Parameters
        ----------
        changes : sequence of ItemChange
            Of distinct ids.

        Raises
        ------
        ArtifactError
            The live directory cannot be written; nothing was changed.
        """
        if not changes:
            return ItemReceipt(0, 0, self.clock(), None)
        vectors, texts = self.encoder.described(changes)
        # of what is known now, and nothing of it is behaviour: the time says when, not what
        codes = self.encoder.encode(changes, vectors, self.clock())
        given = [_given(change, of) for change, of in zip(changes, vectors, strict=True)]
        ahead = self._servable()

        def change(tables: Mapping[str, Any]) -> tuple[int, SidTable]:
            meta = tables[META]
            keep_format(meta)
            now = int(instant(self.clock()).astype(np.int64))
            published = max(now, int(bytes(meta.get(LAST_COMMIT) or b"-1")) + 1)
            served = replace(codes, as_of=moment(np.datetime64(published, "us")))
            times = [published, *(at for at in ahead if at > published)]
            rows = served.lookup(np.tile(served.item_ids, len(times)))
            key = time_key(published)
            tables[self._table].put(key, row_bytes(rows, np.repeat(times, len(served)).tolist()))
            tables[self._history].put(key, table_bytes(self._rows(served, times)))
            for one, content in zip(changes, given, strict=True):
                tables[self._given].put(row_key({"id": one.id}), content)
            for name, vector in texts.items():
                tables[TEXTS].put(name, vector)
            meta.put(LAST_COMMIT, str(published).encode())
            return published, served

        names = [META, self._table, self._history, self._given, TEXTS]
        published, served = self.environment.write_tables(names, change)
        removed = int((~served.found).sum())
        log.info(
            "stage=items generation=%s added=%d removed=%d",
            self.live.id,
            len(served) - removed,
            removed,
        )
        at = moment(np.datetime64(published, "us"))
        return ItemReceipt(len(served) - removed, removed, at, served)

    def follow(self) -> None:
        """Take to the online store, and to the history of the view, what neither has yet.

        Repeating it changes nothing. Raises what the online store raises: what was committed stays
        committed, and is taken there by the next call.
        """
        try:
            self.put_online()
        finally:
            self.drain()

    def drain(self) -> int:
        """Write what waits to files beside the published rows; returns how many commits."""
        with only_publisher(self.repo):
            rows = publication_path(self.repo, self.live.id) / "rows"
            if not rows.is_dir():
                return 0
            return Outbox(self._history, rows, "parquet", *PARQUET).drain(self.environment)

    def published(self) -> dict[Any, int]:
        """Every item that came or went -> the publish time of its newest row, microseconds since
        1970 UTC; in the order of these times.
        """
        newest: dict[Any, int] = {}
        for time, codes in self._committed(-1):
            for one in codes.item_ids.tolist():
                newest.pop(one, None)
                newest[one] = time
        return newest

    def given(self, ids: Sequence[Any]) -> list[ItemChange]:
        """By what items that came were described, vectors of their texts included."""
        return given_items(self.repo, self.live, ids)

    def _servable(self) -> list[int]:
        """When each published snapshot becomes servable, rising."""
        directory = publication_path(self.repo, self.live.id)
        entries = publication_manifest(directory, verify=False)["snapshots"]
        at = (datetime.fromisoformat(entry["servable_at"]) for entry in entries)
        return sorted(int(instant(one).astype(np.int64)) for one in at)

    def put_online(self) -> None:
        """Take the rows to the online store where the view is applied, whichever store it is.

        Our service reads codes from the snapshots and what is laid over them; rankers of a
        repository's own services, and everybody else, read the view.
        """
        with self.environment.reading(META) as txn:
            stored = None if txn is None else txn.get(self._online)
        last = int(bytes(stored)) if stored is not None else -1
        pairs = self._committed(last)
        if not pairs:
            return
        from adc_features.store import _compat as feast

        if self._is_applied():
            import pandas as pd

            frames = [self._rows(codes, [time]).to_pandas() for time, codes in pairs]
            with feast.quiet():
                self._store.write_to_online_store(
                    self.live.view, df=pd.concat(frames, ignore_index=True)
                )
        newest = pairs[-1][0]
        self.environment.write(META, lambda txn: txn.put(self._online, str(newest).encode()))

    def warm(self) -> None:
        """Encode once and open the registry, so that the first item is as quick as the rest."""
        nothing = 0 if self.live.id_type == "int64" else "-"
        texts = {next(iter(self.encoder.shape.texts)): "text"} if self.encoder.shape.texts else {}
        change = ItemChange(nothing, {}, texts, {}, removed=False)
        vectors, _ = self.encoder.described([change])
        self.encoder.encode([change], vectors, self.clock())
        self._is_applied()

    def _is_applied(self) -> bool:
        """Whether there is a view of the codes to be served online, asked until there is one."""
        if self._store is None:
            from adc_features.store import _compat as feast
            from adc_features.store.registry import open_any_store

            with feast.quiet():
                store = open_any_store(self.repo)
                applied = {view.name: view for view in store.list_feature_views()}
            if self.live.view in applied and applied[self.live.view].online:
                self._store = store
        return self._store is not None

    def _committed(self, after: int) -> list[tuple[int, SidTable]]:
        """The rows of each commit after a publish time, those of that moment."""
        found = []
        with self.environment.reading(self._table) as txn:
            if txn is None:
                return []
            cursor = txn.cursor()
            more = cursor.set_range(time_key(after + 1))
            while more:
                published = int.from_bytes(bytes(cursor.key()), "big")
                entry = table_of(cursor.value())
                times = entry["servable_at"].to_numpy()
                metadata = entry.schema.metadata
                mine = entry.filter(pa.array(times == published)).drop_columns("servable_at")
                found.append(
                    (published, SidTable.from_arrow(mine.replace_schema_metadata(metadata)))
                )
                more = cursor.next()
        return found

    def _rows(self, codes: SidTable, times: Sequence[int]) -> pa.Table:
        """Rows of the view, for each time."""
        computed = codes.as_of
        return pa.concat_tables(
            [
                code_rows(
                    self.live,
                    codes,
                    servable_at=moment(np.datetime64(time, "us")),
                    computed_at=computed,
                )
                for time in times
            ]
        )


def given_items(repo: Path, live: LiveGeneration, ids: Sequence[Any]) -> list[ItemChange]:
    """By what items that came were described, vectors of their texts included. ids: of items that
    came or went.
    """
    with live_environment(repo).reading(_given_table(live)) as txn:
        if txn is None:
            return []
        return [_described(one, bytes(txn.get(row_key({"id": one})))) for one in ids]


def _given_table(live: LiveGeneration) -> str:
    return f"items_given/{live.id}"


def kept_texts(repo: Path) -> Callable[[Sequence[bytes]], dict[bytes, bytes]]:
    """Keys of texts -> the vectors by which items of a repository were encoded when they came."""
    place = live_environment(repo)

    def kept(keys: Sequence[bytes]) -> dict[bytes, bytes]:
        with place.reading(TEXTS) as txn:
            if txn is None:
                return {}
            found = ((key, txn.get(key)) for key in keys)
            return {key: bytes(vector) for key, vector in found if vector is not None}

    return kept


def _described(item_id: Any, content: bytes) -> ItemChange:
    """The item of `_given`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        facts = json.loads(str(arrays["facts"]))
        vectors = {name.removeprefix("vector_"): arrays[name] for name in arrays if name != "facts"}
    return ItemChange(item_id, vectors, facts["texts"], facts["attributes"], facts["removed"])


def _given(change: ItemChange, vectors: Mapping[str, np.ndarray]) -> bytes:
    """What an item was described by, as an .npz with its attributes and texts as JSON."""
    sink = io.BytesIO()
    facts = {
        "attributes": dict(change.attributes),
        "texts": dict(change.texts),
        "removed": change.removed,
    }
    arrays: dict[str, Any] = {f"vector_{m}": vector for m, vector in vectors.items()}
    np.savez(sink, facts=np.array(json.dumps(facts)), **arrays)
    return sink.getvalue()
