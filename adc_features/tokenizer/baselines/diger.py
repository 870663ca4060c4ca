"""DIGER in a parallel generator: the loss of generation reaches the codebooks. Reads: RowUnion,
interactions. Writes: a trained AdditiveNetwork.

Legend: R packed rows, T places, P targets, U different items of a batch, N items, L positions, K
codes, D latent width, E generator width.
"""

import logging
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.encoders.sasrec import Batch, packed_batches
from adc_features.errors import InputError
from adc_features.tokenizer.baselines import rq_vae
from adc_features.tokenizer.baselines.additive import AdditiveCodebooks, AdditiveNetwork
from adc_features.tokenizer.baselines.generative import (
    GenerativeSettings,
    distances,
    generator_on,
    histories,
    latents,
    nearest_codes,
    targets_of,
    used,
)
from adc_features.tokenizer.baselines.loop import Curve, Progress
from adc_features.tokenizer.union import RowUnion, chance_of

logger = logging.getLogger(__name__)

Noise = Literal["sdud", "frqud", "none"]
MEMORY = 0.99
"""Of the moving average of use, a step."""
CROWDED = 1.5
"""A code is used too much above this many times its even share."""


@dataclass(frozen=True)
class DigerSettings(GenerativeSettings):
    """The RQ-VAE, the generator, and how codebooks learn from it.

    epochs: over the sequences. indicator_temperature: of the softmax that stands for a choice when
    gradients go back. noise: Gumbel, of a learned size that falls with the loss (sdud), on items
    whose first code is used too much (frqud), or none. sdud_floor: l of that schedule; sdud_rate:
    of AdamW for its size.
    """

    tokenizer: Literal["diger"] = "diger"
    epochs: int = 10
    indicator_temperature: float = 2.0
    noise: Noise = "sdud"
    sdud_floor: float = 1.7
    sdud_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            self.epochs < 1
            or not min(self.indicator_temperature, self.sdud_floor) > 0
            or self.noise not in get_args(Noise)
        ):
            raise InputError(
                f"epochs, indicator_temperature, sdud_floor, noise are {self.epochs},"
                f" {self.indicator_temperature}, {self.sdud_floor}, {self.noise!r}; expected at"
                f" least 1 epoch, numbers above 0 and one of {', '.join(get_args(Noise))}"
            )


def diger() -> DigerSettings:
    """DIGER (arXiv 2601.19711), adapted to the parallel generator of `adc retrieve`.

    Published: an RQ-VAE of LLaMA text vectors, 3 x 256 codes, encoder and decoder frozen; the codes
    of a T5's history are drawn with Gumbel noise and pass gradients straight through a softmax at
    2.0, so that codebooks (1e-5, 120 epochs) learn from the loss of generation; noise by a learned
    size or by use. Here: all modalities, L and K of the spec; one head a position in the place of
    T5; codes' vectors are linear maps of the codewords, and the target's indicator weighs the
    cross-entropy as the history's makes the input: the published trainer looks codes up as numbers,
    and no gradient of generation reaches its codebooks. Distances count in units of the gap between
    the two nearest codewords; 10 epochs at 1e-4. The generator is thrown away: with codes frozen,
    `adc retrieve` trains another.
    """
    return DigerSettings()


class Choice(NamedTuple):
    """indicator: float32 [U, L, K], one-hot, its gradient that of a softmax; words: the codewords
    chosen, [U, L, D], differentiable in both; left: what was coded at each position, [U, L, D].
    """

    indicator: Tensor
    words: Tensor
    left: Tensor


