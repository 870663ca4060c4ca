"""PPNet: a tower whose layers are scaled by gates that know who asks and what is shown. Reads:
Inputs. Writes: probabilities.

PEPNet (arXiv 2302.01115): every hidden layer is multiplied by 2 * sigmoid(gate), where the gates
see a prior (user, item, semantic ID) and the general embedding without sending gradients into it.
Two things differ from the paper, both measured:

- all gates of a tower come from one shared hidden layer, so that gating costs a third of the tower
  and not more than it;
- the score is order + level. Who a user is (how often and how well they rate) explains most of AUC,
  yet a running mean leaves the row
itself out: within one user an earlier bad rating precedes more good ones, and GAUC falls. So the
gated tower learns the order of items beside a free bias per user, which explains the user's level
away and is dropped afterwards; two small networks tell what is left, one from the user's events
older than SETTLED_DAYS, one from all that is known of user and item, and the score takes
`fresh_share` of the latter.

Legend: B rows, L positions, K codes, E embedding width, W layer width.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import embedding, embedding_bag, linear

from adc_features.ranking.base import Progress, Ranker, Round
from adc_features.ranking.inputs import ID_COLUMNS, USER_COLUMNS, Inputs

PRIOR_STATE = [USER_COLUMNS.index("log user_event_count")]
"""The user features that gates may see: how active the user is, not how well they rate, which would
bring the level into the order.
"""


@dataclass(frozen=True)
class PPNetSettings:
    """embedding: E. hidden: widths of a tower. gate: width of the hidden layer that all gates of a
    tower share. networks: PPNets whose logits are averaged. level_hidden, fresh_hidden: width of
    the small networks. fresh_share: how much of the fresh level enters the score, chosen on
    validation windows as the least that costs at most 0.001 AUC. bias_penalty: weight of the
    squared user bias. dropout: share of embeddings of ids and codes that are hidden while training.
    level_rate: learning rate of level, bias and calibration; fresh_rate: of fresh. Both fall to 0
    over the level's epochs: at a constant rate the level that a seed ends on moves AUC by 0.001.
    """

    embedding: int = 16
    hidden: tuple[int, ...] = (64, 32)
    gate: int = 16
    networks: int = 4
    level_hidden: int = 32
    fresh_hidden: int = 128
    fresh_share: float = 0.6
    bias_penalty: float = 0.05
    dropout: float = 0.5
    learning_rate: float = 3e-3
    level_rate: float = 1e-2
    fresh_rate: float = 3e-3
    weight_decay: float = 1e-6
    batch: int = 512
    level_epochs: int = 4
    max_epochs: int = 2


class GatedTower(nn.Module):
    """An MLP whose hidden layers are multiplied by gates in (0, 2). general: [B, W0], prior: [B, P]
    -> logits [B].

    The gates of all layers share one hidden layer of width `gate` and have no bias of their own:
    each starts near 1.
    """

    def __init__(self, width: int, hidden: Sequence[int], *, prior: int, gate: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden[0])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([*hidden, 1]))
        self.of_prior, self.of_general = nn.Linear(prior, gate), nn.Linear(width, gate, bias=False)
        self.gates = nn.ModuleList(nn.Linear(gate, w, bias=False) for w in hidden)

    def forward(self, general: Tensor, prior: Tensor) -> Tensor:
        seen = torch.relu_(self.of_prior(prior) + self.of_general(general.detach()))
        hidden = self.first(general)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            gated = torch.relu_(hidden) * torch.sigmoid_(gate(seen))
            # in place, and (2 * gate * h) W as (gate * h)(2 W): passes over the batch are what
            # gates cost, not their products
            hidden = linear(gated, 2 * cast(Tensor, layer.weight), cast(Tensor, layer.bias))
        return hidden.squeeze(1)


class Tables(nn.Module):
    """Embedding tables of several id columns in one matrix. rows [B, C], each below its column's
    size -> [B, C, E].
    """

    start: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.register_buffer(
            "start", torch.tensor([0, *np.cumsum(sizes)[:-1]], dtype=torch.int64), persistent=False
        )
        self.table = nn.Embedding(sum(sizes), width)
        nn.init.normal_(self.table.weight, std=0.05)

    def forward(self, rows: Tensor) -> Tensor:
        return self.table(rows + self.start)


class PPNet(nn.Module):
    """Order of items for a user: ids, weighted codes and dense features through a GatedTower.

    id_sizes: rows of each id column; the gates see the first `prior_ids` columns, the tower all
    from `general_ids` on. positions, codes: L and K + 1. dense: width of the dense features.
    prior_state: columns of the user state that gates see. vectors: widths of raw vectors.
    """

    def __init__(
        self,
        id_sizes: Sequence[int],
        *,
        prior_ids: int,
        general_ids: int = 0,
        positions: int = 0,
        codes: int = 0,
        dense: int = 0,
        prior_state: Sequence[int] = (),
        vectors: Sequence[int] = (),
        embedding: int = 16,
        hidden: Sequence[int] = (256, 128),
        gate: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.prior_ids, self.general_ids, self.prior_state, self.dropout = (
            prior_ids,
            general_ids,
            list(prior_state),
            dropout,
        )
        self.ids = Tables(id_sizes, embedding)
        self.codes = Tables([codes] * positions, embedding) if positions else None
        self.project = nn.ModuleList(nn.Linear(width, embedding, bias=False) for width in vectors)
        content = embedding * (positions + len(vectors))
        general = embedding * (len(id_sizes) - general_ids) + content + dense
        prior = embedding * prior_ids + content + len(prior_state)
        self.tower = GatedTower(general, hidden, prior=prior, gate=gate)

    def forward(self, batch: "Batch") -> Tensor:
        """Logits [B]."""
        ids = self._some(self.ids(batch.ids), batch.rng)
        content = (
            [(self._some(self.codes(batch.sid), batch.rng) * batch.weight.unsqueeze(2)).flatten(1)]
            if self.codes is not None
            else []
        )
        content += [
            project(vector) for project, vector in zip(self.project, batch.vectors, strict=True)
        ]
        general = torch.cat([ids[:, self.general_ids :].flatten(1), *content, batch.dense], 1)
        prior = torch.cat(
            [ids[:, : self.prior_ids].flatten(1), *content, batch.user_state[:, self.prior_state]],
            1,
        )
        return self.tower(general, prior)

    def _some(self, embedded: Tensor, rng: torch.Generator | None) -> Tensor:
        """Embeddings [B, C, E], some of them zeroed while training, so that none is learned by
        heart.
        """
        if not self.training or not self.dropout:
            return embedded
        return embedded * (torch.rand(embedded.shape[:2], generator=rng) >= self.dropout).unsqueeze(
            2
        )


class Batch(NamedTuple):
    """Rows of one step. ids int64 [B, C], sid int64 [B, L], weight [B, L], dense [B, F], user_state
    [B, G], settled [B, 2], vectors: [B, D] each.
    """

    ids: Tensor
    sid: Tensor
    weight: Tensor
    dense: Tensor
    user_state: Tensor
    settled: Tensor
    vectors: Sequence[Tensor] = ()
    rng: torch.Generator | None = None


class LevelledPPNet(nn.Module):
    """A few PPNets for the order, two small networks for the user's level, and what only training
    needs: a bias per user.

    order = mean logit of the PPNets, each trained on the rows in its own order: after one epoch
    that order still shows. score = order + (1 - fresh_share) * level(settled) + fresh_share *
    fresh(user state, dense); slope and intercept keep it calibrated.
    """

    def __init__(
        self,
        orders: Sequence[PPNet],
        *,
        users: int,
        settled: int,
        known: int,
        settings: PPNetSettings,
    ) -> None:
        super().__init__()
        self.orders = nn.ModuleList(orders)
        self.level, self.fresh = (
            _small_network(settled, settings.level_hidden),
            _small_network(known, settings.fresh_hidden),
        )
        self.bias = nn.Embedding(users, 1)
        nn.init.zeros_(self.bias.weight)
        self.calibration = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.settings = settings

    def forward(self, batch: "Batch") -> Tensor:
        """Logits [B] of the calibrated score."""
        return self.score(self.order(batch), batch)

    def order(self, batch: "Batch") -> Tensor:
        """Logits [B] of the item order."""
        return torch.stack([network(batch) for network in self.orders]).mean(0)

    def score(self, order: Tensor, batch: "Batch") -> Tensor:
        """The same from the finished order [B]."""
        return self._score(order, *self._levels(batch))

    def _levels(self, batch: "Batch") -> tuple[Tensor, Tensor]:
        return self.level(batch.settled).squeeze(1), self.fresh(
            torch.cat([batch.user_state, batch.dense], 1)
        ).squeeze(1)

    def _score(self, order: Tensor, level: Tensor, fresh: Tensor) -> Tensor:
        return (
            self.calibration[0] * (order + torch.lerp(level, fresh, self.settings.fresh_share))
            + self.calibration[1]
        )

    def order_loss(self, network: nn.Module, batch: "Batch", user: Tensor, label: Tensor) -> Tensor:
        """Cross entropy of one PPNet beside a free bias per user."""
        bias = self.bias(user).squeeze(1)
        return (
            cross_entropy(network(batch) + bias, label)
            + self.settings.bias_penalty * bias.square().mean()
        )

    def level_loss(self, order: Tensor, batch: "Batch", label: Tensor) -> Tensor:
        """Either level beside the finished order [B], then the calibration of the finished
        score.
        """
        level, fresh = self._levels(batch)
        loss = cross_entropy(order + level, label) + cross_entropy(order + fresh, label)
        return loss + cross_entropy(self._score(order, level.detach(), fresh.detach()), label)


class Folded:
    """The order of a finished LevelledPPNet that reads no vectors, in a fifth of its time; equal
    but for rounding.

    First layers and gates are linear in each embedding, so their products with the tables are made
    once: a row of `content` is what an id or a code adds to the first hidden layer [H] and to the
    gates' hidden layer [G] of all N networks, one of `user` what it adds to the gates. What follows
    is one batched product for all networks.
    """

    def __init__(self, orders: Sequence[PPNet]) -> None:
        with torch.no_grad():
            towers = [network.tower for network in orders]
            self.networks, self.width, self.prior_state = (
                len(orders),
                towers[0].first.out_features,
                orders[0].prior_state,
            )
            parts = [_folded(network) for network in orders]
            starts = orders[0].ids.start
            self.user, content, self.weight = (
                torch.cat(tables, 1) for tables in zip(*parts, strict=True)
            )
            self.content, self.bias = (
                content,
                torch.cat([torch.cat([t.first.bias, t.of_prior.bias]) for t in towers]),
            )
            users = len(self.user)
            ids = len(orders[0].ids.table.weight) - users
            codes = orders[0].codes.start + ids if orders[0].codes is not None else starts[:0]
            self.start = torch.cat([starts[1:] - users, codes])
            self.gates = [
                torch.stack([cast(Tensor, g.weight).T for g in of_all])
                for of_all in zip(*(t.gates for t in towers), strict=True)
            ]
            layers = list(zip(*(t.layers for t in towers), strict=True))
            self.layers = [
                torch.stack([2 * layer.weight.T for layer in of_all]) for of_all in layers
            ]
            self.biases = [
                torch.stack([layer.bias for layer in of_all]).unsqueeze(1) for of_all in layers
            ]

    def order(self, batch: "Batch") -> Tensor:
        """Logits [B]."""
        rows = torch.cat([batch.ids[:, 1:], batch.sid], 1) + self.start
        share = torch.cat([torch.ones((len(rows), batch.ids.shape[1] - 1)), batch.weight], 1)
        dense = torch.cat([batch.dense, batch.user_state[:, self.prior_state]], 1)
        first = linear(dense, self.weight.T, self.bias).add_(
            embedding_bag(rows, self.content, mode="sum", per_sample_weights=share)
        )
        first = first.view(len(rows), self.networks, -1).transpose(0, 1)
        user = (
            embedding(batch.ids[:, 0], self.user).view(len(rows), self.networks, -1).transpose(0, 1)
        )
        hidden, seen = first[..., : self.width], torch.relu_(first[..., self.width :] + user)
        for gate, layer, bias in zip(self.gates, self.layers, self.biases, strict=True):
            hidden = torch.baddbmm(
                bias, torch.relu(hidden) * torch.sigmoid_(torch.bmm(seen, gate)), layer
            )
        return hidden.squeeze(2).mean(0)


def _folded(network: PPNet) -> tuple[Tensor, Tensor, Tensor]:
    """Of one network: user [rows, G], content [rows, H + G] of the other ids, then of codes, weight
    [F, H + G] of dense features and prior state.
    """
    tower, width = network.tower, network.ids.table.embedding_dim
    first, general, prior = (
        layer.weight.T for layer in (tower.first, tower.of_general, tower.of_prior)
    )
    ids = network.ids.table.weight.tensor_split(network.ids.start[1:])
    codes = (
        network.codes.table.weight.tensor_split(network.codes.start[1:])
        if network.codes is not None
        else ()
    )
    # where a column's rows stand in what tower and gates read; the gates read the user first
    content, place, gated = [], 0, width
    for column, table in enumerate([*ids[1:], *codes], start=1):
        gate = general[place : place + width]
        if column < network.prior_ids or column >= len(ids):
            gate, gated = gate + prior[gated : gated + width], gated + width
        content.append(table @ torch.cat([first[place : place + width], gate], 1))
        place += width
    state = prior[gated:]
    dense = torch.cat([first[place:], general[place:]], 1)
    return (
        ids[0] @ prior[:width],
        torch.cat(content),
        torch.cat([dense, torch.cat([state.new_zeros(len(state), first.shape[1]), state], 1)]),
    )


def _small_network(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))


class PPNetRanker:
    """PPNet as a Ranker.

    A second epoch lowers the held-out loss of the newest training rows by less than 0.001 but costs
    0.004 AUC on the validation windows: embeddings begin to know rows by heart. So it has to save
    0.002.
    """

    round_cost = 0.002

    def __init__(self, settings: PPNetSettings, shape: "PPNetShape") -> None:
        self.settings, self.shape = settings, shape
        self.model: LevelledPPNet | None = None
        self._folded: Folded | None = None
        self._older: LevelledPPNet | None = None

    def begin_at(self, older: Ranker) -> None:
        """Code embeddings are carried over: a code means what it meant. Ids and scales are of the
        new rows, so the rest starts anew.
        """
        if (
            isinstance(older, PPNetRanker)
            and (older.shape.positions, older.shape.codes)
            == (self.shape.positions, self.shape.codes)
            and self.shape.positions
        ):
            self._older = older.model

    def fit(
        self,
        inputs: Inputs,
        *,
        seed: int,
        rounds: int | None = None,
        holdout: Inputs | None = None,
        progress: Progress | None = None,
    ) -> list[Round]:
        """A round is one epoch of the order, then `level_epochs` of the small networks on the
        order's finished logits.
        """
        settings, rounds = self.settings, rounds or self.settings.max_epochs
        torch.manual_seed(seed)
        rng = torch.Generator().manual_seed(seed)
        model, self._folded = self.shape.build(settings), None
        self.model = model
        if self._older is not None:
            for old, new in zip(self._older.orders, model.orders, strict=False):
                cast(Tables, new.codes).load_state_dict(cast(Tables, old.codes).state_dict())
        order = [
            {"params": model.orders.parameters(), "weight_decay": settings.weight_decay},
            {"params": model.bias.parameters(), "lr": settings.level_rate},
        ]
        order_descent = torch.optim.Adam(order, lr=settings.learning_rate, fused=True)
        level: list[dict[str, Any]] = [
            {"params": [*model.level.parameters(), model.calibration]},
            {"params": model.fresh.parameters(), "lr": settings.fresh_rate},
        ]
        steps = settings.level_epochs * math.ceil(len(inputs) / settings.batch)
        rows = _Rows.of(inputs, self.shape)
        curve = []
        for done in range(1, rounds + 1):
            model.train()
            total = 0.0
            for network in model.orders:
                for r in torch.randperm(len(inputs), generator=rng).split(settings.batch):
                    total += descend(
                        order_descent,
                        model.order_loss(network, rows.batch(r, rng), rows.user[r], rows.label[r]),
                    ) * len(r)
            finished = _each(rows, model.eval().order)
            level_descent = torch.optim.Adam(level, lr=settings.level_rate, fused=True)
            pace = torch.optim.lr_scheduler.LinearLR(level_descent, 1.0, 0.0, steps)
            for _ in range(settings.level_epochs):
                for r in torch.randperm(len(inputs), generator=rng).split(settings.batch):
                    descend(
                        level_descent,
                        model.level_loss(finished[r], rows.batch(r, None), rows.label[r]),
                    )
                    pace.step()
            curve.append(
                Round(
                    done,
                    total / len(inputs) / settings.networks,
                    None if holdout is None else _logloss(holdout.label, self.predict(holdout)),
                )
            )
            if progress is not None:
                progress("train ppnet", done, rounds)
        self._fold()
        return curve

    def predict(self, inputs: Inputs) -> np.ndarray:
        if self.model is None:
            raise RuntimeError("predict before fit or load")
        # eval() walks every layer, which a request would wait for
        model = self.model.eval() if self.model.training else self.model
        order = model.order if self._folded is None else self._folded.order
        return torch.sigmoid(
            _each(_Rows.of(inputs, self.shape), lambda batch: model.score(order(batch), batch))
        ).numpy()

    def save(self, directory: Path) -> None:
        from safetensors.torch import save_file

        if self.model is None:
            raise RuntimeError("save before fit or load")
        save_file(
            {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()},
            directory / "weights.safetensors",
        )
        (directory / "ppnet.json").write_text(
            json.dumps({"settings": asdict(self.settings), "shape": self.shape._asdict()}),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        from safetensors.torch import load_file

        facts = json.loads((directory / "ppnet.json").read_text(encoding="utf-8"))
        facts["settings"]["hidden"] = tuple(facts["settings"]["hidden"])
        ranker = cls(PPNetSettings(**facts["settings"]), PPNetShape(**facts["shape"]))
        ranker.model = ranker.shape.build(ranker.settings)
        ranker.model.load_state_dict(load_file(directory / "weights.safetensors"))
        ranker._fold()
        return ranker

    def _fold(self) -> None:
        if self.model is not None and not self.shape.vectors:
            self._folded = Folded([cast(PPNet, network) for network in self.model.eval().orders])


@torch.no_grad()
def _each(rows: "_Rows", network: Callable[[Batch], Tensor]) -> Tensor:
    """The answer of a network in eval mode for every row: [N]."""
    parts = [
        network(rows.batch(slice(start, start + 16_384), None))
        for start in range(0, len(rows.label), 16_384)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """One step down a loss; returns it."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


