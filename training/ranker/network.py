"""A network of several tasks, as a torch module. Reads: batches of tensors. Writes: logits.

PEPNet (arXiv 2302.01115). Every hidden layer of a task's tower is multiplied by 2 * sigmoid(gate);
gates read the inputs that the ranker names ("prior") and, without sending gradients into it, all
that the towers read. With a domain, all embeddings are first multiplied by a gate of the domain's
own (EPNet). One hidden layer is shared by the gates of all tasks and layers, so that gating costs
a third of a tower and not more than it. What is trained here is served by
`adc_features.ranking.multitask.scorer`, without torch.

Legend: B rows, T tasks, E embedding width, M places of the longest history in a batch, P positions,
H width of a hidden layer, G of the gates' hidden layer.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, normalize

from adc_features.ranking.multitask.shape import NetworkShape


class Alike(NamedTuple):
    """Codes of recent items beside those of the candidate.

    owner: int64 [T], the row of each element. rows: int32 [T, P] of the one matrix of tables;
    weights: [T, P]. query: int32 [B, P]; query_weights: [B, P].
    """

    owner: Tensor
    rows: Tensor
    weights: Tensor
    query: Tensor
    query_weights: Tensor


class Held(NamedTuple):
    """What each row of a mixture holds.

    owner: int64 [T], the row of each element. rows: int32 [T] of the one matrix; weights: [T].
    """

    owner: Tensor
    rows: Tensor
    weights: Tensor


class Batch(NamedTuple):
    """Rows of one step.

    dense: [B, D]. rows int32, offsets int32, weights: bags of rows of the one matrix of tables: the
    lookups of each row, its bags, then for each history its B * M elements and its B candidates.
    projected: [B, D] each. histories: bool [B, M] each, which places hold an element. similar: of
    each similarity. gates: [B, 1], the number of each gate. mixtures: of each.
    """

    dense: Tensor
    rows: Tensor
    offsets: Tensor
    weights: Tensor
    projected: Sequence[Tensor]
    histories: Sequence[Tensor]
    similar: Sequence[Alike] = ()
    gates: Sequence[Tensor] = ()
    mixtures: Sequence[Held] = ()


class Bags(torch.autograd.Function):
    """Weighted sums of rows of a table: [bags, E].

    Its gradient is the same sum the other way round, over the bags of each row, which takes a
    quarter of the time of `embedding_bag`'s own.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """The sums."""
        ctx.save_for_backward(rows, offsets, weights)
        ctx.shape = table.shape
        return _sums(table, rows, offsets, weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the table."""
        rows, offsets, weights = ctx.saved_tensors
        (gradient,) = gradients
        bag = torch.repeat_interleave(
            torch.arange(len(offsets) - 1, dtype=torch.int32, device=offsets.device),
            torch.diff(offsets),
        )
        seen = weights.nonzero().squeeze(1)  # neither padding nor what dropout hid
        if len(seen) < len(rows):
            rows, bag, weights = rows[seen], bag[seen], weights[seen]
        rows, order = rows.sort()
        starts = torch.diff(rows, prepend=rows.new_full((1,), -1)).nonzero().squeeze(1)
        ends = torch.cat([starts, starts.new_full((1,), len(rows))]).int()
        table = gradient.new_zeros(ctx.shape)
        if len(rows):
            table[rows[starts].long()] = _sums(
                gradient.contiguous(), bag[order], ends, weights[order]
            )
        return table, None, None, None


def _sums(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(
        rows, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class Embeddings(nn.Module):
    """The embeddings of a batch in the order of `NetworkShape.embedded`: [B, X]."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        width = shape.settings.embedding
        self.shape, self.width = shape, width
        self.table = nn.Parameter(torch.randn(shape.rows, width) * 0.05)
        self.project = nn.ParameterList(
            _uniform(place.layout.width, width) for place in shape.slots["projected"]
        )
        if count := len(shape.slots["mixture"]):  # at 0 all elements count alike
            self.asked = nn.Parameter(torch.zeros(count, width))
        if shape.gated:  # at 0 nothing is gated
            self.gates = nn.Parameter(torch.zeros(len(shape.gated), 2))

    def forward(self, batch: Batch) -> Tensor:
        """[B, X], the columns of `NetworkShape.spans`."""
        count, slots = len(batch.dense), self.shape.slots
        sizes = [count * len(slots["lookup"]), count * len(slots["bag"])]
        for filled in batch.histories:
            sizes += [filled.numel(), count]
        if len(batch.offsets) > 1:
            sums = Bags.apply(self.table, batch.rows, batch.offsets, batch.weights).split(sizes)
        else:
            sums = [self.table.new_zeros(0, self.width) for _ in sizes]
        lookups, bags, *rest = sums
        if self.shape.gated:
            lookups = lookups.view(count, -1, self.width) * self._gates(batch)
        parts = [lookups.reshape(count, -1), bags.reshape(count, -1)]
        parts += [v @ matrix for v, matrix in zip(batch.projected, self.project, strict=True)]
        if batch.mixtures:
            parts += [
                _mixture(self.table, held, asked, count)
                for held, asked in zip(batch.mixtures, self.asked, strict=True)
            ]
        pooled: list[Tensor] = []
        attended: list[Tensor] = []
        for filled, elements, query in zip(batch.histories, rest[::2], rest[1::2], strict=True):
            for found, part in zip(
                _pooled_and_attended(elements, query, filled),
                (pooled, attended),
                strict=True,
            ):
                part.append(found)
        similar = [_similarity(self.table, alike) for alike in batch.similar]
        return torch.cat([*parts, *pooled, *attended, *similar], 1)

    def _gates(self, batch: Batch) -> Tensor:
        """What each lookup is multiplied by: [B, C, 1]."""
        factors = batch.dense.new_ones(len(batch.dense), len(self.shape.slots["lookup"]))
        for own, number, (codes, ids) in zip(
            self.gates, batch.gates, self.shape.gated, strict=True
        ):
            gate = 1 + torch.tanh((own[0] + own[1] * number) / 2)
            column = factors.new_zeros(factors.shape[1])
            column[ids] = 1
            column[codes] = -1
            factors = factors + column * (gate - 1)
        return factors.unsqueeze(2)


def _pooled_and_attended(elements: Tensor, query: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
    """The mean element of each row and the mean that the query attends to, [B, E] each; zeros where
    there is none. elements: [B * M, E], zeros where a place is not filled."""
    count, places = filled.shape
    elements = elements.view(count, places, query.shape[1])
    pooled = elements.sum(1) / filled.sum(1, keepdim=True).clamp(min=1)
    if not places:
        return pooled, torch.zeros_like(query)
    scores = torch.bmm(elements, query.unsqueeze(2)).squeeze(2) / math.sqrt(query.shape[1])
    # a row without elements has equal scores at places that are then emptied
    shares = torch.softmax(scores.masked_fill(~filled, -1e9), 1) * filled
    return pooled, torch.bmm(shares.unsqueeze(1), elements).squeeze(1)


def _mixture(table: Tensor, held: Held, asked: Tensor, count: int) -> Tensor:
    """`ranking.multitask.recent.mixture` of `count` rows: [B, E]."""
    elements = embedding(held.rows, table)
    scores = elements @ asked / math.sqrt(len(asked))
    none = scores.new_full((count,), -torch.inf)
    greatest = none.scatter_reduce(0, held.owner, scores.detach(), "amax")
    shares = torch.exp(scores - greatest[held.owner])
    sums = scores.new_zeros(count).index_add(0, held.owner, shares)
    weighted = elements * (shares / sums[held.owner] * held.weights).unsqueeze(1)
    return elements.new_zeros(count, elements.shape[1]).index_add(0, held.owner, weighted)


def _similarity(table: Tensor, alike: Alike) -> Tensor:
    """`ranking.multitask.recent.similarity`: [B, P]."""
    elements = normalize(embedding(alike.rows, table), dim=2)
    query = normalize(embedding(alike.query, table), dim=2)
    cosine = (elements * query[alike.owner]).sum(2)
    sums = cosine.new_zeros(alike.query_weights.shape)
    sums = sums.index_add(0, alike.owner, alike.weights * cosine)
    return sums * alike.query_weights


class Gate(nn.Module):
    """The hidden layer of gates: relu(prior P + stop(general) W + b), [B, G]."""

    def __init__(self, prior: int, general: int, gate: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(max(1, prior))
        self.prior = nn.Parameter(torch.empty(prior, gate).uniform_(-bound, bound))
        self.general = _uniform(general, gate)
        self.bias = nn.Parameter(torch.empty(gate).uniform_(-bound, bound))

    def forward(self, prior: Tensor, general: Tensor | None) -> Tensor:
        """[B, G]."""
        seen = torch.addmm(self.bias, prior, self.prior)
        if general is not None:
            seen = torch.addmm(seen, general.detach(), self.general)
        return torch.relu_(seen)


class GatedTowers(nn.Module):
    """An MLP for each task, its hidden layers multiplied by gates in (0, 2): [T, B] logits.

    The last product of a gate has no bias, so that each starts near 1.
    """

    def __init__(self, shape: NetworkShape, prior: int) -> None:
        super().__init__()
        hidden, gate, tasks = shape.settings.hidden, shape.settings.gate, len(shape.tasks)
        width = shape.general_width
        self.tasks = tasks
        self.first = _uniform(width, tasks * hidden[0])
        self.first_bias = nn.Parameter(_uniform(width, tasks * hidden[0]).detach()[0].clone())
        self.gate = Gate(prior, width, gate)
        self.gates = nn.ParameterList(_uniform(gate, tasks, w, of=0) for w in hidden)
        self.layers = nn.ParameterList(
            _uniform(tasks, a, b, of=1) for a, b in pairwise([*hidden, 1])
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(tasks, 1, b).uniform_(-1 / math.sqrt(a), 1 / math.sqrt(a)))
            for a, b in pairwise([*hidden, 1])
        )

    def forward(self, general: Tensor, prior: Tensor) -> Tensor:
        """[T, B]."""
        seen = self.gate(prior, general)
        hidden = torch.addmm(self.first_bias, general, self.first)
        hidden = hidden.view(len(general), self.tasks, -1).transpose(0, 1)
        for gate, layer, bias in zip(self.gates, self.layers, self.biases, strict=True):
            opened = (seen @ gate.flatten(1)).view(len(seen), self.tasks, -1).transpose(0, 1)
            # in place, and (2 * gate * h) W as (gate * h)(2 W): passes over the batch are what
            # gates cost, not their products
            gated = torch.relu_(hidden) * torch.sigmoid_(opened)
            hidden = torch.baddbmm(bias, gated, 2 * layer)
        return hidden.squeeze(2)


class Network(nn.Module):
    """Embeddings, the gate of the domain where there is one, and towers."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        columns, self.prior_dense = shape.prior(shape.gates)
        self.prior_runs = _runs(columns)
        self.towers = GatedTowers(shape, len(columns) + len(self.prior_dense))
        if shape.domain:
            columns, self.domain_dense = shape.prior([shape.domain])
            self.domain_runs = _runs(columns)
            embedded = shape.embedding_width
            self.epnet = Gate(
                len(columns) + len(self.domain_dense),
                embedded if shape.settings.epnet == "full" else 0,
                shape.settings.gate,
            )
            self.epnet_out = _uniform(shape.settings.gate, embedded)
        self.tower_runs = _runs(shape.tower_columns)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [T, B]."""
        shape, embedded = self.shape, self.embeddings(batch)
        prior = _picked(embedded, self.prior_runs, batch.dense, self.prior_dense)
        if shape.domain:
            domain = _picked(embedded, self.domain_runs, batch.dense, self.domain_dense)
            general = embedded if shape.settings.epnet == "full" else None
            embedded = embedded * (2 * torch.sigmoid_(self.epnet(domain, general) @ self.epnet_out))
        seen = batch.dense
        if shape.level or shape.gate_only:
            general = _picked(embedded, self.tower_runs, seen, shape.tower_dense)
        else:
            general = torch.cat([embedded, seen], 1)
        return self.towers(general, prior)


class Networks(nn.Module):
    """Networks of one shape, each trained on its own, whose mean logit is the order; and small
    networks of the level, trained on the finished order: [T, B].

    calibration: [2, T, 1], slope and intercept of order + level.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.networks = nn.ModuleList(Network(shape) for _ in range(shape.settings.networks))
        if shape.level:
            tasks = len(shape.tasks)
            self.level = nn.ModuleDict(
                {
                    name: nn.Sequential(
                        nn.Linear(len(read), shape.level_width(name)),
                        nn.ReLU(),
                        nn.Linear(shape.level_width(name), tasks),
                    )
                    for name, read in shape.level_dense.items()
                }
            )
            self.calibration = nn.Parameter(
                torch.stack([torch.ones(tasks, 1), torch.zeros(tasks, 1)])
            )

    def forward(self, batch: Batch) -> Tensor:
        """Logits [T, B]."""
        order = self.order(batch)
        return self.levelled(order, self.levels(batch.dense)) if self.shape.level else order

    def order(self, batch: Batch) -> Tensor:
        """Logits [T, B] without the level."""
        if len(self.networks) == 1:
            return self.networks[0](batch)
        return torch.stack([network(batch) for network in self.networks]).mean(0)

    def levels(self, dense: Tensor) -> dict[str, Tensor]:
        """Logits [T, B] of each level network. dense: [B, D]."""
        return {
            name: self.level[name](dense[:, read]).T
            for name, read in self.shape.level_dense.items()
        }

    def levelled(self, order: Tensor, levels: Mapping[str, Tensor]) -> Tensor:
        """Calibrated logits [T, B] of the order with its level."""
        shares = self.shape.level_shares
        level = sum(shares[name] * levels[name] for name in self.shape.level_dense)
        return self.calibration[0] * (order + level) + self.calibration[1]


def _uniform(*shape: int, of: int = 0) -> nn.Parameter:
    """Weights as `nn.Linear` begins with them: within 1 / sqrt(size of axis `of`)."""
    bound = 1 / math.sqrt(max(1, shape[of]))
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def _runs(columns: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted columns as slices: a slice's gradient is a copy, that of an index a slow sum."""
    runs: list[tuple[int, int]] = []
    for column in columns:
        if runs and runs[-1][1] == column:
            runs[-1] = (runs[-1][0], column + 1)
        else:
            runs.append((column, column + 1))
    return runs


def _picked(
    embedded: Tensor, runs: Sequence[tuple[int, int]], dense: Tensor, numbers: Sequence[int]
) -> Tensor:
    return torch.cat([*(embedded[:, a:b] for a, b in runs), dense[:, list(numbers)]], 1)
