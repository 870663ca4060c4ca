"""ETEGRec in a parallel generator: tokenizer and generator take turns. Reads: RowUnion,
interactions. Writes: a trained AdditiveNetwork.

Legend: R packed rows, T places, P targets, U different targets of a batch, L positions, K codes, D
latent width.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.encoders.sasrec import Batch, packed_batches
from adc_features.errors import InputError
from adc_features.generator.generator import Generator
from adc_features.tokenizer.alignment import info_nce
from adc_features.tokenizer.baselines import rq_vae
from adc_features.tokenizer.baselines.additive import AdditiveNetwork, Quantiser
from adc_features.tokenizer.baselines.generative import (
    GenerativeSettings,
    Targets,
    distances,
    generator_on,
    histories,
    latents,
    nearest_codes,
    targets_of,
    used,
)
from adc_features.tokenizer.baselines.loop import Curve, Progress
from adc_features.tokenizer.union import RowUnion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EtegrecSettings(GenerativeSettings):
    """The RQ-VAE, the generator, and how they take turns.

    warm_epochs: of the generator alone. cycles: then, a tokenizer epoch and a generator epoch each.
    sia_weight, psa_weight: of the two alignments, in both; with neither, the RQ-VAE stays as it
    was. literal_sign: as in the published code, distances in the place of their negatives.
    """

    tokenizer: Literal["etegrec_parallel"] = "etegrec_parallel"
    warm_epochs: int = 2
    cycles: int = 4
    sia_weight: float = 0.1
    psa_weight: float = 0.3
    literal_sign: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.warm_epochs, self.cycles) < 1 or min(self.sia_weight, self.psa_weight) < 0:
            raise InputError(
                f"warm_epochs, cycles, sia_weight, psa_weight are {self.warm_epochs},"
                f" {self.cycles}, {self.sia_weight}, {self.psa_weight}; expected at least 1 epoch,"
                " at least 1 cycle and no negative weight"
            )


def etegrec_parallel() -> EtegrecSettings:
    """ETEGRec (arXiv 2409.05546), adapted to the parallel generator of `adc retrieve`.

    Published: an RQ-VAE of SASRec vectors, 3 x 256 codes and a suffix against collisions; a T5 of
    6 + 6 layers with token tables of its own; SIA (the mean encoder state, through the codebooks,
    should choose the target's codes; 1e-4) and PSA (the decoder's first state should be the
    target's reconstructed vector; 3e-4); epochs of tokenizer and generator in turn, 400 in all,
    without alignment in the first 10. Here: all modalities, L and K of the spec, no suffix; one
    head a position in the place of T5, so SIA takes the mean and PSA the last of the history's
    states; 2 + 4 x 2 epochs after the RQ-VAE, hence weights a thousand times larger, which were not
    tuned. Distributions favour the nearest codes; the published code has the sign turned round. The
    generator is thrown away: with codes frozen, `adc retrieve` trains another.
    """
    return EtegrecSettings()


class Recommender(nn.Module):
    """A generator, and two linear maps of its states: into the tokenizer's latent (SIA), and to the
    item's vector (PSA).
    """

    def __init__(self, generator: Generator, part: Quantiser) -> None:
        super().__init__()
        width = generator.settings.dim
        self.generator = generator
        self.to_latent = nn.Linear(width, part.books.codewords.shape[2])
        self.to_vector = nn.Linear(width, sum(part.input.widths.values()))

    def forward(self, batch: Batch, targets: Targets) -> "Views":
        states_RTD = self.generator(batch)
        earlier_RTT = (batch.users[:, :, None] == batch.users[:, None, :]).tril_().float()
        mean_RTD = earlier_RTT / earlier_RTT.sum(-1, keepdim=True) @ states_RTD
        states_PD = states_RTD[targets.wanted]
        return Views(
            states_PD,
            self.to_latent(mean_RTD[targets.wanted][targets.first]),
            self.to_vector(states_PD[targets.first]),
        )


class Views(NamedTuple):
    """states: float32 [P, width]. What the generator makes of each different target: in the latent,
    [U, D], and as the item's vector, [U, d].
    """

    states: Tensor
    latent: Tensor
    vector: Tensor


def sia(part: Quantiser, view_UD: Tensor, latent_UD: Tensor, *, literal_sign: bool) -> Tensor:
    """Symmetric KL of the codes' distributions at each position, the mean, a scalar."""
    p_ULK, q_ULK = (
        chosen(distances(part.books, vectors), literal_sign=literal_sign)
        for vectors in (latent_UD, view_UD)
    )
    return ((p_ULK.exp() - q_ULK.exp()) * (p_ULK - q_ULK)).sum(-1).mean()


def chosen(distance_ULK: Tensor, *, literal_sign: bool = False) -> Tensor:
    """Log probability of each code, the nearest the likeliest; literal_sign: the farthest."""
    return F.log_softmax(distance_ULK if literal_sign else -distance_ULK, dim=-1)


def psa(view_Ud: Tensor, vector_Ud: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE between views and reconstructed vectors, both ways, a scalar."""
    each = torch.ones(len(view_Ud), dtype=torch.bool)
    both = (
        info_nce(a, b, each, temperature=temperature).mean()
        for a, b in ((view_Ud, vector_Ud), (vector_Ud, view_Ud))
    )
    return torch.stack(list(both)).sum()


def train(
    net: AdditiveNetwork,
    union: RowUnion,
    s: EtegrecSettings,
    *,
    behavior: nn.Module | None,
    events: pa.Table | None,
    seed: int,
    progress: Progress | None,
) -> Curve:
    """Train in place; returns the training curve, a row a cycle at its end: the share of codes that
    the tokenizer's epoch changed, and the generator's loss on the new ones.
    """
    sequences = histories(union, events, tokenizer=s.tokenizer)
    curve = rq_vae.train(net, union, s, behavior=behavior, seed=seed, progress=progress)
    if not (s.sia_weight or s.psa_weight):
        return curve  # the generator would teach nothing
    (part,) = net.parts
    codes = part.books.codewords.shape[1]
    before_NL = nearest_codes(part, latents(part, union))
    turns = Turns(net, union, Recommender(generator_on(before_NL, codes, s), part), s)

    def batches(epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([seed, 6, epoch])
        return packed_batches(sequences, length=s.history, rows=s.rows, rng=rng)

    for epoch in range(s.warm_epochs):
        turns.teach_generator(batches(epoch), aligned=False)
    for cycle in range(s.cycles):
        turns.teach_tokenizer(batches(s.warm_epochs + 2 * cycle))
        now_NL = nearest_codes(part, latents(part, union))
        changed = float((now_NL != before_NL).float().mean())
        turns.recommender.generator.recode(now_NL)
        loss = turns.teach_generator(batches(s.warm_epochs + 2 * cycle + 1), aligned=True)
        facts = {"changed_codes": changed, "generation": loss, "used": used(now_NL, codes)}
        curve.append({"cycle": cycle + 1, **facts})
        logger.info("stage=%s cycle=%d facts=%s", s.tokenizer, cycle + 1, facts)
        before_NL = now_NL
        if progress:
            progress("turns", cycle + 1, s.cycles)
    return curve


class Turns:
    """Tokenizer and generator, one of which learns while the other stays as it is."""

    def __init__(
        self, net: AdditiveNetwork, union: RowUnion, recommender: Recommender, s: EtegrecSettings
    ) -> None:
        (self.part,) = net.parts
        self.union, self.recommender, self.settings = union, recommender, s
        self.learns_codes = torch.optim.AdamW(
            net.parameters(), lr=s.codes_rate, weight_decay=s.weight_decay
        )
        self.learns_items = torch.optim.AdamW(
            recommender.parameters(), lr=s.generator_rate, weight_decay=s.weight_decay
        )

    def teach_generator(self, batches: Iterator[Batch], *, aligned: bool) -> float:
        """An epoch of the generator on the codes as they are; its mean loss of generation."""
        losses = []
        for batch in batches:
            targets = targets_of(batch)
            views = self.recommender(batch, targets)
            loss = self.recommender.generator.loss(views.states, targets.items)
            losses.append(float(loss.detach()))
            if aligned:
                with torch.no_grad():
                    latent = self.part.latent(self.union.take(targets.unique.numpy()))
                    words = self.part.books.codeword(self.part.books.lookup(latent)).sum(1)
                loss = loss + self._alignment(views, latent, words)
            _step(self.learns_items, loss)
        return float(np.mean(losses))

    def teach_tokenizer(self, batches: Iterator[Batch]) -> None:
        """An epoch of the tokenizer on the targets, the generator's states as they are. The loss of
        generation reads codes alone and has no part in it, as published.
        """
        part, s = self.part, self.settings
        for batch in batches:
            targets = targets_of(batch)
            with torch.no_grad():
                views = self.recommender(batch, targets)
            rows = self.union.take(targets.unique.numpy())
            latent = part.latent(rows)
            codes = part.books.lookup(latent.detach())
            quantised, pull = rq_vae.quantise(
                part, latent, codes, part.input.known(rows), s.commitment
            )
            error = rq_vae.decoding_error(part, quantised, rows)
            alignment = self._alignment(views, latent, quantised)
            _step(self.learns_codes, pull + s.reconstruction_weight * error + alignment)

    def _alignment(self, views: Views, latent_UD: Tensor, quantised_UD: Tensor) -> Tensor:
        s = self.settings
        by_codes = sia(self.part, views.latent, latent_UD, literal_sign=s.literal_sign)
        vector = self.part.decoder(quantised_UD)
        by_vector = psa(views.vector, vector, temperature=s.temperature)
        return s.sia_weight * by_codes + s.psa_weight * by_vector


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of what this optimiser holds; what others hold is left alone."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
