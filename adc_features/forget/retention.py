"""How long each kind of data is kept. Reads, writes: the live directory, its files, served logs,
the online store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from adc_features.aggregates.batch import TIMESTAMP
from adc_features.aggregates.declaration import AggregateView
from adc_features.aggregates.events import codes_of
from adc_features.artifact import sync_directory, write_atomically
from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.forget.online import expire_online, stored_views
from adc_features.forget.served_log import expire_served
from adc_features.live.history import Histories, as_parquet
from adc_features.live.repository import Live
from adc_features.parquet_files import read_parquet
from adc_features.store.durations import parse_duration
from adc_features.store.parquet.segments import uncovered

Kind = Literal["dead_letters", "history", "online", "served_log"]
KINDS: tuple[str, ...] = get_args(Kind)


def parse_ages(texts: Sequence[str]) -> dict[str, timedelta]:
    """KIND=DURATION each, such as dead_letters=30d. Raises InputError."""
    found = {}
    for text in texts:
        kind, equals, duration = text.partition("=")
        if not equals or kind not in KINDS or kind in found:
            raise InputError(
                f"--older-than {text!r}; expected KIND=DURATION, such as dead_letters=30d, each"
                f" kind once: {', '.join(KINDS)}"
            )
        found[kind] = parse_duration(duration)
        if not found[kind]:
            raise InputError(f"--older-than {text!r}: a duration of 0 deletes everything")
    return found


def expire(
    repo: Path,
    ages: dict[str, timedelta],
    *,
    now: datetime,
    live: Live | None = None,
    logs: Sequence[Path] = (),
    dry_run: bool = False,
) -> dict[str, int]:
    """Delete what is older than its kind is kept.

    Parameters
    ----------
    repo : Path
    ages : dict of str to timedelta
        Kind -> the age up to which it is kept; other kinds are left alone.
    now : datetime
        Aware.
    live : Live, optional
        None where the repository has no live views.
    logs : sequence of Path
        Served logs.
    dry_run : bool
        Change nothing, only count.

    Returns
    -------
    dict of str to int
        Kind -> how many rows, letters or requests were deleted.

    Raises
    ------
    InputError
        `served_log` without a log; nothing was deleted.
    """
    if "served_log" in ages and not logs:
        raise InputError("--older-than served_log=...: name the log as well, --log DIR")
    counts: dict[str, int] = {}
    if live is not None and {"dead_letters", "history"} & set(ages):
        histories = live.histories
        if not dry_run:
            histories.drain()
        with histories.alone():
            if "dead_letters" in ages:
                limit = now - ages["dead_letters"]
                counts["dead_letters"] = _expire_letters(histories, limit, dry_run=dry_run)
            if "history" in ages:
                counts["history"] = sum(
                    expire_history(
                        histories.history(one.declared.name),
                        one.declared,
                        now - ages["history"],
                        dry_run=dry_run,
                    )
                    for one in live.ledger.views
                )
    if "online" in ages:
        counts["online"] = expire_online(stored_views(repo), now - ages["online"], dry_run=dry_run)
    if "served_log" in ages:
        before = now - ages["served_log"]
        counts["served_log"] = sum(
            expire_served(log, before, dry_run=dry_run)["requests"] for log in logs
        )
    return {kind: counts.get(kind, 0) for kind in ages}


def expire_history(
    directory: Path, view: AggregateView, before: datetime, *, dry_run: bool = False
) -> int:
    """Delete from a live view's history what no join as of `before`, or of later, can read: rows
    from before that of which their key has a newer one there. Returns how many.
    """
    limit = int(instant(before).astype(np.int64))
    # those that a merged one has replaced hold the same rows, and go soon
    paths = [Path(name) for name in uncovered(map(str, directory.glob("[!.]*.parquet")))]
    pieces = [read_parquet(path, [*view.key, TIMESTAMP]) for path in paths]
    if not pieces:
        return 0
    rows = pa.concat_tables(pieces)
    time = microseconds(rows[TIMESTAMP], name=TIMESTAMP)
    key, _ = codes_of(view.stream, rows, view.key, ordered=False)
    old = np.flatnonzero(time < limit)
    order = old[np.lexsort((old, time[old], key[old]))]
    newest = np.append(key[order][1:] != key[order][:-1], True)[: len(order)]
    gone = np.zeros(len(rows), bool)
    gone[order[~newest]] = True
    start = 0
    for path, piece in zip(paths, pieces, strict=True):
        mine, start = gone[start : start + len(piece)], start + len(piece)
        if mine.any() and not dry_run:
            _replace(path, mine, as_parquet(read_parquet(path).filter(pa.array(~mine))))
    return int(gone.sum())


def _expire_letters(histories: Histories, before: datetime, *, dry_run: bool) -> int:
    deleted = 0
    for _, _, path in histories.letters().segments():
        lines = path.read_bytes().splitlines()
        gone = np.array([_arrived(line) < before for line in lines], bool)
        deleted += int(gone.sum())
        if gone.any() and not dry_run:
            kept = (line + b"\n" for line, old in zip(lines, gone, strict=True) if not old)
            _replace(path, gone, b"".join(kept))
    return deleted


def _arrived(line: bytes) -> datetime:
    return datetime.fromisoformat(json.loads(line)["arrived"])


def _replace(path: Path, gone: np.ndarray, content: bytes) -> None:
    """A file without some of its rows. No file where none is left, unless it stands for others
    that would be read again.
    """
    files = {str(one) for one in path.parent.iterdir()}
    if gone.all() and set(uncovered(files - {str(path)})) < set(uncovered(files)):
        path.unlink()
    else:
        write_atomically(path, content)
    sync_directory(path.parent)
