"""A vector as a sum of codewords, one a position. Reads: rows of item vectors. Writes: codes, and
the vectors again.

One network for every baseline whose codes add up: RQ-KMeans and OPQ code the vectors themselves,
the RQ-VAEs a latent of them. Legend: B rows, L positions, K codes, D width of what is coded.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.codes.spec import BEHAVIOR
from adc_features.tokenizer.model import Rows, Standard


class JointInput(nn.Module):
    """Modalities side by side, float32 [B, D]: each standardised and over the root of its width, so
    that all count alike.

    An absent modality enters as zeros, the mean of the fit: that is what a cold item's behaviour
    is, and it has every code.
    """

    def __init__(self, widths: Mapping[str, int], *, cutoffs: int) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.standard = nn.ModuleDict(
            {m: Standard(d, cutoffs if m == BEHAVIOR else 1) for m, d in widths.items()}
        )

    def forward(self, rows: Rows) -> Tensor:
        return torch.cat(
            [
                scale(rows.vectors[m], rows.present[m], rows.cutoff) / math.sqrt(self.widths[m])
                for m, scale in self.standard.items()
            ],
            dim=1,
        )

    def split(self, joint_BD: Tensor) -> dict[str, Tensor]:
        """Standardised vectors of every modality, float32 [B, d], from vectors side by side."""
        parts = joint_BD.split(list(self.widths.values()), dim=1)
        return {
            m: part * math.sqrt(d) for (m, d), part in zip(self.widths.items(), parts, strict=True)
        }

    def known(self, rows: Rows) -> Tensor:
        """bool [B]: is any of the modalities present?"""
        return torch.stack([rows.present[m] for m in self.widths]).any(0)


class JointNetwork(nn.Module):
    """A network that reads all its modalities side by side."""

    def __init__(self, widths: Mapping[str, int], *, cutoffs: int) -> None:
        super().__init__()
        self.input = JointInput(widths, cutoffs=cutoffs)

    @property
    def widths(self) -> dict[str, int]:
        return self.input.widths

    def standard_of(self, modality: str) -> Standard:
        """The frozen input statistics of a modality."""
        return cast(Standard, self.input.standard[modality])


class AdditiveCodebooks(nn.Module):
    """L codebooks of K codewords; position l codes what the codewords before it left (of nothing,
    where codebooks are orthogonal).
    """

    def __init__(self, positions: int, codes: int, width: int) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.zeros(positions, codes, width))
        self.between: Tensor | None = None

    def freeze(self) -> None:
        """Keep the codewords' inner products, once they no longer change."""
        words = self.codewords.detach().flatten(0, 1)
        self.between = words @ words.T

    def lookup(self, vectors_BD: Tensor) -> Tensor:
        """The nearest codeword to the residual at each position, int64 [B, L].

        The residual is never built: |r - c|^2 = |r|^2 - 2 x.c + 2 (c_1 + ... + c_{l-1}).c + |c|^2,
        so one product with all codewords and a table of the codewords' own products are enough.
        """
        positions, codes, _ = self.codewords.shape
        words = self.codewords.flatten(0, 1)
        between = words @ words.T if self.between is None else self.between
        score = vectors_BD @ words.T - between.diagonal() / 2
        chosen = []
        for p in range(positions):
            chosen.append(score[:, p * codes : (p + 1) * codes].argmax(1))
            later = (p + 1) * codes
            if p + 1 < positions:
                score[:, later:] -= F.embedding(p * codes + chosen[p], between[:, later:])
        return torch.stack(chosen, dim=1)

    def codeword(self, codes_BL: Tensor) -> Tensor:
        """The codewords of these codes, float32 [B, L, D], differentiable."""
        positions, codes, width = self.codewords.shape
        return F.embedding(
            codes_BL + torch.arange(positions) * codes,
            self.codewords.reshape(positions * codes, width),
        )


class Quantiser(nn.Module):
    """Modalities -> a latent -> L codes -> the modalities again. Without `hidden` the latent is the
    input itself.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        cutoffs: int,
        positions: int,
        codes: int,
        hidden: Sequence[int] = (),
        latent: int = 0,
    ) -> None:
        super().__init__()
        self.input = JointInput(widths, cutoffs=cutoffs)
        sizes = [sum(widths.values()), *hidden, latent] if latent else []
        self.encoder, self.decoder = tower(sizes), tower(sizes[::-1])
        self.books = AdditiveCodebooks(positions, codes, latent or sum(widths.values()))

    def latent(self, rows: Rows) -> Tensor:
        return self.encoder(self.input(rows))

    def decode(self, latent_BD: Tensor) -> dict[str, Tensor]:
        """Standardised vectors of every modality, float32 [B, d]."""
        return self.input.split(self.decoder(latent_BD))


class AdditiveNetwork(nn.Module):
    """One quantiser over all its modalities together, or one for each; their codes side by side."""

    def __init__(self, quantisers: Sequence[Quantiser]) -> None:
        super().__init__()
        self.quantisers = nn.ModuleList(quantisers)

    @property
    def parts(self) -> list[Quantiser]:
        return cast(list[Quantiser], list(self.quantisers))

    @property
    def widths(self) -> dict[str, int]:
        return {m: d for part in self.parts for m, d in part.input.widths.items()}

    def standard_of(self, modality: str) -> Standard:
        """The frozen input statistics of a modality."""
        return cast(
            Standard,
            next(
                part.input.standard[modality]
                for part in self.parts
                if modality in part.input.widths
            ),
        )

    def freeze(self) -> None:
        for part in self.parts:
            part.books.freeze()

    def codes(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Codes int64 [B, L], and whether the position has one: bool [B, L], False where nothing
        that it reads is present.
        """
        codes = [part.books.lookup(part.latent(rows)) for part in self.parts]
        known = [
            part.input.known(rows)[:, None].expand_as(c)
            for part, c in zip(self.parts, codes, strict=True)
        ]
        return torch.cat(codes, dim=1), torch.cat(known, dim=1)

    def reconstruct(self, rows: Rows) -> dict[str, Tensor]:
        """Standardised vectors of every modality, float32 [B, d], from the codes alone."""
        out: dict[str, Tensor] = {}
        for part in self.parts:
            out |= part.decode(part.books.codeword(part.books.lookup(part.latent(rows))).sum(1))
        return out


def tower(sizes: Sequence[int]) -> nn.Module:
    """Linear layers of these sizes with ReLU between them; no size, no layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]) if layers else nn.Identity()
