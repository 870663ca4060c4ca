"""Codes of a catalogue, scores of all its items from them, and the loss over all items. Reads:
codes and weights. Writes: Catalogue, losses.

Legend: P targets, L positions, K codes a position, N items, D dims.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from adc_features.encoders.sasrec import product_dtype
from adc_features.errors import InputError

CHUNK = 64
"""Targets whose scores of all items are alive at once: the cache holds them (256 took 40 % longer
on Beauty).
"""


@dataclass(frozen=True)
class Coded:
    """Codes of N items and how much each position counts: int [N, L] in -1..K-1, -1 = none; float32
    [N, L], >= 0.
    """

    codes: np.ndarray
    weights: np.ndarray
    codebook_size: int

    def __post_init__(self) -> None:
        if (
            self.codes.ndim != 2
            or self.codes.shape != self.weights.shape
            or not self.codes.shape[1]
        ):
            raise InputError(
                f"codes are {list(self.codes.shape)}, weights {list(self.weights.shape)}; expected"
                " both [N, L] with at least one position"
            )
        if (
            self.codes.min() < -1
            or self.codes.max() >= self.codebook_size
            or (self.weights < 0).any()
        ):
            raise InputError(
                f"codes range over {self.codes.min()}..{self.codes.max()}, weights from"
                f" {self.weights.min()}; expected -1..{self.codebook_size - 1} and 0 or more"
            )

    @property
    def fingerprint(self) -> str:
        """sha256 of codes and weights."""
        return hashlib.sha256(self.codes.tobytes() + self.weights.tobytes()).hexdigest()


class Catalogue(NamedTuple):
    """Which codes make which item, in both directions.

    flat: int64 [N, L], rows of an [L * K, P] matrix. share: float32 [N, L], of each position in its
    item's score, 0 without a code. items, item_share [N * L]: the items of each row and their
    shares, row by row from offsets [L * K] on.
    """

    flat: Tensor
    share: Tensor
    items: Tensor
    item_share: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, codes_NL: Tensor, weights_NL: Tensor, *, codebook_size: int) -> "Catalogue":
        positions = codes_NL.shape[1]
        weights = weights_NL * (codes_NL >= 0)
        share = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
        flat = codes_NL.clamp_min(0) + codebook_size * torch.arange(positions)
        order = flat.flatten().argsort(stable=True)
        counts = torch.bincount(flat.flatten(), minlength=positions * codebook_size)
        return cls(
            flat, share, order // positions, share.flatten()[order], counts.cumsum(0) - counts
        )

    def scores(self, values_PLK: Tensor) -> Tensor:
        """float32 [N, P]: the weighted mean of each item's codes. Items of the same codes and
        weights get the same bits.
        """
        return functional.embedding_bag(
            self.flat,
            values_PLK.flatten(1).T.contiguous(),
            per_sample_weights=self.share,
            mode="sum",
        )

    def gradient(self, d_scores_NP: Tensor) -> Tensor:
        """float32 [L * K, P]: the gradient of `values` given that of `scores`."""
        return functional.embedding_bag(
            self.items, d_scores_NP, self.offsets, per_sample_weights=self.item_share, mode="sum"
        )


class CatalogueLoss(torch.autograd.Function):
    """Mean cross-entropy of P targets over the scores of all items; gradients come with the forward
    pass, chunk by chunk: no [N, P] matrix of a batch exists.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        logits_PLK: Tensor,
        states_PD: Tensor,
        table_ND: Tensor | None,
        targets_P: Tensor,
        catalogue: Catalogue,
    ) -> Tensor:
        d_logits, d_states = torch.empty_like(logits_PLK), torch.zeros_like(states_PD)
        d_table = None if table_ND is None else torch.zeros_like(table_ND)
        loss, dtype = logits_PLK.new_zeros(()), product_dtype(logits_PLK.device)
        states, table = states_PD.to(dtype), None if table_ND is None else table_ND.to(dtype)
        chunk = CHUNK if logits_PLK.device.type == "cpu" else len(targets_P)
        for start in range(0, len(targets_P), chunk):
            part = slice(start, start + chunk)
            scores_NP = catalogue.scores(logits_PLK[part])
            if table is not None:
                scores_NP += table @ states[part].T
            target = targets_P[None, part]
            wanted, top = scores_NP.gather(0, target), scores_NP.amax(0)
            total = scores_NP.sub_(top).exp_().sum(0)
            loss += (total.log() + top - wanted[0]).sum()
            d_scores_NP = scores_NP.div_(total).scatter_add_(0, target, -torch.ones_like(wanted))
            d_logits[part] = catalogue.gradient(d_scores_NP).T.view_as(d_logits[part])
            if table is not None and d_table is not None:
                d_scores = d_scores_NP.to(dtype)
                d_states[part] = d_scores.T @ table
                d_table += d_scores @ states[part]
        ctx.save_for_backward(
            *(d if d is None else d / len(targets_P) for d in (d_logits, d_states, d_table))
        )
        return loss / len(targets_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if d is None else grads[0] * d for d in ctx.saved_tensors), None, None
