"""How much cheaper is an epoch of our SASRec than of a padded one?
Reads: interactions. Writes: JSON.

The peer is the common public form of SASRec, written here from the paper's description: every user
padded to one length, binary cross-entropy against one uniform negative a position; and the same
model with a plain full softmax, which is what ours computes. All see the same users and events,
width, blocks and length.

    python benchmarks/sasrec.py --data DIR --json -
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _measure import apart, measured, write_report
from torch import Tensor, nn
from torch.nn import functional

from adc_features.codes.embeddings import id_array
from adc_features.data.beauty import beauty, is_beauty
from adc_features.data.dataset import read_dataset
from adc_features.data.synthetic import synthetic
from adc_features.encoders.sasrec import SASRec, Sequences, next_item_loss, packed_batches

DIM, BLOCKS, LENGTH, USERS, POSITIONS = 64, 2, 50, 128, 2048


class PaddedSASRec(nn.Module):
    """SASRec over rows of one length, padded on the left with item 0."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items + 1, DIM, padding_idx=0)
        self.places = nn.Embedding(LENGTH, DIM)
        self.attention_norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(BLOCKS))
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(DIM, 1, dropout=0.2, batch_first=True) for _ in range(BLOCKS)
        )
        self.pointwise_norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(BLOCKS))
        self.pointwise = nn.ModuleList(
            nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
            for _ in range(BLOCKS)
        )
        self.norm = nn.LayerNorm(DIM)

    def forward(self, items_UT: Tensor) -> Tensor:
        real = (items_UT > 0).unsqueeze(-1)
        x = functional.dropout(
            (self.table(items_UT) * DIM**0.5 + self.places(torch.arange(LENGTH))) * real, 0.2
        )
        future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        for norm, attention, second, pointwise in zip(
            self.attention_norms, self.attentions, self.pointwise_norms, self.pointwise, strict=True
        ):
            x = x + attention(norm(x), x, x, attn_mask=future, need_weights=False)[0]
            x = (x + pointwise(second(x))) * real
        return self.norm(x)


Loss = Callable[[PaddedSASRec, Tensor, Tensor, np.random.Generator], Tensor]


def one_negative(
    model: PaddedSASRec, states_PD: Tensor, positive_P: Tensor, rng: np.random.Generator
) -> Tensor:
    """Binary cross-entropy of the next item and of one uniform other."""
    negative = torch.from_numpy(rng.integers(1, model.table.num_embeddings, len(positive_P)))
    up, down = (
        (states_PD * model.table(candidate)).sum(-1) for candidate in (positive_P, negative)
    )
    return functional.binary_cross_entropy_with_logits(
        up, torch.ones_like(up)
    ) + functional.binary_cross_entropy_with_logits(down, torch.zeros_like(down))


def every_item(
    model: PaddedSASRec, states_PD: Tensor, positive_P: Tensor, rng: np.random.Generator
) -> Tensor:
    """Cross-entropy over all items, by torch's own function."""
    return functional.cross_entropy(states_PD @ model.table.weight.T, positive_P)


def padded_epoch(sequences: Sequences, items: int, *, loss: Loss) -> None:
    """One epoch of the peer: users in random order, their newest LENGTH transitions."""
    model = PaddedSASRec(items)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    users = len(sequences.ends)
    inputs, targets = np.zeros((users, LENGTH), np.int64), np.zeros((users, LENGTH), np.int64)
    for user, events in enumerate(np.split(sequences.items + 1, sequences.ends[:-1])):
        length = min(LENGTH, len(events) - 1)
        inputs[user, -length:], targets[user, -length:] = events[-length - 1 : -1], events[-length:]
    rng = np.random.default_rng(0)
    for part in np.array_split(rng.permutation(users), -(-users // USERS)):
        positive = torch.from_numpy(targets[part])
        real = positive > 0
        value = loss(model, model(torch.from_numpy(inputs[part]))[real], positive[real], rng)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def packed_epoch(sequences: Sequences, items: int) -> None:
    """One epoch of ours: packed rows, full softmax."""
    model = SASRec(items, dim=DIM, blocks=BLOCKS, length=LENGTH, dropout=0.2, init_std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), fused=True)
    for batch in packed_batches(
        sequences, length=LENGTH, rows=POSITIONS // LENGTH, rng=np.random.default_rng(0)
    ):
        wanted = batch.targets >= 0
        loss = next_item_loss(
            model(batch)[wanted], model.table, batch.targets[wanted], "full_softmax"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def sequences_of(data: Path | None) -> tuple[Sequences, int]:
    """All events of the users with two or more, and the number of items."""
    dataset = (
        synthetic(seed=0).dataset
        if data is None
        else beauty(data)
        if is_beauty(data)
        else read_dataset(data)
    )
    users, items = (
        np.unique(id_array(dataset.interactions[c]), return_inverse=True)[1]
        for c in ("user_id", "item_id")
    )
    counts = np.bincount(users)
    order = np.argsort(users, kind="stable")
    order = order[counts[users[order]] > 1]
    return Sequences(items[order], np.cumsum(counts[counts > 1])), int(items.max()) + 1


SYSTEMS: dict[str, Callable[[Sequences, int], None]] = {
    "packed_full_softmax": packed_epoch,
    "padded_bce": partial(padded_epoch, loss=one_negative),
    "padded_full_softmax": partial(padded_epoch, loss=every_item),
}


def measure(name: str, data: Path | None, threads: int) -> dict[str, float]:
    """One epoch, model and optimiser included."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sequences, items = sequences_of(data)

    def epoch() -> int:
        SYSTEMS[name](sequences, items)
        return sequences.transitions

    numbers = measured(epoch)
    return {**numbers, "events_per_cpu_s": numbers["rows"] / numbers["cpu_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        help="a data set directory or the Beauty files; default: a synthetic log",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    systems = {name: apart(measure, name, asked.data, asked.threads) for name in SYSTEMS}
    ours, peers = (
        systems["packed_full_softmax"],
        [name for name in SYSTEMS if name.startswith("padded")],
    )
    ratios = {
        f"{peer}_{key}_over_ours": systems[peer][key] / ours[key]
        for peer in peers
        for key in ("cpu_s", "wall_s", "peak_rss_bytes")
    }
    settings = {
        "dim": DIM,
        "blocks": BLOCKS,
        "length": LENGTH,
        "peer_users_a_batch": USERS,
        "our_positions_a_batch": POSITIONS,
    }
    write_report(
        asked.json, systems=systems, ratios=ratios, threads=asked.threads, settings=settings
    )


if __name__ == "__main__":
    main()
