"""Encoded rows as tensors, cut into batches. Reads: Encoded. Writes: Batch.

A batch indexes tensors directly, which is faster than a DataLoader; the ragged lists of all rows
stand in one array, from which a batch takes its own without a loop. All tensors are on one device.
Of several processes each makes its share of a batch, by chance that is drawn for all of it.

Legend: N rows, B rows of a batch, C lookups, S bags, M places of the longest history, P positions.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from adc_features.inputs.encoded import (
    Bag,
    Block,
    Encoded,
    History,
    Lookup,
    Projected,
    picked_elements,
)
from adc_features.ranking.multitask.shape import NetworkShape, Place
from adc_features.ranks import Ranks
from training.ranker.network import Alike, Batch, Held

EVERY = slice(None)
"""The share of a process that is alone."""


@dataclass(frozen=True)
class HistoryRows:
    """A history of all rows. rows int32, weights: [elements, P]; offsets: int64 [N + 1]; query
    int32, query_weights: [N, P]."""

    rows: Tensor
    weights: Tensor
    offsets: Tensor
    query: Tensor
    query_weights: Tensor


class UnknownRows(NamedTuple):
    """Which rows are replaced in training, by column: float [C] share; int32 [C] first own row,
    the row "unknown", and the number of hash rows after it."""

    share: Tensor
    own: Tensor
    unknown: Tensor
    buckets: Tensor

    @classmethod
    def of(cls, shape: NetworkShape, places: Sequence[Place]) -> "UnknownRows | None":
        """None where nothing is replaced."""
        if not any(place.layout.dropout for place in places):
            return None
        starts = torch.tensor([shape.starts[p.layout.tables[0]] for p in places], dtype=torch.int32)
        own = torch.tensor([p.layout.own for p in places], dtype=torch.int32)
        share = torch.tensor([p.layout.dropout for p in places])
        return cls(share, starts + own, starts + 1, (own - 2).clamp(min=0))

    def replaced(self, rows: Tensor, drawn: Tensor, column: Tensor | None = None) -> Tensor:
        """The rows, some of them replaced; drawn: of each, uniform in [0, 1); column: of each row,
        where they stand in none.
        """
        share, own, unknown, buckets = self if column is None else (part[column] for part in self)
        chosen = (drawn < share) & (rows >= own)
        # ids that share a hash row while training are always the same, as those outside are
        mixed = ((rows.long() * 2_654_435_761) & 0xFFFF_FFFF) >> 12
        hashed = unknown + torch.where(buckets > 0, 1 + mixed % buckets.clamp(min=1), 0)
        return torch.where(chosen, hashed.int(), rows)


@dataclass(frozen=True)
class RowTensors:
    """All rows of one Encoded.

    dense: [N, D]. lookups: int32 [N, C], lookup_weights: [N, C] or None for 1. bag_rows int32,
    bag_weights: elements of all bags, row by row; bag_offsets: int64 [N * S + 1]. projected:
    [N, D] each. gates: [N, 1] each. mixtures: rows int32 and weights of
    the elements of all rows, and their offsets int64 [N + 1], each.
    """

    dense: Tensor
    lookups: Tensor
    lookup_weights: Tensor | None
    bag_rows: Tensor
    bag_weights: Tensor
    bag_offsets: Tensor
    projected: Sequence[Tensor]
    histories: Sequence[HistoryRows]
    similar: Sequence[HistoryRows]
    gates: Sequence[Tensor]
    mixtures: Sequence[tuple[Tensor, Tensor, Tensor]]
    unknown_lookups: UnknownRows | None
    unknown_bags: UnknownRows | None

    def __len__(self) -> int:
        return len(self.dense)

    def on(self, device: torch.device) -> "RowTensors":
        """The same rows on a device."""
        parts = {f.name: _on(getattr(self, f.name), device) for f in fields(self)}
        return self if device.type == "cpu" else RowTensors(**parts)

    @classmethod
    def of(cls, encoded: Encoded, shape: NetworkShape) -> "RowTensors":
        """All rows, on the CPU; a block of one row stands for all of them."""
        count = len(encoded)
        blocks = {name: _spread(encoded.blocks[name], count) for name in shape.inputs}
        slots = {
            kind: [(place, blocks[place.input].slots[place.at]) for place in places]
            for kind, places in shape.slots.items()
        }
        lookups = [(_start(shape, p), cast(Lookup, slot)) for p, slot in slots["lookup"]]
        bags = _bags(count, [(_start(shape, p), cast(Bag, slot)) for p, slot in slots["bag"]])
        weighted = any(slot.weights is not None for _, slot in lookups)
        ones = np.ones(count, np.float32)
        return cls(
            _columns([block.dense for block in blocks.values()], count, np.float32),
            _columns([(slot.rows + s)[:, None] for s, slot in lookups], count, np.int32),
            _columns(
                [(ones if t.weights is None else t.weights)[:, None] for _, t in lookups],
                count,
                np.float32,
            )
            if weighted
            else None,
            *bags,
            [_values(cast(Projected, slot)) for _, slot in slots["projected"]],
            [_history(shape, place, cast(History, slot)) for place, slot in slots["history"]],
            [_history(shape, place, cast(History, slot)) for place, slot in slots["similarity"]],
            [_values(cast(Projected, slot)) for _, slot in slots["gate"]],
            [_bags(count, [(_start(shape, p), cast(Bag, slot))]) for p, slot in slots["mixture"]],
            UnknownRows.of(shape, shape.slots["lookup"]),
            UnknownRows.of(shape, shape.slots["bag"]),
        )

    def batch(
        self,
        whole: Tensor,
        *,
        dropout: float = 0.0,
        rng: torch.Generator | None = None,
        mine: slice = EVERY,
    ) -> Batch:
        """These rows (int64 [B]), or some of them.

        rng: of a training step: some rows are replaced by "unknown", and a share of the lookups is
        hidden; None for scoring. It is drawn for all rows, whichever are `mine`.
        """
        picked = whole[mine]
        rows, weights = self.lookups[picked], self._lookup_weights(picked)
        if rng is not None:
            shape = len(whole), rows.shape[1]
            if self.unknown_lookups is not None:
                rows = self.unknown_lookups.replaced(rows, _drawn(shape, rng)[mine])
            if dropout:
                weights = weights * (_drawn(shape, rng)[mine] >= dropout) / (1 - dropout)
        ones = torch.ones(rows.numel(), dtype=torch.int64, device=rows.device)
        parts = [(rows.flatten(), weights.flatten(), ones)]
        if slots := (len(self.bag_offsets) - 1) // max(1, len(self)):
            parts.append(self._bag_elements(whole, slots, rng, mine))
        histories = []
        for history in self.histories:
            filled, elements, query = _places(history, picked)
            histories.append(filled)
            parts += [elements, query]
        sizes = torch.cat([size for *_, size in parts])
        return Batch(
            self.dense[picked],
            torch.cat([found for found, *_ in parts]),
            torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).int(),
            torch.cat([weight for _, weight, _ in parts]),
            [values[picked] for values in self.projected],
            histories,
            [_alike(history, picked) for history in self.similar],
            [values[picked] for values in self.gates],
            [_held(mixture, picked) for mixture in self.mixtures],
        )

    def _lookup_weights(self, picked: Tensor) -> Tensor:
        if self.lookup_weights is None:
            return torch.ones(len(picked), self.lookups.shape[1], device=picked.device)
        return self.lookup_weights[picked]

    def _bag_elements(
        self, whole: Tensor, slots: int, rng: torch.Generator | None, mine: slice
    ) -> "Elements":
        """The bags of some of these rows."""
        every = whole.unsqueeze(1) * slots + torch.arange(slots, device=whole.device)
        bag, element, sizes = _ragged(self.bag_offsets, every[mine].flatten())
        rows = self.bag_rows[element]
        if rng is not None and self.unknown_bags is not None:
            before, total = 0, len(rows)
            if mine != EVERY:
                ends = (self.bag_offsets[every + 1] - self.bag_offsets[every]).sum(1).cumsum(0)
                before = int(ends[mine.start - 1]) if mine.start else 0
                total = int(ends[-1])
            drawn = _drawn((total,), rng)[before : before + len(rows)]
            rows = self.unknown_bags.replaced(rows, drawn, bag % slots)
        return rows, self.bag_weights[element], sizes


def _drawn(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Uniform in [0, 1), on the generator's device."""
    return torch.rand(shape, generator=rng, device=rng.device)


