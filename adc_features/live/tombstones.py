"""Who was forgotten, and until when. Reads, writes: a table of the live directory.

forgotten     "salt/<key column>" -> random bytes; hash of an id of that column -> its tombstone

An event of a forgotten id that happened before its tombstone is never taken again, from wherever it
comes; a later one counts. The hash is salted: the table lists nobody, and answers for an id that
somebody names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.live.incoming import Fault

TOMBSTONES = "forgotten"
_SALT = b"salt/"


class Tombstone(NamedTuple):
    """until: events before it are refused, microseconds since 1970 UTC. secret: from which the ids
    are made that stand in the place of the forgotten one, until all of it is gone; then None.
    """

    until: int
    secret: bytes | None


class Tombstones:
    """The table in a transaction, or None where there is none yet."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._salts: dict[str, bytes | None] = {}

    def of(self, column: str, one: Any) -> Tombstone | None:
        """The tombstone of an id."""
        salt = self._salt(column)
        if salt is None or (found := self._table.get(_hash(salt, one))) is None:
            return None
        told = json.loads(bytes(found))
        secret = told["secret"]
        return Tombstone(told["until"], None if secret is None else bytes.fromhex(secret))

    def covered(self, columns: Iterable[str], table: pa.Table, times: np.ndarray) -> np.ndarray:
        """Which rows, of these times, are of an id that was forgotten later: bool [n]."""
        found = np.zeros(len(table), bool)
        for column in columns:
            if self._salt(column) is None:
                continue
            ids = table[column].to_pylist()
            known = {one: self.of(column, one) for one in set(ids)}
            untils = {one: mark.until for one, mark in known.items() if mark is not None}
            if untils:
                found |= times < np.array([untils.get(one, -(1 << 62)) for one in ids], np.int64)
        return found

    def emptied(self, fault: Fault, columns: Iterable[str]) -> Fault:
        """What was wrong with an event; without what was sent, where that names a forgotten id."""
        sent = fault.event if type(fault.event) is dict else {}
        named = any(self.of(column, sent[column]) for column in columns if column in sent)
        return fault._replace(event=None) if named else fault

    def put(self, column: str, one: Any, tombstone: Tombstone) -> None:
        """Keep the tombstone of an id."""
        salt = self._salt(column)
        if salt is None:
            salt = self._salts[column] = os.urandom(16)
            self._table.put(_SALT + column.encode(), salt)
        secret = None if tombstone.secret is None else tombstone.secret.hex()
        told = {"until": tombstone.until, "secret": secret}
        self._table.put(_hash(salt, one), json.dumps(told).encode())

    def _salt(self, column: str) -> bytes | None:
        if column not in self._salts:
            found = None if self._table is None else self._table.get(_SALT + column.encode())
            self._salts[column] = None if found is None else bytes(found)
        return self._salts[column]


def _hash(salt: bytes, one: Any) -> bytes:
    """Under which an id is known; a whole number is known as its digits."""
    return blake2b(str(one).encode("utf-8", "surrogatepass"), digest_size=32, key=salt).digest()
