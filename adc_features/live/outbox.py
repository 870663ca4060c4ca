"""What a transaction left to be written to files. Reads: a table of an LMDB directory whose keys
are publish times. Writes: segments, files that are complete or invisible, named after the first and
the last publish time that they hold.

A segment is written aside, synced and renamed, and only then its rows leave the table: a process
that dies at any moment leaves each row in the table or in a segment, and the next one ends what it
began. Nothing is there twice, because rows that a segment's name covers are dropped before anything
is written.

Small neighbours are merged into a segment whose name covers theirs. From its rename on it counts in
their place; they lie there for a while, for readers that have found them, and are removed later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from adc_features.artifact import fresh_file, sync_directory, write_atomically
from adc_features.store.lmdb.environment import Environment
from adc_features.store.parquet.segments import times_of, uncovered

LARGE = 64 << 20
"""Bytes from which on a segment is not merged any more."""
_COMMITS = 2
"""Publish times from here on are those of commits; before them lie a view's empty beginning and the
history that a stream began with."""
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
    join : callable
        Writes the content of several segments, in order, as one.
    """

    table: str
    directory: Path
    suffix: str
    segment: Callable[[Sequence[bytes]], bytes]
    join: Callable[[Sequence[Path], BinaryIO], None]

    def segments(self) -> list[tuple[int, int, Path]]:
        """The first and the last publish time of each segment, and the file, in order."""
        found = [(*times, path) for path in self._files() if (times := times_of(str(path)))]
        counted = set(uncovered(str(path) for _, _, path in found))
        return sorted(one for one in found if str(one[2]) in counted)

    def _files(self) -> list[Path]:
        return list(self.directory.iterdir()) if self.directory.is_dir() else []

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

    def tidy(self, *, most: int, grace: float) -> int:
        """Merge small segments where there are more than `most`, and remove what merged ones have
        covered for `grace` seconds; returns how many segments were merged.

        One process at a time may do so. One that dies leaves a history that can be read: the merged
        segment is complete or invisible, and covered ones do not count.
        """
        self._sweep(grace)
        merged = 0
        for group in self._groups(most):
            name = f"{group[0][0]:020d}-{group[-1][1]:020d}.{self.suffix}"
            with fresh_file(self.directory / name) as file:
                self.join([path for _, _, path in group], file)
            sync_directory(self.directory)
            merged += len(group)
        return merged

    def _groups(self, most: int) -> list[list[tuple[int, int, Path]]]:
        """Neighbouring small segments, each group up to one that is large."""
        groups: list[list[tuple[int, int, Path]]] = [[]]
        small, size = 0, 0
        for one in self.segments():
            bytes_ = one[2].stat().st_size
            if one[0] < _COMMITS or bytes_ >= LARGE:
                groups.append([])
                size = 0
                continue
            groups[-1].append(one)
            small, size = small + 1, size + bytes_
            if size >= LARGE:
                groups.append([])
                size = 0
        return [group for group in groups if len(group) > 1] if small > most else []

    def _sweep(self, grace: float) -> None:
        """Remove covered segments, and what a process that died left unfinished."""
        counted = self.segments()
        for path in self._files():
            times = times_of(str(path))
            if times is not None:
                by = [one for one in counted if one[0] <= times[0] and times[1] <= one[1]]
                gone = bool(by) and by[0][2] != path and _older(by[0][2], grace)
            else:
                gone = path.name.startswith(".") and _older(path, grace)
            if gone:
                path.unlink(missing_ok=True)

    def _covered(self) -> int:
        return max((last for _, last, _ in self.segments()), default=-1)

    def _first(self, environment: Environment) -> list[tuple[bytes, bytes]]:
        with environment.reading(self.table) as txn:
            return [] if txn is None else list(islice(txn.cursor(), AT_ONCE))


def _older(path: Path, seconds: float) -> bool:
    """Whether a file was written longer ago than this; False where it is gone."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime >= seconds
    return False


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
