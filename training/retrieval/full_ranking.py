"""Rank the whole catalogue for every user. Reads: Generators, histories. Writes: ranks of the
target items.

Legend: P targets, N items, D dims, U users, T places, M mixes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adc_features.encoders.sasrec import Batch, Sequences
from adc_features.generator.generator import Generator

SCORED = 256
"""Users that are scored against the catalogue at once."""


@torch.no_grad()
def last_states(model: Generator, histories: Sequences) -> Tensor:
    """float32 [U, D]: the state after each history, from its newest T events."""
    counts = np.minimum(np.diff(histories.ends, prepend=0), model.settings.length)
    states = torch.empty(len(counts), model.settings.dim)
    order = np.argsort(counts, kind="stable")  # near lengths together: little padding
    for users in np.array_split(order, -(-len(order) // SCORED)):
        width = int(counts[users].max())
        places = np.arange(width) - (width - counts[users])[:, None]  # padded on the left
        real = places >= 0
        items = torch.from_numpy(
            np.where(
                real,
                histories.items[
                    np.where(real, histories.ends[users, None] - width + np.arange(width), 0)
                ],
                0,
            )
        )
        rows = Batch(
            items, items, torch.from_numpy(places.clip(0)), torch.from_numpy(np.where(real, 0, -1))
        )
        states[torch.from_numpy(users)] = model(rows)[:, -1]
    return states


class Scorer(NamedTuple):
    """A generator and its state for each user, float32 [U, D]: what scores items for users."""

    model: Generator
    states: Tensor

    @classmethod
    def of(cls, model: Generator, histories: Sequences) -> "Scorer":
        return cls(model, last_states(model, histories))


@torch.no_grad()
def ranks(
    scorers: Sequence[Scorer],
    targets: np.ndarray,
    histories: Sequences,
    *,
    mixes: Sequence[Sequence[float]] = ((1.0,),),
) -> tuple[np.ndarray, np.ndarray]:
    """(items that score above the target, items that score the same, itself among them), int64 [M,
    U] each.

    mixes: for each of M lists, how much every scorer's log P(item) counts in the score. Items of a
    user's history are left out, unless it is the target that came before.
    """
    above, tied = (np.empty((len(mixes), len(targets)), np.int64) for _ in range(2))
    starts = np.concatenate([[0], histories.ends])
    for first in range(0, len(targets), SCORED):
        part = slice(first, min(first + SCORED, len(targets)))
        size = part.stop - first
        parts = [v.model.scores(v.states[part]) for v in scorers]
        if len(parts) > 1:
            parts = [torch.log_softmax(scores_NP, 0) for scores_NP in parts]
        seen = torch.from_numpy(histories.items[starts[first] : starts[part.stop]])
        column = torch.from_numpy(
            np.repeat(np.arange(size), np.diff(starts[first : part.stop + 1]))
        )
        target = torch.from_numpy(targets[part]), torch.arange(size)
        for row, mix in enumerate(mixes):
            scores_NP = sum(
                (share * scores for share, scores in zip(mix[1:], parts[1:], strict=True)),
                mix[0] * parts[0],
            )
            wanted = scores_NP[target].clone()
            scores_NP[seen, column] = -torch.inf
            scores_NP[target] = wanted
            above[row, part], tied[row, part] = (
                (scores_NP > wanted).sum(0).numpy(),
                (scores_NP == wanted).sum(0).numpy(),
            )
    return above, tied
