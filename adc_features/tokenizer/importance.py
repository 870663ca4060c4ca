"""How much each behavioural code of an item says. Reads: behaviour vectors, reliability x. Writes:
weights R and their penalty.

Legend: B rows, N behavioural experts.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.processes import gathered, total
from adc_features.ranks import ALONE, Ranks
from adc_features.tokenizer.alignment import strength
from adc_features.tokenizer.experts import mlp

GateScale = Literal["sigmoid", "linear", "controller", "equal"]
GateInput = Literal["raw", "unit"]
Sparsity = Literal["threshold", "penalty", "off"]


class BehaviorGate(nn.Module):
    """R = scale(x) * relu(MLP(e_b) - threshold) / level, float32 [B, N] in [0, 4] (ADC-SID Eq. 22,
    b = -threshold).

    scale: `sigmoid` as printed (0.5 to 0.73: the ReLU does the denoising), `linear` x itself,
    `controller` w, `equal` the ablation without a gate, R = 1 (method notes: Scale and input of the
    gate). reads: the behaviour vector as it is, or at `unit` length: noise lengthens a vector, and
    a score that grows with its length then trusts the noisiest most. threshold, level and
    normaliser are frozen with the tokenizer.
    """

    threshold: Tensor
    level: Tensor
    normaliser: Tensor

    def __init__(
        self,
        width: int,
        experts: int,
        *,
        hidden: int,
        scale: GateScale,
        alpha: float,
        beta: float,
        reads: GateInput = "raw",
    ) -> None:
        super().__init__()
        self.experts, self.scale, self.alpha, self.beta, self.reads = (
            experts,
            scale,
            alpha,
            beta,
            reads,
        )
        self.score = mlp(width, hidden, experts) if scale != "equal" else None
        # every expert starts active, as in ReMoE (method notes: Gates that start open)
        self.register_buffer("threshold", torch.full((experts,), -0.5))
        self.register_buffer("level", torch.ones(experts))
        self.register_buffer("normaliser", torch.ones(experts))

    def forward(self, behavior: Tensor, x: Tensor, present: Tensor) -> Tensor:
        """R of rows with standardised vectors `behavior` [B, d] and reliability x [B]; 0 where
        there is no behaviour (method notes: Items without behaviour).
        """
        if self.score is None:
            return present[:, None].float().expand(-1, self.experts)
        return torch.where(
            present[:, None],
            (
                self._trust(x) * torch.relu(self._score(behavior) - self.threshold) / self.level
            ).clamp_max(4.0),
            0.0,
        )

    def _score(self, behavior: Tensor) -> Tensor:
        assert self.score is not None
        return self.score(
            F.normalize(behavior, dim=-1) * behavior.shape[1] ** 0.5
            if self.reads == "unit"
            else behavior
        )

    def _trust(self, x: Tensor) -> Tensor:
        scales = {
            "sigmoid": torch.sigmoid,
            "linear": lambda x: x,
            "controller": lambda x: strength(x, self.alpha, self.beta),
        }
        return scales[self.scale](x)[:, None]

    def normalised(self, gate_BN: Tensor) -> Tensor:
        """R over its mean where active, clipped to [0, 4]: a scale that consumers can rely on
        (method notes: Exported weights).
        """
        return (gate_BN / self.normaliser).clamp(0.0, 4.0)

    @torch.no_grad()
    def follow(
        self,
        behavior: Tensor,
        x: Tensor,
        present: Tensor,
        *,
        target: float | None,
        pace: float,
        ranks: Ranks = ALONE,
    ) -> None:
        """Move `pace` of the way to where R is 1 on average where active and, given a target, each
        expert is active on its share.

        The threshold is load balancing by feedback on b instead of by the penalty of Eq. 23 (as in
        arXiv 2408.15664). Within the few hundred steps of a fit that penalty, a lambda that grows
        by 1.2 a step, overshot on Beauty whatever its pace: all gates fell to 0, where a ReLU has
        no gradient, and stayed there. The level keeps behavioural codes from drowning content in
        the sum of Eq. 10: R grew to many times 1 without it.
        """
        if self.score is None:
            return
        behavior, x, present = (gathered(rows, ranks)[0] for rows in (behavior, x, present))
        if not present.any():
            return
        score = self._score(behavior[present])
        if target is not None:
            self.threshold += pace * (
                torch.quantile(score, 1 - target / self.experts, dim=0) - self.threshold
            )
        gate, wanted = (
            self._trust(x[present]) * torch.relu(score - self.threshold),
            self.level.clone(),
        )
        active = (gate > 0).sum(0)
        wanted[active > 0] = (gate.sum(0) / active)[active > 0]
        self.level += pace * (wanted - self.level)


@dataclass
class SparsityController:
    """ReMoE's feedback on the load-balance penalty (Eq. 23; arXiv 2412.14711): lambda rises while
    too many experts are active.

    target: mean active experts k-bar. strength: lambda. inactive: the running share of inactive
    entries, over about 20 batches, because a handful of experts moves in coarse steps.
    """

    experts: int
    target: float
    strength: float = 1e-8
    inactive: float = 0.0

    def penalty(self, gate_BN: Tensor, present: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
        """lambda * sum_j f_j mean_t R_j(t) over rows with behaviour, a scalar; f_j is a count and
        carries no gradient.
        """
        rows = total(present.sum(), ranks).clamp_min(1)
        active = total((gate_BN > 0).sum(0), ranks) / rows
        gate_N = total(gate_BN.sum(0), ranks)
        return self.strength * (self.experts / self.target * active * gate_N / rows).sum()

    def observe(self, gate_BN: Tensor, present: Tensor, *, ranks: Ranks = ALONE) -> None:
        """Move lambda by a factor 1.2 towards the target, after a step on this batch."""
        rows = int(total(present.sum(), ranks))
        active = int(total((gate_BN > 0).sum(), ranks))
        if rows:
            self.inactive += (1.0 - active / (rows * self.experts) - self.inactive) / 20
            self.strength *= 1.2 if self.inactive < 1 - self.target / self.experts else 1 / 1.2
