"""The files of an LMDB directory: looked at, made, opened. Reads, writes: data.mdb and lock.mdb."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from adc_features.errors import ArtifactError
from adc_features.store.lmdb.file_check import check_whole

DATA, LOCK = "data.mdb", "lock.mdb"
MAX_TABLES = 4096
MAX_READERS = 1024
"""Read transactions at one moment, over all processes; each is open for the milliseconds of one
call.
"""
WHAT_TO_DO = (
    "move the directory away and load the store again, `adc materialize --run RUN` or `feast"
    " materialize`"
)


class Status(NamedTuple):
    """Which file lies under a name, and how long it is (bytes)."""

    device: int
    inode: int
    size: int


class OpenFiles(NamedTuple):
    """What lay on disk when the directory was opened; no lock on a read-only file system."""

    data: Status
    lock: Status | None


class OwnTable(NamedTuple):
    """One table in a transaction, used as a transaction on that table alone is."""

    txn: Any
    table: Any

    def get(self, key: bytes) -> bytes | None:
        return self.txn.get(key, db=self.table)

    def put(self, key: bytes, value: bytes) -> bool:
        return self.txn.put(key, value, db=self.table)

    def delete(self, key: bytes) -> bool:
        return self.txn.delete(key, db=self.table)

    def cursor(self) -> Any:
        return self.txn.cursor(db=self.table)

    def stat(self) -> dict[str, int]:
        return self.txn.stat(self.table)


def values_of(table: Any, keys: Iterable[bytes]) -> list[bytes | None]:
    """The value of each key in a transaction on one table, or in one of several: LMDB is called
    without a call of ours in between."""
    get = partial(table.txn.get, db=table.table) if isinstance(table, OwnTable) else table.get
    return list(map(get, keys))


def status_of(path: Path, name: str) -> Status | None:
    """The file `name` of the directory; None when there is none.

    Raises ArtifactError when it cannot be looked at.
    """
    try:
        status = os.stat(f"{path}/{name}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(
            f"the online store {path} cannot be looked at ({error}); give a directory and"
            " permission to read it"
        ) from error
    return Status(status.st_dev, status.st_ino, status.st_size)


def open_directory(path: Path, map_size: int, *, write: bool) -> Any:
    """Open LMDB's environment of the directory.

    write: it is made when there is none; where it may not be written it is opened for reading.
    Raises ArtifactError when it is damaged or cannot be opened.
    """
    options: dict[str, Any] = {
        "map_size": map_size,
        "max_dbs": MAX_TABLES,
        "max_readers": MAX_READERS,
        "readahead": False,
    }
    if status_of(path, DATA) is not None:
        check_whole(path / DATA, WHAT_TO_DO)
    refused: Exception | None = None
    if write:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if status_of(path, DATA) is None:
                _create(path)
            return lmdb.open(str(path), **options)
        except (OSError, lmdb.Error) as error:
            refused = error  # a read-only file system, or files that another user writes
    try:
        return lmdb.open(str(path), readonly=True, create=False, **options)
    except lmdb.Error as error:
        raise ArtifactError(
            f"the online store {path} cannot be opened ({refused or error}); it needs read"
            f" permission for {DATA} and write permission for lock.mdb, where readers register"
        ) from refused or error


def _create(path: Path) -> None:
    """Make a whole `data.mdb` by one link: nobody meets an empty one, not even after a kill.

    An empty file is a fault, therefore.
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
