"""What others may read of a key: its sums as of a cut in the past. Reads: states, events. Writes:
states, sums.

A ledger keeps the sums of a key up to a cut that nobody will ask before, and what came since by
tick. The cut follows the key's own newest event: whoever is still accepted is newer than that less
the lateness, and reads before its own seal. A state therefore depends on the accepted events of
its key alone, not on their order, nor on when they came.

Legend: K keys, S slots, E entries (ticks of keys).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from adc_features.aggregates.declaration import AggregateView, microseconds_of
from adc_features.aggregates.folds import LEAST, Batch, Slots, fold_tiles
from adc_features.aggregates.keys import keyed_events, with_rows
from adc_features.aggregates.parts import Part, capacity_of, refuse_overflow, sealed_cut
from adc_features.aggregates.ranges import range_sums
from adc_features.aggregates.states import Entries, Layout, Section
from adc_features.clock import moment
from adc_features.errors import InputError


class StateReader(Protocol):
    """The states that were kept when the events so far had been folded."""

    def states(self, name: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The state of each key under a name; None of a key without one."""
        ...


@dataclass(frozen=True)
class LedgerPlan:
    """The ledger `name` of the keys of `columns`: counts and sums."""

    name: str
    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    slots: Slots = field(init=False)
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        parts = [Part("count"), *(replace(p, by=None, n=None) for p in self.parts)]
        slots = Slots.of(parts)
        object.__setattr__(self, "slots", slots)
        layout = Layout(
            f"{self.name}: {slots.parts}", (*slots.empty, LEAST), (Section(1 + len(slots.parts)),)
        )
        object.__setattr__(self, "layout", layout)


class Sums(NamedTuple):
    """int64 [M, S]: what a ledger gave."""

    slots: Slots
    numbers: np.ndarray

    def of(self, part: Part) -> np.ndarray:
        """int64 [M]: one count or sum."""
        return self.numbers[:, self.slots.place(Part(part.kind, part.of))]


class Ledger:
    """A ledger after the events of a batch.

    rows: further keys that are read, a table of the plan's columns.
    """

    def __init__(
        self, plan: LedgerPlan, reader: StateReader, batch: Batch, rows: pa.Table | None = None
    ) -> None:
        self.plan, self.stream = plan, batch.view.stream
        self.tick = microseconds_of(self.stream.tick)
        keyed, self.row_code = keyed_events(batch.events, plan.columns), np.zeros(0, np.int64)
        if rows is not None:
            keyed, self.row_code = with_rows(batch.events, plan.columns, rows)
        self.code, self.keys = keyed.code, keyed.keys
        fixed, (old,) = plan.layout.decode(reader.states(plan.name, self.keys))
        self.base, self.newest = fixed[:, :-1], fixed[:, -1].copy()
        self.sealed = self._sealed()
        known = self.code >= 0
        numbers, owner = batch.slots(plan.slots)[known], self.code[known]
        times = batch.events.times[known]
        self.entries = fold_tiles(plan.slots, old, times // self.tick, numbers, owner)
        np.maximum.at(self.newest, owner, times)
        self.touched = np.unique(owner)
        self._refuse_overflow()

    def _sealed(self) -> np.ndarray:
        """int64 [K]: the cut up to which sums are not told apart any more."""
        late = microseconds_of(self.stream.lateness)
        kept = self.newest > LEAST
        return np.where(kept, sealed_cut(self.stream, np.where(kept, self.newest, 0) - late), LEAST)

    def _refuse_overflow(self) -> None:
        count = self.base[:, 0] + _by_key(self.entries.words[:, 1], self.entries, len(self.keys))
        sums = [p.of for p in self.plan.slots.parts if p.kind == "sum"]
        capacity = min((capacity_of(self.stream, of) for of in sums), default=2**63 - 1)
        refuse_overflow(int(count.max(initial=0)), capacity, self.plan.name)

    def read(self, code: np.ndarray, cut: np.ndarray) -> Sums:
        """Counts and sums of the keys before each cut; 0 of the key -1.

        Raises InputError for a cut before what the ledger still tells apart.
        """
        found = code >= 0
        key = np.where(found, code, 0)
        if not len(self.keys):
            return Sums(
                self.plan.slots, np.zeros((len(code), len(self.plan.slots.parts)), np.int64)
            )
        early = found & (cut < self.sealed[key])
        if early.any():
            raise InputError(
                f"an event reads {self.plan.name} as of"
                f" {moment(np.datetime64(int(cut[early][0]), 'us'))}, which is sealed: the event is"
                " older than the stream's lateness permits; refuse what is older than the newest"
                " event less the lateness"
            )
        tick, sums = self.entries.words[:, 0], self.entries.words[:, 1:]
        whole = np.zeros((len(sums) + 1, sums.shape[1]), np.int64)
        np.cumsum(sums, axis=0, out=whole[1:])
        ticks = np.unique(tick)
        size = len(ticks) + 1
        at = self.entries.key * size + np.searchsorted(ticks, tick, "right")
        wanted = key * size + np.searchsorted(ticks, cut // self.tick, "left")
        end, begin = np.searchsorted(at, wanted, "right"), np.searchsorted(at, key * size)
        known = self.base[key] + whole[end] - whole[begin]
        return Sums(self.plan.slots, np.where(found[:, None], known, 0))

    def states(self) -> dict[bytes, bytes]:
        """The states of the keys that have events in the batch."""
        place = np.full(len(self.keys), -1)
        place[self.touched] = np.arange(len(self.touched))
        entries, base = self.entries, self.base.copy()
        old = entries.words[:, 0] * self.tick < self._sealed()[entries.key]
        np.add.at(base, entries.key[old], entries.words[old, 1:])
        kept = ~old & (place[entries.key] >= 0)
        fixed = np.column_stack([base, self.newest])[self.touched]
        section = Entries(entries.section, place[entries.key[kept]], entries.words[kept])
        encoded = self.plan.layout.encode(fixed, [section])
        keys = self.keys[: len(self.touched)]
        if len(keys) < len(self.keys) and (place[: len(keys)] < 0).any():
            keys = [self.keys[k] for k in self.touched.tolist()]
        return dict(zip(keys, encoded, strict=True))


def ledger_plans(view: AggregateView, parts: Sequence[Part], role: str) -> list[LedgerPlan]:
    """One ledger for each `by` of the parts."""
    groups: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        groups.setdefault(part.by or (), []).append(part)
    return [
        LedgerPlan(f"{view.name}{role}{','.join(by)}", by, tuple(each))
        for by, each in groups.items()
    ]


def _by_key(values: np.ndarray, entries: Entries, keys: int) -> np.ndarray:
    ends = entries.ends(keys)
    return range_sums(values, np.concatenate([[0], ends[:-1]]), ends)
