"""Folding events into numbers, tiles and lists of keys. Reads: entries, events. Writes: entries.

Every fold is a sum of whole numbers, an extreme, or the newest by (time, event id): the result does
not depend on the order in which events came.

Legend: K keys, N events, E entries, S slots.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.declaration import TIME, AggregateView
from adc_features.aggregates.events import Events
from adc_features.aggregates.parts import Of, Part, counted, kind_of
from adc_features.aggregates.states import Entries, Section, filled, packed_lengths

LEAST, GREATEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
_ADDED, _LOW, _HIGH = ("count", "sum"), ("low", "first"), ("high", "last")
SORTED_BY = 3
"""Time and both halves of the id come first in the entries of a list."""


@dataclass(frozen=True)
class Slots:
    """Numbers that are folded together: sums first, then least, then greatest ones."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: list[Part]) -> "Slots":
        groups = [[p for p in dict.fromkeys(parts) if p.kind in g] for g in (_ADDED, _LOW, _HIGH)]
        return cls(tuple(part for group in groups for part in group))

    @cached_property
    def empty(self) -> tuple[int, ...]:
        return tuple(
            0 if p.kind in _ADDED else GREATEST if p.kind in _LOW else LEAST for p in self.parts
        )

    def place(self, part: Part) -> int:
        return self._places[part]

    @cached_property
    def _places(self) -> dict[Part, int]:
        return {part: place for place, part in enumerate(self.parts)}

    def fold(self, numbers: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """int64 [G, S] of numbers [E, S], of which group g begins at starts[g]; none is empty."""
        if not len(starts):
            return numbers[:0]
        kinds = [p.kind for p in self.parts]
        low = sum(k in _ADDED for k in kinds)
        high = low + sum(k in _LOW for k in kinds)
        folded = [
            fold.reduceat(numbers[:, part], starts, axis=0)
            for fold, part in (
                (np.add, slice(0, low)),
                (np.minimum, slice(low, high)),
                (np.maximum, slice(high, len(kinds))),
            )
            if part.start < part.stop
        ]
        return np.concatenate(folded, axis=1)

    def merged(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """int64 [K, S]: both folded."""
        pairs = np.stack([old, new], axis=1).reshape(-1, len(self.parts))
        return self.fold(pairs, np.arange(0, len(pairs), 2))


class Batch:
    """The events of a batch with their values and, once they are known, residuals."""

    def __init__(self, view: AggregateView, events: Events) -> None:
        self.view, self.events = view, events
        self.residuals: dict[Of, np.ndarray] = {}

    def numbers(self, of: Of) -> tuple[np.ndarray, np.ndarray | None]:
        """(int64 [N], valid [N] or None) of a value, residual, time or whole-number key."""
        if of in self.residuals:
            name = counted(self.view.stream, of)
            return self.residuals[of], None if name is None else self.events.value(name)[1]
        return self.events.value(str(of))

    def valid(self, of: str | None) -> np.ndarray | None:
        return None if of is None else self.events.value(of)[1]

    def slots(self, slots: Slots) -> np.ndarray:
        """int64 [N, S]: what each event adds."""
        n = len(self.events)
        found = np.empty((n, len(slots.parts)), np.int64)
        for place, (part, empty) in enumerate(zip(slots.parts, slots.empty, strict=True)):
            if part.kind in ("first", "last"):
                found[:, place] = self.events.times
            elif part.kind == "count":
                valid = self.valid(None if part.of is None else str(part.of))
                found[:, place] = 1 if valid is None else valid
            else:
                values, valid = self.numbers(part.of)
                found[:, place] = values if valid is None else np.where(valid, values, empty)
        return found


def fold_numbers(slots: Slots, old: np.ndarray, numbers: np.ndarray, key: np.ndarray) -> np.ndarray:
    """int64 [K, S]: old numbers and those of events, of keys 0 to K - 1, each with an event."""
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(len(old)))
    return slots.merged(old, slots.fold(numbers[order], starts))


def fold_tiles(
    slots: Slots, old: Entries, tile: np.ndarray, numbers: np.ndarray, key: np.ndarray
) -> Entries:
    """Entries of (tile, slots), one for each tile of a key, sorted."""
    keys = np.concatenate([old.key, key])
    tiles = np.concatenate([old.numbers(0), tile])
    order = np.lexsort((tiles, keys))
    keys, tiles = keys[order], tiles[order]
    whole = np.concatenate([old.words[:, 1:], numbers])[order]
    opens = np.flatnonzero(
        np.concatenate([[True], (keys[1:] != keys[:-1]) | (tiles[1:] != tiles[:-1])])[: len(keys)]
    )
    words = np.column_stack([tiles[opens], slots.fold(whole, opens)])
    return Entries(old.section, keys[opens], words)


@dataclass(frozen=True)
class ListPlan:
    """A section that keeps the newest `n` events' columns.

    needs: the optional value that an event must have. different: at most one entry for each value
    of the only column.
    """

    n: int
    columns: tuple[Of, ...]
    texts: tuple[str, ...]
    needs: str | None = None
    different: bool = False

    @classmethod
    def of(
        cls,
        view: AggregateView,
        n: int,
        columns: list[Of],
        *,
        needs: str | None = None,
        different: bool = False,
    ) -> "ListPlan":
        each = dict.fromkeys(c for c in columns if c != TIME)
        texts = tuple(str(c) for c in each if kind_of(view.stream, c) == "string")
        return cls(n, tuple(c for c in each if c not in texts), texts, needs, different)

    @property
    def section(self) -> Section:
        return Section(SORTED_BY + len(self.columns), len(self.texts))

    def values(self, entries: Entries, of: Of, places: np.ndarray) -> pa.Array:
        """One column of the entries at these places; times, values and residuals as int64."""
        if of in self.texts and entries.texts is not None:
            at = entries.text_places(self.texts.index(str(of)))[places]
            return entries.texts.take(pa.array(at))
        column = 0 if of == TIME else SORTED_BY + self.columns.index(of)
        return pa.array(entries.words[places, column])

    def fold(self, old: Entries, batch: Batch, key: np.ndarray, *, keys: int) -> Entries:
        """The newest entries of each key, old ones and events, oldest first."""
        kept = self._events(batch)
        section, new = self.section, len(kept)
        words = np.concatenate([old.words, self._words(batch, kept)])
        owner = np.concatenate([old.key, key[kept]])
        texts, places = self._texts(old, batch, kept)
        ids = words[:, 1:SORTED_BY].view(np.uint64)
        order = (
            np.lexsort((ids[:, 1], ids[:, 0], words[:, 0], owner)) if new else np.arange(len(owner))
        )
        if self.different:
            order = order[self._newest_of_each(owner, words, texts, places, order)]
        owner = owner[order]
        ends = np.searchsorted(owner, np.arange(keys), side="right")
        newest = ends[owner] - np.arange(len(owner)) <= self.n
        order, owner = order[newest], owner[newest]
        if not self.texts:
            return Entries(section, owner, words[order])
        return filled(section, owner, words[order], texts, places[order], keys=keys)

    def _events(self, batch: Batch) -> np.ndarray:
        """The events that count: with the value that is needed, and of known attributes."""
        valid = batch.valid(self.needs)
        kept = np.ones(len(batch.events), bool) if valid is None else valid
        if self.different and self.texts and self.texts[0] in batch.view.stream.attributes:
            kept = kept & pc.not_equal(batch.events.column(self.texts[0]), "").to_numpy(
                zero_copy_only=False
            )
        return np.flatnonzero(kept)

    def _words(self, batch: Batch, kept: np.ndarray) -> np.ndarray:
        high, low = batch.events.id_halves
        columns = [batch.events.times, high.view(np.int64), low.view(np.int64)]
        columns += [batch.numbers(of)[0] for of in self.columns]
        words = np.column_stack(columns)[kept]
        if not self.texts:
            return words
        length = [pc.binary_length(batch.events.column(t)).to_numpy() for t in self.texts]
        packed = packed_lengths(self.section, np.column_stack(length)[kept])
        return np.concatenate([words, packed], axis=1)

    def _texts(self, old: Entries, batch: Batch, kept: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """(old and new texts, where in them those of each entry stand [E, C])."""
        if not self.texts or old.texts is None:
            return pa.array([], pa.string()), np.zeros((len(old.key) + len(kept), 0), np.int64)
        columns = [batch.events.column(name) for name in self.texts]
        n, before = len(batch.events), len(old.texts)
        places = [
            np.concatenate([old.text_places(c), before + c * n + kept])
            for c in range(len(self.texts))
        ]
        return pa.concat_arrays([old.texts, *columns]), np.column_stack(places)

    def _newest_of_each(
        self,
        owner: np.ndarray,
        words: np.ndarray,
        texts: pa.Array,
        places: np.ndarray,
        order: np.ndarray,
    ) -> np.ndarray:
        """Of entries in `order`, the places in it of the last one of each (key, value)."""
        value = words[order, SORTED_BY] if self.columns else np.zeros(0, np.int64)
        if self.texts:
            named = texts.take(pa.array(places[order, 0])).dictionary_encode()
            value = named.indices.to_numpy().astype(np.int64)
        by_value = np.lexsort((value, owner[order]))
        key, value = owner[order][by_value], value[by_value]
        last = np.concatenate([(key[1:] != key[:-1]) | (value[1:] != value[:-1]), [True]])
        return np.sort(by_value[last[: len(key)]])
