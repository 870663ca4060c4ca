"""ADC-SID's training loop, resumable at checkpoints. Reads: a RowUnion, AdcSettings. Writes: a
frozen AdcModel and its history.

Of several processes each encodes its share of a batch. What the loss says of the whole batch (its
negatives, the use of codes, means over known rows) and what follows a step (which codes are used
and revived, the gate's threshold and level, the sparsity control) is made of all shares; where
codebooks start and what the gate is frozen at, every process works out for itself, alike.

Legend: B rows of a batch, P positions, K codes, D latent width.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adc_features.artifact import fresh_file
from adc_features.codes.spec import BEHAVIOR, NO_CODE, SidSpec
from adc_features.devices import memory_of, resolve_device
from adc_features.processes import add_gradients, gathered, together, total
from adc_features.ranks import Ranks
from adc_features.tokenizer import baselines
from adc_features.tokenizer.codebook import revive, spherical_kmeans
from adc_features.tokenizer.encode import one_thread
from adc_features.tokenizer.importance import SparsityController
from adc_features.tokenizer.line import Line
from adc_features.tokenizer.model import AdcModel, AdcSettings, Rows
from adc_features.tokenizer.union import RowUnion, chance_of

logger = logging.getLogger(__name__)


Progress = Callable[[str, int, int], None]


CHECKPOINT_EVERY = 200


@dataclass
class _State:
    """All that a training run carries from step to step; chance is drawn anew from (seed, step), so
    it carries none.
    """

    network: AdcModel
    optimiser: torch.optim.Optimizer
    sparsity: SparsityController | None
    usage_PK: Tensor
    ranks: Ranks
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path, fingerprint: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        feedback = (self.sparsity.strength, self.sparsity.inactive) if self.sparsity else None
        parts: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "usage": self.usage_PK,
            "sparsity": feedback,
        }
        parts |= {"fingerprint": fingerprint, "step": self.step, "history": self.history}
        with fresh_file(path) as file:
            torch.save(parts, file)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote."""
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.usage_PK.copy_(saved["usage"])
        self.step, self.history = saved["step"], saved["history"]
        if self.sparsity:
            self.sparsity.strength, self.sparsity.inactive = saved["sparsity"]