def _on(part: Any, device: torch.device) -> Any:
    """The same on a device, through the lists, tuples and records of `RowTensors`."""
    if isinstance(part, Tensor):
        return part.to(device)
    if isinstance(part, HistoryRows):
        return HistoryRows(*(getattr(part, f.name).to(device) for f in fields(part)))
    if isinstance(part, UnknownRows):
        return UnknownRows(*(_on(value, device) for value in part))
    return part if part is None else type(part)(_on(value, device) for value in part)


Elements = tuple[Tensor, Tensor, Tensor]
"""Rows, weights, and the sizes of the bags that they form."""


def _places(history: HistoryRows, picked: Tensor) -> tuple[Tensor, Elements, Elements]:
    """filled [B, M], then rows, weights and sizes of its B * M places and of its B queries."""
    starts = history.offsets[picked]
    sizes = history.offsets[picked + 1] - starts
    longest = int(sizes.max()) if len(sizes) else 0
    place = torch.arange(longest, device=picked.device)
    filled = place < sizes.unsqueeze(1)
    element = (starts.unsqueeze(1) + place).where(filled, 0)
    positions = history.rows.shape[1]
    rows = history.rows[element]
    weights = history.weights[element] * filled.unsqueeze(2)
    query = history.query[picked]
    return (
        filled,
        (rows.flatten(), weights.flatten(), sizes.new_full((filled.numel(),), positions)),
        (
            query.flatten(),
            history.query_weights[picked].flatten(),
            sizes.new_full((len(picked),), positions),
        ),
    )


