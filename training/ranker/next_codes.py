"""Embeddings of codes, learned from which codes follow each other. Reads: labelled rows. Writes:
tables to begin with.

A user's rows with a positive label, in their order, are items that follow one another. The codes of
one predict each code of the next: a softmax over the codes of a position, whose vectors are the
embeddings themselves. Codes that are followed by, or follow, the same ones become alike before the
ranker has seen a label of theirs. Only training rows are read.

Legend: N rows, P positions, K codes per position, E embedding width, B pairs of a batch.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from adc_features.inputs.encoded import Lookup
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.labelled import Labelled

LAGS = (1, 2)
"""How many of the user's positive rows later the next item is."""
BATCH, RATE, SPREAD = 1024, 1e-2, 0.05
"""Pairs of a step; its learning rate; the deviation of the values that a network begins with."""


def next_code_tables(
    rows: Labelled, shape: NetworkShape, epochs: Mapping[str, int], *, seed: int
) -> dict[str, np.ndarray]:
    """What the tables of codes begin with.

    Parameters
    ----------
    rows : Labelled
        Training rows, with users and times.
    shape : NetworkShape
        Of the network that begins with them.
    epochs : mapping of str to int
        Input of semantic IDs -> epochs over the pairs.
    seed : int
        The same seed gives the same tables.

    Returns
    -------
    dict of str to ndarray
        Table -> float32 [K + 1, E], of mean 0 and deviation `SPREAD`; row 0, no code, is 0. Without
        users, or where no positive row follows another, there are none.
    """
    found: dict[str, np.ndarray] = {}
    before, after = _pairs(rows)
    for name, count in epochs.items():
        places = [p for p in shape.slots["lookup"] if p.input == name]
        if not count or not len(before) or not places:
            continue
        slots = [cast(Lookup, rows.in_memory.blocks[name].slots[p.at]) for p in places]
        codes = torch.from_numpy(np.stack([slot.rows for slot in slots], axis=1))  # [N, P]
        names = [p.layout.tables[0] for p in places]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tables = _fitted(
                codes[before], codes[after], shape.tables[names[0]], shape.settings.embedding, count
            )
        found |= dict(zip(names, tables, strict=True))
    return found


def _pairs(rows: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Rows and the rows that follow them, int64 [pairs]: of one user, both positive in a task."""
    if rows.users is None or rows.times is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    liked = np.flatnonzero(((rows.labels > 0) & rows.mask).any(axis=0))
    order = liked[np.lexsort((rows.times[liked], rows.users[liked]))]
    user = rows.users[order]
    pairs = [
        (order[:-lag][same], order[lag:][same])
        for lag in LAGS
        if len(order) > lag and (same := user[lag:] == user[:-lag]).any()
    ]
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return before, after


def _fitted(
    before: torch.Tensor, after: torch.Tensor, size: int, width: int, epochs: int
) -> list[np.ndarray]:
    """Tables of P positions, each [size, E]. before, after: rows of them, int64 [pairs, P]."""
    positions = before.shape[1]
    tables = torch.nn.Parameter(torch.randn(positions, size, width) * 0.3)
    turn = torch.nn.Parameter(torch.eye(width))
    bias = torch.nn.Parameter(torch.zeros(positions, size))
    descent = torch.optim.Adam([tables, turn, bias], lr=RATE)
    at = torch.arange(positions)
    for _ in range(epochs):
        for picked in torch.randperm(len(before)).split(BATCH):
            context, target = before[picked], after[picked]
            seen = (context > 0).unsqueeze(2)
            vectors = (tables[at, context] * seen).sum(1) / seen.sum(1).clamp(min=1)  # [B, E]
            logits = torch.einsum("be,pke->bpk", vectors @ turn, tables) + bias
            lost = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            coded = target.flatten() > 0
            descent.zero_grad()
            (lost * coded).sum().div(coded.sum().clamp(min=1)).backward()
            descent.step()
    learned = tables.detach()
    learned = learned - learned[:, 1:].mean(1, keepdim=True)
    learned = learned * (SPREAD / learned[:, 1:].std().clamp(min=1e-12))
    learned[:, 0] = 0
    return list(learned.numpy())
