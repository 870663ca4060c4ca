"""The rows that a tokenizer is fitted on. Reads: EmbeddingTables of several cut-offs. Writes: Rows,
by number or by training step.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.reliability import ReliabilityScale
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError
from adc_features.ranks import ALONE, Ranks
from adc_features.tokenizer.model import Rows

BLOCK = 4096
SAMPLE = 65_536
"""Rows that codebooks start from and that weight normalisers are averaged over."""


def check_tables(tables: Sequence[EmbeddingTable], spec: SidSpec) -> None:
    """Raise InputError unless every table has every modality in one width, and the newest enough
    distinct, non-zero vectors.
    """
    if not tables or not spec.modalities:
        raise InputError(
            f"{len(tables)} tables and modalities {list(spec.modalities)}; expected at least one of"
            " each"
        )
    if len({t.as_of for t in tables}) < len(tables):
        raise InputError("two tables are as of the same time; give one table a cut-off")
    newest = max(tables, key=lambda t: t.as_of)
    for m in spec.modalities:
        widths = sorted({t.width(m) for t in tables})
        if len(widths) > 1:
            raise InputError(
                f"modality {m!r} has widths {widths} in different tables; embed every cut-off with"
                " the same encoder"
            )
        for t in tables:
            zero = np.flatnonzero(t.present[m] & ~t.vectors[m].any(axis=1))
            if len(zero):
                raise InputError(
                    f"modality {m!r}: {len(zero)} vectors have norm zero (first item"
                    f" {t.item_ids[zero[0]]!r}); mark them absent"
                )
        rows = np.ascontiguousarray(newest.vectors[m][newest.present[m]])
        distinct = len(np.unique(rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))))
        if distinct < spec.codebook_size:
            raise InputError(
                f"modality {m!r}: {len(rows)} items with {distinct} distinct vectors, fewer than"
                f" the {spec.codebook_size} codes of a codebook; lower codebook_size, give more"
                " items, or leave the modality out of the spec"
            )


class RowUnion:
    """The (item, cut-off) rows of all tables, gathered by number without copying the tables."""

    def __init__(
        self, tables: Sequence[EmbeddingTable], spec: SidSpec, scale: ReliabilityScale | None
    ) -> None:
        self.tables, self.modalities = tables, spec.modalities
        self.x = [scale(t) if scale else np.zeros(len(t), np.float32) for t in tables]
        self.first = np.cumsum([0, *(len(t) for t in tables)])
        self.held: list[np.ndarray] | None = None
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return int(self.first[-1])

    def widths(self) -> dict[str, int]:
        return {m: self.tables[0].width(m) for m in self.modalities}

    def take(self, numbers: np.ndarray) -> Rows:
        """The rows of these numbers, in that order."""
        table = np.searchsorted(self.first, numbers, side="right") - 1

        def gather(arrays: Sequence[np.ndarray]) -> Tensor:
            out = np.empty((len(numbers), *arrays[0].shape[1:]), arrays[0].dtype)
            for t in np.unique(table):
                out[table == t] = arrays[t][numbers[table == t] - self.first[t]]
            return torch.from_numpy(out)

        vectors = {m: gather([t.vectors[m] for t in self.tables]) for m in self.modalities}
        present = {m: gather([t.present[m] for t in self.tables]) for m in self.modalities}
        held = None if self.held is None else gather(self.held).long()
        return Rows(vectors, present, gather(self.x), torch.from_numpy(table), held)

    def batch(self, step: int, *, size: int, seed: int, ranks: Ranks = ALONE) -> Rows:
        """The rows of a training step, `size` of them (all, when there are fewer); every epoch in a
        fresh order. ranks: of whose share the rows are.
        """
        size = min(size, len(self))
        epoch, place = divmod(step, len(self) // size)
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (
                (seed, epoch),
                torch.randperm(len(self), generator=chance_of(seed, 1, epoch)).numpy(),
            )
        return self.take(self._order[1][place * size : (place + 1) * size][ranks.share(size)])

    def sample(self, *, chance: torch.Generator) -> Iterator[Rows]:
        """Up to SAMPLE rows in random order, in blocks that fit the memory."""
        chosen = torch.randperm(len(self), generator=chance)[:SAMPLE].numpy()
        yield from (self.take(chosen[i : i + BLOCK]) for i in range(0, len(chosen), BLOCK))

    def newest(self) -> Iterator[Rows]:
        """The rows of the newest cut-off, in blocks that fit the memory."""
        yield from (
            self.take(np.arange(i, min(i + BLOCK, len(self))))
            for i in range(int(self.first[-2]), len(self), BLOCK)
        )

    def statistics(self, modality: str) -> tuple[Tensor, Tensor]:
        """Means [C, d] and scales [C] of the present rows: of all tables together for content (C =
        1), of each for behaviour.

        The scale makes the mean squared length equal to the width. A cut-off with no more rows than
        widths takes those of all.
        """
        kept = [t.vectors[modality][t.present[modality]] for t in self.tables]
        together = _mean_and_scale(kept)
        each = (
            [_mean_and_scale([v]) if len(v) > v.shape[1] else together for v in kept]
            if modality == BEHAVIOR
            else [together]
        )
        return torch.tensor(np.stack([mean for mean, _ in each])), torch.tensor(
            [scale or together[1] for _, scale in each]
        )

    def fingerprint(self, *facts: Any) -> str:
        """sha256 over the facts and every row: what a checkpoint must agree with."""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for t, x in zip(self.tables, self.x, strict=True):
            for array in (
                t.item_ids,
                x,
                *(a for m in self.modalities for a in (t.vectors[m], t.present[m])),
            ):
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()


def _mean_and_scale(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    rows = sum(len(v) for v in parts)
    mean = np.sum([v.sum(0, dtype=np.float64) for v in parts], axis=0) / rows
    square = sum(float(np.square(v - mean).sum()) for v in parts)
    return mean.astype(np.float32), math.sqrt(square / (rows * len(mean)))


def chance_of(*seeds: int) -> torch.Generator:
    """A generator for one purpose, told from every other by its numbers."""
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )
