"""One holder at a time, released by the system when the holder dies. Reads and writes: lock files,
PostgreSQL's advisory locks.

Reads /proc/locks too, where there is one, to say who holds what.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, text

from adc_features.errors import InputError
from adc_features.file_lock import file_lock, until_taken
from adc_features.redaction import redacted


@contextmanager
def only_one(engine: Engine, name: str, *, wait: float) -> Iterator[None]:
    """Hold the lock `name` of this catalogue for the block; wait at most `wait` seconds for it.

    A file beside an SQLite database, a session's advisory lock on PostgreSQL: both end with the
    process that held them. Raises InputError when another process holds it for longer, and for a
    database that has no such lock.
    """
    if engine.dialect.name == "sqlite":
        held = file_lock(Path(f"{engine.url.database}.{name}.lock"), wait=wait)
    elif engine.dialect.name == "postgresql":
        held = _advisory(engine, name, wait)
    else:
        raise InputError(
            f"the catalogue is on {engine.dialect.name}; expected sqlite or postgresql, which have"
            " locks that a crash releases"
        )
    with held as taken:
        if not taken:
            raise InputError(
                f"another process holds the catalogue's {name!r} lock"
                f" ({redacted(engine.url.render_as_string())}){_holder(engine, name)}; wait for it,"
                " or end it, and run the command again"
            )
        yield


def held_elsewhere(engine: Engine) -> str:
    """What a command says that waited in vain for a database which another program is writing."""
    return (
        f"the catalogue {redacted(engine.url.render_as_string())} is held by another"
        f" writer{_named(holders(engine))}: a command at work, an open transaction of a database"
        " shell, or a backup; wait for it, or end it, and run the command again"
    )


def holders(engine: Engine, name: str | None = None) -> list[int]:
    """Process ids that hold locks on an SQLite catalogue, or on the lock `name` beside it; empty
    where the system does not say.
    """
    if engine.dialect.name != "sqlite":
        return []
    database = str(engine.url.database)
    try:
        inodes = {
            Path(p).stat().st_ino
            for p in (
                [f"{database}.{name}.lock"]
                if name
                else [database, f"{database}-shm", f"{database}-wal"]
            )
            if Path(p).exists()
        }
        lines = [
            line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()
        ]
    except (OSError, ValueError):
        return []
    found = {
        int(words[4])
        for words in lines
        if len(words) > 5
        and words[3] == "WRITE"
        and words[5].rpartition(":")[2] in {str(i) for i in inodes}
    }
    return sorted(pid for pid in found if pid > 0 and (name or pid != os.getpid()))


def _named(pids: list[int]) -> str:
    return f" (process {', '.join(map(str, pids))})" if pids else ""


def _holder(engine: Engine, name: str) -> str:
    """Who holds the lock `name`, in brackets; nothing where the system does not say."""
    if engine.dialect.name != "postgresql":
        return _named(holders(engine, name))
    with engine.connect() as connection:
        found = connection.execute(text(_WHO_HOLDS), _key(name)).scalars().all()
    return f" ({', '.join(found)})" if found else ""


_WHO_HOLDS = """
SELECT concat(application_name, ', server process ', pid)
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND pg_locks.classid = 0 AND pg_locks.objid = :key
    AND pg_locks.database = pg_stat_activity.datid
"""


def _key(name: str) -> dict[str, int]:
    return {"key": zlib.crc32(f"adc_features {name}".encode())}


@contextmanager
def _advisory(engine: Engine, name: str, wait: float) -> Iterator[bool]:
    key = _key(name)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = until_taken(
            lambda: bool(
                connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar()
            ),
            wait,
        )
        try:
            yield taken
        finally:
            if taken:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