def choose(
    codewords_LKD: Tensor,
    latent_UD: Tensor,
    unit_L: Tensor,
    *,
    temperature: float,
    noise_ULK: Tensor | None = None,
) -> Choice:
    """Codes along the residual chain: the nearest codeword (with noise, the largest of minus the
    distance plus noise); backward, the softmax over all of them.
    """
    left_UD, chosen, words, before = latent_UD, [], [], []
    for level, words_KD in enumerate(codewords_LKD):
        square_UK = words_KD.square().sum(1) - 2 * left_UD @ words_KD.T
        logits_UK = -square_UK / unit_L[level]  # |left|^2 is the same for all codes
        if noise_ULK is not None:
            logits_UK = logits_UK + noise_ULK[:, level]
        soft_UK = torch.softmax(logits_UK / temperature, dim=1)
        hard_UK = F.one_hot(logits_UK.argmax(1), len(words_KD)).float()
        chosen.append(hard_UK + soft_UK - soft_UK.detach())
        words.append(chosen[-1] @ words_KD)
        before.append(left_UD)
        left_UD = left_UD - words[-1]
    return Choice(*(torch.stack(each, dim=1) for each in (chosen, words, before)))


class SoftCodes(nn.Module):
    """A generator whose code vectors are linear maps of the codewords, level by level, and the
    learned size of noise.
    """

    def __init__(self, books: AdditiveCodebooks, codes_NL: Tensor, s: DigerSettings) -> None:
        super().__init__()
        positions, codes, width = books.codewords.shape
        self.generator = generator_on(codes_NL, codes, s)
        del self.generator.tokens  # those of the codewords take their place
        # the size that the generator's own code vectors start with
        length_L = books.codewords.detach().norm(dim=-1).mean(1).clamp_min(1e-6)
        scale_L = 0.02 / length_L
        self.maps = nn.Parameter(torch.randn(positions, width, s.width) * scale_L[:, None, None])
        self.sigma = nn.Parameter(torch.ones(()))

    def tokens(self, codewords_LKD: Tensor) -> Tensor:
        """float32 [L, K, E]."""
        return torch.bmm(codewords_LKD, self.maps)

    def generation_loss(
        self, batch: Batch, codewords_LKD: Tensor, indicator_ULK: Tensor, items_U: Tensor
    ) -> Tensor:
        """Mean over targets and positions of the cross-entropy that the target's indicator weighs,
        a scalar. items_U: the batch's items, ascending.
        """
        tokens_LKE = self.tokens(codewords_LKD)
        vectors_UE = torch.einsum("ulk,lke->ue", indicator_ULK, tokens_LKE) / len(tokens_LKE)
        vectors_RTE = F.embedding(torch.searchsorted(items_U, batch.items), vectors_UE)
        targets = targets_of(batch)
        states_PE = self.generator(batch, vectors_RTE)[targets.wanted]
        told_PLK = torch.log_softmax(self.generator.code_logits(states_PE, tokens_LKE), -1)
        weight_PLK = indicator_ULK[torch.searchsorted(items_U, targets.items)]
        return -(weight_PLK * told_PLK).sum(-1).mean()


def gaps(books: AdditiveCodebooks, latent_ND: Tensor) -> Tensor:
    """How much farther the second nearest codeword is than the nearest, on average: float32 [L], in
    squared distance.
    """
    with torch.no_grad():
        total_L = torch.zeros(len(books.codewords))
        for part in latent_ND.split(1024):
            two = (-distances(books, part)).topk(2, dim=-1).values
            total_L += (two[..., 0] - two[..., 1]).sum(0)
    return (total_L / len(latent_ND)).clamp_min(1e-6)


