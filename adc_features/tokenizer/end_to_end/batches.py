"""Frozen states of a catalogue on disk, and which items a step trains on. Reads: RawItems, groups,
behaviour vectors. Writes: state files, item numbers.

Random batches starve the finest level: of 12,101 items in 245 categories, 512 at random hold 0.7
partners of an item. So groups are drawn, and two or three items of each.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from adc_features.artifact import fresh_file, write_atomically
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import BEHAVIOR
from adc_features.tokenizer.end_to_end import images
from adc_features.tokenizer.end_to_end.network import Content, UnisidNetwork

BLOCK = 512


class States:
    """Frozen states of items in files of float16, mapped into memory: 25 kB an item of 32 word
    pieces, 10 kB an image.
    """

    def __init__(self, directory: Path, width: int) -> None:
        lengths = np.load(directory / "lengths.npy")
        self.words, self.texts, self.pictures = lengths
        self._words, self._pictures = (np.cumsum(n) - n for n in (self.words, self.pictures))
        self._state = _mapped(directory / "states.bin", width)
        self._image = _mapped(directory / "images.bin", images.WIDTH)

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, row: int) -> Content:
        state, image = self._words[row], self._pictures[row]
        return Content(
            torch.from_numpy(self._state[state : state + self.words[row]]),
            int(self.texts[row]),
            torch.from_numpy(self._image[image : image + self.pictures[row]]),
        )


def keep_states(
    network: UnisidNetwork,
    table: EmbeddingTable,
    directory: Path,
    *,
    fingerprint: str,
    progress: Callable[[str, int, int], None] | None,
) -> States:
    """The frozen states of a table's raw items, from `directory` where it holds them already."""
    assert table.raw is not None
    directory.mkdir(parents=True, exist_ok=True)
    done = directory / "lengths.npy"
    said = directory / "fingerprint"
    if done.is_file() and said.is_file() and said.read_text() == fingerprint:
        return States(directory, network.base.width)
    done.unlink(missing_ok=True)
    lengths = []
    with (
        (directory / "states.bin").open("wb") as states,
        (directory / "images.bin").open("wb") as pictures,
    ):
        for start in range(0, len(table), BLOCK):
            part = np.arange(start, min(start + BLOCK, len(table)))
            found = network.contents(table.raw.take(part), names=table.item_ids[part])
            for content in found:
                states.write(content.states_TD.numpy().tobytes())
                pictures.write(content.image.numpy().tobytes())
                lengths.append((len(content.states_TD), content.text, len(content.image)))
            if progress is not None:
                progress("states", int(part[-1]) + 1, len(table))
    write_atomically(said, fingerprint)
    with fresh_file(done) as file:
        np.save(file, np.array(lengths, np.int64).T)
    return States(directory, network.base.width)


def _mapped(path: Path, width: int) -> np.ndarray:
    """float16 [rows, width]; copy on write, since torch wants arrays that may be written."""
    if not path.stat().st_size:
        return np.zeros((0, width), np.float16)
    return np.memmap(path, np.float16, mode="c").reshape(-1, width)


class Batch(NamedTuple):
    """rows: item numbers [B] (with two views, all of them twice); attributes: bool [B], whose are
    read.
    """

    rows: np.ndarray
    attributes: np.ndarray


class Sampler:
    """Batches of a training step: groups drawn in proportion to their size, two or three items of
    each; with `partner` (int64 [N], -1: none) half of the batch are partners of the other half.
    """

    def __init__(
        self,
        finest: np.ndarray,
        rows: np.ndarray,
        partner: np.ndarray,
        *,
        size: int,
        attribute_dropout: float,
        optional: np.ndarray,
        views: int,
        seed: int,
    ) -> None:
        # an item without a group is one by itself
        group = np.where(finest < 0, finest.max(initial=0) + 1 + np.arange(len(finest)), finest)
        order = rows[np.argsort(group[rows], kind="stable")]
        _, starts = np.unique(group[order], return_index=True)
        self._members = np.split(order, starts[1:])
        sizes = np.array([len(m) for m in self._members])
        self._chance = sizes / sizes.sum()
        self._partner, self._size, self._views, self._seed = partner, size, views, seed
        self._dropout, self._optional = attribute_dropout, optional
        self.steps = math.ceil(len(rows) / size)

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of a step; one seed, one batch."""
        chance = np.random.default_rng([self._seed, epoch, step])
        paired = bool((self._partner >= 0).any())
        wanted = self._size // self._views // (2 if paired else 1)
        drawn = chance.choice(len(self._members), size=wanted, p=self._chance)
        chosen: list[np.ndarray] = []
        for group, many in zip(drawn, chance.integers(2, 4, wanted), strict=True):
            members = self._members[group]
            chosen.append(chance.choice(members, size=min(many, len(members)), replace=False))
            if sum(map(len, chosen)) >= wanted:
                break
        rows = np.unique(np.concatenate(chosen))
        if paired:
            partners = self._partner[rows]
            rows = np.unique(np.concatenate([rows, partners[partners >= 0]]))
        rows = np.tile(rows, self._views)
        left_out = (chance.random(len(rows)) < self._dropout) & self._optional[rows]
        return Batch(rows, ~left_out)


def partners(tables: list[EmbeddingTable], rows: np.ndarray) -> np.ndarray:
    """The nearest other item in behaviour at the oldest cut-off, by cosine and among `rows` alone:
    item number of each item of the newest table, int64 [N], -1 where it has no behaviour.
    """
    oldest, newest = tables[0], tables[-1]
    found = np.full(len(newest), -1, np.int64)
    if BEHAVIOR not in oldest.vectors:
        return found
    place = {item: n for n, item in enumerate(newest.item_ids[rows].tolist())}
    here = np.array([place.get(item, -1) for item in oldest.item_ids.tolist()])
    warm = np.flatnonzero(oldest.present[BEHAVIOR] & (here >= 0))
    if len(warm) < 2:
        return found
    unit = oldest.vectors[BEHAVIOR][warm]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(warm), BLOCK):
        part = np.arange(start, min(start + BLOCK, len(warm)))
        score = unit[part] @ unit.T
        score[np.arange(len(part)), part] = -np.inf
        found[rows[here[warm[part]]]] = rows[here[warm[score.argmax(1)]]]
    return found
