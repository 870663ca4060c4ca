"""Tune the encoder with its tokens and heads. Reads: EmbeddingTables with raw items. Writes: a
trained UnisidNetwork, checkpoints, frozen states.

Legend: B rows of a batch, M rows of the bank, L levels, K codes, E width of the EMB vector.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.end_to_end import losses
from adc_features.tokenizer.end_to_end.batches import (
    Batch,
    Sampler,
    States,
    keep_states,
    partners,
)
from adc_features.tokenizer.end_to_end.checkpoints import (
    STATES,
    fit_fingerprint,
    save,
    saved,
    states_fingerprint,
)
from adc_features.tokenizer.end_to_end.granularity import Granularity, granularity
from adc_features.tokenizer.end_to_end.network import Read, UnisidNetwork, row_keys
from adc_features.tokenizer.end_to_end.settings import UnisidE2eSettings
from adc_features.tokenizer.end_to_end.summaries import Reader, Targets, summary_texts, targets

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
Curve = list[dict[str, float]]
FEWEST = 20
"""Fewer items held out say nothing: then the last epoch is taken."""


class Tuned(NamedTuple):
    """A trained network, its training curve, and what a generation says of the fit."""

    network: UnisidNetwork
    history: Curve
    facts: dict[str, Any]


@dataclass
class Bank:
    """The last rows that were trained on, detached, oldest first: item numbers [M], unit logits
    [M, L, K], unit vectors [M, E].
    """

    item: Tensor
    logits: Tensor
    vectors: Tensor

    @classmethod
    def empty(cls, spec: SidSpec, s: UnisidE2eSettings) -> "Bank":
        return cls(
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, spec.length, spec.codebook_size),
            torch.zeros(0, s.width),
        )

    def put(self, item: Tensor, logits: Tensor, vectors: Tensor, *, size: int) -> None:
        keep = max(size - len(item), 0)
        old = slice(len(self.item) - min(keep, len(self.item)), None)
        self.item = torch.cat([self.item[old], item])[:size]
        self.logits = torch.cat([self.logits[old], logits.detach()])[:size]
        self.vectors = torch.cat([self.vectors[old], vectors.detach()])[:size]


@dataclass(frozen=True)
class World:
    """What every step reads: the network, frozen states, groups, targets and partners of items."""

    network: UnisidNetwork
    reader: Reader | None
    states: States
    groups: Granularity
    target: Targets | None
    partner: np.ndarray
    settings: UnisidE2eSettings

    def terms(self, batch: Batch, bank: Bank, *, learn: bool) -> dict[str, Tensor]:
        """The loss terms of a batch beside the bank, which the batch then enters (`learn`)."""
        s, rows = self.settings, batch.rows
        said: Read = self.network([self.states[n] for n in rows], attributes=batch.attributes)
        item_B = torch.from_numpy(rows)
        unit = F.normalize(said.logits, dim=-1), F.normalize(said.vectors, dim=-1)
        item_C = torch.cat([item_B, bank.item])
        who = losses.Candidates(item_C, torch.from_numpy(self.groups.group_NL)[item_C])
        terms = {}
        if s.contrast_weight:
            terms["contrast"] = s.contrast_weight * losses.multi_granular(
                torch.cat([unit[0], bank.logits]),
                who,
                batch=len(rows),
                temperature=s.temperature,
                siblings=s.negatives == "siblings",
                views=s.views,
            )
        if s.embedding_weight:
            terms["pairs"] = s.embedding_weight * losses.paired(
                torch.cat([unit[1], bank.vectors]),
                who,
                torch.from_numpy(self.partner[rows]),
                batch=len(rows),
                temperature=s.temperature,
            )
        if self.reader is not None and self.target is not None:
            terms["reconstruction"] = s.reconstruction_weight * self.reader(said, self.target, rows)
        if s.evenness:
            terms["evenness"] = s.evenness * losses.unevenness(said.logits)
        if learn and s.bank:
            bank.put(item_B, *unit, size=s.bank)
        return terms


def train(
    tables: Sequence[EmbeddingTable],
    spec: SidSpec,
    s: UnisidE2eSettings,
    *,
    seed: int,
    progress: Progress | None,
    checkpoint: Path | None = None,
) -> Tuned:
    """Train on the raw items of the newest table, on the calling thread's settings; one seed, one
    network. tables: oldest first.

    checkpoint: a file written after every epoch, from which a fit of the same goes on to the same
    result; frozen states lie beside it. Raises InputError where items hold nothing to read.
    """
    table = tables[-1]
    _check(table, spec, s)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(seed)
        network = UnisidNetwork(spec, s)
        fingerprint = fit_fingerprint(tables, spec, network, seed=seed)
        place = (
            Path(checkpoint).with_suffix(STATES)
            if checkpoint
            else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        )
        states = keep_states(
            network,
            table,
            place,
            fingerprint=states_fingerprint(table, network),
            progress=progress,
        )
        world, sampler, held_out = _prepared(tables, spec, s, network, states, seed=seed)
        history = _optimised(
            world,
            sampler,
            held_out,
            spec,
            seed=seed,
            progress=progress,
            checkpoint=checkpoint,
            fingerprint=fingerprint,
        )
        network.eval().requires_grad_(False).freeze()
        assert table.raw is not None
        network.learn(row_keys(table.raw), [states[n] for n in range(len(states))])
    return Tuned(network, history, _facts(world, network, table))


def _check(table: EmbeddingTable, spec: SidSpec, s: UnisidE2eSettings) -> None:
    raw = table.raw
    if raw is None:
        raise InputError(
            "unisid_e2e reads raw items, and the newest table has vectors alone; give it"
            " `raw=raw_items(items)` (adc_features.data.raw_items)"
        )
    if s.reconstruction_weight:
        summary_texts(raw, s)  # refused before any work
    texts = set(zip(raw.title.to_pylist(), raw.brand.to_pylist(), strict=True))
    pictures = set(raw.image.to_pylist())
    paths = {str(path) for path in raw.path.to_pylist()} if s.reads_attributes else set()
    distinct = max(len(texts), len(pictures), len(paths))
    if distinct < spec.codebook_size:
        raise InputError(
            f"{len(table)} raw items have {distinct} distinct texts or images, fewer than the"
            f" {spec.codebook_size} codes of a codebook; lower codebook_size, or give more items"
        )


def _prepared(
    tables: Sequence[EmbeddingTable],
    spec: SidSpec,
    s: UnisidE2eSettings,
    network: UnisidNetwork,
    states: States,
    *,
    seed: int,
) -> tuple[World, Sampler, np.ndarray]:
    """Groups, targets, batches, and the items that are held out."""
    raw = tables[-1].raw
    assert raw is not None
    groups = granularity(
        raw.path.to_pylist(), _sentences(network, states), levels=spec.length, seed=seed
    )
    target = targets(raw, network.base, s)
    reader = None
    if target is not None:
        reader = Reader(
            target, s, width=network.base.width, levels=spec.length, size=spec.codebook_size
        )
    used = np.flatnonzero((states.words + states.pictures) > 0)
    chance = np.random.default_rng([seed, 1])
    held_out = np.sort(chance.permutation(used)[: round(s.held_out * len(used))])
    rows = np.setdiff1d(used, held_out)
    partner = np.full(len(states), -1, np.int64)
    if s.pairs == "behavior":
        partner = partners(list(tables), rows)
    world = World(network, reader, states, groups, target, partner, s)
    sampler = Sampler(
        groups.group_NL[:, -1],
        rows,
        partner,
        size=s.batch,
        attribute_dropout=s.attribute_dropout if s.reads_attributes else 0.0,
        optional=(states.texts + states.pictures) > 0,
        views=s.views,
        seed=seed,
    )
    return world, sampler, held_out


def _sentences(network: UnisidNetwork, states: States) -> np.ndarray:
    """Frozen vectors of items' titles (mean of the frozen states of word pieces), by which groups
    split where paths end; zeros without a title. float32 [N, D].
    """
    found = np.zeros((len(states), network.base.width), np.float32)
    for row in range(len(states)):
        content = states[row]
        if content.text:
            found[row] = content.states_TD[: content.text].float().mean(0).numpy()
    return found


def _optimised(
    world: World,
    sampler: Sampler,
    held_out: np.ndarray,
    spec: SidSpec,
    *,
    seed: int,
    progress: Progress | None,
    checkpoint: Path | None,
    fingerprint: str,
) -> Curve:
    """AdamW over all epochs; leaves the network as it was at the end of the best one."""
    s, network = world.settings, world.network
    rates, optimiser = _optimiser(world)
    state: dict[str, Any] = {"epoch": 0, "curve": [], "least": math.inf, "best": None}
    bank = Bank.empty(spec, s)
    if kept := saved(checkpoint, fingerprint):
        network.load_state_dict(kept["network"])
        if world.reader is not None:
            world.reader.load_state_dict(kept["reader"])
        optimiser.load_state_dict(kept["optimiser"])
        bank = Bank(*kept["bank"])
        state = kept["state"]
    for epoch in range(state["epoch"], s.epochs):
        means = _epoch(
            world, sampler, bank, optimiser, rates, seed=seed, epoch=epoch, progress=progress
        )
        loss = _held_out_loss(world, held_out, spec)
        state["curve"].append({"epoch": epoch + 1, **means, "held_out": loss})
        logger.info("stage=unisid_e2e epoch=%d held_out=%.4f", epoch + 1, loss)
        if math.isnan(loss) or loss < state["least"]:
            state["least"] = loss
            state["best"] = {k: v.clone() for k, v in network.state_dict().items()}
        state["epoch"] = epoch + 1
        save(
            checkpoint,
            {
                "fingerprint": fingerprint,
                "network": network.state_dict(),
                "reader": world.reader.state_dict() if world.reader is not None else {},
                "optimiser": optimiser.state_dict(),
                "bank": (bank.item, bank.logits, bank.vectors),
                "state": state,
            },
        )
    network.load_state_dict(state["best"])
    return state["curve"]


def _epoch(
    world: World,
    sampler: Sampler,
    bank: Bank,
    optimiser: torch.optim.Optimizer,
    rates: Sequence[float],
    *,
    seed: int,
    epoch: int,
    progress: Progress | None,
) -> dict[str, float]:
    """Train for one epoch; means of the loss terms. Seeded by itself, so that a fit can go on from
    any.
    """
    s, steps = world.settings, sampler.steps * world.settings.epochs
    world.network.train()
    torch.manual_seed(int(np.random.SeedSequence([seed, 2, epoch]).generate_state(1)[0]))
    means: dict[str, float] = {}
    for step in range(sampler.steps):
        number = epoch * sampler.steps + step
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * _scheduled(number, steps, s.warmup)
        terms = world.terms(sampler.batch(epoch, step), bank, learn=True)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(
            [p for group in optimiser.param_groups for p in group["params"]], s.clip
        )
        optimiser.step()
        for name, term in terms.items():
            means[name] = means.get(name, 0.0) + float(term.detach()) / sampler.steps
        if progress is not None:
            progress("fit", number + 1, steps)
    return means


def _optimiser(world: World) -> tuple[list[float], torch.optim.Optimizer]:
    """AdamW, and the full rate of each of its groups: the tuned layers', and that of what starts at
    random.
    """
    s, network = world.settings, world.network
    tuned = list(network.layers.parameters())
    fresh = [p for name, p in network.named_parameters() if not name.startswith("layers.")]
    if world.reader is not None:
        fresh += list(world.reader.parameters())
    groups: list[dict[str, Any]] = [{"params": tuned}, {"params": fresh}]
    rates = [s.learning_rate, s.head_rate]
    return rates, torch.optim.AdamW(groups, lr=s.learning_rate, weight_decay=s.weight_decay)


def _scheduled(number: int, steps: int, warmup: float) -> float:
    """Share of the full rate at a step: linear warm-up, then cosine to 0."""
    warm = max(round(steps * warmup), 1)
    if number < warm:
        return (number + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (number - warm) / max(steps - warm, 1)))


def _held_out_loss(world: World, held_out: np.ndarray, spec: SidSpec) -> float:
    """The loss of the items held out, compared among themselves; NaN where there are too few."""
    if len(held_out) < FEWEST:
        return math.nan
    world.network.eval()
    batch = Batch(held_out, np.ones(len(held_out), bool))
    with torch.inference_mode():
        terms = world.terms(batch, Bank.empty(spec, world.settings), learn=False)
    return float(sum(float(term) for term in terms.values()))


def _facts(world: World, network: UnisidNetwork, table: EmbeddingTable) -> dict[str, Any]:
    """What the generation's settings keep of a fit."""
    target = world.target
    covered = float(target.known.mean()) if target is not None else 0.0
    return {
        "base_hash": network.base.hash,
        "granularity": world.groups.facts(),
        "vocabulary": target.vocabulary if target is not None else [],
        "summary_coverage": covered,
        "tuned_parameters": sum(p.numel() for p in network.layers.parameters()),
        "items_with_image": int((world.states.pictures > 0).sum()),
    }