def gumbel(shape: torch.Size, chance: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    even = torch.rand(shape, generator=chance).clamp(1e-9, 1 - 1e-7)
    return -(-even.log()).log()


def train(
    net: AdditiveNetwork,
    union: RowUnion,
    s: DigerSettings,
    *,
    behavior: nn.Module | None,
    events: pa.Table | None,
    seed: int,
    progress: Progress | None,
) -> Curve:
    """Train in place; returns the training curve, a row an epoch at its end: the loss of
    generation, the share of codes in use, and of codes that changed, as encoded without noise.
    """
    sequences = histories(union, events, tokenizer=s.tokenizer)
    curve = rq_vae.train(net, union, s, behavior=behavior, seed=seed, progress=progress)
    (part,) = net.parts
    latent_ND = latents(part, union)
    before_NL = nearest_codes(part, latent_ND)
    learner = Learner(part.books, SoftCodes(part.books, before_NL, s), latent_ND, s)
    codes = part.books.codewords.shape[1]
    curve.append({"epoch": 0, "used": used(before_NL, codes)})
    for epoch in range(s.epochs):
        rng = np.random.default_rng([seed, 6, epoch])
        losses = [
            learner.step(batch, chance_of(seed, 5, epoch, number))
            for number, batch in enumerate(
                packed_batches(sequences, length=s.history, rows=s.rows, rng=rng)
            )
        ]
        now_NL = nearest_codes(part, latent_ND)
        facts = {
            "generation": float(np.mean(losses)),
            "used": used(now_NL, codes),
            "changed_codes": float((now_NL != before_NL).float().mean()),
        }
        curve.append({"epoch": epoch + 1, **facts})
        logger.info("stage=%s epoch=%d facts=%s", s.tokenizer, epoch + 1, facts)
        before_NL = now_NL
        if progress:
            progress("codebooks", epoch + 1, s.epochs)
    return curve


class Learner:
    """Codebooks and generator that learn together, the encoder's latents as they are."""

    def __init__(
        self, books: AdditiveCodebooks, soft: SoftCodes, latent_ND: Tensor, s: DigerSettings
    ) -> None:
        self.books, self.soft, self.latent_ND, self.settings = books, soft, latent_ND, s
        self.unit_L = gaps(books, latent_ND)
        codes = soft.generator.codes_NL
        self.use_K = torch.bincount(codes[:, 0], minlength=books.codewords.shape[1]) / len(codes)
        others = [p for name, p in soft.named_parameters() if name != "sigma"]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [books.codewords], "lr": s.codes_rate, "weight_decay": 0.0},
                {"params": others, "lr": s.generator_rate, "weight_decay": s.weight_decay},
                {"params": [soft.sigma], "lr": s.sdud_rate, "weight_decay": 0.0},
            ]
        )

    def step(self, batch: Batch, chance: torch.Generator) -> float:
        """One step; the loss of generation."""
        items_U = torch.cat([batch.items.flatten(), batch.targets.clamp_min(0).flatten()]).unique()
        latent_UD, words_LKD, s = self.latent_ND[items_U], self.books.codewords, self.settings
        choice = choose(
            words_LKD,
            latent_UD,
            self.unit_L,
            temperature=s.indicator_temperature,
            noise_ULK=self._noise(latent_UD, chance),
        )
        generation = self.soft.generation_loss(batch, words_LKD, choice.indicator, items_U)
        # codewords move to what they coded, and their sum to the latent
        pull = (choice.left.detach() - choice.words).square().sum((1, 2)).mean()
        latent_error = (choice.words.sum(1) - latent_UD).square().sum(1).mean()
        loss = self._weighed(generation) + pull + latent_error
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(generation.detach())

    def _weighed(self, generation: Tensor) -> Tensor:
        """The loss of generation, by the size of the noise where that is learned."""
        if self.settings.noise != "sdud":
            return generation
        size = self.soft.sigma + self.settings.sdud_floor
        return generation / (2 * size.square()) + size.log()

    def _noise(self, latent_UD: Tensor, chance: torch.Generator) -> Tensor | None:
        """float32 [U, L, K]: of the learned size, or on items whose first code is used too much."""
        if self.settings.noise == "none":
            return None
        positions, codes, _ = self.books.codewords.shape
        noise_ULK = gumbel(torch.Size([len(latent_UD), positions, codes]), chance)
        if self.settings.noise == "sdud":
            return noise_ULK * self.soft.sigma.abs()
        first_U = self.books.lookup(latent_UD)[:, 0].detach()
        self.use_K = MEMORY * self.use_K + (1 - MEMORY) * (
            torch.bincount(first_U, minlength=codes) / len(first_U)
        )
        crowded_U = self.use_K[first_U] > CROWDED / codes
        return noise_ULK * crowded_U[:, None, None]
