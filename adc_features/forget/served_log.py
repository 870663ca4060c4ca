"""Served logs without some users, or without what is old. Reads, writes: segments.

Of a segment the candidates are written first, and deleted last: whoever died between finds, called
again, the requests that say what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import fresh_file, sync_directory
from adc_features.errors import InputError
from adc_features.forget.subject import Subject
from adc_features.parquet_files import read_parquet, write_table
from adc_features.served.record import USER
from adc_features.served.segments import CANDIDATES, REQUESTS

ID = "request_id"


def forget_served(log: Path, subject: Subject, *, dry_run: bool = False) -> dict[str, int]:
    """Delete the requests of users from a served log, and the candidates of these requests.

    Parameters
    ----------
    log : Path
    subject : Subject
    dry_run : bool
        Change nothing, only count.

    Returns
    -------
    dict of str to int
        requests: how many were deleted; open_segments: files that a service still writes, and that
        may hold some more: call again when they are sealed.

    Raises
    ------
    InputError
        There is no such log.
    ArtifactError
        A segment cannot be read.
    """
    column = USER + subject.key

    def theirs(requests: pa.Table) -> np.ndarray:
        if column not in requests.column_names:
            return np.zeros(len(requests), bool)
        return subject.among(requests[column])

    return _without(log, theirs, dry_run=dry_run)


def expire_served(log: Path, before: datetime, *, dry_run: bool = False) -> dict[str, int]:
    """Delete the requests that were received before a time; otherwise as `forget_served`."""
    limit = pa.scalar(before, pa.timestamp("us", tz="UTC"))

    def old(requests: pa.Table) -> np.ndarray:
        found: np.ndarray = pc.less(requests["received"], limit).to_numpy()
        return found

    return _without(log, old, dry_run=dry_run)


def _without(
    log: Path, chosen: Callable[[pa.Table], np.ndarray], *, dry_run: bool
) -> dict[str, int]:
    """Rewrite the segments whose requests are chosen."""
    folder, other = Path(log) / REQUESTS, Path(log) / CANDIDATES
    if not folder.is_dir():
        raise InputError(f"{log} is no served log; give the directory of `adc serve --log`")
    deleted = 0
    for path in _sealed(folder):
        requests = read_parquet(path)
        gone = chosen(requests)
        if not gone.any():
            continue
        deleted += int(gone.sum())
        if dry_run:
            continue
        candidates = other / path.name
        if gone.all():
            path.unlink()
            sync_directory(folder)
            continue
        ids = requests[ID].filter(pa.array(gone))
        kept_ids = requests[ID].filter(pa.array(~gone))
        ids = ids.filter(pc.invert(pc.is_in(ids, value_set=kept_ids.combine_chunks())))
        rows = read_parquet(candidates)
        theirs = pc.is_in(rows[ID], value_set=ids.combine_chunks())
        _write(candidates, rows.filter(pc.invert(theirs)))
        _write(path, requests.filter(pa.array(~gone)))
    if not dry_run:
        sealed = {path.name for path in _sealed(folder)}
        for path in _sealed(other):
            if path.name not in sealed:
                path.unlink()
    still_open = sum(1 for _ in folder.glob(".*.parquet"))
    return {"requests": deleted, "open_segments": still_open}


def _sealed(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("[!.]*.parquet")))


def _write(path: Path, table: pa.Table) -> None:
    """In place of the file, with its metadata, which says what the rows are about."""
    with fresh_file(path) as file:
        write_table(table, file, compression="zstd")
    sync_directory(path.parent)
