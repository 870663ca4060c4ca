"""One holder at a time, released by the system when the holder dies. Reads and writes: lock files, PostgreSQL's advisory locks."""

import fcntl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, text

from adc_features.errors import InputError


@contextmanager
def only_one(engine: Engine, name: str, *, wait: float) -> Iterator[None]:
    """Hold the lock `name` of this catalogue for the block; wait at most `wait` seconds for it.

    A file beside an SQLite database, a session's advisory lock on PostgreSQL: both end with the process that held them. Raises InputError
    when another process holds it for longer, and for a database that has no such lock.
    """
    if engine.dialect.name == "sqlite":
        held = _file(Path(str(engine.url.database) + f".{name}.lock"), wait)
    elif engine.dialect.name == "postgresql":
        held = _advisory(engine, name, wait)
    else:
        raise InputError(f"the catalogue is on {engine.dialect.name}; expected sqlite or postgresql, which have locks that a crash releases")
    with held as taken:
        if not taken:
            raise InputError(f"another process holds the catalogue's {name!r} lock ({engine.url.render_as_string()}); wait for it and run the command again")
        yield


@contextmanager
def _file(path: Path, wait: float) -> Iterator[bool]:
    with path.open("w") as file:
        yield _tried(lambda: _flocked(file.fileno()), wait)


def _flocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _advisory(engine: Engine, name: str, wait: float) -> Iterator[bool]:
    key = {"key": zlib.crc32(f"adc_features {name}".encode())}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = _tried(lambda: bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar()), wait)
        try:
            yield taken
        finally:
            if taken:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)


def _tried(attempt: Callable[[], bool], wait: float) -> bool:
    until = time.monotonic() + wait
    while not (taken := attempt()) and time.monotonic() < until:
        time.sleep(0.02)
    return taken
