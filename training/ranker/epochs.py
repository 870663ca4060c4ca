"""Networks of several tasks while they are trained. Reads: labelled rows, FitSettings. Writes:
parameters in place, losses.

With level inputs a round is one epoch of the order, beside a free bias for each user and task that
is dropped afterwards, then `level_epochs` of the small level networks and the calibration on the
order's finished logits.

Of several processes each makes its share of every batch of the order, and gradients are added up;
the level and the held-out rows, which are small beside it, every process works out alike.

Legend: N rows, N' learnable rows, B rows of a batch, T tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from adc_features.devices import memory_of, seeded
from adc_features.errors import InputError
from adc_features.processes import add_gradients, total
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranks import ALONE, Ranks
from training.ranker.batches import RowTensors, epoch_batches, share_of
from training.ranker.labelled import Labelled, weighed
from training.ranker.losses import MultitaskLoss
from training.ranker.network import Network, Networks

SCORED = 8_192
"""Rows that are scored at once."""


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained.

    Parameters
    ----------
    dropout : float
        Share of the lookups' embeddings that are hidden while training, so that none is learned by
        heart; the others are scaled up.
    learning_rate, weight_decay : float
        Of Adam.
    batch : int
        Rows of one step.
    max_epochs : int
        The most rounds that are tried where the held-out rows choose.
    bias_penalty : float
        Weight of the squared user bias in the loss.
    level_rate, fresh_rate : float
        Learning rates of the settled level, user biases and calibration; of the fresh level. They
        fall to 0 over the level's epochs: at a constant rate the level that a seed ends on moves
        AUC by 0.001.
    level_epochs : int
        Epochs of the level networks in a round.
    """

    dropout: float = 0.2
    learning_rate: float = 3e-3
    weight_decay: float = 1e-6
    batch: int = 512
    max_epochs: int = 3
    bias_penalty: float = 0.05
    level_rate: float = 1e-2
    fresh_rate: float = 3e-3
    level_epochs: int = 4

    def __post_init__(self) -> None:
        if self.bias_penalty < 0 or min(self.level_rate, self.fresh_rate) <= 0:
            raise InputError(
                f"{self}; expected bias_penalty >= 0, level_rate > 0 and fresh_rate > 0"
            )
        if self.level_epochs < 1:
            raise InputError(f"{self}; expected at least one epoch of the level networks")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise InputError(
                f"{self}; expected 0 <= dropout < 1, learning_rate > 0 and weight_decay >= 0"
            )
        if self.batch < 1 or self.max_epochs < 1:
            raise InputError(f"{self}; expected at least one row a batch and one epoch")


def fit_settings(said: Mapping[str, Any] | None) -> FitSettings:
    """Those of a ranker's `settings` that train its network; others build it."""
    chosen = said or {}
    return FitSettings(**{f.name: chosen[f.name] for f in fields(FitSettings) if f.name in chosen})


