"""Fit a PPNet. Reads: Inputs. Writes: FittedPPNet, its curve.

A round is one epoch of the order, then `level_epochs` of the small networks on the order's
finished logits. Metrics are computed from torch's scores, so that they do not depend on how a
served ranker is scored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import embedding, embedding_bag, linear

from adc_features.ranking.base import Progress, Ranker, Round
from adc_features.ranking.inputs import Inputs
from adc_features.ranking.ppnet.fused import content_starts, first_layer
from adc_features.ranking.ppnet.network import Batch, LevelledPPNet, PPNet, Tables, build
from adc_features.ranking.ppnet.ranker import PPNetRanker
from adc_features.ranking.ppnet.shape import (
    PRIOR_STATE,
    PPNetSettings,
    PPNetShape,
    dense_features,
)

ROUND_COST = 0.002
"""Held-out nats that each further round must save to be taken.

A second epoch lowers the held-out loss of the newest training rows by less than 0.001 but costs
0.004 AUC on the validation windows: embeddings begin to know rows by heart. So it has to save
0.002.
"""


class FittedPPNet:
    """A PPNet as torch trained it: a `Ranker` whose scores are torch's. model: its networks."""

    def __init__(self, settings: PPNetSettings, shape: PPNetShape, model: LevelledPPNet) -> None:
        self.settings, self.shape, self.model = settings, shape, model
        self._order: Callable[[Batch], Tensor] = model.order

    def finish(self) -> None:
        """Score from fused tables from now on: its parameters change no more."""
        if not self.shape.vectors:
            networks = [cast(PPNet, network) for network in self.model.eval().orders]
            self._order = FusedOrder(networks, self.shape).order

    def predict(self, inputs: Inputs) -> np.ndarray:
        """P(label = 1), float32 [N]."""
        model = self.model.eval()
        rows = _Rows.of(inputs, self.shape)
        return torch.sigmoid(
            _each(rows, lambda batch: model.score(self._order(batch), batch))
        ).numpy()

    def ranker(self) -> PPNetRanker:
        """The same without torch, as it is served."""
        tensors = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        return PPNetRanker(self.settings, self.shape, tensors)

    def save(self, directory: Path) -> None:
        """Write the checkpoint, which `PPNetRanker` and this class read."""
        self.ranker().save(directory)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a checkpoint, to score it with torch."""
        served = PPNetRanker.load(directory)
        model = build(served.settings, served.shape)
        model.load_state_dict({n: torch.from_numpy(t) for n, t in served.tensors.items()})
        fitted = cls(served.settings, served.shape, model)
        fitted.finish()
        return fitted


def fit_ppnet(
    inputs: Inputs,
    *,
    settings: PPNetSettings,
    shape: PPNetShape,
    seed: int,
    rounds: int | None = None,
    holdout: Inputs | None = None,
    start: Ranker | None = None,
    progress: Progress | None = None,
) -> tuple[FittedPPNet, list[Round]]:
    """Train for `rounds` epochs (None: the most that the settings allow), and the losses by round.

    holdout: rows that are scored after each round. start: an older ranker, for a warm start. The
    same seed gives the same network.
    """
    rounds = rounds or settings.max_epochs
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = build(settings, shape)
    warm_start(model, shape, start)
    fitted = FittedPPNet(settings, shape, model)
    order_descent = torch.optim.Adam(
        [
            {"params": model.orders.parameters(), "weight_decay": settings.weight_decay},
            {"params": model.bias.parameters(), "lr": settings.level_rate},
        ],
        lr=settings.learning_rate,
        fused=True,
    )
    groups: list[dict[str, Any]] = [
        {"params": [*model.level.parameters(), model.calibration]},
        {"params": model.fresh.parameters(), "lr": settings.fresh_rate},
    ]
    rows = _Rows.of(inputs, shape)
    curve = []
    for done in range(1, rounds + 1):
        model.train()
        total = 0.0
        for network in model.orders:
            for r in torch.randperm(len(inputs), generator=rng).split(settings.batch):
                loss = order_loss(model, network, rows.batch(r, rng), rows.user[r], rows.label[r])
                total += descend(order_descent, loss) * len(r)
        _fit_levels(model, groups, rows, rng)
        held = None if holdout is None else _logloss(holdout.label, fitted.predict(holdout))
        curve.append(Round(done, total / len(inputs) / settings.networks, held))
        if progress is not None:
            progress("train ppnet", done, rounds)
    fitted.finish()
    return fitted, curve


def warm_start(model: LevelledPPNet, shape: PPNetShape, older: Ranker | None) -> None:
    """Copy the code embeddings of an older ranker, where it reads the same codes.

    A code keeps its meaning in a generation and in those that continue it. Vocabularies and scales
    are those of the new rows, so everything else starts anew.
    """
    older = older.ranker() if isinstance(older, FittedPPNet) else older
    if not isinstance(older, PPNetRanker) or not shape.positions:
        return
    if (older.shape.positions, older.shape.codes) != (shape.positions, shape.codes):
        return
    for n, network in enumerate(model.orders):
        known = older.tensors.get(f"orders.{n}.codes.table.weight")
        if known is not None:
            codes = cast(Tables, cast(PPNet, network).codes)
            codes.load_state_dict({"table.weight": torch.from_numpy(np.array(known))})


def order_loss(
    model: LevelledPPNet, network: nn.Module, batch: Batch, user: Tensor, label: Tensor
) -> Tensor:
    """Cross entropy of one PPNet beside a free bias per user."""
    bias = model.bias(user).squeeze(1)
    return (
        cross_entropy(network(batch) + bias, label)
        + model.settings.bias_penalty * bias.square().mean()
    )


def level_loss(model: LevelledPPNet, order: Tensor, batch: Batch, label: Tensor) -> Tensor:
    """Either level beside the finished order [B], then the calibration of the finished score."""
    level, fresh = model.levels(batch)
    loss = cross_entropy(order + level, label) + cross_entropy(order + fresh, label)
    return loss + cross_entropy(model.levelled(order, level.detach(), fresh.detach()), label)


def _fit_levels(
    model: LevelledPPNet, groups: list[dict[str, Any]], rows: "_Rows", rng: torch.Generator
) -> None:
    """Train the small networks and the calibration on the finished order, for `level_epochs`.

    groups: their parameters and learning rates. The optimiser writes into them, and the rounds
    share them: the schedule of the first round ends at 0, where those of later rounds begin.
    """
    settings, count = model.settings, len(rows.label)
    finished = _each(rows, model.eval().order)
    descent = torch.optim.Adam(groups, lr=settings.level_rate, fused=True)
    steps = settings.level_epochs * math.ceil(count / settings.batch)
    pace = torch.optim.lr_scheduler.LinearLR(descent, 1.0, 0.0, steps)
    for _ in range(settings.level_epochs):
        for r in torch.randperm(count, generator=rng).split(settings.batch):
            descend(descent, level_loss(model, finished[r], rows.batch(r, None), rows.label[r]))
            pace.step()


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """One step down a loss; returns it."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


