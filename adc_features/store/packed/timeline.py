"""The packed snapshots of one generation through time:
the late join. Reads: a publication. Writes: nothing.

Training rows carry (item, time); their codes are gathered from the memory-mapped files inside the
loader, which equals the join of the published rows (tested). Nothing is loaded but the pages that
are touched.
"""

import copy
import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adc_features.artifact import MANIFEST, read_manifest, require_files, within
from adc_features.clock import instant, utc
from adc_features.codes.sids import refuse_without_second
from adc_features.errors import ArtifactError, GenerationMismatch, InputError
from adc_features.store.packed.id_index import checked_ids
from adc_features.store.packed.layout import NO_TIME, ROWS_AT_ONCE
from adc_features.store.packed.overlay import Overlay
from adc_features.store.packed.snapshot import Gathered, PackedSnapshot

Codes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Codes int32 [M, L], weights float32 [M, L], reliability float32 [M]."""
State = tuple[int, int, int]
"""What tells one publication from the next without reading it: inode, time of change and size of
its manifest.
"""


class PackedTimeline:
    """Open packed snapshots, each complete, of one vocabulary.

    `servable_at`: datetime64[us], when each could first be served. `cutoffs`: likewise, as of when
    each is.

    A snapshot counts from its servable_at (included) until the next one's. Threads and DataLoader
    workers may share it.
    """

    def __init__(self, snapshots: Sequence[PackedSnapshot]) -> None:
        if not snapshots:
            raise InputError("no snapshots given; publish at least one before looking codes up")
        vocabularies = {
            (s.generation, s.codebook_hash, s.codebook_size, s.length, s.has_second)
            for s in snapshots
        }
        if len(vocabularies) > 1:
            raise GenerationMismatch(
                "packed snapshots of several codebooks, or with and without second codes:"
                f" {sorted(vocabularies)}; codes of two never meet, look each up apart"
            )
        if any(later.servable_at <= earlier.servable_at for earlier, later in pairwise(snapshots)):
            raise InputError("servable_at must rise from snapshot to snapshot; sort them by time")
        self.snapshots = list(snapshots)
        self._moments = [s.servable_at for s in snapshots]
        self.servable_at = np.array([instant(t) for t in self._moments], "datetime64[us]")
        self.cutoffs = np.array([instant(s.as_of) for s in snapshots], "datetime64[us]")
        self.overlay: Overlay | None = None

    def overlaid(self, overlay: Overlay | None) -> "PackedTimeline":
        """The same snapshots, with items that came or went since laid over them."""
        laid = copy.copy(self)
        laid.overlay = overlay
        return laid

    @property
    def generation(self) -> str:
        """Its id."""
        return self.snapshots[0].generation

    @property
    def length(self) -> int:
        """L."""
        return self.snapshots[0].length

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.snapshots[0].codebook_size

    @property
    def has_second(self) -> bool:
        """Whether its snapshots tell second codes."""
        return self.snapshots[0].has_second

    @property
    def item_ids(self) -> np.ndarray:
        """Every item of any snapshot or laid over them, sorted: of the snapshots the newest file
        holds them all.
        """
        known = self.snapshots[-1].item_ids
        return np.sort(known) if self.overlay is None else np.union1d(known, self.overlay.item_ids)

    def at(self, now: datetime) -> PackedSnapshot:
        """The snapshot served at `now`: the newest with servable_at <= now.

        Raises InputError before the first.
        """
        place = bisect_right(self._moments, utc(now, name="now"))
        if not place:
            raise InputError(
                f"now is {now.isoformat()}, the first snapshot is served from"
                f" {self._moments[0].isoformat()}; ask as of a later time"
            )
        snapshot, moment = self.snapshots[place - 1], int(instant(now).astype(np.int64))
        if self.overlay is None:
            return snapshot
        return snapshot.overlaid(
            lambda ids, stored: self._served(ids, np.full(len(ids), moment), stored)
        )

    def removed(self, item_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Which items (checked ids [M]) had been removed after the snapshot that serves at their
        time, datetime64 [M]: bool [M].
        """
        if self.overlay is None:
            return np.zeros(len(item_ids), bool)
        found = self._found(item_ids, times)
        return ~found & self.overlay.removed(item_ids, times.astype("datetime64[us]").view(int))

    def gather(self, item_ids: Iterable[Any], times: np.ndarray) -> Codes:
        """The codes of items [M] as served at times datetime64 [M], UTC.

        Returns codes int32 [M, L], weights float32 [M, L] and reliability float32 [M]. Rows before
        the first snapshot, and unknown items, have codes -1 and weights 0. Raises InputError for a
        missing time and as `checked_ids` for ids.
        """
        wanted = self._checked(item_ids, times)
        rows, length = len(wanted), self.length
        sid, weight = np.empty((rows, length), np.int32), np.empty((rows, length), np.float32)
        reliability = np.empty(rows, np.float32)
        for start in range(0, rows, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            sid[part], weight[part], profile = self._gather(wanted[part], times[part])
            reliability[part] = profile["reliability"]
        return sid, weight, reliability

    def gather_second(
        self, item_ids: Iterable[Any], times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The second codes of items [M] as served at times datetime64 [M], UTC.

        Returns codes int32 [M, L], -1 where there is none, and their probabilities float32 [M, L],
        0 there. Raises InputError as `gather`, and for a generation without second codes.
        """
        refuse_without_second(self)
        wanted = self._checked(item_ids, times)
        shape = len(wanted), self.length
        codes, weight = np.empty(shape, np.int32), np.empty(shape, np.float32)
        for start in range(0, len(wanted), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            profile = self._gather(wanted[part], times[part]).profile
            codes[part], weight[part] = profile["sid_second"], profile["sid_second_weight"]
        return codes, weight

    def _checked(self, item_ids: Iterable[Any], times: np.ndarray) -> np.ndarray:
        wanted = checked_ids(item_ids, self.snapshots[0].id_type)
        if times.dtype.kind != "M" or times.shape != wanted.shape:
            raise InputError(
                f"times are {times.dtype}{list(times.shape)}; expected datetime64[{len(wanted)}],"
                " one UTC time an item"
            )
        if np.isnat(times).any():
            raise InputError(
                f"{int(np.isnat(times).sum())} rows have no time (NaT); drop them, a code is looked"
                " up as of a time"
            )
        return wanted

    def _found(self, item_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        found = np.empty(len(item_ids), bool)
        for start in range(0, len(item_ids), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            found[part] = self._gather(item_ids[part], times[part]).profile["found"]
        return found

    def _gather(self, item_ids: np.ndarray, times: np.ndarray) -> Gathered:
        """One block: grouped by snapshot, gathered group by group, put back into order."""
        # 0: before the first
        which = np.searchsorted(self.servable_at, times, side="right").astype(np.int16)
        served = np.flatnonzero(np.bincount(which, minlength=1))
        if len(served) == 1:
            return self._of_one(int(served[0]), item_ids, times)
        order = np.argsort(which, kind="stable")  # int16: a radix sort
        ends = np.searchsorted(which, served, side="right", sorter=order)
        groups = [
            self._of_one(int(s), item_ids[order[a:b]], times[order[a:b]])
            for s, a, b in zip(served, [0, *ends[:-1]], ends, strict=True)
        ]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return Gathered(
            *(np.concatenate(columns).take(back, axis=0) for columns in zip(*groups, strict=True))
        )

    def _of_one(self, served: int, item_ids: np.ndarray, times: np.ndarray) -> Gathered:
        """Of the snapshot before `served`; of none for 0."""
        if served:
            got = self.snapshots[served - 1].gather(item_ids)
        else:
            got = self.snapshots[0].unknown_rows(len(item_ids))
        if self.overlay is None:
            return got
        return self._served(item_ids, times.astype("datetime64[us]").astype(np.int64), got)

    def _served(self, item_ids: np.ndarray, times: np.ndarray, stored: Gathered) -> Gathered:
        """What a snapshot says, and the overlay over it.

        A row that a snapshot carries on from an earlier one is as old as that one.
        """
        assert self.overlay is not None
        as_of = stored.profile["sid_as_of"]
        place = np.searchsorted(self.cutoffs.astype(np.int64), as_of)
        place = np.minimum(place, len(self.cutoffs) - 1)
        since = np.where(as_of == NO_TIME, NO_TIME, self.servable_at.astype(np.int64)[place])
        return Gathered(*self.overlay.over(item_ids, times, stored, since))


class Opened(NamedTuple):
    """A publication's packed files, and the state of the publication that they belong to."""

    timeline: PackedTimeline
    state: State


def open_timeline(publication: Path, *, tries: int = 1) -> Opened:
    """Open every packed snapshot of a publication directory, all from the same publication.

    Raises ArtifactError when it is missing or broken; `tries` > 1 waits a little in between, for a
    publisher at work.
    """
    for attempt in range(tries):
        try:
            return _opened(publication)
        except ArtifactError:
            if attempt + 1 == tries:
                raise
            time.sleep(0.01 * 2**attempt)
    raise AssertionError("tries is at least 1")


def state_of(publication: Path) -> State | None:
    """The state of a publication now, by one `stat`; None where there is none."""
    try:
        found = os.stat(f"{publication}/{MANIFEST}")
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _opened(publication: Path) -> Opened:
    before, manifest = state_of(publication), read_manifest(publication, verify=False)
    if not (names := [entry.get("packed") for entry in manifest["snapshots"]]) or None in names:
        raise ArtifactError(
            f"{publication} holds no packed snapshots, an older version wrote it; publish its"
            " newest snapshot again"
        )
    files = [within(publication, name, said_by=str(publication / MANIFEST)) for name in names]
    require_files(publication, manifest, names)
    snapshots = [PackedSnapshot(file) for file in files]
    for snapshot in snapshots:
        # a flipped bit would be another code; a gigabyte a second, once for each file and process
        snapshot.verify()
    # replaced between the first and the last open: they may not belong together
    if before is None or state_of(publication) != before:
        raise ArtifactError(f"{publication} was replaced while it was read; open it again")
    if manifest["codebook_hash"] != snapshots[0].codebook_hash:
        raise ArtifactError(
            f"{snapshots[0].path} holds codes of another codebook than {publication / MANIFEST}"
            " says; publish the generation again"
        )
    return Opened(PackedTimeline(snapshots), before)
