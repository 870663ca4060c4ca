"""How much cheaper is an epoch of our SASRec than of a padded one?
Reads: interactions. Writes: JSON.

The peer is the common public form of SASRec, written here from the paper's description: every user
padded to one length, binary cross-entropy against one uniform negative a position; and the same
model with a plain full softmax, which is what ours computes. All see the same users and events,
width, blocks and length.

    python benchmarks/sasrec.py --data DIR --json -

`--quality USERS` measures something else on so many users: our full softmax beside the sampled one
(`adc_features.encoders.sampled`), each trained from one seed on all but a user's newest event,
which is then ranked among all items; CPU seconds are those of the training.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from _measure import apart, measured, write_report
from torch import Tensor, nn
from torch.nn import functional

from adc_features.codes.embeddings import id_array
from adc_features.data.beauty import beauty, is_beauty
from adc_features.data.dataset import read_dataset
from adc_features.data.synthetic import synthetic
from adc_features.encoders.behavior_settings import BehaviorSettings, full_softmax
from adc_features.encoders.sampled import Sampled
from adc_features.encoders.sasrec import (
    Batch,
    SASRec,
    Sequences,
    next_item_loss,
    packed_batches,
)
from adc_features.encoders.sasrec_training import _trained
from adc_features.ranks import ALONE

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
    order = np.lexsort((dataset.interactions["time"].to_numpy(), users))
    order = order[counts[users[order]] > 1]
    return Sequences(items[order], np.cumsum(counts[counts > 1])), int(items.max()) + 1


class LeftOut(NamedTuple):
    """Users' events but for the newest, of items numbered among those that are met in them, and the
    newest [U], -1 where it is met nowhere. counts: events of each item.
    """

    learned: Sequences
    newest: np.ndarray
    counts: np.ndarray


def left_out(data: Path | None, users: int) -> LeftOut:
    """Of the first so many users with three events or more."""
    every, _ = sequences_of(data)
    sizes = np.diff(every.ends, prepend=0)
    chosen = np.flatnonzero(sizes > 2)[:users]
    inside = np.isin(np.repeat(np.arange(len(sizes)), sizes), chosen)
    inside[every.ends - 1] = False
    known, numbers = np.unique(every.items[inside], return_inverse=True)
    newest = every.items[every.ends[chosen] - 1]
    place = np.searchsorted(known, newest).clip(max=len(known) - 1)
    return LeftOut(
        Sequences(numbers, np.cumsum(sizes[chosen] - 1)),
        np.where(known[place] == newest, place, -1),
        np.bincount(numbers),
    )


def ranked(name: str, data: Path | None, users: int, threads: int) -> dict[str, float]:
    """Cost of a training of QUALITY, and how it ranks the items that were left out."""
    torch.set_num_threads(threads)
    rows = left_out(data, users)
    settings, made = QUALITY[name](), list[SASRec]()

    def fit() -> int:
        shared: dict[str, Any] = {"sequences": rows.learned, "counts": rows.counts, "start": None}
        shared |= {"settings": settings, "seed": (0, 0), "device": "cpu"}
        made.append(_trained(ALONE, **shared).eval())
        return settings.epochs * rows.learned.transitions

    found = measured(fit)
    [model] = made
    sizes = np.diff(rows.learned.ends, prepend=0).clip(max=settings.length)
    every = np.zeros((len(sizes), settings.length), np.int64)
    for row, end, size in zip(every, rows.learned.ends, sizes, strict=True):
        row[:size] = rows.learned.items[end - size : end]
    items, asked = torch.from_numpy(every), np.flatnonzero(rows.newest >= 0)
    places = torch.arange(settings.length).expand_as(items)
    batch = Batch(items, items, places, torch.zeros_like(items))  # causal: padding is never seen
    prior = torch.from_numpy(np.log(rows.counts)).float()
    hits, lost = 0, 0.0
    with torch.no_grad():
        for part in torch.from_numpy(asked).split(256):
            states = model(Batch(*(column[part] for column in batch)))
            logits = states[torch.arange(len(part)), sizes[part] - 1] @ model.table.T + prior
            target = torch.from_numpy(rows.newest[part])[:, None]
            own = logits.gather(1, target)
            hits += int(((logits > own).sum(1) < 10).sum())
            lost += float((logits.logsumexp(1) - own[:, 0]).sum())
    told = {"users": len(asked), "items": len(rows.counts), "epochs": settings.epochs}
    return {**found, **told, "hit_10": hits / len(asked), "log_loss": lost / len(asked)}


def sampled(proposal: Literal["popularity", "uniform"]) -> BehaviorSettings:
    return replace(full_softmax(), loss=Sampled(512, proposal))


QUALITY: dict[str, Callable[[], BehaviorSettings]] = {
    "full_softmax": full_softmax,
    "sampled_popularity": partial(sampled, "popularity"),
    "sampled_uniform": partial(sampled, "uniform"),
}
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
    parser.add_argument(
        "--quality",
        type=int,
        metavar="USERS",
        help="rank what is next, by full and sampled softmax",
    )
    parser.add_argument("--only", choices=QUALITY, help="with --quality: one of them")
    asked = parser.parse_args()
    if asked.quality:
        names = [asked.only] if asked.only else list(QUALITY)
        found = {n: apart(ranked, n, asked.data, asked.quality, asked.threads) for n in names}
        write_report(asked.json, systems=found, ratios={}, threads=asked.threads)
        return
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