class FusedOrder:
    """The order of finished networks from the tables of `first_layer`, in a fifth of their time;
    equal but for rounding. What `FusedPPNet` is to serving.
    """

    @torch.no_grad()
    def __init__(self, networks: Sequence[PPNet], shape: PPNetShape) -> None:
        towers = [network.tower for network in networks]
        self.networks, self.width = len(networks), towers[0].first.out_features
        parts = [first_layer(n.state_dict(), shape, joined=torch.cat) for n in networks]
        self.start = torch.tensor(content_starts(shape), dtype=torch.int64)
        self.user = torch.cat([part.user for part in parts], 1)
        self.content = torch.cat([torch.cat(list(part.content)) for part in parts], 1)
        self.dense = torch.cat([part.dense for part in parts], 1)
        self.bias = torch.cat([torch.cat([t.first.bias, t.of_prior.bias]) for t in towers])
        self.gates = [
            torch.stack([cast(Tensor, g.weight).T for g in of_all])
            for of_all in zip(*(t.gates for t in towers), strict=True)
        ]
        layers = list(zip(*(t.layers for t in towers), strict=True))
        self.layers = [torch.stack([2 * layer.weight.T for layer in of_all]) for of_all in layers]
        self.biases = [
            torch.stack([layer.bias for layer in of_all]).unsqueeze(1) for of_all in layers
        ]

    def order(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        rows = torch.cat([batch.ids[:, 1:], batch.sid], 1) + self.start
        share = torch.cat([torch.ones((len(rows), batch.ids.shape[1] - 1)), batch.weight], 1)
        dense = torch.cat([batch.dense, batch.user_state[:, PRIOR_STATE]], 1)
        first = linear(dense, self.dense.T, self.bias).add_(
            embedding_bag(rows, self.content, mode="sum", per_sample_weights=share)
        )
        user = embedding(batch.ids[:, 0], self.user)
        first, user = (
            values.view(len(rows), self.networks, -1).transpose(0, 1) for values in (first, user)
        )
        hidden, seen = first[..., : self.width], torch.relu_(first[..., self.width :] + user)
        for gate, layer, bias in zip(self.gates, self.layers, self.biases, strict=True):
            gated = torch.relu(hidden) * torch.sigmoid_(torch.bmm(seen, gate))
            hidden = torch.baddbmm(bias, gated, layer)
        return hidden.squeeze(2).mean(0)


@torch.no_grad()
def _each(rows: "_Rows", network: Callable[[Batch], Tensor]) -> Tensor:
    """The answer of a network in eval mode for every row: [N]."""
    parts = [
        network(rows.batch(slice(start, start + 16_384), None))
        for start in range(0, len(rows.label), 16_384)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


@dataclass(frozen=True)
class _Rows:
    """Inputs as tensors; a batch indexes them directly, which is faster than a DataLoader."""

    label: Tensor
    user: Tensor
    ids: Tensor
    sid: Tensor
    weight: Tensor
    dense: Tensor
    user_state: Tensor
    settled: Tensor
    vectors: Sequence[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, inputs: Inputs, shape: PPNetShape) -> "_Rows":
        return cls(
            torch.from_numpy(inputs.label),
            torch.from_numpy(inputs.user),
            torch.from_numpy(inputs.ids[:, shape.id_columns]),
            torch.from_numpy(inputs.sid),
            torch.from_numpy(inputs.weight),
            torch.from_numpy(dense_features(inputs)),
            torch.from_numpy(inputs.user_state),
            torch.from_numpy(inputs.settled),
            [
                (torch.from_numpy(v.matrix), torch.from_numpy(v.row))
                for v in inputs.vectors.values()
            ],
        )

    def batch(self, picked: Tensor | slice, rng: torch.Generator | None) -> Batch:
        vectors = [matrix[row[picked]] for matrix, row in self.vectors]
        return Batch(
            ids=self.ids[picked],
            sid=self.sid[picked],
            weight=self.weight[picked],
            dense=self.dense[picked],
            user_state=self.user_state[picked],
            settled=self.settled[picked],
            vectors=vectors,
            rng=rng,
        )


def _logloss(label: np.ndarray, score: np.ndarray) -> float:
    score = np.clip(score, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label > 0, np.log(score), np.log1p(-score))))
