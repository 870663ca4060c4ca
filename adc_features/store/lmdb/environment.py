"""One LMDB directory, opened at most once in this process. Reads, writes: data.mdb and lock.mdb; no
feast here.

Readers never wait for the writer nor block it, not even a process that opens the directory during a
bulk load; there is one writer at a time, and a change is complete or invisible, also after kill -9.
LMDB asks that a process opens a directory once, that no environment lives through a fork, and that
no transaction is active while the map grows or a table is dropped: all of that is seen to here. A
file that was cut off is refused before a page of it is touched (`file_check`), and so is a
directory that was there and is gone: an empty answer would pass for a true one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from adc_features.errors import ArtifactError, NotWrittenError
from adc_features.store.lmdb.file_check import check_whole
from adc_features.store.lmdb.files import (
    DATA,
    LOCK,
    WHAT_TO_DO,
    OpenFiles,
    OwnTable,
    open_directory,
    status_of,
)

T = TypeVar("T")
_FORK_WAIT = 5.0
"""Seconds that a fork waits for calls of other threads to end."""


def environment(path: str | Path, *, map_size: int) -> Environment:
    """The directory `path` (absolute), the same object for every caller.

    map_size: bytes of address space at first; it grows by itself.
    """
    with _lock:
        known = _known.get(str(path))
        if known is None:
            known = _known[str(path)] = Environment(Path(path), map_size)
        return known


class Environment:
    """A directory that opens itself when it is needed.

    That is: at its first use, after a fork, and when another has taken its place on disk.
    """

    def __init__(self, path: Path, map_size: int) -> None:
        self.path, self._map_size = path, map_size
        self._lmdb: Any = None
        self._files: OpenFiles | None = None
        self._page, self._needed, self._checked = 0, 0, (-1, -1)
        self._was_there = self._writes = False
        self._tables: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._turn = threading.Condition()
        self._inside, self._alone = 0, False

    @property
    def opened(self) -> Any:
        """What is open: another object whenever it was opened afresh."""
        return self._lmdb

    @contextlib.contextmanager
    def reading(self, table: str) -> Iterator[Any]:
        """A transaction on the table as of one moment.

        None when there is no such table, or when there never was the directory. Raises
        ArtifactError when it cannot be opened, is damaged, or was there before and is gone.
        """
        if not self._is_there():
            yield None
            return
        with self._told(), self._entered():
            handle = self._tables.get(table) if self._writes else self._table(table)
            if handle is not None:
                with self._begin(handle) as txn:
                    yield txn if self._exists(txn) else None
            elif self._writes:
                with self._own(table) as own:
                    yield own
            else:
                yield None

    @contextlib.contextmanager
    def reading_tables(self, names: Sequence[str]) -> Iterator[Mapping[str, OwnTable]]:
        """One transaction on several tables, by name: all of them as of the same moment.

        Tables that do not exist are left out. In a process that writes, a table that it has not
        opened yet waits for a writer. Raises as `reading`.
        """
        if not self._is_there():
            yield {}
            return
        with self._told(), self._entered():
            handles = {name: self._table(name) for name in names}
            with self._begin(None) as txn:
                found = {n: OwnTable(txn, handle) for n, handle in handles.items() if handle}
                yield {name: table for name, table in found.items() if self._exists(table)}

    def _is_there(self) -> bool:
        """False when there never was the directory. Raises ArtifactError when it is gone."""
        was_there = self._was_there  # asked first: another thread may make it meanwhile
        if status_of(self.path, DATA) is not None:
            return True
        if was_there:
            raise ArtifactError(
                f"the online store {self.path} was there and is gone; put it back, or load it"
                " again, `adc materialize --run RUN`"
            )
        return False

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """LMDB's errors while reading as ours."""
        try:
            yield
        except lmdb.Error as error:
            raise ArtifactError(
                f"the online store {self.path} could not be read ({error}); if this happens again,"
                f" {WHAT_TO_DO}"
            ) from error

    def write(self, table: str, change: Callable[[Any], T]) -> T:
        """Call `change` with a transaction on the table; it is committed when that returns.

        `change` is called again from the start when the map had to grow. Raises NotWrittenError
        when the disk is full or the directory may not be written; nothing is changed then.
        """
        return self.write_tables([table], lambda tables: change(tables[table]))

    def write_tables(
        self, names: Sequence[str], change: Callable[[Mapping[str, OwnTable]], T]
    ) -> T:
        """Call `change` with one transaction on several tables, by name.

        All of what it writes becomes visible at once, or nothing. Called again and raises as
        `write`.
        """
        if not self._writes:
            with self._exclusive(write=True):
                pass  # those who enter meanwhile wait for this one, not it for them
        while True:
            try:
                with self._entered(write=True):
                    handles = {name: self._table(name, create=True) for name in names}
                    with self._begin(None, write=True) as txn:
                        done = change({n: OwnTable(txn, handle) for n, handle in handles.items()})
                    self._fill_up()
                    return done
            except lmdb.MapFullError:
                with self._exclusive(write=True):
                    self._grow()
            except lmdb.MapResizedError:
                with self._exclusive(write=True):
                    self._lmdb.set_mapsize(0)
            except (lmdb.NotFoundError, lmdb.BadDbiError):
                self._files = None  # as in _exists
            except lmdb.Error as error:
                # a full disk shows as a short write, that is as "Input/output error"; after a
                # failed write LMDB may refuse further ones: open afresh at the next use
                self._files = None
                raise NotWrittenError(
                    f"{self.path} could not be written ({error}); nothing was changed, make room or"
                    " give write permission and repeat"
                ) from error

    def tables(self) -> list[str]:
        """The names of all tables."""
        if status_of(self.path, DATA) is None:
            return []
        with self._entered(), self._begin(None) as txn:
            return [name.decode() for name in txn.cursor().iternext(keys=True, values=False)]

    def drop(self, tables: list[str]) -> None:
        """Remove tables with all their rows, each in one transaction.

        Names that do not exist are no error.
        """
        if status_of(self.path, DATA) is None:
            return
        with self._exclusive(write=True):
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
        """Close it when no transaction is active; the next use opens it again.

        False when somebody still was after `timeout` seconds.
        """
        with self._turn:
            if not self._turn.wait_for(lambda: not self._inside and not self._alone, timeout):
                return False
            self._close()
            return True

    def _table(self, name: str, *, create: bool = False) -> Any:
        """The handle of a table, opened once; None when there is no such table."""
        if (handle := self._tables.get(name)) is None:
            try:
                handle = self._tables[name] = self._opened_table(name.encode(), create=create)
            except lmdb.NotFoundError:
                return None
        return handle

    def _opened_table(self, name: bytes, *, create: bool) -> Any:
        """Open the handle of a table for all transactions of this process.

        Where the process only reads, that waits for no writer. Where it writes, it is done in a
        transaction of ours: without one, py-lmdb (3.0) waits for another thread's write with the
        interpreter's lock held, and both wait for ever."""
        while self._lmdb.flags()["readonly"]:
            try:
                with self._opening:
                    return self._lmdb.open_db(name, create=create)
            except lmdb.MapResizedError:
                with self._begin(None):
                    pass  # which follows the growth
        writing = self._lmdb.begin(write=True)
        with self._opening, writing:  # committed before another handle is opened
            return self._lmdb.open_db(name, txn=writing, create=create)

    @contextlib.contextmanager
    def _own(self, table: str) -> Iterator[OwnTable | None]:
        """A reading transaction with a handle of its own of a table that is not open yet.

        For a process that writes: LMDB opens a handle for all transactions under the writer's lock
        only, which a bulk load holds for minutes. One at a time, as LMDB asks.
        """
        while True:
            with self._opening:
                try:
                    reading = self._lmdb.begin()
                except (lmdb.MapResizedError, lmdb.ReadersFullError):
                    reading = None
                if reading is not None:
                    with reading:
                        try:
                            handle = self._lmdb.open_db(table.encode(), txn=reading, create=False)
                        except lmdb.NotFoundError:
                            handle = None
                        yield None if handle is None else OwnTable(reading, handle)
                    return
            with self._begin(None):
                pass  # which mends either

    def _exists(self, txn: Any) -> bool:
        try:
            txn.cursor().first()
        except (lmdb.NotFoundError, lmdb.BadDbiError):
            # another process dropped the table; LMDB finds a new one only when it opens afresh
            self._files = None
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
                    with self._exclusive(write=write):
                        self._lmdb.set_mapsize(0)
                finally:
                    self._enter(write=write)

    def _check_covered(self) -> None:
        """Raise ArtifactError when the file ends before a page that may be touched now."""
        last = self._lmdb.info()["last_pgno"]
        if (wanted := (last + 1) * self._page) <= self._needed:
            return
        status = status_of(self.path, DATA)
        size = status.size if status else 0
        if self._checked != (last, size):
            self._needed = wanted if size >= wanted else check_whole(self.path / DATA, WHAT_TO_DO)
            self._checked = last, size

    def _fill_up(self) -> None:
        """Let the file reach its last page, so that its size alone tells whether it is whole.

        A change may leave pages at the end unwritten.
        """
        wanted = (self._lmdb.info()["last_pgno"] + 1) * self._page
        if os.stat(self.path / DATA).st_size >= wanted:
            self._needed = max(self._needed, wanted)
            return
        if not hasattr(os, "posix_fallocate"):
            return
        # a full disk: the file is sound as it is, only dearer to check
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path / DATA, os.O_RDWR | os.O_CLOEXEC)
            try:
                # never shortens, whatever another process does meanwhile
                os.posix_fallocate(descriptor, wanted - 1, 1)
            finally:
                os.close(descriptor)

    def _grow(self) -> None:
        self._lmdb.set_mapsize(2 * self._lmdb.info()["map_size"])

    def _enter(self, *, write: bool = False) -> None:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._open(write=write)
            self._inside += 1

    def _leave(self) -> None:
        with self._turn:
            self._inside -= 1
            self._turn.notify_all()

    @contextlib.contextmanager
    def _entered(self, *, write: bool = False) -> Iterator[None]:
        self._enter(write=write)
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def _exclusive(self, *, write: bool = False) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: not self._alone)
            self._alone = True
            try:
                self._turn.wait_for(lambda: not self._inside)
                self._open(write=write)
            except BaseException:
                self._alone = False
                raise
        try:
            yield
        finally:
            with self._turn:
                self._alone = False
                self._turn.notify_all()

    def _open(self, *, write: bool) -> None:
        """Open it unless it is open; for reading alone until this process writes."""

        def is_current() -> bool:
            if self._lmdb is None or self._files is None or (write and not self._writes):
                return False
            data, lock = status_of(self.path, DATA), status_of(self.path, LOCK)
            mine = self._files
            if mine.lock and lock and lock.size < mine.lock.size and lock[:2] == mine.lock[:2]:
                raise ArtifactError(
                    f"{self.path / LOCK} was cut off while it was in use; restart every process"
                    " that uses the online store"
                )
            same_lock = lock is not None and mine.lock is not None and lock[:2] == mine.lock[:2]
            return (
                data is not None
                and data[:2] == mine.data[:2]
                and data.size >= self._needed
                and (same_lock or lock is mine.lock is None)
            )

        current = False

        def may_go_on() -> bool:
            nonlocal current
            current = is_current()
            return current or not self._inside

        self._turn.wait_for(may_go_on)
        if current:
            self._check_covered()
            return
        self._close()
        self._writes = self._writes or write
        self._lmdb = open_directory(self.path, self._map_size, write=self._writes)
        data = status_of(self.path, DATA)
        if data is None:
            self._close()
            raise ArtifactError(
                f"the online store {self.path} was taken away while it was opened; put it back and"
                " repeat"
            )
        self._files, self._was_there = OpenFiles(data, status_of(self.path, LOCK)), True
        self._page, self._needed, self._checked = self._lmdb.stat()["psize"], 0, (-1, -1)
        self._check_covered()
        # forget readers that were killed: they would keep old pages for ever
        self._lmdb.reader_check()

    def _close(self) -> None:
        if self._lmdb is not None:
            self._lmdb.close()
        self._lmdb, self._files = None, None
        self._tables.clear()

    def _begin_again(self) -> None:
        """In the child of a fork: locks of threads that do not exist here are void, and so is what
        could not be closed before."""
        self._opening, self._turn = threading.Lock(), threading.Condition()
        self._inside, self._alone = 0, False
        self._writes = False
        if self._lmdb is not None:
            _inherited.append(self._lmdb)
        self._lmdb, self._files = None, None
        self._tables = {}


_lock = threading.Lock()
_known: dict[str, Environment] = {}
_inherited: list[Any] = []
"""A parent's open environments, kept so that the child never closes them: that would take the
parent's place in the readers' table."""


def _before_fork() -> None:
    _lock.acquire()
    for known in _known.values():
        known.close(_FORK_WAIT)


def _in_child() -> None:
    for known in _known.values():
        known._begin_again()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_in_child)
