"""Fit a network of several tasks. Reads: Encoded, labels. Writes: its parameters, its curve.

The loss of a batch is the sum over tasks of weight * masked, weighted cross entropy, divided by
the task's mean sum of weights in a batch: a task with few labels neither swings from batch to batch
nor divides by zero where a batch has none. Shuffles, dropout and first parameters follow from the
seed alone.

With level inputs a round is one epoch of the order, beside a free bias for each user and task that
is dropped afterwards, then `level_epochs` of the small level networks and the calibration on the
order's finished logits.

Legend: N rows, B rows of a batch, T tasks, E embedding width.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from adc_features.errors import InputError
from adc_features.inputs.encoded import Encoded
from adc_features.ranking.base import Progress, Round
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.batches import RowTensors, epoch_batches
from training.ranker.labelled import Labelled, weighed
from training.ranker.losses import MultitaskLoss
from training.ranker.network import Network, Networks
from training.ranker.warm_start import warm_start

log = logging.getLogger(__name__)

ROUND_COST = 0.002
"""Held-out nats that each further round must save to be taken: a further epoch that saves less has
begun to learn rows by heart."""
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


def fit_network(
    encoded: Encoded,
    labels: np.ndarray,
    mask: np.ndarray,
    weights: np.ndarray,
    *,
    shape: NetworkShape,
    settings: FitSettings,
    seed: int,
    rounds: int | None = None,
    holdout: Labelled | None = None,
    start: tuple[NetworkShape, Mapping[str, np.ndarray]] | None = None,
    begin: Mapping[str, np.ndarray] | None = None,
    cold: Collection[str] = (),
    groups: np.ndarray | None = None,
    users: np.ndarray | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray], list[Round]]:
    """Train a network.

    Parameters
    ----------
    encoded : Encoded
        N training rows.
    labels, mask, weights : ndarray
        As in `Labelled`. Rows that are masked for every task, or weigh nothing, are left out.
    shape : NetworkShape
        What is built.
    settings : FitSettings
        How it is trained.
    seed : int
        The same seed gives the same parameters.
    rounds : int, optional
        Epochs. None: as many as the settings allow; with `holdout` the parameters are those after
        the round that `chosen_rounds` names.
    holdout : Labelled, optional
        Rows that are scored after each round.
    start : tuple of NetworkShape and mapping, optional
        An older network, for a warm start; see `warm_start`.
    begin : mapping of str to ndarray, optional
        Table -> the embeddings that it begins with, in every network, where there is no `start`.
    cold : collection of str, optional
        Inputs that begin anew in it.
    groups : ndarray, optional
        Request of each row; rows of one stay in one batch. The listwise term needs it.
    users : ndarray, optional
        User of each row, numbered from 0: with level inputs the order is learned beside a free bias
        for each.
    progress : callable, optional
        Told after each round.

    Returns
    -------
    tuple of dict and list of Round
        Parameters by name, and losses by round: the mean of the tasks' log losses, by task weight,
        listwise term included in that of the training rows.

    Raises
    ------
    InputError
        Labels, masks or weights that do not fit the rows, or no row that any task may learn from.
    """
    held = None if holdout is None else HeldOut.of(holdout, shape)
    rows = Labelled(encoded, labels, mask, weights, groups, users)
    fitted = Epochs(rows, shape, settings, seed=seed)
    model, taken, best = fitted.model, None, np.inf
    if start is None:
        put_tables(model, begin or {})
    else:
        started = warm_start(model, *start, cold=cold)
        log.info("stage=fit_network carried=%d anew=%s", len(started.carried), started.anew)
    curve = []
    epochs = rounds or settings.max_epochs
    for done in range(1, epochs + 1):
        train = fitted.run() / sum(shape.task_weights)
        lost = None if held is None else held.loss(model)
        curve.append(Round(done, train, lost))
        if lost is not None and rounds is None and lost + ROUND_COST * done < best:
            best, taken = lost + ROUND_COST * done, parameters(model)
        if progress is not None:
            progress("train network", done, epochs)
    return taken or parameters(model), curve


def chosen_rounds(curve: list[Round], cost: float = ROUND_COST) -> int:
    """The round with the least held-out loss, where each further round must save `cost`."""
    losses = np.array([point.holdout for point in curve], np.float64)
    return 1 + int((losses + cost * np.arange(len(losses))).argmin())


@torch.no_grad()
def put_tables(model: Networks, tables: Mapping[str, np.ndarray]) -> None:
    """Put embeddings into the tables of these names, of every network."""
    for name, values in tables.items():
        first = model.shape.starts[name]
        for network in model.networks:
            table = cast(Network, network).embeddings.table
            table[first : first + len(values)] = torch.from_numpy(values)


def parameters(model: Networks) -> dict[str, np.ndarray]:
    """A copy of all parameters by name, float32."""
    return {name: value.detach().numpy().copy() for name, value in model.named_parameters()}


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
    """

    def __init__(
        self, rows: Labelled, shape: NetworkShape, settings: FitSettings, *, seed: int
    ) -> None:
        self.loss = MultitaskLoss.of(rows, shape, settings.batch)
        self.tensors = RowTensors.of(rows.encoded, shape)
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Networks(shape)
        self.rng = torch.Generator().manual_seed(seed)
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
            self.bias = UserBias.of(rows.users, self.loss.rows, len(shape.tasks), settings)

    def run(self) -> float:
        """One epoch of every network, then the level's; the mean loss of a batch of the former."""
        total, steps = 0.0, 0
        loss, settings, rng = self.loss, self.settings, self.rng
        for network, descent in zip(self.model.networks, self.descents, strict=True):
            for places in epoch_batches(
                len(loss.rows), settings.batch, groups=loss.groups, rng=rng
            ):
                picked = loss.rows[places]
                batch = self.tensors.batch(picked, dropout=settings.dropout, rng=rng)
                descent.zero_grad()
                logits = network(batch)
                if self.bias is None:
                    lost = loss(logits, places)
                    lost.backward()
                else:
                    lost = self.bias.step(logits, places, loss)
                descent.step()
                total, steps = total + float(lost.detach()), steps + 1
        if self.model.shape.level:
            self._fit_level()
        return total / steps

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
            for places in torch.randperm(count, generator=self.rng).split(settings.batch):
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
        """users: int64 [N]; rows: int64 [N'], those that are learned from."""
        numbers = torch.from_numpy(np.unique(users, return_inverse=True)[1].astype(np.int64))
        bias = torch.zeros(int(numbers.max()) + 1, tasks, requires_grad=True)
        descent = torch.optim.Adam([bias], lr=settings.level_rate, fused=True)
        return cls(numbers[rows], bias, settings.bias_penalty, descent)

    def step(self, logits: Tensor, places: Tensor, loss: MultitaskLoss) -> Tensor:
        """The loss of logits [T, B] beside the bias, after its gradients and the bias's step."""
        self.descent.zero_grad()
        bias = self.bias[self.users[places]].T
        lost = loss(logits + bias, places) + self.penalty * bias.square().mean()
        lost.backward()
        self.descent.step()
        return lost