class PPNetShape(NamedTuple):
    """Widths that follow from the inputs. id_rows: rows of each id column; item_id: may the network
    read the item's id?
    """

    id_rows: Sequence[int]
    item_id: bool
    positions: int
    codes: int
    dense: int
    user_state: int
    settled: int
    vectors: Sequence[int]
    users: int

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        *,
        id_rows: Sequence[int],
        users: int,
        codebook_size: int,
        item_id: bool,
    ) -> "PPNetShape":
        dense = _dense(inputs).shape[1]
        vectors = [v.matrix.shape[1] for v in inputs.vectors.values()]
        return cls(
            list(id_rows),
            item_id,
            inputs.sid.shape[1],
            codebook_size + 1,
            dense,
            inputs.user_state.shape[1],
            inputs.settled.shape[1],
            vectors,
            users,
        )

    def build(self, settings: PPNetSettings) -> LevelledPPNet:
        """Gates see user and item, the tower item, brand and category; without item_id nobody sees
        the item.
        """
        build = partial(
            PPNet,
            [self.id_rows[column] for column in self.id_columns],
            prior_ids=2 if self.item_id else 1,
            general_ids=1,
            positions=self.positions,
            codes=self.codes,
            dense=self.dense,
            prior_state=PRIOR_STATE,
            vectors=self.vectors,
            embedding=settings.embedding,
            hidden=settings.hidden,
            gate=settings.gate,
            dropout=settings.dropout,
        )
        return LevelledPPNet(
            [build() for _ in range(settings.networks)],
            users=self.users,
            settled=self.settled,
            known=self.user_state + self.dense,
            settings=settings,
        )

    @property
    def id_columns(self) -> list[int]:
        """Columns of Inputs.ids that the network reads, the user first."""
        return [place for place, name in enumerate(ID_COLUMNS) if self.item_id or name != "item_id"]


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
            torch.from_numpy(_dense(inputs)),
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


def _dense(inputs: Inputs) -> np.ndarray:
    """Item features, weights and reliability (multiplying alone cannot tell a weight of 0 from an
    embedding near 0), likeness.
    """
    return np.concatenate([inputs.item, inputs.weight, inputs.reliability, inputs.match], axis=1)


def _logloss(label: np.ndarray, score: np.ndarray) -> float:
    score = np.clip(score, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label > 0, np.log(score), np.log1p(-score))))
