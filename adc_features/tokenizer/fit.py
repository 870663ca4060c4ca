"""Train an ADC-SID tokenizer. Reads: EmbeddingTables of several cut-offs. Writes: a Generation, quality report included.

Legend: B rows of a batch, P positions, K codes, D latent width.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adc_features.embeddings import EmbeddingTable
from adc_features.errors import InputError, QualityError
from adc_features.generation import Generation, check_generation_id, write_generation
from adc_features.quality import quality_report
from adc_features.reliability import ReliabilityScale, fit_reliability
from adc_features.spec import BEHAVIOR, SidSpec
from adc_features.tokenizer.codebook import spherical_kmeans
from adc_features.tokenizer.encode import encode, one_thread
from adc_features.tokenizer.importance import SparsityController
from adc_features.tokenizer.model import AdcModel, AdcSettings, Rows

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
CHECKPOINT_EVERY = 200
BLOCK = 4096
SAMPLE = 65_536
"""Rows that codebooks start from and that weight normalisers are averaged over."""


def adc() -> AdcSettings:
    """ADC-SID with every gap closed; x from interaction counts. The controller halves at x = 0.2, which leaves the 40 % rarest
    rows of Beauty out, as the paper intends; under counts its own (10, 9) would leave out all but 1 %."""
    return AdcSettings()


def adc_norm() -> AdcSettings:
    """The faithful reading: x from the norm of the behaviour vector, alpha = 10, beta = 9 (section 3.3.1)."""
    return replace(adc(), reliability="norm", alpha=10.0, beta=9.0)


def without_controller() -> AdcSettings:
    """Table 3, w/o alignment strength controller: every item aligns fully, w = 1."""
    return replace(adc(), alpha=0.0, beta=0.0)


def without_contrastive() -> AdcSettings:
    """Table 3, w/o behavior-content contrastive learning."""
    return replace(adc(), alignment_weight=0.0)


def without_gate() -> AdcSettings:
    """Table 3, w/o dynamic behavioral weighting gate: behavioural codes weigh 1."""
    return replace(adc(), gate_scale="equal", sparsity="off")


def without_sparsity() -> AdcSettings:
    """Table 3, w/o sparsely-activated training strategy: gates as dense as the loss likes them."""
    return replace(adc(), sparsity="off")


RECIPES: dict[str, Callable[[], AdcSettings]] = {
    recipe.__name__: recipe for recipe in (adc, adc_norm, without_controller, without_contrastive, without_gate, without_sparsity)
}


def fit(
    tables: Sequence[EmbeddingTable],
    spec: SidSpec,
    *,
    settings: AdcSettings,
    generation_id: str,
    directory: Path,
    seed: int,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> Generation:
    """Train on the union of all (item, cut-off) rows of `tables`, in any order, freeze, measure on the newest table, write the generation.

    The same seed gives the same codes. checkpoint: a file that is written every few hundred steps; a fit that was killed
    goes on from it to the same result, one of other inputs or settings is ignored. Raises InputError on unusable vectors
    and ReliabilityError on an untrustworthy reliability signal, both before any work; QualityError when a codebook uses
    too few of its codes. Nothing is written at `directory` then.
    """
    check_generation_id(generation_id)
    check_tables(tables, spec)
    scale = fit_reliability(tables, mode=settings.reliability) if spec.behavior else None
    tables = sorted(tables, key=lambda t: t.as_of)
    newest = tables[-1]
    union = _Union(tables, spec, scale)
    with one_thread():  # the same codes on any number of cores; batches are too small to gain from more
        state = _train(union, spec, settings, seed=seed, progress=progress, checkpoint=checkpoint)
    draft = Generation(
        id=generation_id,
        tokenizer="adc",
        spec=spec,
        settings={"adc": settings.to_dict(), "reliability": scale.to_dict() if scale else None, "cutoffs": [t.as_of.isoformat() for t in tables], "seed": seed},
        tensors={name: tensor.numpy() for name, tensor in state.network.state_dict().items()},
        quality={},
        trained_through=newest.as_of,
        codebook_hash="",
    )
    quality = quality_report(encode(newest, draft), newest.interaction_count, spec=spec)
    quality |= {"reconstruction_1_minus_r2": _unexplained(state.network, union), "training": state.history}
    quality |= {"reliability_rank_correlation": scale.rank_correlation if scale else None}
    _check_quality(quality, settings)
    generation = write_generation(
        directory,
        generation_id=generation_id,
        tokenizer=draft.tokenizer,
        spec=spec,
        settings=draft.settings,
        tensors=draft.tensors,
        quality=quality,
        trained_through=draft.trained_through,
    )
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return generation


def check_tables(tables: Sequence[EmbeddingTable], spec: SidSpec) -> None:
    """Raise InputError unless every table has every modality in one width, and the newest enough distinct, non-zero vectors."""
    if not tables or not spec.modalities:
        raise InputError(f"{len(tables)} tables and modalities {list(spec.modalities)}; expected at least one of each")
    if len({t.as_of for t in tables}) < len(tables):
        raise InputError("two tables are as of the same time; give one table a cut-off")
    newest = max(tables, key=lambda t: t.as_of)
    for m in spec.modalities:
        widths = sorted({t.width(m) for t in tables})
        if len(widths) > 1:
            raise InputError(f"modality {m!r} has widths {widths} in different tables; embed every cut-off with the same encoder")
        for t in tables:
            zero = np.flatnonzero(t.present[m] & ~t.vectors[m].any(axis=1))
            if len(zero):
                raise InputError(f"modality {m!r}: {len(zero)} vectors have norm zero (first item {t.item_ids[zero[0]]!r}); mark them absent")
        rows = np.ascontiguousarray(newest.vectors[m][newest.present[m]])
        distinct = len(np.unique(rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))))
        if distinct < spec.codebook_size:
            raise InputError(
                f"modality {m!r}: {len(rows)} items with {distinct} distinct vectors, fewer than the {spec.codebook_size} codes of a codebook; "
                "lower codebook_size, give more items, or leave the modality out of the spec"
            )


class _Union:
    """The (item, cut-off) rows of all tables, gathered by number without copying the tables."""

    def __init__(self, tables: Sequence[EmbeddingTable], spec: SidSpec, scale: ReliabilityScale | None) -> None:
        self.tables, self.modalities = tables, spec.modalities
        self.x = [scale(t) if scale else np.zeros(len(t), np.float32) for t in tables]
        self.first = np.cumsum([0, *(len(t) for t in tables)])

    def __len__(self) -> int:
        return int(self.first[-1])

    def widths(self) -> dict[str, int]:
        return {m: self.tables[0].width(m) for m in self.modalities}

    def take(self, numbers: np.ndarray) -> Rows:
        """The rows of these numbers, in that order."""
        table = np.searchsorted(self.first, numbers, side="right") - 1

        def gather(arrays: Sequence[np.ndarray]) -> Tensor:
            out = np.empty((len(numbers), *arrays[0].shape[1:]), arrays[0].dtype)
            for t in np.unique(table):
                out[table == t] = arrays[t][numbers[table == t] - self.first[t]]
            return torch.from_numpy(out)

        vectors = {m: gather([t.vectors[m] for t in self.tables]) for m in self.modalities}
        present = {m: gather([t.present[m] for t in self.tables]) for m in self.modalities}
        return Rows(vectors, present, gather(self.x), torch.from_numpy(table))

    def statistics(self, modality: str) -> tuple[Tensor, Tensor]:
        """Means [C, d] and scales [C] of the present rows: of all tables together for content (C = 1), of each for behaviour.

        The scale makes the mean squared length equal to the width. A cut-off with no more rows than widths takes those of all.
        """
        kept = [t.vectors[modality][t.present[modality]] for t in self.tables]
        together = _mean_and_scale(kept)
        each = [_mean_and_scale([v]) if len(v) > v.shape[1] else together for v in kept] if modality == BEHAVIOR else [together]
        return torch.tensor(np.stack([mean for mean, _ in each])), torch.tensor([scale or together[1] for _, scale in each])

    def fingerprint(self, *facts: Any) -> str:
        """sha256 over the facts and every row: what a checkpoint must agree with."""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for t, x in zip(self.tables, self.x, strict=True):
            for array in (t.item_ids, x, *(a for m in self.modalities for a in (t.vectors[m], t.present[m]))):
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()


def _mean_and_scale(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    rows = sum(len(v) for v in parts)
    mean = np.sum([v.sum(0, dtype=np.float64) for v in parts], axis=0) / rows
    square = sum(float(np.square(v - mean).sum()) for v in parts)
    return mean.astype(np.float32), math.sqrt(square / (rows * len(mean)))


@dataclass
class _State:
    """All that a training run carries from step to step; chance is drawn anew from (seed, step), so it carries none."""

    network: AdcModel
    optimiser: torch.optim.Optimizer
    sparsity: SparsityController | None
    usage_PK: Tensor
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path, fingerprint: str) -> None:
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        feedback = (self.sparsity.strength, self.sparsity.inactive) if self.sparsity else None
        parts = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "usage": self.usage_PK, "sparsity": feedback}
        torch.save(parts | {"fingerprint": fingerprint, "step": self.step, "history": self.history}, aside)
        aside.replace(path)

    def restore(self, path: Path, fingerprint: str) -> None:
        if not path.is_file():
            return
        saved = torch.load(path, weights_only=True)
        if saved["fingerprint"] != fingerprint:
            logger.info("stage=fit checkpoint=%s ignored=other_inputs", path)
            return
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.usage_PK, self.step, self.history = saved["usage"], saved["step"], saved["history"]
        if self.sparsity:
            self.sparsity.strength, self.sparsity.inactive = saved["sparsity"]
        logger.info("stage=fit resumed_at_step=%d of checkpoint=%s", self.step, path)


def _train(union: _Union, spec: SidSpec, s: AdcSettings, *, seed: int, progress: Progress | None, checkpoint: Path | None) -> _State:
    state = _start(union, spec, s, seed=seed)
    fingerprint = union.fingerprint(spec.to_dict(), s.to_dict(), seed) if checkpoint else ""
    if checkpoint:
        state.restore(Path(checkpoint), fingerprint)
    batch = min(s.batch, len(union))
    epoch, order = -1, torch.empty(0)
    while state.step < s.steps:
        if (now := state.step // (len(union) // batch)) != epoch:
            epoch, order = now, torch.randperm(len(union), generator=_chance(seed, 1, now))
        start = state.step % (len(union) // batch) * batch
        chance = _chance(seed, 2, state.step)
        rows = union.take(order[start : start + batch].numpy())
        if spec.behavior and s.drop_behavior:
            kept = torch.rand(batch, generator=chance) >= s.drop_behavior
            rows = rows._replace(present={**rows.present, BEHAVIOR: rows.present[BEHAVIOR] & kept}, x=torch.where(kept, rows.x, 0.0))
        if state.step == s.warmup_steps:
            _start_codebooks(state.network, union, seed=seed)
        _step(state, rows, s, newest=len(union.tables) - 1, chance=chance)
        if progress:
            progress("fit", state.step, s.steps)
        if checkpoint and state.step % CHECKPOINT_EVERY == 0:
            state.save(Path(checkpoint), fingerprint)
    _freeze_gate(state.network, union, s)
    state.network.eval().requires_grad_(False)
    return state


def _start(union: _Union, spec: SidSpec, s: AdcSettings, *, seed: int) -> _State:
    with torch.random.fork_rng(devices=[]):  # layers draw from torch's global generator: leave it as it was
        torch.manual_seed(seed)
        network = AdcModel(spec, union.widths(), s, cutoffs=len(union.tables))
    for m in spec.modalities:
        center, spread = union.statistics(m)
        network.standard_of(m).center.copy_(center)
        network.standard_of(m).spread.copy_(spread)
    network.codebooks.requires_grad_(s.codebook_update == "gradient")
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=s.learning_rate, weight_decay=s.weight_decay)
    sparsity = SparsityController(spec.behavior, network.target_active) if spec.behavior and s.sparsity == "penalty" else None
    return _State(network, optimiser, sparsity, torch.zeros(spec.length, spec.codebook_size, dtype=torch.int64))


def _step(state: _State, rows: Rows, s: AdcSettings, *, newest: int, chance: torch.Generator) -> None:
    network, books = state.network, state.network.codebooks
    for group in state.optimiser.param_groups:
        group["lr"] = s.learning_rate * 0.5 * (1 + math.cos(math.pi * state.step / s.steps))
    encoded = network.encode(rows)
    codes_BP = codeword_BPD = None
    if state.step >= s.warmup_steps:
        with torch.no_grad():
            codes_BP = books.lookup(encoded.latent_BPD)
        codeword_BPD = books.codeword(codes_BP)
    terms = network.loss(rows, encoded, codeword_BPD, state.sparsity)
    state.optimiser.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    state.optimiser.step()
    gate_BN = encoded.weight_BP.detach()[:, network.spec.length - network.spec.behavior :]
    if state.sparsity:
        state.sparsity.observe(gate_BN, rows.present[BEHAVIOR])
    elif network.spec.behavior:
        target = network.target_active if s.sparsity == "threshold" else None
        network.importance.follow(encoded.standard[BEHAVIOR], rows.x, rows.present[BEHAVIOR], target=target, pace=0.1)
    if codes_BP is not None:
        latent_BPD, known_BP = encoded.latent_BPD.detach(), encoded.known_BP
        if s.codebook_update == "ema":
            books.move_to_mean(latent_BPD, codes_BP, known_BP, decay=s.ema_decay)
        # codes are served from the newest cut-off on: one that only earlier, colder rows use counts as unused
        newest_BP = known_BP & (rows.cutoff == newest)[:, None]
        for p in range(codes_BP.shape[1]):
            state.usage_PK[p] += torch.bincount(codes_BP[newest_BP[:, p], p], minlength=state.usage_PK.shape[1])
        # the last tenth of the steps settles what was moved
        if state.step % s.revive_every == 0 and state.step < 0.9 * s.steps:
            books.revive(state.usage_PK, latent_BPD, codes_BP, newest_BP, share=s.revive_share, chance=chance)
            state.usage_PK.zero_()
    state.step += 1
    if state.step % max(s.steps // 50, 1) == 0:
        facts = {"step": state.step, **{name: float(term.detach()) for name, term in terms.items()}}
        if network.spec.behavior:
            warm = max(int(rows.present[BEHAVIOR].sum()), 1)
            facts |= {"active_experts": int((gate_BN > 0).sum()) / warm, "lambda": state.sparsity.strength if state.sparsity else 0.0}
        state.history.append(facts)


def _start_codebooks(network: AdcModel, union: _Union, *, seed: int) -> None:
    """Spherical k-means over the warmed-up experts' latents (A3)."""
    chance = _chance(seed, 3, 0)
    with torch.no_grad():
        parts = [(encoded.latent_BPD, encoded.known_BP) for encoded in map(network.encode, _sample(union, chance=chance))]
        latent_NPD, known_NP = torch.cat([latent for latent, _ in parts]), torch.cat([known for _, known in parts])
        for p in range(network.spec.length):
            network.codebooks.codewords[p] = spherical_kmeans(latent_NPD[known_NP[:, p], p], network.spec.codebook_size, chance=chance)