@dataclass(frozen=True)
class HeldOut:
    """Rows that are scored after each round. labels, weights: [T, N]; task: [T]."""

    tensors: RowTensors
    labels: Tensor
    weights: Tensor
    task: Tensor

    @classmethod
    def of(cls, rows: Labelled, shape: NetworkShape) -> "HeldOut":
        """Raises InputError where no label counts."""
        weights = weighed(rows, shape.tasks)
        sums = weights.sum(1, dtype=np.float64)
        if not sums.any():
            raise InputError("no held-out label counts: every one is masked or weighs 0")
        task = np.where(sums > 0, np.array(shape.task_weights), 0)
        labels = np.where(weights > 0, rows.labels, 0).astype(np.float32)
        return cls(
            RowTensors.of(rows.encoded, shape),
            torch.from_numpy(labels),
            torch.from_numpy(weights),
            torch.from_numpy(task / task.sum()),
        )

    def loss(self, model: Networks) -> float:
        """The mean of the tasks' log losses, by task weight."""
        each = cross_entropy(logits_of(model, self.tensors), self.labels, reduction="none")
        sums = (each * self.weights).double().sum(1)
        return float((sums / self.weights.double().sum(1).clamp(min=1e-12)) @ self.task)


@torch.no_grad()
def logits_of(model: Networks | Network, tensors: RowTensors) -> Tensor:
    """Logits of every row, without dropout: [T, N]."""
    parts = [model(tensors.batch(rows)) for rows in torch.arange(len(tensors)).split(SCORED)]
    return torch.cat(parts, 1)


def load(shape: NetworkShape, tensors: Mapping[str, np.ndarray]) -> Networks:
    """The torch module with these parameters."""
    with torch.random.fork_rng(devices=[]):
        model = Networks(shape)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return model
