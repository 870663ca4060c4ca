"""Softmax over a sample of the items, and a table of which a step touches the rows that it reads.
Reads: batches of events. Writes: losses, rows of a table.

A full softmax multiplies each state with every item, and its gradient, and the optimiser's step,
are as large as the table. Here a batch meets its own targets and S negatives j that a proposal q
draws, and their logits o give the partition function of a position with target t as

    exp(o_t) + sum over draws j != t of exp(o_j) / (S q_j),

whose expectation is that of all items: the log of q is subtracted from the logits (Bengio & Senecal
2008). The gradient is that of the full softmax but for a bias that falls as 1 / S.

Legend: I items, R rows of the table that a batch reads, P positions with a target, C distinct
negatives, D dims.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adc_features.encoders.sasrec import product_dtype
from adc_features.errors import InputError

BETAS = 0.9, 0.98
"""How slowly Adam's moments move."""


@dataclass(frozen=True)
class Sampled:
    """A loss against a sample of the items.

    negatives: S, draws for each batch, with replacement; all its positions share them. proposal:
    in the proportion of the items' events, or each item alike.

    Raises InputError for no negatives or another proposal.
    """

    negatives: int = 1_024
    proposal: Literal["popularity", "uniform"] = "popularity"

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise InputError(f"negatives is {self.negatives}; expected at least 1")
        if self.proposal not in ("popularity", "uniform"):
            raise InputError(f"proposal is {self.proposal!r}; expected popularity or uniform")


class Negatives:
    """Draws items of which `counts`, int64 [I] >= 1, are the events."""

    def __init__(self, sampled: Sampled, counts: np.ndarray) -> None:
        self.draws = sampled.negatives
        self.weights = counts if sampled.proposal == "popularity" else np.ones_like(counts)
        self.ends = np.cumsum(self.weights)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Distinct items, int64 [C], ascending, and what is added to the logit of each: the log of
        how often it was drawn, over how often it was expected, float32 [C].
        """
        every = int(self.ends[-1])
        drawn = np.searchsorted(self.ends, rng.integers(0, every, self.draws), side="right")
        found, times = np.unique(drawn, return_counts=True)
        expected = self.weights[found] * (self.draws / every)
        return torch.from_numpy(found), torch.from_numpy(np.log(times / expected)).float()


def sampled_loss(
    states_PD: Tensor,
    vectors_RD: Tensor,
    targets_P: Tensor,
    *,
    negatives_C: Tensor,
    correction_C: Tensor,
    prior_R: Tensor,
    count: int,
) -> Tensor:
    """Cross-entropy of the next item, summed over positions and divided by `count`. targets_P,
    negatives_C: rows of `vectors_RD`. prior_R: as that of `next_item_loss`. correction_C: of
    `Negatives`.
    """
    dtype = product_dtype(states_PD.device)
    # embedding, not an index, as in `SASRec.forward`: a seed would not repeat
    own_P = (states_PD * functional.embedding(targets_P, vectors_RD)).sum(1) + prior_R[targets_P]
    others = functional.embedding(negatives_C, vectors_RD).to(dtype)
    others_PC = (states_PD.to(dtype) @ others.T).float() + (prior_R[negatives_C] + correction_C)
    others_PC = others_PC.masked_fill(targets_P[:, None] == negatives_C, -torch.inf)
    partition_P = torch.cat([own_P[:, None], others_PC], 1).logsumexp(1)
    return (partition_P - own_P).sum() / count


class TableDescent:
    """AdamW of a table, [I, D], of which a step touches some rows.

    A row that is not touched decays all the same, later: when it is read next. Its moments rest
    meanwhile (lazy Adam, as torch's SparseAdam, which knows no decay). It holds the table three
    times and a number for each row, and no gradient of the table's size.
    """

    def __init__(self, table: nn.Parameter, *, decay: float) -> None:
        self.table, self.decay, self.steps = table, decay, 0
        self.mean_ID, self.square_ID = (torch.zeros_like(table) for _ in range(2))
        # logs of what a row that was never touched would have shrunk by, so far and at each row
        self.shrunk = 0.0
        self.applied_I = torch.zeros(len(table), dtype=torch.float64, device=table.device)

    @torch.no_grad()
    def _shrink(self, rows_R: Tensor) -> None:
        factor_R = torch.exp(self.shrunk - self.applied_I[rows_R]).to(self.table.dtype)
        self.table[rows_R] *= factor_R[:, None]
        self.applied_I[rows_R] = self.shrunk

    def read(self, rows_R: Tensor) -> Tensor:
        """These rows (int64 [R], none twice) as they are now: [R, D], to be differentiated by."""
        self._shrink(rows_R)
        return self.table.detach()[rows_R].requires_grad_()

    @torch.no_grad()
    def step(self, rows_R: Tensor, gradient_RD: Tensor, *, rate: float) -> None:
        """A step on these rows; rate: the learning rate."""
        self.steps += 1
        self.shrunk += math.log1p(-rate * self.decay)
        self._shrink(rows_R)
        mean = self.mean_ID[rows_R].lerp(gradient_RD, 1 - BETAS[0])
        square = self.square_ID[rows_R].lerp(gradient_RD.square(), 1 - BETAS[1])
        self.mean_ID[rows_R], self.square_ID[rows_R] = mean, square
        mean, square = (
            moment / (1 - beta**self.steps)
            for moment, beta in zip((mean, square), BETAS, strict=True)
        )
        self.table[rows_R] -= rate * mean / (square.sqrt() + 1e-8)

    def finish(self) -> None:
        """Let every row be as it is now."""
        self._shrink(torch.arange(len(self.table), device=self.table.device))
