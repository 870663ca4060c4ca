"""Which items are known, for streams that do not take events of others. Reads: published codes,
items that came or went since. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from adc_features.aggregates.declaration import EventStream
from adc_features.errors import InputError
from adc_features.store.online_sids import OnlineSids
from adc_features.store.repository import LiveGeneration, live_generations

ItemId = str | int


class Known(Protocol):
    """What tells known items."""

    def among(self, ids: Collection[ItemId]) -> set[ItemId]:
        """Those of some ids that are known now."""
        ...


class KnownItems:
    """The items that a repository's codes have as of now, in any published generation.

    Parameters
    ----------
    repo : Path
    stream : EventStream
        Whose `item` holds their ids.
    clock : callable
        The time, aware.

    Raises
    ------
    InputError
        No codes are published, or their ids are of another type than the stream's.
    """

    def __init__(
        self,
        repo: Path,
        stream: EventStream,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repo, self._clock = repo, clock
        self._published: list[LiveGeneration] = []
        self._sids: OnlineSids | None = None
        self._follow()
        where = f"the stream {stream.name!r} is declared with {stream.unknown_items!r}"
        if not self._published:
            raise InputError(
                f"{where} for unknown items, but {repo} has no published codes, so that every item"
                " is unknown; publish codes first, or declare unknown_items='create'"
            )
        declared = stream.keys[str(stream.item)]
        if other := [one for one in self._published if one.id_type != declared]:
            raise InputError(
                f"{where} for unknown items and {stream.item!r} of type {declared}, but the items"
                f" of the generation {other[0].id!r} have ids of type {other[0].id_type}; declare"
                " the key that holds these ids, of their type"
            )

    def among(self, ids: Collection[ItemId]) -> set[ItemId]:
        """Those of some ids that are known now."""
        asked, now, found = list(ids), self._clock(), set[ItemId]()
        if not asked or (sids := self._follow()) is None:
            return found
        for generation in sids.generations:
            timeline = sids.timeline(generation)
            if timeline.snapshots[0].servable_at <= now:
                rows = timeline.at(now).lookup(asked).found.tolist()
                found.update(one for one, is_known in zip(asked, rows, strict=True) if is_known)
        return found

    def _follow(self) -> OnlineSids | None:
        """The codes of what is published now."""
        if (published := live_generations(self._repo)) != self._published:
            ids = [one.id for one in published]
            self._sids = OnlineSids(self._repo, *ids) if ids else None
            self._published = published
        return self._sids