def _held(mixture: tuple[Tensor, Tensor, Tensor], picked: Tensor) -> Held:
    rows, weights, offsets = mixture
    owner, element, _ = _ragged(offsets, picked)
    return Held(owner, rows[element], weights[element])


def _values(slot: Projected) -> Tensor:
    return torch.from_numpy(np.require(slot.values, np.float32, ["W"]))


def _ragged(offsets: Tensor, picked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Elements of these lists, one after the other: the place of the list, that of the element,
    and the lists' sizes."""
    starts = offsets[picked]
    sizes = offsets[picked + 1] - starts
    before = sizes.cumsum(0) - sizes
    place = picked.device
    owner = torch.repeat_interleave(torch.arange(len(picked), device=place), sizes)
    return owner, torch.arange(len(owner), device=place) + (starts - before)[owner], sizes


def _alike(history: HistoryRows, picked: Tensor) -> Alike:
    owner, element, _ = _ragged(history.offsets, picked)
    return Alike(
        owner,
        history.rows[element],
        history.weights[element],
        history.query[picked],
        history.query_weights[picked],
    )


def _start(shape: NetworkShape, place: Place) -> int:
    return shape.starts[place.layout.tables[0]]


def _columns(parts: Sequence[np.ndarray], count: int, dtype: type) -> Tensor:
    """Columns side by side: [N, columns]."""
    made = np.empty((count, sum(part.shape[1] for part in parts)), dtype)
    if parts:
        np.concatenate(parts, axis=1, out=made, casting="same_kind")
    return torch.from_numpy(made)


def _bags(count: int, bags: Sequence[tuple[int, Bag]]) -> tuple[Tensor, Tensor, Tensor]:
    """The bags of all slots, row by row: rows, weights, offsets."""
    sizes = np.zeros((count, len(bags)), np.int64)
    for column, (_, bag) in enumerate(bags):
        sizes[:, column] = np.diff(bag.offsets)
    offsets = np.concatenate([[0], sizes.ravel().cumsum()])
    rows, weights = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    starts = offsets[:-1].reshape(sizes.shape)
    for column, (start, bag) in enumerate(bags):
        to = np.arange(len(bag.rows)) + np.repeat(
            starts[:, column] - bag.offsets[:-1], sizes[:, column]
        )
        rows[to], weights[to] = bag.rows + start, bag.weights
    return torch.from_numpy(rows), torch.from_numpy(weights), torch.from_numpy(offsets)


def _history(shape: NetworkShape, place: Place, slot: History) -> HistoryRows:
    starts = np.array([shape.starts[table] for table in place.layout.tables], np.int64)
    rows, weights = slot.rows, slot.weights
    if not len(rows):  # so that an empty batch finds something to leave out
        rows, weights = np.zeros((1, len(starts)), np.int64), np.zeros((1, len(starts)))
    return HistoryRows(
        torch.from_numpy((rows + starts).astype(np.int32)),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(slot.offsets.astype(np.int64)),
        torch.from_numpy((slot.query + starts).astype(np.int32)),
        torch.from_numpy(slot.query_weights.astype(np.float32)),
    )


def _spread(block: Block, count: int) -> Block:
    """A block of N rows, from one of N rows or of one that stands for all."""
    dense = block.dense if len(block.dense) == count else np.repeat(block.dense, count, axis=0)
    return Block(dense, tuple(_spread_slot(slot, count) for slot in block.slots))


def _spread_slot(
    slot: Lookup | Bag | Projected | History, count: int
) -> Lookup | Bag | Projected | History:
    every = np.zeros(count, np.int64)
    if isinstance(slot, Lookup):
        if len(slot.rows) == count:
            return slot
        return Lookup(slot.rows[every], None if slot.weights is None else slot.weights[every])
    if isinstance(slot, Projected):
        return slot if len(slot.values) == count else Projected(slot.values[every])
    if len(slot.offsets) == count + 1:
        return slot
    element, offsets = picked_elements(slot.offsets, every)
    if isinstance(slot, Bag):
        return Bag(slot.rows[element], offsets, slot.weights[element])
    return History(
        slot.rows[element], slot.weights[element], offsets, slot.query, slot.query_weights
    )


def epoch_batches(
    count: int, size: int, *, groups: Tensor | None, rng: torch.Generator
) -> Iterator[Tensor]:
    """The rows of one epoch in batches of about `size`, shuffled.

    groups: int64 [N], numbers from 0 of the group of each row; its rows stay in one batch, and
    groups are shuffled instead of rows. None: rows.
    """
    if groups is None:
        yield from torch.randperm(count, generator=rng, device=rng.device).split(size)
        return
    rank = torch.randperm(int(groups.max()) + 1, generator=rng, device=rng.device)[groups]
    order = rank.sort(stable=True).indices
    ranks = rank[order]
    first = torch.cat([ranks.new_ones(1, dtype=torch.bool), ranks[1:] != ranks[:-1]])
    start = torch.arange(count, device=order.device).where(first, 0).cummax(0).values
    number = start // size
    yield from order.split(torch.unique_consecutive(number, return_counts=True)[1].tolist())


def share_of(places: Tensor, groups: Tensor | None, ranks: Ranks) -> slice:
    """Which rows of a batch of `epoch_batches` are this process's: a group's rows stay together."""
    if ranks.alone:
        return EVERY
    mine = ranks.share(len(places))
    if groups is None:
        return mine
    of = groups[places]
    first = torch.cat([of.new_ones(1, dtype=torch.bool), of[1:] != of[:-1]])
    starts = [*first.nonzero().flatten().tolist(), len(places)]
    return slice(*(starts[bisect_left(starts, at)] for at in (mine.start, mine.stop)))
