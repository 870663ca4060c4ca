"""One LMDB directory, opened at most once in this process. Reads, writes: data.mdb and lock.mdb; no
feast here.

Readers never wait for the writer nor block it; there is one writer at a time, and a change is
complete or invisible, also after kill -9. LMDB asks that a process opens a directory once, that no
environment lives through a fork, and that nobody is inside while the map grows or a table is
dropped: all of that is seen to here. A file that was cut off is refused before a page of it is
touched (`lmdb_file`), and so is a directory that was there and is gone: an empty answer would pass
for a true one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb

from adc_features.errors import ArtifactError
from adc_features.store.lmdb.file_check import check_whole

T = TypeVar("T")
DATA, LOCK = "data.mdb", "lock.mdb"
MAX_TABLES = 4096
MAX_READERS = 1024
"""Read transactions at one moment, over all processes; each is open for the milliseconds of one
call.
"""
_FORK_WAIT = 5.0
"""Seconds that a fork waits for calls of other threads to end."""
_DO = (
    "move the directory away and load the store again, `adc materialize --run RUN` or `feast"
    " materialize`"
)


def environment(path: str | Path, *, map_size: int) -> Environment:
    """The directory `path` (absolute), the same object for every caller. map_size: bytes of address
    space at first; it grows by itself.
    """
    with _lock:
        known = _known.get(str(path))
        if known is None:
            known = _known[str(path)] = Environment(Path(path), map_size)
        return known


class Environment:
    """A directory that opens itself when it is first used, after a fork, and when another has taken
    its place on disk.
    """

    def __init__(self, path: Path, map_size: int) -> None:
        self.path, self._map_size = path, map_size
        self._lmdb: Any = None
        self._files: _Files | None = None
        self._page, self._needed, self._checked = 0, 0, (-1, -1)
        self._was_there = False
        self._tables: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._turn = threading.Condition()
        self._inside, self._alone = 0, False

    @contextlib.contextmanager
    def reading(self, table: str) -> Iterator[Any]:
        """A transaction on the table as of one moment; None when there is no such table, or when
        there never was the directory.

        Raises ArtifactError when it cannot be opened, is damaged, or was there before and is gone.
        """
        if _status(self.path, DATA) is None:
            if self._was_there:
                raise ArtifactError(
                    f"the online store {self.path} was there and is gone; put it back, or load it"
                    " again, `adc materialize --run RUN`"
                )
            yield None
            return
        try:
            with self._entered():
                handle = self._table(table)
                if handle is None:
                    yield None
                    return
                with self._begin(handle) as txn:
                    yield txn if self._exists(txn) else None
        except lmdb.Error as error:
            raise ArtifactError(
                f"the online store {self.path} could not be read ({error}); if this happens again,"
                f" {_DO}"
            ) from error

    def write(self, table: str, change: Callable[[Any], T]) -> T:
        """change(transaction on the table), committed when it returns; called again from the start
        when the map had to grow.

        Raises ArtifactError when the disk is full or the directory may not be written; nothing is
        changed then.
        """
        while True:
            try:
                with self._entered():
                    with self._begin(
                        self._table(table) or self._table(table, create=True), write=True
                    ) as txn:
                        done = change(txn)
                    self._fill_up()
                    return done
            except lmdb.MapFullError:
                with self._exclusive():
                    self._grow()
            except (lmdb.NotFoundError, lmdb.BadDbiError):
                self._files = None  # as in _exists
            except lmdb.Error as error:
                # a full disk shows as a short write, that is as "Input/output error"
                # after a failed write LMDB may refuse further ones: open afresh at the next use
                self._files = None
                raise ArtifactError(
                    f"{self.path} could not be written ({error}); nothing was changed, make room or"
                    " give write permission and repeat"
                ) from error

    def tables(self) -> list[str]:
        """The names of all tables."""
        if _status(self.path, DATA) is None:
            return []
        with self._entered(), self._begin(None) as txn:
            return [name.decode() for name in txn.cursor().iternext(keys=True, values=False)]

    def drop(self, tables: list[str]) -> None:
        """Remove tables with all their rows, each in one transaction; names that do not exist are
        no error.
        """
        if _status(self.path, DATA) is None:
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
        """Close it when nobody is inside; the next use opens it again. False when somebody still
        was after `timeout` seconds.
        """
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
                    handle = self._tables[name] = self._opened_table(name.encode(), create=create)
                except lmdb.NotFoundError:
                    return None
        return handle

    def _opened_table(self, name: bytes, *, create: bool) -> Any:
        """In a transaction of ours: without one, py-lmdb (3.0) waits for another thread's write
        with the interpreter's lock held, and both wait for ever.
        """
        if self._lmdb.flags()["readonly"]:
            return self._lmdb.open_db(name, create=create)
        with self._lmdb.begin(write=True) as txn:
            return self._lmdb.open_db(name, txn=txn, create=create)

    def _exists(self, txn: Any) -> bool:
        try:
            txn.cursor().first()
        except (lmdb.NotFoundError, lmdb.BadDbiError):
            # another process dropped the table since we opened it: LMDB finds a new one only when
            # it opens afresh
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
                    with self._exclusive():
                        self._lmdb.set_mapsize(0)
                finally:
                    self._enter()

    def _check_covered(self) -> None:
        """Raise ArtifactError when the file ends before a page that a transaction which begins now
        may touch.
        """
        last = self._lmdb.info()["last_pgno"]
        if (wanted := (last + 1) * self._page) <= self._needed:
            return
        status = _status(self.path, DATA)
        size = status.size if status else 0
        if self._checked != (last, size):
            self._needed = wanted if size >= wanted else check_whole(self.path / DATA, _DO)
            self._checked = last, size

    def _fill_up(self) -> None:
        """Let the file reach its last page where a change left pages unwritten, so that its size
        alone tells whether it is whole.
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
            if self._lmdb is None or self._files is None:
                return False
            data, lock = _status(self.path, DATA), _status(self.path, LOCK)
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

        self._turn.wait_for(lambda: is_current() or not self._inside)
        if is_current():
            self._check_covered()
            return
        self._close()
        self._lmdb = _opened(self.path, self._map_size)
        data = _status(self.path, DATA)
        if data is None:
            self._close()
            raise ArtifactError(
                f"the online store {self.path} was taken away while it was opened; put it back and"
                " repeat"
            )
        self._files, self._was_there = _Files(data, _status(self.path, LOCK)), True
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
        could not be closed before.
        """
        self._opening, self._turn = threading.Lock(), threading.Condition()
        self._inside, self._alone = 0, False
        if self._lmdb is not None:
            _inherited.append(self._lmdb)
        self._lmdb, self._files = None, None
        self._tables = {}


_lock = threading.Lock()
_known: dict[str, Environment] = {}
_inherited: list[Any] = []
"""A parent's open environments, kept so that the child never closes them: that would take the
parent's place in the readers' table.
"""


def _before_fork() -> None:
    _lock.acquire()
    for known in _known.values():
        known.close(_FORK_WAIT)


def _in_child() -> None:
    for known in _known.values():
        known._begin_again()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_in_child)


class _Status(NamedTuple):
    device: int
    inode: int
    size: int


class _Files(NamedTuple):
    """What lay on disk when the directory was opened; no lock on a read-only file system."""

    data: _Status
    lock: _Status | None


def _status(path: Path, name: str) -> _Status | None:
    try:
        status = os.stat(f"{path}/{name}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(
            f"the online store {path} cannot be looked at ({error}); give a directory and"
            " permission to read it"
        ) from error
    return _Status(status.st_dev, status.st_ino, status.st_size)


def _opened(path: Path, map_size: int) -> Any:
    options: dict[str, Any] = {
        "map_size": map_size,
        "max_dbs": MAX_TABLES,
        "max_readers": MAX_READERS,
        "readahead": False,
    }
    if _status(path, DATA) is not None:
        check_whole(path / DATA, _DO)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if _status(path, DATA) is None:
            _create(path)
        return lmdb.open(str(path), **options)
    except (OSError, lmdb.Error) as refused:
        try:  # a read-only file system, or files that another user writes
            return lmdb.open(str(path), readonly=True, create=False, **options)
        except lmdb.Error:
            raise ArtifactError(
                f"the online store {path} cannot be opened ({refused}); it needs read permission"
                f" for {DATA} and write permission for lock.mdb, where readers register"
            ) from refused


def _create(path: Path) -> None:
    """A whole `data.mdb` by one link: nobody meets an empty one, also after a kill, so that an
    empty one is a fault.
    """
    aside = tempfile.mkdtemp(prefix=".new.", dir=path)
    try:
        lmdb.open(aside, map_size=1 << 20, max_dbs=1).close()
        with contextlib.suppress(FileExistsError):
            os.link(f"{aside}/{DATA}", path / DATA)
    except OSError:
        return  # a file system without links: LMDB makes the file itself
    finally:
        shutil.rmtree(aside, ignore_errors=True)