class Epochs:
    """Networks while they are trained.

    Parameters
    ----------
    rows : Labelled
        Training rows.
    shape : NetworkShape
        What is built.
    settings : FitSettings
        How it is trained.
    seed : int
        Of first parameters, shuffles and dropout.
    device : torch.device
        Where rows and networks are.
    ranks : Ranks
        Which of several processes this is.
    """

    def __init__(
        self,
        rows: Labelled,
        shape: NetworkShape,
        settings: FitSettings,
        *,
        seed: int,
        device: torch.device | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.device, self.ranks = device or torch.device("cpu"), ranks
        with memory_of(self.device, rows=len(rows.encoded), setting="rows"):
            self.loss = MultitaskLoss.of(rows, shape, settings.batch).on(self.device)
            self.tensors = RowTensors.of(rows.encoded, shape).on(self.device)
        self.settings = settings
        with torch.random.fork_rng(devices=seeded(self.device)):
            torch.manual_seed(seed)
            self.model = Networks(shape).to(self.device)
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self.descents = [
            torch.optim.Adam(
                network.parameters(),
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                fused=True,
            )
            for network in self.model.networks
        ]
        self.bias: UserBias | None = None
        if shape.level and rows.users is not None:
            tasks = len(shape.tasks)
            self.bias = UserBias.of(rows.users, self.loss.rows, tasks, settings)

    def run(self) -> float:
        """One epoch of every network, then the level's; the mean loss of a batch of the former."""
        losses = []
        for network, descent in zip(self.model.networks, self.descents, strict=True):
            for places in epoch_batches(
                len(self.loss.rows), self.settings.batch, groups=self.loss.groups, rng=self.rng
            ):
                with memory_of(self.device, rows=len(places)):
                    losses.append(self._step(cast(Network, network), descent, places))
        if self.model.shape.level:
            self._fit_level()
        # read once an epoch, since a GPU would wait for every number
        summed = 0.0
        for lost in total(torch.stack(losses), self.ranks).tolist():
            summed += lost
        return summed / len(losses)

    def _step(self, network: Network, descent: torch.optim.Optimizer, places: Tensor) -> Tensor:
        """The loss of this process's rows of a batch, after a step on all of them."""
        mine = share_of(places, self.loss.groups, self.ranks)
        batch = self.tensors.batch(
            self.loss.rows[places], dropout=self.settings.dropout, rng=self.rng, mine=mine
        )
        own, learned = places[mine], list[Tensor](network.parameters())
        descent.zero_grad()
        if self.bias is not None:
            self.bias.descent.zero_grad()
            learned.append(self.bias.bias)
        lost = batch.dense.new_zeros(())
        if len(own):  # a short batch leaves some processes without a row
            logits = network(batch)
            if self.bias is None:
                lost = self.loss(logits, own)
            else:
                share = len(own) / len(places)
                lost = self.bias.lost(logits, own, self.loss, share=share)
            lost.backward()
        add_gradients(learned, self.ranks)
        descent.step()
        if self.bias is not None:
            self.bias.descent.step()
        return lost.detach()

    def _fit_level(self) -> None:
        """Train the level networks and the calibration on the finished order."""
        model, loss, settings = self.model, self.loss, self.settings
        with torch.no_grad():
            order = torch.cat(
                [model.order(self.tensors.batch(rows)) for rows in loss.rows.split(SCORED)],
                1,
            )
        dense = self.tensors.dense[loss.rows]
        rates = {"settled": settings.level_rate, "fresh": settings.fresh_rate}
        groups: list[dict[str, Any]] = [
            {"params": [*part.parameters()], "lr": rates[name]}
            for name, part in model.level.items()
        ]
        groups.append({"params": [model.calibration], "lr": settings.level_rate})
        descent = torch.optim.Adam(groups, fused=True)
        count = len(loss.rows)
        steps = settings.level_epochs * -(-count // settings.batch)
        pace = torch.optim.lr_scheduler.LinearLR(descent, 1.0, 0.0, steps)
        for _ in range(settings.level_epochs):
            order_of = torch.randperm(count, generator=self.rng, device=self.device)
            for places in order_of.split(settings.batch):
                descent.zero_grad()
                seen, levels = order[:, places], model.levels(dense[places])
                held = {name: level.detach() for name, level in levels.items()}
                lost = loss(model.levelled(seen, held), places)
                for level in levels.values():
                    lost = lost + loss(seen + level, places)
                lost.backward()
                descent.step()
                pace.step()


@dataclass(frozen=True)
class UserBias:
    """A free bias for each user and task, [users, T], beside which the order is learned.

    users: int64 [N'], of the learnable rows.
    """

    users: Tensor
    bias: Tensor
    penalty: float
    descent: torch.optim.Optimizer

    @classmethod
    def of(cls, users: np.ndarray, rows: Tensor, tasks: int, settings: FitSettings) -> "UserBias":
        """users: int64 [N]; rows: int64 [N'], those that are learned from, on the device of all."""
        place = rows.device
        numbers = torch.from_numpy(np.unique(users, return_inverse=True)[1].astype(np.int64))
        bias = torch.zeros(int(numbers.max()) + 1, tasks, device=place, requires_grad=True)
        descent = torch.optim.Adam([bias], lr=settings.level_rate, fused=True)
        return cls(numbers.to(place)[rows], bias, settings.bias_penalty, descent)

    def lost(self, logits: Tensor, places: Tensor, loss: MultitaskLoss, *, share: float) -> Tensor:
        """The loss of logits [T, B] beside the bias. share: of the batch that these rows are."""
        bias = self.bias[self.users[places]].T
        penalty = self.penalty * bias.square().mean()
        return loss(logits + bias, places) + (penalty if share == 1 else share * penalty)


@dataclass(frozen=True)
class HeldOut:
    """Rows that are scored after each round. labels, weights: [T, N]; task: [T]."""

    tensors: RowTensors
    labels: Tensor
    weights: Tensor
    task: Tensor

    @classmethod
    def of(
        cls, rows: Labelled, shape: NetworkShape, *, device: torch.device | None = None
    ) -> "HeldOut":
        """Raises InputError where no label counts."""
        weights = weighed(rows, shape.tasks)
        sums = weights.sum(1, dtype=np.float64)
        if not sums.any():
            raise InputError("no held-out label counts: every one is masked or weighs 0")
        task = np.where(sums > 0, np.array(shape.task_weights), 0)
        labels = np.where(weights > 0, rows.labels, 0).astype(np.float32)
        place = device or torch.device("cpu")
        return cls(
            RowTensors.of(rows.encoded, shape).on(place),
            torch.from_numpy(labels).to(place),
            torch.from_numpy(weights).to(place),
            torch.from_numpy(task / task.sum()).to(place),
        )

    def loss(self, model: Networks) -> float:
        """The mean of the tasks' log losses, by task weight."""
        each = cross_entropy(logits_of(model, self.tensors), self.labels, reduction="none")
        sums = (each * self.weights).double().sum(1)
        return float((sums / self.weights.double().sum(1).clamp(min=1e-12)) @ self.task)


@torch.no_grad()
def logits_of(model: Networks | Network, tensors: RowTensors) -> Tensor:
    """Logits of every row, without dropout: [T, N]."""
    every = torch.arange(len(tensors), device=tensors.dense.device)
    return torch.cat([model(tensors.batch(rows)) for rows in every.split(SCORED)], 1)
