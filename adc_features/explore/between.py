"""Items that came or went since the newest snapshot (`adc ingest --items`, POST /items). Reads: the
live directory of a repository. Writes: nothing.

An index is of what is published; these items are not in it until the next snapshot has them. They
are read at each look: a look costs a read transaction, and what came since the last one.
"""

import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from adc_features.clock import moment
from adc_features.explore.place import Place
from adc_features.store.packed.layout import NO_TIME
from adc_features.store.packed.overlay import AS_OF, Overlay, OverlayReader
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.packed.timeline import PackedTimeline
from adc_features.store.repository import LiveGeneration

SEARCHED = 2_000
"""Newest items that are found by their words; older ones by their ids."""


class Came(NamedTuple):
    """An item that came or went. since: from when on it is served so."""

    id: Any
    since: datetime
    removed: bool


class Given(NamedTuple):
    """By what an item was described when it came. vectors: modality -> float32 [D]."""

    title: str | None
    about: str | None
    vectors: dict[str, np.ndarray]


class Between:
    """What came and went in one generation; threads may share it."""

    def __init__(self, place: Place, live: LiveGeneration, timeline: PackedTimeline) -> None:
        self._repo, self._live, self._timeline = place.repo, live, timeline
        self._reader = OverlayReader(place.repo, live)
        self._cutoffs = timeline.cutoffs.astype(np.int64)
        self._newest: tuple[Overlay | None, list[Came]] = None, []
        self._given: dict[Any, tuple[datetime, Given]] = {}
        self._lock = threading.Lock()

    def served(self) -> PackedSnapshot:
        """The newest snapshot, with what came or went until now laid over it."""
        newest, overlay = self._timeline.snapshots[-1], self._reader.now()
        if overlay is None:
            return newest
        return self._timeline.overlaid(overlay).at(max(datetime.now(UTC), newest.servable_at))

    def state(self) -> int:
        """Another number when anything came or went."""
        overlay = self._reader.now()
        return 0 if overlay is None else len(overlay.table)

    def came(self, served: PackedSnapshot, item_ids: Sequence[Any]) -> list[Came | None]:
        """What became of items; None where a snapshot says what is served."""
        if not len(item_ids):
            return []
        profile = served.gather(np.array(item_ids)).profile
        # codes of a snapshot are as old as a cut-off, those of an item that came as its commit
        mine = ~np.isin(profile[AS_OF], [*self._cutoffs, NO_TIME])
        return [
            Came(one, moment(np.datetime64(int(row[AS_OF]), "us")), not row["found"])
            if is_it
            else None
            for one, row, is_it in zip(item_ids, profile, mine, strict=True)
        ]

    def newest(self) -> list[Came]:
        """All that came or went, the newest first."""
        overlay = self._reader.now()
        if overlay is None:
            return []
        with self._lock:
            if self._newest[0] is not overlay:
                found = self.came(self.served(), overlay.item_ids.tolist())
                some = sorted((o for o in found if o), key=lambda o: o.since, reverse=True)
                self._newest = overlay, some
            return self._newest[1]

    def search(self, text: str) -> list[Came]:
        """Those whose words begin or equal those of a text, or whose id it is, the newest first."""
        words, every = re.findall(r"\w+", text.casefold()), self.newest()
        if not words:
            return every
        told = []
        for one, given in zip(every, self.given(every[:SEARCHED]), strict=False):
            said = f"{one.id} {given.title or ''} {given.about or ''}".casefold()
            has = re.findall(r"\w+", said)
            if all(any(h.startswith(w) for h in has) for w in words):
                told.append(one)
        return told or [one for one in every if str(one.id) == text.strip()]

    def given(self, came: Sequence[Came]) -> list[Given]:
        """By what items that came were described; each is read once."""
        if not came:
            return []  # what reads them takes Feast along, which a search would wait for
        from adc_features.live.items import given_items

        with self._lock:
            fresh = [o for o in came if o.id not in self._given or self._given[o.id][0] != o.since]
            described = given_items(self._repo, self._live, [one.id for one in fresh])
            for one, item in zip(fresh, described, strict=True):
                attributes = item.attributes
                texts = [attributes.get("title"), *item.texts.values()]
                about = [str(v) for n in ("brand", "category") if (v := attributes.get(n))]
                title = next((str(text) for text in texts if text), None)
                given = Given(title, ", ".join(about) or None, dict(item.vectors))
                self._given[one.id] = one.since, given
            return [self._given[one.id][1] for one in came]
