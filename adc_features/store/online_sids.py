"""Codes for requests, at the speed of memory. Reads: packed snapshots of published generations.
Writes: nothing; no feast here.

A lookup takes one `stat` to see whether something newer was published. What is open stays mapped
until the new files are open too, so no read fails or mixes two snapshots; files that are replaced
or deleted serve on until then.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from adc_features.codes.sids import SidTable
from adc_features.errors import AdcError, InputError
from adc_features.store.packed.overlay import OverlayReader
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.packed.timeline import (
    Opened,
    PackedTimeline,
    State,
    open_timeline,
    state_of,
)
from adc_features.store.repository import live_generation, publication_path

_log = logging.getLogger(__name__)


class OnlineSids:
    """Packed codes of one or several generations, open for lookups; threads may share it.

    It follows what is published: a newer snapshot is served from the next lookup on, and no lookup
    mixes two. Items that came or went since (docs/guides/new_items.md) are laid over it.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    *generations : str
        Ids of published generations, such as a canary beside the incumbent; the first is the
        default of `lookup`.
    clock : callable, optional
        Says what `now` is where a lookup does not (aware).

    Raises
    ------
    InputError
        No generation is named, or one is not published.
    ArtifactError
        A file is missing or altered.

    Examples
    --------
    >>> codes = OnlineSids(repo, "g1", "g2")
    >>> codes.lookup(["a"]).sid.tolist(), codes.lookup(["a"], generation="g2").sid.tolist()
    ([[2, 2, -1]], [[7, 7, -1]])

    Source
    ------
    Format of the packed files: docs/reference/snapshots.md.
    """

    def __init__(
        self,
        repo: Path,
        *generations: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not generations:
            raise InputError("no generation given; name at least one that is published")
        self._clock = clock
        live = {g: live_generation(repo, g) for g in generations}
        self._paths = {g: publication_path(repo, one.id) for g, one in live.items()}
        self._overlays = {g: OverlayReader(repo, one) for g, one in live.items()}
        self._open: dict[str, Opened] = {
            g: open_timeline(path, tries=6) for g, path in self._paths.items()
        }
        self._refused: dict[str, State] = {}
        self._opening = Lock()

    @property
    def generations(self) -> list[str]:
        """Their ids, in the order given; a lookup that names none reads the first."""
        return list(self._paths)

    def lookup(
        self, item_ids: Iterable[Any], *, generation: str | None = None, now: datetime | None = None
    ) -> SidTable:
        """The codes of items as served at `now`, one row per id in the order asked, repeats kept.

        Parameters
        ----------
        item_ids : iterable of int or str, N ids
            Of the published type.
        generation : str, optional
            One of those opened; by default the first.
        now : datetime, optional
            Aware; by default what the clock says.
            The newest snapshot with servable_at <= now answers.

        Returns
        -------
        SidTable, N rows
            Unknown and removed items have found = False, codes -1 and weights 0.

        Raises
        ------
        InputError
            Ids of another type, a generation that is not open here,
            or a `now` before its first snapshot.
        """
        return self.snapshot(generation, now=now).lookup(item_ids)

    def snapshot(
        self, generation: str | None = None, *, now: datetime | None = None
    ) -> PackedSnapshot:
        """What is served at `now`.

        Whoever reads several times for one request reads all of it from this.

        Parameters
        ----------
        generation : str, optional
            One of those opened; by default the first.
        now : datetime, optional
            Aware; by default what the clock says.

        Returns
        -------
        PackedSnapshot
            The newest snapshot with servable_at <= now.

        Raises
        ------
        InputError
            A generation that is not open here, or a `now` before its first snapshot.
        """
        return self.timeline(generation).at(now or self._clock())

    def timeline(self, generation: str | None = None) -> PackedTimeline:
        """All snapshots as published now, for a request that may lie before the first.

        Parameters
        ----------
        generation : str, optional
            One of those opened; by default the first.

        Returns
        -------
        PackedTimeline
            Its snapshots in the order of their times.

        Raises
        ------
        InputError
            A generation that is not open here.
        """
        name = generation or next(iter(self._paths))
        if name not in self._paths:
            raise InputError(
                f"generation {name!r} is not open here, open are {self.generations}; name it when"
                " opening"
            )
        timeline, overlay = self._newest(name).timeline, self._overlays[name].now()
        return timeline if overlay is None else timeline.overlaid(overlay)

    def _newest(self, generation: str) -> Opened:
        """What is published, opened by the first thread that sees it.

        The others go on with what they have.
        """
        opened, path = self._open[generation], self._paths[generation]
        state = state_of(path)
        if state in (
            None,
            opened.state,
            self._refused.get(generation),
        ) or not self._opening.acquire(blocking=False):
            return opened
        try:
            self._open[generation] = opened = open_timeline(path)
            _log.info(
                "stage=refresh generation=%s as_of=%s",
                generation,
                opened.timeline.snapshots[-1].as_of.isoformat(),
            )
        except AdcError as error:
            # it is broken, not in motion: no use in trying again before the next one
            if state and state_of(path) == state:
                self._refused[generation] = state
                _log.warning(
                    "stage=refresh generation=%s kept the snapshot before: %s", generation, error
                )
        finally:
            self._opening.release()
        return opened
