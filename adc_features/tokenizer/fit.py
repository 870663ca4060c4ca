"""Train a tokenizer: ADC-SID here, the others in `baselines`. Reads: EmbeddingTables of several
cut-offs. Writes: a Generation, quality report included.

Legend: B rows of a batch, P positions, K codes, D latent width.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, check_generation_id, write_generation
from adc_features.codes.quality import quality_report
from adc_features.codes.reliability import fit_reliability
from adc_features.codes.spec import BEHAVIOR, NO_CODE, SidSpec
from adc_features.errors import QualityError
from adc_features.tokenizer import baselines
from adc_features.tokenizer.baselines.mmq import mmq
from adc_features.tokenizer.codebook import revive, spherical_kmeans
from adc_features.tokenizer.encode import encode, one_thread
from adc_features.tokenizer.importance import SparsityController
from adc_features.tokenizer.line import Line
from adc_features.tokenizer.model import AdcModel, AdcSettings, Rows
from adc_features.tokenizer.union import RowUnion, chance_of, check_tables

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
CHECKPOINT_EVERY = 200


def adc() -> AdcSettings:
    """ADC-SID with every gap closed; x from interaction counts. The controller halves at x = 0.2,
    which leaves the 40 % rarest rows of Beauty out, as the paper intends; under counts its own (10,
    9) would leave out all but 1 %.
    """
    return AdcSettings()


def adc_norm() -> AdcSettings:
    """The faithful reading: x from the norm of the behaviour vector, alpha = 10, beta = 9 (section
    3.3.1).
    """
    return replace(raw_gate(), reliability="norm", alpha=10.0, beta=9.0)


def raw_gate() -> AdcSettings:
    """ADC-SID whose gate reads behaviour as long as it is, as the paper's: on generated catalogues
    its weights rank true reliability backwards (docs/tokenizers.md).
    """
    return replace(adc(), gate_input="raw")


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


Settings = AdcSettings | baselines.Settings

RECIPES: dict[str, Callable[[], Settings]] = {
    **{
        recipe.__name__: recipe
        for recipe in (
            adc,
            adc_norm,
            raw_gate,
            without_controller,
            without_contrastive,
            without_gate,
            without_sparsity,
        )
    },
    "mmq": mmq,
    **baselines.RECIPES,
}


def fit(
    tables: Sequence[EmbeddingTable],
    spec: SidSpec,
    *,
    settings: Settings,
    generation_id: str,
    directory: Path,
    seed: int,
    line: Line | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> Generation:
    """Train on the union of all (item, cut-off) rows of `tables`, in any order, freeze, measure on
    the newest table, write the generation.

    The same seed gives the same codes. The positions of the generation's spec are the tokenizer's
    own: as many as `spec` has, over the same modalities. checkpoint: a file that ADC-SID writes
    every few hundred steps; a fit that was killed goes on from it to the same result, one of other
    inputs or settings is ignored; the others start again. line: an older generation whose codes
    should keep their meaning (ADC-SID only). A warm start trains a third of the steps at a third of
    the rate. Raises InputError on unusable vectors and ReliabilityError on an untrustworthy
    reliability signal, both before any work; QualityError when a codebook uses too few of its
    codes. Nothing is written at `directory` then.
    """
    check_generation_id(generation_id)
    check_tables(tables, spec)
    name, own_spec = (
        ("adc", spec)
        if isinstance(settings, AdcSettings)
        else (settings.tokenizer, baselines.spec_of(spec, settings))
    )
    if line is not None:
        line.check(spec, settings, tables, generation_id=generation_id)
    scale = fit_reliability(tables, mode=settings.reliability) if spec.behavior else None
    tables = sorted(tables, key=lambda t: t.as_of)
    newest = tables[-1]
    union = RowUnion(tables, spec, scale)
    warm = line if line is not None and line.warm else None
    if warm and isinstance(settings, AdcSettings):
        settings = replace(
            settings,
            steps=max(settings.steps // 3, 1),
            warmup_steps=0,
            learning_rate=settings.learning_rate / 3,
        )
        union.held = warm.codes(tables)
    # the same codes on any number of cores; batches are too small to gain from more
    with one_thread():
        if isinstance(settings, AdcSettings):
            network, history = _train(
                union,
                spec,
                settings,
                seed=seed,
                line=warm,
                progress=progress,
                checkpoint=checkpoint,
            )
        else:
            network, history = baselines.train(
                union, own_spec, settings, seed=seed, progress=progress
            )
    draft = Generation(
        id=generation_id,
        tokenizer=name,
        spec=own_spec,
        settings={
            name: settings.to_dict(),
            "reliability": scale.to_dict() if scale else None,
            "cutoffs": [t.as_of.isoformat() for t in tables],
            "seed": seed,
        },
        tensors={name: tensor.numpy() for name, tensor in network.state_dict().items()},
        quality={},
        trained_through=newest.as_of,
        codebook_hash="",
    )
    churn = None
    if line is not None:
        draft, churn = line.renamed(draft, newest)
    quality = quality_report(encode(newest, draft), newest.interaction_count, spec=own_spec)
    quality |= {"reconstruction_1_minus_r2": _unexplained(network, union), "training": history}
    quality |= {
        "reliability_rank_correlation": scale.rank_correlation if scale else None,
        **({"churn": churn} if churn else {}),
    }
    _check_quality(quality, settings)
    generation = write_generation(
        directory,
        generation_id=generation_id,
        tokenizer=draft.tokenizer,
        spec=draft.spec,
        settings=draft.settings,
        tensors=draft.tensors,
        quality=quality,
        trained_through=draft.trained_through,
    )
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return generation


@dataclass
class _State:
    """All that a training run carries from step to step; chance is drawn anew from (seed, step), so
    it carries none.
    """

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
        parts = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "usage": self.usage_PK,
            "sparsity": feedback,
        }
        torch.save(
            parts | {"fingerprint": fingerprint, "step": self.step, "history": self.history}, aside
        )
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


def _train(
    union: RowUnion,
    spec: SidSpec,
    s: AdcSettings,
    *,
    seed: int,
    line: Line | None,
    progress: Progress | None,
    checkpoint: Path | None,
) -> baselines.Trained:
    """line: the generation to start from, or None."""
    state = _start(union, spec, s, seed=seed, line=line)
    fingerprint = (
        union.fingerprint(spec.to_dict(), s.to_dict(), seed, line and line.parent.codebook_hash)
        if checkpoint
        else ""
    )
    if checkpoint:
        state.restore(Path(checkpoint), fingerprint)
    while state.step < s.steps:
        chance = chance_of(seed, 2, state.step)
        rows = union.batch(state.step, size=s.batch, seed=seed)
        if spec.behavior and s.drop_behavior:
            kept = torch.rand(len(rows.x), generator=chance) >= s.drop_behavior
            rows = rows._replace(
                present={**rows.present, BEHAVIOR: rows.present[BEHAVIOR] & kept},
                x=torch.where(kept, rows.x, 0.0),
            )
        if state.step == s.warmup_steps and line is None:
            _start_codebooks(state.network, union, seed=seed)
        _step(state, rows, s, newest=len(union.tables) - 1, chance=chance)
        if progress:
            progress("fit", state.step, s.steps)
        if checkpoint and state.step % CHECKPOINT_EVERY == 0:
            state.save(Path(checkpoint), fingerprint)
    _freeze_gate(state.network, union, s)
    return baselines.Trained(state.network.eval().requires_grad_(False), state.history)


def _start(
    union: RowUnion, spec: SidSpec, s: AdcSettings, *, seed: int, line: Line | None
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
    network.codebooks.requires_grad_(s.codebook_update == "gradient")
    optimiser = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=s.learning_rate,
        weight_decay=s.weight_decay,
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
        torch.zeros(spec.length, spec.codebook_size, dtype=torch.int64),
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
    terms = network.loss(rows, encoded, codeword_BPD, state.sparsity)
    if rows.held_BP is not None:
        terms["stay"] = s.stay_weight * books.departure(
            encoded.latent_BPD, torch.where(encoded.known_BP, rows.held_BP, NO_CODE)
        )
    state.optimiser.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    state.optimiser.step()
    gate_BN = encoded.weight_BP.detach()[:, network.spec.length - network.spec.behavior :]
    if state.sparsity:
        state.sparsity.observe(gate_BN, rows.present[BEHAVIOR])
    elif network.spec.behavior:
        target = network.target_active if s.sparsity == "threshold" else None
        network.importance.follow(
            encoded.standard[BEHAVIOR], rows.x, rows.present[BEHAVIOR], target=target, pace=0.1
        )
    if codes_BP is not None:
        latent_BPD, known_BP = encoded.latent_BPD.detach(), encoded.known_BP
        if s.codebook_update == "ema":
            books.move_to_mean(latent_BPD, codes_BP, known_BP, decay=s.ema_decay)
        # codes are served from the newest cut-off on: one that only earlier, colder rows use counts
        # as unused
        newest_BP = known_BP & (rows.cutoff == newest)[:, None]
        for p in range(codes_BP.shape[1]):
            state.usage_PK[p] += torch.bincount(
                codes_BP[newest_BP[:, p], p], minlength=state.usage_PK.shape[1]
            )
        # the last tenth of the steps settles what was moved
        if state.step > 0 and state.step % s.revive_every == 0 and state.step < 0.9 * s.steps:
            revive(
                books.codewords,
                state.usage_PK,
                latent_BPD,
                codes_BP,
                newest_BP,
                share=s.revive_share,
                chance=chance,
            )
            state.usage_PK.zero_()
    state.step += 1
    if state.step % max(s.steps // 50, 1) == 0:
        facts = {"step": state.step, **{name: float(term.detach()) for name, term in terms.items()}}
        if network.spec.behavior:
            warm = max(int(rows.present[BEHAVIOR].sum()), 1)
            facts |= {
                "active_experts": int((gate_BN > 0).sum()) / warm,
                "lambda": state.sparsity.strength if state.sparsity else 0.0,
            }
        state.history.append(facts)


def _start_codebooks(network: AdcModel, union: RowUnion, *, seed: int) -> None:
    """Spherical k-means over the warmed-up experts' latents (A3)."""
    chance = chance_of(seed, 3, 0)
    with torch.no_grad():
        parts = [
            (encoded.latent_BPD, encoded.known_BP)
            for encoded in map(network.encode, union.sample(chance=chance))
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
    (A10), over all rows.
    """
    if not network.spec.behavior:
        return
    scale = network.standard_of(BEHAVIOR)
    parts = [
        (scale(r.vectors[BEHAVIOR], r.present[BEHAVIOR], r.cutoff), r.x, r.present[BEHAVIOR])
        for r in union.sample(chance=chance_of(0, 0, 0))
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


def _unexplained(network: AdcModel | baselines.Network, union: RowUnion) -> dict[str, float]:
    """1 - R2 of the newest vectors as decoded from codes and weights alone: over all standardised
    dimensions, and per modality.

    Only of what the tokenizer decodes: LETTER and DAS, for two, read content alone.
    """
    table, error = union.tables[-1], dict.fromkeys(network.widths, 0.0)
    with torch.no_grad():
        for rows in union.newest():
            for m, guess in network.reconstruct(rows).items():
                standard = network.standard_of(m)(rows.vectors[m], rows.present[m], rows.cutoff)
                error[m] += float((guess - standard)[rows.present[m]].double().square().sum())
    total = {
        m: (
            table.vectors[m][table.present[m]].var(axis=0, dtype=np.float64).sum()
            * table.present[m].sum()
        )
        for m in error
    }
    total = {m: float(t) / float(network.standard_of(m).spread[-1]) ** 2 for m, t in total.items()}
    return {
        "all": sum(error.values()) / sum(total.values()),
        **{m: error[m] / total[m] for m in error},
    }


def _check_quality(quality: dict[str, Any], s: Settings) -> None:
    for book in quality["codebooks"]:
        if book["utilisation"] < s.min_utilisation:
            raise QualityError(
                f"codebook {book['position']} ({book['modality']}) uses {book['utilisation']:.0%}"
                f" of its codes ({book['dead']} dead), expected at least {s.min_utilisation:.0%};"
                " lower codebook_size, train more steps or raise revive_share"
            )
