"""The ADC-SID network. Reads: AdcSettings, rows of item vectors. Writes: latents, weights, codes
and the loss.

Source: "Taming the Long Tail" (arXiv 2510.25622). How its gaps are resolved stands in
docs/method_notes.md, which comments here name by heading ("method notes: ...").

Legend: B rows, P positions, K codes, D latent width, N behavioural experts.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from adc_features.codes.generation import Generation, adc_widths
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import ArtifactError
from adc_features.processes import total
from adc_features.ranks import ALONE, Ranks
from adc_features.tokenizer.alignment import alignment_loss, strength
from adc_features.tokenizer.codebook import Codebooks
from adc_features.tokenizer.experts import Experts, mlp
from adc_features.tokenizer.importance import (
    BehaviorGate,
    SparsityController,
)
from adc_features.tokenizer.settings import AdcSettings

__all__ = ["AdcModel", "AdcSettings", "Encoded", "Rows", "Standard", "load"]


class Rows(NamedTuple):
    """Rows as the network reads them: raw vectors float32 [B, d] and presence bool [B] per
    modality, reliability x float32 [B], the number of the cut-off that each row is as of, int64
    [B], and the codes that a new generation should keep, int64 [B, P], -1 = none.
    """

    vectors: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    x: Tensor
    cutoff: Tensor
    held_BP: Tensor | None = None

    def on(self, device: torch.device) -> "Rows":
        """The same rows on a device."""
        return Rows(
            {m: v.to(device) for m, v in self.vectors.items()},
            {m: p.to(device) for m, p in self.present.items()},
            self.x.to(device),
            self.cutoff.to(device),
            None if self.held_BP is None else self.held_BP.to(device),
        )


class Encoded(NamedTuple):
    """What the experts say of a batch: unit latents [B, P, D], raw weights [B, P], known [B, P],
    and the inputs' forms.
    """

    latent_BPD: Tensor
    weight_BP: Tensor
    known_BP: Tensor
    standard: Mapping[str, Tensor]
    projected: Mapping[str, Tensor]


class AdcModel(nn.Module):
    """Experts, gates, codebooks and decoder for a spec. The positions and widths all follow from
    the spec and the inputs.
    """

    def __init__(
        self, spec: SidSpec, widths: Mapping[str, int], settings: AdcSettings, *, cutoffs: int
    ) -> None:
        super().__init__()
        self.spec, self.settings = spec, settings
        self.widths = {m: widths[m] for m in spec.modalities}
        s, self.contents = settings, [(m, n) for m, n in spec.content.items() if n]
        self.standard = nn.ModuleDict(
            {m: Standard(d, cutoffs if m == BEHAVIOR else 1) for m, d in self.widths.items()}
        )
        self.experts = Experts(
            spec, self.widths, hidden=s.hidden, latent=s.latent, aligned=s.aligned
        )
        # one expert of a modality has weight 1 whatever the gate says, so only several have one
        # (Eq. 12-13)
        self.gates = nn.ModuleDict(
            {m: mlp(self.widths[m], s.latent, n) for m, n in spec.content.items() if n > 1}
        )
        if spec.behavior:
            self.importance = BehaviorGate(
                self.widths[BEHAVIOR],
                spec.behavior,
                hidden=s.latent,
                scale=s.gate_scale,
                alpha=s.alpha,
                beta=s.beta,
                reads=s.gate_input,
            )
        self.codebooks = Codebooks(spec.length, spec.codebook_size, s.latent)
        self.decoder = mlp(s.latent, s.hidden, sum(self.widths.values()))
        self.auxiliary = nn.ModuleDict(
            {m: nn.Linear(s.latent, d) for m, d in self.widths.items()}
            if s.auxiliary_weight
            else {}
        )

    def standard_of(self, modality: str) -> "Standard":
        """The frozen input statistics of a modality."""
        return cast(Standard, self.standard[modality])

    @property
    def target_active(self) -> float:
        """k-bar: behavioural experts that should be active for an item on average."""
        return (
            self.settings.target_active
            if self.settings.target_active is not None
            else self.spec.behavior / 2
        )

    def encode(self, rows: Rows) -> Encoded:
        """Latents and raw weights of rows; where a position's modality is absent, known is False
        and the weight 0.
        """
        standard = {
            m: scale(rows.vectors[m], rows.present[m], rows.cutoff)
            for m, scale in self.standard.items()
        }
        projected = self.experts.projections(standard)
        latent_BPD = self.experts(standard, rows.present, projected)
        anything = torch.stack([rows.present[m] for m in self.widths]).any(0)
        known = [anything] * self.spec.shared
        weight = [anything[:, None].float().expand(-1, self.spec.shared)]
        for m, n in self.contents:
            known += [rows.present[m]] * n
            gate = torch.softmax(self.gates[m](standard[m]), dim=1) if n > 1 else 1.0
            weight.append(gate * rows.present[m][:, None].float())
        if self.spec.behavior:
            known += [rows.present[BEHAVIOR]] * self.spec.behavior
            weight.append(self.importance(standard[BEHAVIOR], rows.x, rows.present[BEHAVIOR]))
        return Encoded(
            latent_BPD, torch.cat(weight, dim=1), torch.stack(known, dim=1), standard, projected
        )

    def decode(self, fused_BD: Tensor) -> dict[str, Tensor]:
        """Standardised vectors of every modality, float32 [B, d], from fused latents or codewords
        (Eq. 14).
        """
        parts = self.decoder(fused_BD).split(list(self.widths.values()), dim=1)
        return dict(zip(self.widths, parts, strict=True))

    def reconstruct(self, rows: Rows) -> dict[str, Tensor]:
        """Standardised vectors of every modality, float32 [B, d], from codes and weights alone."""
        encoded = self.encode(rows)
        words_BPD = self.codebooks.codeword(self.codebooks.lookup(encoded.latent_BPD))
        return self.decode((encoded.weight_BP[:, :, None] * words_BPD).sum(1))

    def loss(
        self,
        rows: Rows,
        encoded: Encoded,
        codeword_BPD: Tensor | None,
        sparsity: SparsityController | None,
        *,
        ranks: Ranks = ALONE,
    ) -> dict[str, Tensor]:
        """The terms of L = l_r L_recon + l_a L_align + l_q L_vq + L_reg, weighted (method notes:
        The total loss); codeword None = not quantised yet. ranks: of the processes that hold the
        rows of the batch, all of which get the batch's terms, and gradients of their own part.
        """
        s, terms = self.settings, {}
        z = (encoded.weight_BP[:, :, None] * encoded.latent_BPD).sum(1)
        if codeword_BPD is not None:
            zq = (encoded.weight_BP[:, :, None] * codeword_BPD).sum(1)
            terms["vq"] = s.vq_weight * self._vq(encoded, codeword_BPD, ranks)
            # Eq. 14: the decoder reads codewords, the gradient passes to the latents
            z = z + (zq - z).detach()
        errors = [
            _masked_mean((guess - encoded.standard[m]).square().mean(1), rows.present[m], ranks)
            for m, guess in self.decode(z).items()
        ]
        # every modality counts alike: weighted by width, 64 behaviour dims beside 768 of text let
        # all behavioural gates die
        terms["reconstruction"] = s.reconstruction_weight * torch.stack(errors).mean()
        if s.alignment_weight:
            w = strength(rows.x, s.alpha, s.beta)
            aligned = alignment_loss(
                encoded.projected, rows.present, w, temperature=s.temperature, ranks=ranks
            )
            terms["alignment"] = s.alignment_weight * aligned
        if sparsity is not None:
            terms["sparsity"] = sparsity.penalty(
                encoded.weight_BP[:, -self.spec.behavior :], rows.present[BEHAVIOR], ranks=ranks
            )
        if codeword_BPD is not None and s.balance_weight:
            terms["balance"] = s.balance_weight * self.codebooks.imbalance(
                encoded.latent_BPD, encoded.known_BP, ranks=ranks
            )
        if s.orthogonality_weight:
            terms["orthogonality"] = s.orthogonality_weight * _overlap(
                encoded.latent_BPD, encoded.known_BP, ranks
            )
        if s.auxiliary_weight:
            terms["auxiliary"] = s.auxiliary_weight * self._auxiliary(encoded, ranks)
        return terms

    def _vq(self, encoded: Encoded, codeword_BPD: Tensor, ranks: Ranks) -> Tensor:
        """Codewords follow latents and latents commit to codewords, both on the unit sphere, summed
        over positions (method notes: How codebooks learn).

        Eq. 14 alone gives codebooks no gradient at all.
        """
        latent, s = encoded.latent_BPD, self.settings
        commit = ((latent - codeword_BPD.detach()) ** 2).sum(-1)
        follow = ((latent.detach() - codeword_BPD) ** 2).sum(-1)
        pull = _masked_mean(follow + s.commitment * commit, encoded.known_BP, ranks)
        return pull * self.spec.length

    def _auxiliary(self, encoded: Encoded, ranks: Ranks) -> Tensor:
        """Each modality read back from its own experts alone (method notes: Terms of MMQ)."""
        terms = []
        for m in self.auxiliary:
            own = [i for i, p in enumerate(self.spec.positions) if p.modality == m]
            if own:
                z = encoded.latent_BPD[:, own].mean(1)
                known = encoded.known_BP[:, own[:1]]
                terms.append(
                    _masked_mean(
                        (self.auxiliary[m](z) - encoded.standard[m]) ** 2,
                        known.expand(-1, self.widths[m]),
                        ranks,
                    )
                )
        return torch.stack(terms).mean() if terms else encoded.latent_BPD.new_zeros(())


class Standard(nn.Module):
    """A modality's vectors minus a mean, over one scale: mean squared length becomes the width.
    Absent rows become 0.

    Behaviour has a mean and a scale for each cut-off of the fit, because a SASRec that trains on
    grows and shifts (method notes: Several cut-offs).
    """

    center: Tensor
    spread: Tensor

    def __init__(self, width: int, cutoffs: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(cutoffs, width))
        self.register_buffer("spread", torch.ones(cutoffs))

    def forward(self, vectors: Tensor, present: Tensor, cutoff: Tensor) -> Tensor:
        center, spread = (
            (self.center[cutoff], self.spread[cutoff, None])
            if len(self.center) > 1
            else (self.center, self.spread)
        )
        return torch.where(present[:, None], (vectors - center) / spread, 0.0)


def load(generation: Generation) -> AdcModel:
    """The frozen network of a generation, ready to encode. Raises ArtifactError when another
    tokenizer wrote it.
    """
    if generation.tokenizer != "adc":
        raise ArtifactError(
            f"generation {generation.id!r} was written by tokenizer {generation.tokenizer!r};"
            " expected 'adc', encode it with its own tokenizer"
        )
    # no random numbers are drawn for parameters that are about to be replaced
    with torch.device("meta"):
        model = AdcModel(
            generation.spec,
            adc_widths(generation),
            AdcSettings.from_dict(generation.settings["adc"]),
            cutoffs=len(generation.settings["cutoffs"]),
        )
    model.load_state_dict(
        {name: torch.tensor(array) for name, array in generation.tensors.items()}, assign=True
    )
    return model.eval().requires_grad_(False)


def _masked_mean(values: Tensor, known: Tensor, ranks: Ranks) -> Tensor:
    summed = total(torch.where(known, values, 0.0).sum(), ranks)
    return summed / total(known.sum(), ranks).clamp_min(1)


def _overlap(latent_BPD: Tensor, known_BP: Tensor, ranks: Ranks) -> Tensor:
    """Mean squared cosine between the latents of different experts of one item (MMQ's
    orthogonality; method notes: Terms of MMQ).
    """
    cosine_BPP = latent_BPD @ latent_BPD.transpose(1, 2)
    same_PP = torch.eye(known_BP.shape[1], dtype=torch.bool, device=known_BP.device)
    pairs = known_BP[:, :, None] & known_BP[:, None, :] & ~same_PP
    return _masked_mean(cosine_BPP**2, pairs, ranks)
