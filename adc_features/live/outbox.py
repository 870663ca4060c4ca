"""What a transaction left to be written to files. Reads: a table of an LMDB directory whose keys
are publish times. Writes: segments, files that are complete or invisible, named after the first and
the last publish time that they hold.

A segment is written aside, synced and renamed, and only then its rows leave the table: a process
that dies at any moment leaves each row in the table or in a segment, and the next one ends what it
began. Nothing is there twice, because rows that a segment's name covers are dropped before anything
is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from adc_features.artifact import sync_directory, write_atomically
from adc_features.store.lmdb.environment import Environment

_NAME = re.compile(r"(\d{20})-(\d{20})\.\w+")
AT_ONCE = 4096
"""Rows of the table in one segment at most."""


@dataclass(frozen=True)
class Outbox:
    """Rows of one table on their way into the segments of one directory.

    Parameters
    ----------
    table : str
        Publish time -> bytes.
    directory : Path
        Where the segments lie.
    suffix : str
        Of their names, without the dot.
    segment : callable
        Makes a segment's content of the bytes of its rows, in order.
    """

    table: str
    directory: Path
    suffix: str
    segment: Callable[[Sequence[bytes]], bytes]

    def segments(self) -> list[tuple[int, int, Path]]:
        """The first and the last publish time of each segment, and the file, in order."""
        if not self.directory.is_dir():
            return []
        named = ((_NAME.fullmatch(path.name), path) for path in self.directory.iterdir())
        return sorted((int(name[1]), int(name[2]), path) for name, path in named if name)

    def waiting(self, environment: Environment) -> list[tuple[int, bytes]]:
        """The rows that no segment holds yet."""
        covered = self._covered()
        with environment.reading(self.table) as txn:
            pairs = [] if txn is None else list(txn.cursor())
        rows = ((int.from_bytes(key, "big"), value) for key, value in pairs)
        return [(time, value) for time, value in rows if time > covered]

    def drain(self, environment: Environment) -> int:
        """Write every row of the table to segments; returns how many rows."""
        environment.write(self.table, lambda txn: _drop(txn, self._covered()))
        drained = 0
        while rows := self._first(environment):
            first, last = (int.from_bytes(rows[place][0], "big") for place in (0, -1))
            content = self.segment([value for _, value in rows])
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self.directory / f"{first:020d}-{last:020d}.{self.suffix}", content)
            sync_directory(self.directory)  # the name is on the disk before the rows are gone
            environment.write(self.table, partial(_drop, last=last))
            drained += len(rows)
        return drained

    def _covered(self) -> int:
        return max((last for _, last, _ in self.segments()), default=-1)

    def _first(self, environment: Environment) -> list[tuple[bytes, bytes]]:
        with environment.reading(self.table) as txn:
            return [] if txn is None else list(islice(txn.cursor(), AT_ONCE))


def _drop(txn: Any, last: int) -> int:
    """Delete the rows up to a publish time."""
    keys = list(_until(txn, last))
    for key in keys:
        txn.delete(key)
    return len(keys)


def _until(txn: Any, last: int) -> Iterator[bytes]:
    for key in txn.cursor().iternext(keys=True, values=False):
        if int.from_bytes(key, "big") > last:
            return
        yield key