def _freeze_gate(network: AdcModel, union: _Union, s: AdcSettings) -> None:
    """The gate's final threshold, and the mean R of each behavioural expert where it is active (A10), over all rows."""
    if not network.spec.behavior:
        return
    scale = network.standard_of(BEHAVIOR)
    parts = [(scale(r.vectors[BEHAVIOR], r.present[BEHAVIOR], r.cutoff), r.x, r.present[BEHAVIOR]) for r in _sample(union, chance=_chance(0, 0, 0))]
    vectors, x, present = (torch.cat(columns) for columns in zip(*parts, strict=True))
    if s.sparsity == "threshold":
        network.importance.follow(vectors, x, present, target=network.target_active, pace=1.0)
    with torch.no_grad():
        gate_BN = network.importance(vectors, x, present).double()
        active = (gate_BN > 0).sum(0)
        network.importance.normaliser.copy_(torch.where(active > 0, gate_BN.sum(0) / active.clamp_min(1), 1.0))


def _sample(union: _Union, *, chance: torch.Generator) -> Iterator[Rows]:
    """Up to SAMPLE rows of the union in random order, in blocks that fit the memory."""
    chosen = torch.randperm(len(union), generator=chance)[:SAMPLE].numpy()
    yield from (union.take(chosen[i : i + BLOCK]) for i in range(0, len(chosen), BLOCK))


