"""The training loop of the learned baselines. Reads: RowUnion. Writes: parameters in place, the
training curve.
"""

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from adc_features.tokenizer.model import Rows
from adc_features.tokenizer.union import RowUnion, chance_of

Progress = Callable[[str, int, int], None]
Curve = list[dict[str, float]]


class Schedule(Protocol):
    """What the loop reads of a tokenizer's settings."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def optimise(
    parameters: Iterable[nn.Parameter],
    union: RowUnion,
    s: Schedule,
    *,
    step: Callable[[int, Rows, torch.Generator], dict[str, Tensor]],
    seed: int,
    progress: Progress | None,
) -> Curve:
    """AdamW with cosine decay over s.steps batches; step(number, rows, chance) gives the loss
    terms, about 50 of which are kept.
    """
    optimiser = torch.optim.AdamW(parameters, lr=s.learning_rate, weight_decay=s.weight_decay)
    curve: Curve = []
    for number in range(s.steps):
        for group in optimiser.param_groups:
            group["lr"] = s.learning_rate * 0.5 * (1 + math.cos(math.pi * number / s.steps))
        terms = step(
            number, union.batch(number, size=s.batch, seed=seed), chance_of(seed, 2, number)
        )
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        if (number + 1) % max(s.steps // 50, 1) == 0:
            curve.append(
                {"step": number + 1, **{name: float(term.detach()) for name, term in terms.items()}}
            )
        if progress:
            progress("fit", number + 1, s.steps)
    return curve


def masked_mean(values_B: Tensor, known_B: Tensor) -> Tensor:
    """Mean of the known rows, a scalar; 0 when there are none."""
    return torch.where(known_B, values_B, 0.0).sum() / known_B.sum().clamp_min(1)
