"""One process at a time writes below an address. Reads, writes: a lock on this machine, a claim on
an object store.

Object stores have no locks, and not all of them can put a file only where there is none. So a
writer puts a claim of its own, `<address>/_writers/<id>`, then looks whether there is another one,
and goes away if so. Of two that begin at once each may see the other, and both go away; that both
go on would take a listing that lacks a claim put before it, which S3, Google and Azure exclude. A
claim is renewed while its writer lives. One that was not renewed for `LEASE` is nobody's any more:
ages are told by the store's own clock.
"""

import json
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.file_lock import file_lock
from adc_features.uris import is_remote, local_path, open_uri, reaching

CLAIMS = "_writers"
"""The folder of claims, below the address."""
LEASE = timedelta(minutes=2)
_RENEWALS = 8
"""How often a claim is renewed within a lease."""


@contextmanager
def only_writer(uri: str | Path) -> Iterator[None]:
    """Write below an address for the block, alone.

    A process that is stopped for longer than `LEASE` without being ended (a suspended machine) is
    taken for dead, and does not notice.

    Raises InputError while another process writes there, StorageError where the object store
    refuses the credentials or does not answer.
    """
    if not is_remote(uri):
        directory = local_path(uri)
        os.makedirs(directory, exist_ok=True)
        with file_lock(directory) as taken:
            if not taken:
                raise InputError(
                    f"another process writes into {uri}; wait for it, or name another folder"
                )
            yield
        return
    filesystem, root = open_uri(uri)
    folder = f"{root.rstrip('/')}/{CLAIMS}"
    mine, ended = f"{folder}/{uuid.uuid4().hex}", threading.Event()
    facts = {"host": platform.node(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat()}

    def claim() -> None:
        with filesystem.open_output_stream(mine) as file:
            file.write(json.dumps(facts).encode())

    def renew() -> None:
        while not ended.wait(LEASE.total_seconds() / _RENEWALS):
            with suppress(OSError):  # the next renewal may reach the store again
                claim()

    renewing = threading.Thread(target=renew, daemon=True)
    try:
        with reaching(uri):
            claim()
            _refuse_others(filesystem, folder, mine, uri)
        renewing.start()
        yield
    finally:
        ended.set()
        if renewing.is_alive():
            renewing.join()
        with suppress(OSError):  # it ends by itself
            filesystem.delete_file(mine)


def _refuse_others(filesystem: Any, folder: str, mine: str, uri: str | Path) -> None:
    from pyarrow import fs

    claims = {info.path: info for info in filesystem.get_file_info(fs.FileSelector(folder))}
    now = claims[mine].mtime
    for path, info in claims.items():
        if path == mine or info.type != fs.FileType.File:
            continue
        if now is not None and info.mtime is not None and now - info.mtime >= LEASE:
            with suppress(FileNotFoundError):
                filesystem.delete_file(path)
            continue
        try:
            with filesystem.open_input_stream(path) as file:
                who = _said(file.read())
        except FileNotFoundError:
            continue  # it has ended since
        except OSError as error:
            who = f"its claim cannot be read: {error}"
        raise InputError(
            f"another process writes into {uri} ({who}); wait for it, or name another folder. One"
            f" that was killed is forgotten after {LEASE.total_seconds():.0f} seconds"
        )


def _said(claim: bytes) -> str:
    """Who claims, as it says; whatever stands there, in one line."""
    try:
        facts = json.loads(claim)
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return repr(claim[:80])