def _unexplained(network: AdcModel, union: _Union) -> dict[str, float]:
    """1 - R2 of the newest vectors as decoded from codes and weights alone: over all standardised dimensions, and per modality."""
    table = union.tables[-1]
    error = dict.fromkeys(network.widths, 0.0)
    with torch.no_grad():
        for start in range(0, len(table), BLOCK):
            rows = union.take(union.first[-2] + np.arange(start, min(start + BLOCK, len(table))))
            encoded = network.encode(rows)
            words_BPD = network.codebooks.codeword(network.codebooks.lookup(encoded.latent_BPD))
            for m, guess in network.decode((encoded.weight_BP[:, :, None] * words_BPD).sum(1)).items():
                error[m] += float((guess - encoded.standard[m])[rows.present[m]].double().square().sum())
    total = {m: table.vectors[m][table.present[m]].var(axis=0, dtype=np.float64).sum() * table.present[m].sum() for m in error}
    total = {m: float(t) / float(network.standard_of(m).spread[-1]) ** 2 for m, t in total.items()}
    return {"all": sum(error.values()) / sum(total.values()), **{m: error[m] / total[m] for m in error}}


def _check_quality(quality: dict[str, Any], s: AdcSettings) -> None:
    for book in quality["codebooks"]:
        if book["utilisation"] < s.min_utilisation:
            raise QualityError(
                f"codebook {book['position']} ({book['modality']}) uses {book['utilisation']:.0%} of its codes ({book['dead']} dead), "
                f"expected at least {s.min_utilisation:.0%}; lower codebook_size, train more steps or raise revive_share"
            )


def _chance(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1)))
