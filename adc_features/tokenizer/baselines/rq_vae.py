"""RQ-VAE, LETTER, DAS and MM-RQ-VAE: an encoder, a residual quantiser and a decoder, learned
together. Reads: RowUnion. Writes: a trained AdditiveNetwork.

They differ in what the quantiser reads and in what else pulls at its latent: see the recipes and
`guidance`. Legend: B rows, L positions, K codes, D latent width.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adc_features.codes.reliability import Mode
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.baselines.additive import AdditiveNetwork, Quantiser
from adc_features.tokenizer.baselines.guidance import (
    CrossModal,
    Debiased,
    Guidance,
    Letter,
    Seen,
    Unguided,
)
from adc_features.tokenizer.baselines.kmeans import kmeans, residual_codebooks
from adc_features.tokenizer.baselines.loop import Curve, Progress, masked_mean, optimise
from adc_features.tokenizer.codebook import revive
from adc_features.tokenizer.model import Rows
from adc_features.tokenizer.union import RowUnion, chance_of

START = 16_384
"""Rows that the codebooks start from."""


@dataclass(frozen=True)
class RqVaeSettings:
    """How an RQ-VAE is built and trained; the recipes say what is published.

    Network: hidden layers and latent width D. Loss: reconstruction_weight times the sum over
    modalities of mean squared errors, the codebooks' and `commitment` times the latents' pull,
    `guidance_weight` times the method's own terms, LETTER's diversity; temperature of InfoNCE.
    Training: steps of `batch` rows, warmup_steps of them before codes, AdamW with cosine decay;
    every revive_every steps codes under revive_share of the uniform rate move onto residuals of
    crowded ones. Gate: min_utilisation as in AdcSettings.
    """

    tokenizer: Literal["rq_vae", "letter", "das", "mm_rq_vae", "etegrec_parallel", "diger"]
    hidden: tuple[int, ...] = (512, 256)
    latent: int = 64
    reconstruction_weight: float = 10.0
    commitment: float = 0.25
    guidance_weight: float = 0.0
    diversity_weight: float = 0.0
    temperature: float = 0.07
    steps: int = 600
    warmup_steps: int = 60
    batch: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    revive_every: int = 50
    revive_share: float = 0.1
    reliability: Mode = "log_count"
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not 0 <= self.warmup_steps < self.steps or self.batch < 2 or self.revive_every < 1:
            raise InputError(
                f"steps, warmup_steps, batch, revive_every are {self.steps}, {self.warmup_steps},"
                f" {self.batch}, {self.revive_every}; expected 0 <= warmup_steps < steps, batch >="
                " 2 and revive_every >= 1"
            )
        if any(width < 16 or width % 16 for width in (*self.hidden, self.latent)):
            raise InputError(
                f"hidden, latent are {self.hidden}, {self.latent}; expected multiples of 16, as for"
                " AdcSettings"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rq_vae() -> RqVaeSettings:
    """TIGER's tokenizer (arXiv 2305.05065). Published: text of 768, layers 512-256-128-32, 3 x 256
    codes, Adagrad 0.4, 20k epochs, k-means start, commitment 0.25. Here: all modalities side by
    side, L and K of the spec, layers 512-256-64, AdamW, ADC-SID's budget of 600 x 1024 rows;
    reconstruction weighted up and idle codes revived, the known cures of its collapse. No ordinal
    against collisions: a ranker does not need unique IDs.
    """
    return RqVaeSettings("rq_vae")


def letter() -> RqVaeSettings:
    """LETTER (arXiv 2405.07314): an RQ-VAE of content whose quantised latent tells an item's
    behaviour from the batch's (inner products,
    0.01), and whose codewords keep together in groups (diversity, 1e-4). Published: LLaMA text, 4 x
      256, a CF table as wide as the
    latent, 20k epochs, Sinkhorn on the last level. Here: the content modalities side by side; a
    linear map joins latent and behaviour; the groups are balanced k-means, anew each epoch; no
    Sinkhorn, an item's code must not depend on its batch.
    """
    return RqVaeSettings("letter", guidance_weight=0.01, diversity_weight=1e-4)


def das() -> RqVaeSettings:
    """DAS (arXiv 2508.10584), adapted: an RQ-VAE of content aligned (0.5) with a debiased behaviour
    vector and with co-occurring items. Published: RQ-VAEs of users and of items, 3 x 512 x 32, six
    InfoNCE terms, a CF model with disentangled interest and conformity. Here there are no user
    profiles, so no user RQ-VAE and two of the six terms: latent to the item's property part, and
    latent to that of its nearest item in behaviour (for co-occurrence). Property and popularity
    parts are read off the behaviour vector: together they restore it, popularity alone tells the
    reliability x, and they are kept orthogonal.
    """
    return RqVaeSettings("das", guidance_weight=0.5)


def mm_rq_vae() -> RqVaeSettings:
    """MM-RQ-VAE of MME-SID (arXiv 2509.02017): an RQ-VAE a modality, the quantised behaviour
    aligned with each quantised content (0.01). Published: 4 x 256 a modality, code width 4096,
    multi-kernel MMD as reconstruction, weight 3. Here: the L positions dealt out evenly; squared
    error, because MMD matches distributions and not items; InfoNCE, the paper's text, where the
    code has MMD.
    """
    return RqVaeSettings("mm_rq_vae", guidance_weight=0.01)


def network(
    widths: dict[str, int], spec: SidSpec, s: RqVaeSettings, *, cutoffs: int
) -> AdditiveNetwork:
    """The untrained network: one quantiser over what the method reads,
    or for MM-RQ-VAE one a modality.
    """

    def quantiser(widths: dict[str, int], positions: int) -> Quantiser:
        return Quantiser(
            widths,
            cutoffs=cutoffs,
            positions=positions,
            codes=spec.codebook_size,
            hidden=s.hidden,
            latent=s.latent,
        )

    if s.tokenizer != "mm_rq_vae":
        return AdditiveNetwork([quantiser(widths, spec.length)])
    counts = {**spec.content, BEHAVIOR: spec.behavior}
    return AdditiveNetwork([quantiser({m: widths[m]}, counts[m]) for m in spec.modalities])


def guidance_of(net: AdditiveNetwork, s: RqVaeSettings, *, behavior: int) -> Guidance:
    """What pulls at the latents besides reconstruction.
    behavior: width of the behaviour vectors, 0 without.
    """
    if not s.guidance_weight or not behavior:
        return Unguided()
    if s.tokenizer == "mm_rq_vae":
        return CrossModal(
            [next(iter(part.input.widths)) for part in net.parts], temperature=s.temperature
        )
    if s.tokenizer == "letter":
        return Letter(behavior, s.latent, diversity=s.diversity_weight / s.guidance_weight)
    return Debiased(behavior, s.latent, temperature=s.temperature)


def train(
    net: AdditiveNetwork,
    union: RowUnion,
    s: RqVaeSettings,
    *,
    behavior: nn.Module | None,
    seed: int,
    progress: Progress | None,
) -> Curve:
    """Train in place; returns the training curve. behavior: how behaviour vectors are standardised,
    None without behaviour.
    """
    guidance = guidance_of(net, s, behavior=union.widths().get(BEHAVIOR, 0))
    usage = [torch.zeros(part.books.codewords.shape[:2], dtype=torch.int64) for part in net.parts]
    epoch = max(len(union) // s.batch, 1)

    def step(number: int, rows: Rows, chance: torch.Generator) -> dict[str, Tensor]:
        if number == s.warmup_steps:
            _start_codebooks(net, union, seed=seed)
        latents, codes = [part.latent(rows) for part in net.parts], None
        terms: dict[str, Tensor] = {}
        if number >= s.warmup_steps:
            if number == s.warmup_steps or number % epoch == 0:
                guidance.new_epoch(net, seed=seed)
            codes = [
                part.books.lookup(z.detach()) for part, z in zip(net.parts, latents, strict=True)
            ]
            for part, z, c, used in zip(net.parts, latents, codes, usage, strict=True):
                served = part.input.known(rows) & (rows.cutoff == len(union.tables) - 1)
                _count(used, c, served)
                # the last tenth of the steps settles what was moved
                if (
                    number > s.warmup_steps
                    and number % s.revive_every == 0
                    and number < 0.9 * s.steps
                ):
                    _revive(part, used, z, c, served, share=s.revive_share, chance=chance)
            pulls = [
                quantise(part, z, c, part.input.known(rows), s.commitment)
                for part, z, c in zip(net.parts, latents, codes, strict=True)
            ]
            latents = [z for z, _ in pulls]
            terms["vq"] = torch.stack([pull for _, pull in pulls]).sum()
        errors = [decoding_error(part, z, rows) for part, z in zip(net.parts, latents, strict=True)]
        terms["reconstruction"] = s.reconstruction_weight * torch.stack(errors).sum()
        if behavior is not None:
            target = behavior(rows.vectors[BEHAVIOR], rows.present[BEHAVIOR], rows.cutoff)
            seen = Seen(
                rows, [part.input.known(rows) for part in net.parts], latents, codes, target, chance
            )
            terms |= {name: s.guidance_weight * term for name, term in guidance(net, seen).items()}
        return terms

    return optimise(
        [*net.parameters(), *guidance.parameters()],
        union,
        s,
        step=step,
        seed=seed,
        progress=progress,
    )


def _revive(
    part: Quantiser,
    usage_LK: Tensor,
    z: Tensor,
    codes_BL: Tensor,
    served_B: Tensor,
    *,
    share: float,
    chance: torch.Generator,
) -> None:
    """Move unused codewords, in place, onto what the levels before left of crowded rows."""
    words = part.books.codeword(codes_BL)
    left = (z[:, None] - words.cumsum(1) + words).detach()
    known = served_B[:, None].expand_as(codes_BL)
    revive(part.books.codewords, usage_LK, left, codes_BL, known, share=share, chance=chance)
    usage_LK.zero_()


def quantise(
    part: Quantiser, z: Tensor, codes_BL: Tensor, known: Tensor, commitment: float
) -> tuple[Tensor, Tensor]:
    """The latent as its codewords' sum, its gradient straight through; and the pull between
    codewords and residuals, a scalar.
    """
    words = part.books.codeword(codes_BL)
    residual = z[:, None] - (words.cumsum(1) - words).detach()
    pull = (residual.detach() - words).square() + commitment * (residual - words.detach()).square()
    return z + (words.sum(1) - z).detach(), masked_mean(pull.sum((1, 2)), known)


def decoding_error(part: Quantiser, z: Tensor, rows: Rows) -> Tensor:
    """Mean squared error per dimension of what is present, summed over modalities, a scalar."""
    errors = []
    for m, guess in part.decode(z).items():
        standard = part.input.standard[m](rows.vectors[m], rows.present[m], rows.cutoff)
        errors.append(masked_mean((guess - standard).square().mean(1), rows.present[m]))
    return torch.stack(errors).sum()


@torch.no_grad()
def _start_codebooks(net: AdditiveNetwork, union: RowUnion, *, seed: int) -> None:
    """Residual k-means over the warmed-up latents."""
    sample = list(union.sample(chance=chance_of(seed, 3, 0)))
    for part in net.parts:
        latent = torch.cat([part.latent(r)[part.input.known(r)] for r in sample])[:START].numpy()
        positions, codes, _ = part.books.codewords.shape
        part.books.codewords.copy_(
            torch.from_numpy(residual_codebooks(latent, positions, codes, kmeans, seed))
        )


def _count(usage_LK: Tensor, codes_BL: Tensor, served_B: Tensor) -> None:
    """Add the codes of the newest cut-off's rows, in place: those are the ones served."""
    for p in range(len(usage_LK)):
        usage_LK[p] += torch.bincount(codes_BL[served_B, p], minlength=usage_LK.shape[1])
