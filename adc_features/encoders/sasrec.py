"""A compact SASRec (Kang & McAuley 2018).
Reads: sequences of item rows. Writes: a trained item table.

Legend: U users, E events, I items, R packed rows, T places in a row, P positions with a target, C
candidate items, D dims.

Most users have a handful of events, so padding every user to one length wastes nine tenths of the
work. Here the users are shuffled, laid end to end and cut into rows of T; a mask keeps users apart.
A user cut in two loses some history, at another place every epoch, and no event is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Literal["full_softmax", "in_batch"]

# positions whose logits are alive at once: small enough for the cache, large enough for the matrix
# product
CHUNK = 256


@dataclass(frozen=True)
class Sequences:
    """Events grouped by user, oldest first: `items` int64 [E] item rows, `ends` int64 [U] where
    each user's events end.
    """

    items: np.ndarray
    ends: np.ndarray

    @property
    def transitions(self) -> int:
        """P, the events that have an earlier event of the same user."""
        return len(self.items) - len(self.ends)


class Batch(NamedTuple):
    """Packed rows: `items` int64 [R, T], `targets` int64 [R, T] (-1: none), `places` int64 [R, T]
    since the user's start, `users` int64 [R, T].
    """

    items: Tensor
    targets: Tensor
    places: Tensor
    users: Tensor

    def on(self, device: torch.device, rows: slice) -> "Batch":
        """Some of the rows, on a device."""
        return Batch(*(column[rows].to(device) for column in self))


def packed_batches(
    sequences: Sequences, *, length: int, rows: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch of batches of up to `rows` rows of `length` places; every transition stands in
    exactly one of them.
    """
    counts = np.diff(sequences.ends, prepend=0)
    order = rng.permutation(len(counts))
    inputs = counts[order] - 1  # the newest event of a user is a target only
    users = np.repeat(np.arange(len(order)), inputs)
    first = np.cumsum(inputs) - inputs
    source = np.repeat((sequences.ends - counts)[order] - first, inputs) + np.arange(len(users))
    # Where the row or the user starts, whichever is later: places count from there.
    here = np.arange(len(users))
    places = here - np.maximum(here // length * length, np.repeat(first, inputs))
    filled = -(-len(users) // length) * length
    columns = []
    for values, padding in (
        (sequences.items[source], 0),
        (sequences.items[source + 1], -1),
        (places, 0),
        (users, -1),
    ):
        column = np.full(filled, padding)
        column[: len(values)] = values
        columns.append(torch.from_numpy(column.reshape(-1, length)))
    for start in range(0, filled // length, rows):
        yield Batch(*(c[start : start + rows] for c in columns))


class Dropout(nn.Dropout):
    """Dropout of some of a batch's rows, by the mask that is drawn for all of them.

    of: how many rows the whole batch has, and which of them are here; None for all.
    """

    of: tuple[int, slice] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.of is None or not self.training:
            return super().forward(x)
        rows, mine = self.of
        kept = x.new_empty(rows, *x.shape[1:]).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)[mine]


def drop_of(model: nn.Module, rows: int, mine: slice) -> None:
    """Let a model's dropouts draw for a batch of `rows` rows, of which it sees some."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.of = (rows, mine)


class Block(nn.Module):
    """Causal self-attention within one user, then a pointwise network; each normalised before and
    added to its input.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.pointwise_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.mix = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.pointwise = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x_RTD: Tensor, visible_RTT: Tensor) -> Tensor:
        query, key, value = self.query_key_value(self.attention_norm(x_RTD)).chunk(3, dim=-1)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible_RTT)
        x_RTD = x_RTD + self.dropout(self.mix(attended))
        return x_RTD + self.dropout(self.pointwise(self.pointwise_norm(x_RTD)))


