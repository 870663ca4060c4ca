"""Networks of several tasks while they are trained. Reads: labelled rows, FitSettings. Writes:
parameters in place, losses.

With level inputs a round is one epoch of the order, beside a free bias for each user and task that
is dropped afterwards, then `level_epochs` of the small level networks and the calibration on the
order's finished logits.

Of several processes each makes its share of every batch of the order, and gradients are added up;
the level and the held-out rows, which are small beside it, every process works out alike.

Rows in files come into memory a buffer at a time (`row_files`); labels and weights are in memory.

Legend: N rows, N' learnable rows, B rows of a batch, T tasks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
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
from training.ranker.row_files import Buffer, RowFiles, RowsInMemory, rows_of

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


@dataclass
class Place:
    """How far a round is.

    network: which is trained. plan: the pieces of each buffer of its epoch, None before it begins;
    buffer: the one in memory; begun: the state of chance before its rows were permuted. batch: how
    many of it are done. losses: of this process's rows, by batch of the round.
    """

    network: int = 0
    plan: list[list[int]] | None = None
    buffer: int = 0
    begun: Tensor | None = None
    batch: int = 0
    losses: list[Tensor] = field(default_factory=list)


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
            self.source = rows_of(rows.encoded, shape, self.device)
        self.settings, self.place = settings, Place()
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

    def run(self, after: Callable[[int], None] | None = None) -> float:
        """One epoch of every network, then the level's, or what is left of them after `load`; the
        mean loss of a batch of the former. after: called after each step, with the steps of the
        round.
        """
        at = self.place
        while at.network < len(self.descents):
            at.plan = at.plan or self.source.plan(self.rng)
            while at.buffer < len(at.plan):
                self._learn(at.plan[at.buffer], after)
                at.buffer, at.begun, at.batch = at.buffer + 1, None, 0
            at.network, at.plan, at.buffer = at.network + 1, None, 0
        if self.model.shape.level:
            self._fit_level()
        # read once an epoch, since a GPU would wait for every number
        summed = 0.0
        for lost in total(torch.stack(at.losses), self.ranks).tolist():
            summed += lost
        self.place = Place()
        return summed / len(at.losses)

    def _learn(self, pieces: list[int], after: Callable[[int], None] | None) -> None:
        """The batches of a buffer that are not done yet."""
        at = self.place
        with memory_of(self.device, rows=len(self.source), setting="buffer_rows"):
            buffer = self.source.buffer(pieces, self.loss.rows)
        if not len(buffer.places):  # pieces of which every row is masked
            return
        groups = self.loss.groups
        if groups is not None:
            groups = groups[buffer.places].unique(return_inverse=True)[1]
        now = self.rng.get_state()
        at.begun = now if at.begun is None else at.begun
        self.rng.set_state(at.begun)
        batches = list(
            epoch_batches(len(buffer.places), self.settings.batch, groups=groups, rng=self.rng)
        )
        if at.batch:  # chance goes on where it was, behind the batches that are done
            self.rng.set_state(now)
        for rows in batches[at.batch :]:
            with memory_of(self.device, rows=len(rows)):
                at.losses.append(self._step(buffer, rows, share_of(rows, groups, self.ranks)))
            at.batch += 1
            if after is not None:
                after(len(at.losses))

    def _step(self, buffer: Buffer, rows: Tensor, mine: slice) -> Tensor:
        """The loss of this process's rows of a batch, after a step on all of them."""
        network = cast(Network, self.model.networks[self.place.network])
        descent = self.descents[self.place.network]
        batch = buffer.tensors.batch(
            buffer.rows[rows], dropout=self.settings.dropout, rng=self.rng, mine=mine
        )
        own, learned = buffer.places[rows[mine]], list[Tensor](network.parameters())
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
                share = len(own) / len(rows)
                lost = self.bias.lost(logits, own, self.loss, share=share)
            lost.backward()
        add_gradients(learned, self.ranks)
        descent.step()
        if self.bias is not None:
            self.bias.descent.step()
        return lost.detach()

    def state(self) -> dict[str, Any]:
        """All that `load` goes on from, on the CPU; of several processes each must ask."""
        losses = total(torch.stack(self.place.losses), self.ranks) if self.place.losses else None
        found: dict[str, Any] = {
            "model": self.model.state_dict(),
            "descents": [descent.state_dict() for descent in self.descents],
            "chance": self.rng.get_state(),
            "place": {**vars(self.place), "losses": losses},
        }
        if self.bias is not None:
            found |= {"bias": self.bias.bias.detach(), "of": self.bias.descent.state_dict()}
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken, to the same bits."""
        self.model.load_state_dict(state["model"])
        for descent, of in zip(self.descents, state["descents"], strict=True):
            descent.load_state_dict(of)
        self.rng.set_state(state["chance"])
        losses = state["place"]["losses"]
        if losses is not None:  # sums over processes: they count once
            losses = list((losses if self.ranks.rank == 0 else losses * 0).to(self.device))
        self.place = Place(**{**state["place"], "losses": losses or []})
        if self.bias is not None:
            with torch.no_grad():
                self.bias.bias.copy_(state["bias"])
            self.bias.descent.load_state_dict(state["of"])

    def _fit_level(self) -> None:
        """Train the level networks and the calibration on the finished order."""
        model, loss, settings = self.model, self.loss, self.settings
        orders, numbers = [], []
        for pieces in self.source.every():
            buffer = self.source.buffer(pieces, loss.rows)
            with torch.no_grad():
                orders += [
                    model.order(buffer.tensors.batch(rows)) for rows in buffer.rows.split(SCORED)
                ]
            numbers.append(buffer.tensors.dense[buffer.rows])
        order, dense = torch.cat(orders, 1), torch.cat(numbers)
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
        own = np.asarray(users)[rows.cpu().numpy()]  # a user of none of them has no bias
        numbers = torch.from_numpy(np.unique(own, return_inverse=True)[1].astype(np.int64))
        bias = torch.zeros(int(numbers.max()) + 1, tasks, device=place, requires_grad=True)
        descent = torch.optim.Adam([bias], lr=settings.level_rate, fused=True)
        return cls(numbers.to(place), bias, settings.bias_penalty, descent)

    def lost(self, logits: Tensor, places: Tensor, loss: MultitaskLoss, *, share: float) -> Tensor:
        """The loss of logits [T, B] beside the bias. share: of the batch that these rows are."""
        bias = self.bias[self.users[places]].T
        penalty = self.penalty * bias.square().mean()
        return loss(logits + bias, places) + (penalty if share == 1 else share * penalty)


@dataclass(frozen=True)
class HeldOut:
    """Rows that are scored after each round. labels, weights: [T, N]; task: [T]."""

    source: RowFiles | RowsInMemory
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
            rows_of(rows.encoded, shape, place),
            torch.from_numpy(labels).to(place),
            torch.from_numpy(weights).to(place),
            torch.from_numpy(task / task.sum()).to(place),
        )

    def loss(self, model: Networks) -> float:
        """The mean of the tasks' log losses, by task weight."""
        place = self.labels.device
        parts = (self.source.read(pieces).on(place) for pieces in self.source.every())
        logits = torch.cat([logits_of(model, part) for part in parts], 1)
        each = cross_entropy(logits, self.labels, reduction="none")
        sums = (each * self.weights).double().sum(1)
        return float((sums / self.weights.double().sum(1).clamp(min=1e-12)) @ self.task)


@torch.no_grad()
def logits_of(model: Networks | Network, tensors: RowTensors) -> Tensor:
    """Logits of every row, without dropout: [T, N]."""
    every = torch.arange(len(tensors), device=tensors.dense.device)
    return torch.cat([model(tensors.batch(rows)) for rows in every.split(SCORED)], 1)