def _saved(path: Path, fingerprint: str) -> Mapping[str, Any] | None:
    """What a checkpoint of this fit holds; None where there is none."""
    if not path.is_file():
        return None
    saved: Mapping[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if saved["fingerprint"] != fingerprint:
        logger.info("stage=fit checkpoint=%s ignored=other_inputs", path)
        return None
    logger.info("stage=fit resumed_at_step=%d of checkpoint=%s", saved["step"], path)
    return saved


def train(
    union: RowUnion,
    spec: SidSpec,
    s: AdcSettings,
    *,
    seed: int,
    line: Line | None,
    progress: Progress | None,
    checkpoint: Path | None,
    device: str = "cpu",
) -> baselines.Trained:
    """A frozen network, on the CPU, and its history. line: the generation to start from, or None.
    device: see `resolve_device`.
    """
    fingerprint, saved = "", None
    if checkpoint:
        fingerprint = union.fingerprint(
            spec.to_dict(), s.to_dict(), seed, line and line.parent.codebook_hash
        )
        saved = _saved(Path(checkpoint), fingerprint)

    def keep(state: _State) -> None:
        if checkpoint and state.step % CHECKPOINT_EVERY == 0:
            state.save(Path(checkpoint), fingerprint)

    shared = {"union": union, "spec": spec, "s": s, "seed": seed, "line": line}
    shared |= {"saved": saved, "device": resolve_device(device).type}
    return together(_trained, shared, {"progress": progress, "keep": keep})


def _trained(
    ranks: Ranks,
    *,
    union: RowUnion,
    spec: SidSpec,
    s: AdcSettings,
    seed: int,
    line: Line | None,
    saved: Mapping[str, Any] | None,
    device: str,
    progress: Progress | None = None,
    keep: Callable[[_State], None] | None = None,
) -> baselines.Trained:
    place = resolve_device(device)
    with one_thread():  # in every process that takes part
        state = _start(union, spec, s, seed=seed, line=line, device=place, ranks=ranks)
        if saved is not None:
            state.restore(saved)
        while state.step < s.steps:
            if state.step == s.warmup_steps and line is None:
                _start_codebooks(state.network, union, seed=seed)
            chance = chance_of(seed, 2, state.step)
            rows = _rows(union, s, state, seed=seed, chance=chance).on(place)
            with memory_of(place, rows=s.batch):
                _step(state, rows, s, newest=len(union.tables) - 1, chance=chance)
            if progress:
                progress("fit", state.step, s.steps)
            if keep:
                keep(state)
        _freeze_gate(state.network, union, s)
    return baselines.Trained(state.network.cpu().eval().requires_grad_(False), state.history)


def _rows(
    union: RowUnion, s: AdcSettings, state: _State, *, seed: int, chance: torch.Generator
) -> Rows:
    """This process's rows of a step, of which some lose their behaviour."""
    rows = union.batch(state.step, size=s.batch, seed=seed, ranks=state.ranks)
    if state.network.spec.behavior and s.drop_behavior:
        whole = min(s.batch, len(union))
        kept = torch.rand(whole, generator=chance)[state.ranks.share(whole)] >= s.drop_behavior
        rows = rows._replace(
            present={**rows.present, BEHAVIOR: rows.present[BEHAVIOR] & kept},
            x=torch.where(kept, rows.x, 0.0),
        )
    return rows


def _start(
    union: RowUnion,
    spec: SidSpec,
    s: AdcSettings,
    *,
    seed: int,
    line: Line | None,
    device: torch.device,
    ranks: Ranks,
) -> _State:
    # layers draw from torch's global generator: leave it as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AdcModel(spec, union.widths(), s, cutoffs=len(union.tables))
    for m in spec.modalities:
        center, spread = union.statistics(m)
        network.standard_of(m).center.copy_(center)
        network.standard_of(m).spread.copy_(spread)
    if line is not None:
        network.load_state_dict(
            {
                name: torch.tensor(array)
                for name, array in line.tensors([t.as_of for t in union.tables]).items()
            }
        )
    network = network.to(device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay
    )
    sparsity = (
        SparsityController(spec.behavior, network.target_active)
        if spec.behavior and s.sparsity == "penalty"
        else None
    )
    return _State(
        network,
        optimiser,
        sparsity,
        torch.zeros(spec.length, spec.codebook_size, dtype=torch.int64, device=device),
        ranks,
    )


def _step(
    state: _State, rows: Rows, s: AdcSettings, *, newest: int, chance: torch.Generator
) -> None:
    network, books = state.network, state.network.codebooks
    for group in state.optimiser.param_groups:
        group["lr"] = s.learning_rate * 0.5 * (1 + math.cos(math.pi * state.step / s.steps))
    encoded = network.encode(rows)
    codes_BP = codeword_BPD = None
    if state.step >= s.warmup_steps:
        with torch.no_grad():
            codes_BP = books.lookup(encoded.latent_BPD)
        codeword_BPD = books.codeword(codes_BP)
    terms = network.loss(rows, encoded, codeword_BPD, state.sparsity, ranks=state.ranks)
    if rows.held_BP is not None:
        terms["stay"] = s.stay_weight * books.departure(
            encoded.latent_BPD,
            torch.where(encoded.known_BP, rows.held_BP, NO_CODE),
            ranks=state.ranks,
        )
    state.optimiser.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    add_gradients(network.parameters(), state.ranks)
    state.optimiser.step()
    gate_BN = encoded.weight_BP.detach()[:, network.spec.length - network.spec.behavior :]
    if state.sparsity:
        state.sparsity.observe(gate_BN, rows.present[BEHAVIOR], ranks=state.ranks)
    elif network.spec.behavior:
        target = network.target_active if s.sparsity == "threshold" else None
        network.importance.follow(
            encoded.standard[BEHAVIOR],
            rows.x,
            rows.present[BEHAVIOR],
            target=target,
            pace=0.1,
            ranks=state.ranks,
        )
    if codes_BP is not None:
        newest_BP = encoded.known_BP & (rows.cutoff == newest)[:, None]
        _revive_unused(state, encoded.latent_BPD.detach(), codes_BP, newest_BP, s, chance=chance)
    state.step += 1
    if state.step % max(s.steps // 50, 1) == 0:
        state.history.append(_curve_point(state, terms, rows, gate_BN))


def _revive_unused(
    state: _State,
    latent_BPD: Tensor,
    codes_BP: Tensor,
    newest_BP: Tensor,
    s: AdcSettings,
    *,
    chance: torch.Generator,
) -> None:
    """Count which codes are used, and at intervals move unused codewords to crowded places.

    newest_BP: bool, rows of the newest cut-off. Codes are served from it on: one that only earlier,
    colder rows use counts as unused.
    """
    size = state.usage_PK.shape[1]
    used = [
        torch.bincount(codes_BP[newest_BP[:, p], p], minlength=size)
        for p in range(codes_BP.shape[1])
    ]
    state.usage_PK += total(torch.stack(used), state.ranks)
    # the last tenth of the steps settles what was moved
    if state.step > 0 and state.step % s.revive_every == 0 and state.step < 0.9 * s.steps:
        revive(
            state.network.codebooks.codewords,
            state.usage_PK,
            *(gathered(rows, state.ranks)[0] for rows in (latent_BPD, codes_BP, newest_BP)),
            share=s.revive_share,
            chance=chance,
        )
        state.usage_PK.zero_()


def _curve_point(
    state: _State, terms: dict[str, Tensor], rows: Rows, gate_BN: Tensor
) -> dict[str, float]:
    """One point of the training curve: the terms of the loss and how many experts are active."""
    point = {"step": state.step, **{name: float(term.detach()) for name, term in terms.items()}}
    if state.network.spec.behavior:
        counts = torch.stack([rows.present[BEHAVIOR].sum(), (gate_BN > 0).sum()])
        warm, active = total(counts, state.ranks).tolist()
        point |= {
            "active_experts": active / max(warm, 1),
            "lambda": state.sparsity.strength if state.sparsity else 0.0,
        }
    return point


def _start_codebooks(network: AdcModel, union: RowUnion, *, seed: int) -> None:
    """Spherical k-means over the warmed-up experts' latents (method notes: How codebooks learn)."""
    chance, place = chance_of(seed, 3, 0), network.codebooks.codewords.device
    with torch.no_grad():
        parts = [
            (encoded.latent_BPD, encoded.known_BP)
            for encoded in (network.encode(rows.on(place)) for rows in union.sample(chance=chance))
        ]
        latent_NPD, known_NP = (
            torch.cat([latent for latent, _ in parts]),
            torch.cat([known for _, known in parts]),
        )
        for p in range(network.spec.length):
            network.codebooks.codewords[p] = spherical_kmeans(
                latent_NPD[known_NP[:, p], p], network.spec.codebook_size, chance=chance
            )


def _freeze_gate(network: AdcModel, union: RowUnion, s: AdcSettings) -> None:
    """The gate's final threshold, and the mean R of each behavioural expert where it is active
    over all rows (method notes: Exported weights).
    """
    if not network.spec.behavior:
        return
    scale, place = network.standard_of(BEHAVIOR), network.codebooks.codewords.device
    parts = [
        (scale(r.vectors[BEHAVIOR], r.present[BEHAVIOR], r.cutoff), r.x, r.present[BEHAVIOR])
        for r in (rows.on(place) for rows in union.sample(chance=chance_of(0, 0, 0)))
    ]
    vectors, x, present = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if s.sparsity == "threshold":
        network.importance.follow(vectors, x, present, target=network.target_active, pace=1.0)
    with torch.no_grad():
        gate_BN = network.importance(vectors, x, present).double()
        active = (gate_BN > 0).sum(0)
        network.importance.normaliser.copy_(
            torch.where(active > 0, gate_BN.sum(0) / active.clamp_min(1), 1.0)
        )
