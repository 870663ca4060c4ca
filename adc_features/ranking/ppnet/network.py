"""The networks of PPNet, as torch modules. Reads: batches of tensors. Writes: logits.

PEPNet (arXiv 2302.01115): every hidden layer is multiplied by 2 * sigmoid(gate), where the gates
see a prior (user, item, semantic ID) and the general embedding without sending gradients into it.
Two things differ from the paper, both measured:

- all gates of a tower come from one shared hidden layer, so that gating costs a third of the tower
  and not more than it;
- the score is order + level. Who a user is (how often and how well they rate) explains most of
  AUC, yet a running mean leaves the row itself out: within one user an earlier bad rating precedes
  more good ones, and GAUC falls. So the gated tower learns the order of items beside a free bias
  per user, which explains the user's level away and is dropped afterwards; two small networks tell
  what is left, one from the user's events older than SETTLED_DAYS, one from all that is known of
  user and item, and the score takes `fresh_share` of the latter.

What is trained here is served by `fused`, without torch.

Legend: B rows, L positions, K codes, E embedding width, W layer width.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from adc_features.ranking.ppnet.shape import PRIOR_STATE, PPNetSettings, PPNetShape


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
        return self.levelled(order, *self.levels(batch))

    def levels(self, batch: "Batch") -> tuple[Tensor, Tensor]:
        """Logits [B] of the settled and of the fresh level."""
        return self.level(batch.settled).squeeze(1), self.fresh(
            torch.cat([batch.user_state, batch.dense], 1)
        ).squeeze(1)

    def levelled(self, order: Tensor, level: Tensor, fresh: Tensor) -> Tensor:
        """The calibrated score [B] of order and levels."""
        return (
            self.calibration[0] * (order + torch.lerp(level, fresh, self.settings.fresh_share))
            + self.calibration[1]
        )


def build(settings: PPNetSettings, shape: PPNetShape) -> LevelledPPNet:
    """A fresh network of this shape.

    Gates see user and item, the tower item, brand and category; without item_id nobody sees the
    item.
    """
    order = partial(
        PPNet,
        [shape.id_rows[column] for column in shape.id_columns],
        prior_ids=shape.prior_ids,
        general_ids=1,
        positions=shape.positions,
        codes=shape.codes,
        dense=shape.dense,
        prior_state=PRIOR_STATE,
        vectors=shape.vectors,
        embedding=settings.embedding,
        hidden=settings.hidden,
        gate=settings.gate,
        dropout=settings.dropout,
    )
    return LevelledPPNet(
        [order() for _ in range(settings.networks)],
        users=shape.users,
        settled=shape.settled,
        known=shape.user_state + shape.dense,
        settings=settings,
    )


def _small_network(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