class SASRec(nn.Module):
    """Hidden states of packed rows; an item's logit is the product of a state and the item's vector
    in the same table.

    content: float32 [I, C]; an item's vector is then its row of `table` beside a linear map of its
    content, which is 0 to begin with.
    """

    content: Tensor | None

    def __init__(
        self,
        items: int,
        *,
        dim: int,
        blocks: int,
        length: int,
        dropout: float,
        init_std: float,
        content: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(items, dim) * init_std)
        self.register_buffer("content", content, persistent=False)
        if content is not None:
            self.map = nn.Parameter(torch.zeros(content.shape[1], dim))
        self.places = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def items(self) -> Tensor:
        """The items' vectors, [I, D]."""
        return self.table if self.content is None else self.table + self.content @ self.map

    def forward(self, batch: Batch, table: Tensor | None = None) -> Tensor:
        """float32 [R, T, D]: the state after each event, from that event and the user's earlier
        ones in the row. table: `items()`, where it has been computed.
        """
        table = self.items() if table is None else table
        # embedding, not an index: an index's gradient is added up in whatever order torch's threads
        # finish, so a seed would not repeat
        places = functional.embedding(batch.places, self.places)
        x_RTD = self.dropout(
            functional.embedding(batch.items, table) * table.shape[1] ** 0.5 + places
        )
        visible_RTT = (batch.users[:, :, None] == batch.users[:, None, :]).tril_()
        for block in self.blocks:
            x_RTD = block(x_RTD, visible_RTT)
        return self.norm(x_RTD)


def matrix_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (three times as fast here, the same
    accuracy), else float32.
    """
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        torch.bfloat16
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        else torch.float32
    )


def product_dtype(device: torch.device) -> torch.dtype:
    """`matrix_dtype`, of a device: bfloat16 on a GPU that multiplies it natively."""
    if device.type != "cuda":
        return matrix_dtype()
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32


def _chunk(device: torch.device, candidates: int) -> int:
    """Positions whose logits are alive at once: a GPU wants large products, in half a GB."""
    return CHUNK if device.type == "cpu" else max(CHUNK, (1 << 27) // max(1, candidates))


class _SoftmaxLoss(torch.autograd.Function):
    """The cross-entropy of P states against C candidates, summed and divided by `count`; gradients
    come with the forward pass, chunk by chunk, so that no [P, C] matrix exists.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        states_PD: Tensor,
        table_CD: Tensor,
        targets_P: Tensor,
        bias_C: Tensor | None,
        count: int,
    ) -> Tensor:
        dtype = product_dtype(states_PD.device)
        states, table = states_PD.to(dtype), table_CD.to(dtype)
        d_states, d_table = torch.empty_like(states_PD), torch.zeros_like(table_CD)
        loss = states_PD.new_zeros(())
        chunk = _chunk(states.device, len(table))
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            logits = states[part] @ table.T
            if bias_C is not None:
                logits += bias_C
            probability = torch.softmax(logits, dim=1)
            target = targets_P[part, None]
            loss -= probability.gather(1, target).float().clamp_min(1e-30).log().sum()
            probability.scatter_add_(1, target, probability.new_full(target.shape, -1.0))
            d_states[part] = probability @ table
            d_table += probability.T @ states[part]
        ctx.save_for_backward(d_states / count, d_table / count)
        return loss / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_states, d_table = ctx.saved_tensors
        return grads[0] * d_states, grads[0] * d_table, None, None, None


def next_item_loss(
    states_PD: Tensor,
    table_ID: Tensor,
    targets_P: Tensor,
    loss: Loss,
    *,
    prior_I: Tensor | None = None,
    batch_P: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the next item: against all items, or against the batch's own targets as
    often as they stand there.

    batch_P: the targets of the whole batch, of which these are some: the loss is then their part
    of the batch's mean.

    prior_I: log popularity, added to the logits of all items, so that the table need not hold it:
    without it every rare item is pushed away from the mean state, along one direction (method
    notes: The reliability signal).
    """
    batch_P = targets_P if batch_P is None else batch_P
    if loss == "full_softmax":
        return _SoftmaxLoss.apply(states_PD, table_ID, targets_P, prior_I, len(batch_P))
    candidates, counts = batch_P.unique(return_counts=True)
    return _SoftmaxLoss.apply(
        states_PD,
        functional.embedding(candidates, table_ID),
        torch.searchsorted(candidates, targets_P),
        counts.float().log(),
        len(batch_P),
    )
