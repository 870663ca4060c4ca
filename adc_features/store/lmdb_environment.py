"""One LMDB directory, opened at most once in this process. Reads, writes: data.mdb and lock.mdb; no feast here.

Readers never wait for the writer nor block it; there is one writer at a time, and a change is complete or invisible, also after
kill -9. LMDB asks that a process opens a directory once, that no environment lives through a fork, and that nobody is inside while
the map grows or a table is dropped: all of that is seen to here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from adc_features.errors import ArtifactError

T = TypeVar("T")
DATA = "data.mdb"
MAX_TABLES = 4096
MAX_READERS = 1024
"""Read transactions at one moment, over all processes; each is open for the milliseconds of one call."""
_FORK_WAIT = 5.0
"""Seconds that a fork waits for calls of other threads to end."""


def environment(path: str | Path, *, map_size: int) -> Environment:
    """The directory `path` (absolute), the same object for every caller. map_size: bytes of address space at first; it grows by itself."""
    with _lock:
        known = _known.get(str(path))
        if known is None:
            known = _known[str(path)] = Environment(Path(path), map_size)
        return known


class Environment:
    """A directory that opens itself when it is first used, after a fork, and when another has taken its place on disk."""

    def __init__(self, path: Path, map_size: int) -> None:
        self.path, self._map_size = path, map_size
        self._lmdb: Any = None
        self._identity: tuple[int, int] | None = None
        self._tables: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._turn = threading.Condition()
        self._inside, self._alone = 0, False

    @contextlib.contextmanager
    def reading(self, table: str) -> Iterator[Any]:
        """A transaction on the table as of one moment; None when there is no such table. Raises ArtifactError when it cannot be opened."""
        if _identity(self.path) is None:
            yield None
            return
        with self._entered():
            handle = self._table(table)
            if handle is None:
                yield None
                return
            with self._begin(handle) as txn:
                yield txn if self._exists(txn) else None

    def write(self, table: str, change: Callable[[Any], T]) -> T:
        """change(transaction on the table), committed when it returns; called again from the start when the map had to grow.

        Raises ArtifactError when the disk is full or the directory may not be written; nothing is changed then.
        """
        while True:
            try:
                with self._entered(), self._begin(self._table(table) or self._table(table, create=True), write=True) as txn:
                    return change(txn)
            except lmdb.MapFullError:
                with self._exclusive():
                    self._grow()
            except (lmdb.NotFoundError, lmdb.BadDbiError):
                self._identity = None  # as in _exists
            except lmdb.Error as error:  # a full disk shows as a short write, that is as "Input/output error"
                self._identity = None  # after a failed write LMDB may refuse further ones: open afresh at the next use
                raise ArtifactError(
                    f"{self.path} could not be written ({error}); nothing was changed, make room or give write permission and repeat"
                ) from error

    def tables(self) -> list[str]:
        """The names of all tables."""
        if _identity(self.path) is None:
            return []
        with self._entered(), self._begin(None) as txn:
            return [name.decode() for name in txn.cursor().iternext(keys=True, values=False)]

    def drop(self, tables: list[str]) -> None:
        """Remove tables with all their rows, each in one transaction; names that do not exist are no error."""
        if _identity(self.path) is None:
            return
        with self._exclusive():
            for name in tables:
                while (handle := self._table(name)) is not None:
                    del self._tables[name]
                    try:
                        with self._lmdb.begin(write=True) as txn:
                            txn.drop(handle)
                        break
                    except lmdb.MapFullError:  # even giving pages back takes a page
                        self._grow()
                    except lmdb.NotFoundError:  # another process dropped it since we opened it
                        break

    def close(self, timeout: float | None = None) -> bool:
        """Close it when nobody is inside; the next use opens it again. False when somebody still was after `timeout` seconds."""
        with self._turn:
            if not self._turn.wait_for(lambda: not self._inside and not self._alone, timeout):
                return False
            self._close()
            return True

    def _table(self, name: str, *, create: bool = False) -> Any:
        handle = self._tables.get(name)
        if handle is None:
            with self._opening:
                try:
                    handle = self._tables[name] = self._lmdb.open_db(name.encode(), create=create)
                except lmdb.NotFoundError:
                    return None
        return handle

    def _exists(self, txn: Any) -> bool:
        try:
            txn.cursor().first()
        except (lmdb.NotFoundError, lmdb.BadDbiError):
            self._identity = None  # another process dropped the table since we opened it: LMDB finds a new one only when it opens afresh
            return False
        return True

    def _begin(self, table: Any, *, write: bool = False) -> Any:
        while True:
            try:
                return self._lmdb.begin(db=table, write=write)
            except lmdb.ReadersFullError:
                if not self._lmdb.reader_check():
                    raise
            except lmdb.MapResizedError:  # another process let the map grow
                self._leave()
                try:
                    with self._exclusive():
                        self._lmdb.set_mapsize(0)
                finally:
                    self._enter()

    def _grow(self) -> None:
        self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])

    def _enter(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._open()
            self._inside += 1

    def _leave(self) -> None:
        with self._turn:
            self._inside -= 1
            self._turn.notify_all()

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._alone = True
            try:
                self._turn.wait_for(lambda: not self._inside)
                self._open()
            except BaseException:
                self._alone = False
                raise
        try:
            yield
        finally:
            with self._turn:
                self._alone = False
                self._turn.notify_all()

    def _open(self) -> None:
        def is_current() -> bool:
            return self._lmdb is not None and self._identity == _identity(self.path)

        self._turn.wait_for(lambda: is_current() or not self._inside)
        if is_current():
            return
        self._close()
        self._lmdb = _opened(self.path, self._map_size)
        self._identity = _identity(self.path)
        self._lmdb.reader_check()  # forget readers that were killed: they would keep old pages for ever

    def _close(self) -> None:
        if self._lmdb is not None:
            self._lmdb.close()
        self._lmdb, self._identity = None, None
        self._tables.clear()

    def _begin_again(self) -> None:
        """In the child of a fork: locks of threads that do not exist here are void, and so is what could not be closed before."""
        self._opening, self._turn = threading.Lock(), threading.Condition()
        self._inside, self._alone = 0, False
        if self._lmdb is not None:
            _inherited.append(self._lmdb)
        self._lmdb, self._identity = None, None
        self._tables = {}


_lock = threading.Lock()
_known: dict[str, Environment] = {}
_inherited: list[Any] = []
"""A parent's open environments, kept so that the child never closes them: that would take the parent's place in the readers' table."""


def _before_fork() -> None:
    _lock.acquire()
    for known in _known.values():
        known.close(_FORK_WAIT)


def _in_child() -> None:
    for known in _known.values():
        known._begin_again()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_in_child)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(f"{path}/{DATA}")
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _opened(path: Path, map_size: int) -> Any:
    options: dict[str, Any] = {"map_size": map_size, "max_dbs": MAX_TABLES, "max_readers": MAX_READERS, "readahead": False}
    try:
        path.mkdir(parents=True, exist_ok=True)
        return lmdb.open(str(path), **options)
    except (OSError, lmdb.Error) as refused:
        try:  # a read-only file system, or files that another user writes
            return lmdb.open(str(path), readonly=True, create=False, **options)
        except lmdb.Error:
            raise ArtifactError(
                f"the online store {path} cannot be opened ({refused}); it needs read permission for {DATA} and write permission for lock.mdb, where readers register"
            ) from refused
