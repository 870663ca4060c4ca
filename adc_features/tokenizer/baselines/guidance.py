"""What pulls at an RQ-VAE's latents besides reconstruction. Reads: rows, quantised latents, codes.
Writes: loss terms.

Legend: B rows, L positions, K codes, D latent width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.codes.spec import BEHAVIOR
from adc_features.tokenizer.alignment import info_nce
from adc_features.tokenizer.baselines.additive import AdditiveNetwork
from adc_features.tokenizer.baselines.kmeans import balanced_groups
from adc_features.tokenizer.baselines.loop import masked_mean
from adc_features.tokenizer.model import Rows

GROUPS = 10
"""Groups that LETTER clusters a codebook into."""


class Seen(NamedTuple):
    """A step's batch. latents: [B, D] of each quantiser, its codewords' sum straight-through once
    there are codes [B, L].

    behavior: standardised vectors [B, d], zeros where absent; known: bool [B], what each quantiser
    reads is present.
    """

    rows: Rows
    known: Sequence[Tensor]
    latents: Sequence[Tensor]
    codes: Sequence[Tensor] | None
    behavior: Tensor
    chance: torch.Generator


class Guidance(nn.Module):
    """The terms of one method; `new_epoch` runs once codes exist and then once an epoch."""

    def new_epoch(self, net: AdditiveNetwork, *, seed: int) -> None:
        """Nothing, unless a method clusters its codebooks."""

    def forward(self, net: AdditiveNetwork, seen: Seen) -> dict[str, Tensor]:
        """Loss terms by name."""
        raise NotImplementedError


class Unguided(Guidance):
    """RQ-VAE: reconstruction is all."""

    def forward(self, *_: object) -> dict[str, Tensor]:
        return {}


class Letter(Guidance):
    """Collaborative and diversity regularisation of LETTER; the diversity weight is relative to the
    collaborative one's.
    """

    def __init__(self, behavior: int, latent: int, *, diversity: float) -> None:
        super().__init__()
        self.join = nn.Linear(latent, behavior, bias=False)
        self.diversity, self.groups_LK = diversity, torch.zeros(0, 0, dtype=torch.int64)

    def new_epoch(self, net: AdditiveNetwork, *, seed: int) -> None:
        """Cluster the codewords of each level into groups of equal size."""
        books = net.parts[0].books.codewords.detach().numpy()
        groups = min(GROUPS, books.shape[1] // 2)
        self.groups_LK = torch.stack(
            [
                torch.from_numpy(balanced_groups(words, groups, seed + level)[1])
                for level, words in enumerate(books)
            ]
        )

    def forward(self, net: AdditiveNetwork, seen: Seen) -> dict[str, Tensor]:
        known = torch.nonzero(seen.rows.present[BEHAVIOR] & seen.known[0]).flatten()
        score_BB = self.join(seen.latents[0][known]) @ seen.behavior[known].T
        terms = {
            "collaborative": (
                F.cross_entropy(score_BB, torch.arange(len(known)))
                if len(known)
                else torch.zeros(())
            )
        }
        if seen.codes is not None:
            terms["diversity"] = self.diversity * self._diversity(
                net.parts[0].books.codewords, seen.codes[0], seen.chance
            )
        return terms

    def _diversity(
        self, codewords_LKD: Tensor, codes_BL: Tensor, chance: torch.Generator
    ) -> Tensor:
        """Each chosen codeword is drawn to another one of its group, against all others."""
        losses = []
        for words_KD, code_B, group_K in zip(
            codewords_LKD, codes_BL.T, self.groups_LK, strict=True
        ):
            friend_KK = (group_K[:, None] == group_K) & ~torch.eye(len(group_K), dtype=torch.bool)
            friend_B = torch.multinomial(friend_KK[code_B].float(), 1, generator=chance).flatten()
            score_BK = F.embedding(code_B, words_KD) @ words_KD.T
            losses.append(
                F.cross_entropy(score_BK.scatter(1, code_B[:, None], float("-inf")), friend_B)
            )
        return torch.stack(losses).mean()


class Debiased(Guidance):
    """DAS, item side: alignment with the part of behaviour that popularity does not explain, and
    with that of the nearest item.
    """

    def __init__(self, behavior: int, latent: int, *, temperature: float) -> None:
        super().__init__()
        self.property, self.popularity = nn.Linear(behavior, latent), nn.Linear(behavior, latent)
        self.restore, self.tell = nn.Linear(2 * latent, behavior), nn.Linear(latent, 1)
        self.temperature = temperature

    def forward(self, net: AdditiveNetwork, seen: Seen) -> dict[str, Tensor]:
        rows, behavior, latent = seen.rows, seen.behavior, seen.latents[0]
        warm = rows.present[BEHAVIOR]
        both, own, popular = (
            warm & seen.known[0],
            self.property(behavior),
            self.popularity(behavior),
        )
        restored = (self.restore(torch.cat([own, popular], dim=1)) - behavior).square().mean(1)
        told = (self.tell(popular).flatten() - rows.x).square()
        overlap = F.cosine_similarity(own, popular, dim=1).square()
        neighbour, has = nearest_in_behavior(behavior, warm, rows.cutoff)
        return {
            "behavior": masked_mean(restored + told + overlap, warm),
            "alignment": info_nce(latent, own, both, temperature=self.temperature).mean(),
            "neighbours": (
                info_nce(latent, own[neighbour], both & has, temperature=self.temperature).mean()
            ),
        }


class CrossModal(Guidance):
    """MM-RQ-VAE: InfoNCE between quantised behaviour and each quantised content."""

    def __init__(self, modalities: Sequence[str], *, temperature: float) -> None:
        super().__init__()
        self.modalities, self.temperature = list(modalities), temperature

    def forward(self, net: AdditiveNetwork, seen: Seen) -> dict[str, Tensor]:
        by_name = dict(zip(self.modalities, seen.latents, strict=True))
        behavioral = by_name.pop(BEHAVIOR)
        present = seen.rows.present
        losses = [
            info_nce(
                behavioral, z, present[BEHAVIOR] & present[m], temperature=self.temperature
            ).mean()
            for m, z in by_name.items()
        ]
        return {"alignment": torch.stack(losses).sum()} if losses else {}


def nearest_in_behavior(behavior: Tensor, warm: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
    """The other row of the batch with the greatest cosine, of the same cut-off: (row int64 [B], has
    one bool [B]).

    Of the same cut-off, because the nearest to an item
    in a batch of several cut-offs is the item itself.
    """
    unit = F.normalize(behavior, dim=-1)
    allowed = (
        warm[:, None] & warm & (cutoff[:, None] == cutoff) & ~torch.eye(len(warm), dtype=torch.bool)
    )
    cosine = torch.where(allowed, unit @ unit.T, float("-inf"))
    return cosine.argmax(1), allowed.any(1)
