"""Cosine codebooks, one a position. Reads: latents. Writes: codes and codewords.

Legend: B rows, P positions, K codes, D latent width. Latents and codewords have unit length, so
cosine and L2 lookup agree.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.processes import total
from adc_features.ranks import ALONE, Ranks

SOFTNESS = 0.04
"""Temperature of a latent's soft choice among codewords, in cosine. At 0.1 soft use was even while
hard use was not: behavioural codes of Beauty had 3.9, 3.2 and 3.8 nats of entropy, at 0.04 they
have 4.57 each, at the same reconstruction.
"""


class Codebooks(nn.Module):
    """P codebooks of K unit codewords; a code is the argmax of the cosine (ADC-SID Eq. 5, 7-9)."""

    def __init__(self, positions: int, codes: int, width: int) -> None:
        super().__init__()
        words = torch.empty(positions, codes, width)
        # a model that is being read draws nothing: to do so on "meta" would import torch's compiler
        if not words.is_meta:
            words = F.normalize(torch.randn(positions, codes, width), dim=-1)
        self.codewords = nn.Parameter(words)

    def unit(self) -> Tensor:
        """The codewords at unit length, float32 [P, K, D]: only directions are learned."""
        return F.normalize(self.codewords, dim=-1)

    def lookup(
        self, latent_BPD: Tensor, *, held_BP: Tensor | None = None, margin: float = 0.0
    ) -> Tensor:
        """The code of each latent, int64 [B, P]. Position by position, so memory stays at B x K.

        held_BP: int64 [B, P], the codes that these rows had (-1: none). A code is given up only for
        one whose cosine is greater by more than `margin`.
        """
        codes = []
        for p, words_KD in enumerate(self.unit()):
            cosine_BK = latent_BPD[:, p] @ words_KD.T
            best_B1 = cosine_BK.argmax(-1, keepdim=True)
            if held_BP is not None:
                held_B1 = held_BP[:, p : p + 1]
                lead_B1 = cosine_BK.gather(1, best_B1) - cosine_BK.gather(1, held_B1.clamp_min(0))
                best_B1 = torch.where((held_B1 >= 0) & (lead_B1 <= margin), held_B1, best_B1)
            codes.append(best_B1)
        return torch.cat(codes, dim=1)

    def codeword(self, codes_BP: Tensor) -> Tensor:
        """The codewords of these codes, float32 [B, P, D], differentiable."""
        positions, codes, width = self.codewords.shape
        offset = torch.arange(positions, device=codes_BP.device) * codes
        # F.embedding, not an index: its gradient is summed in a fixed order, so two fits with one
        # seed agree to the bit
        return F.embedding(codes_BP + offset, self.unit().reshape(positions * codes, width))

    def departure(self, latent_BPD: Tensor, held_BP: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
        """Cross-entropy of the soft choice against the codes to keep (-1: none), mean over rows,
        summed over positions: a scalar in nats.
        """
        lost = latent_BPD.new_zeros(())
        counts_P = total((held_BP >= 0).sum(0), ranks).tolist()
        for p, words_KD in enumerate(self.unit()):
            rows = held_BP[:, p] >= 0
            if counts_P[p]:
                scores_BK = latent_BPD[rows, p] @ words_KD.T / SOFTNESS
                if ranks.alone:
                    lost = lost + F.cross_entropy(scores_BK, held_BP[rows, p])
                else:
                    own = F.cross_entropy(scores_BK, held_BP[rows, p], reduction="sum")
                    lost = lost + total(own, ranks) / counts_P[p]
        return lost

    def imbalance(self, latent_BPD: Tensor, known_BP: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
        """How far soft use of the codes is from uniform: ln K minus its entropy, summed over
        positions, a scalar in nats.

        Gives latents and codewords a reason to spread;
        reviving dead codes alone leaves them crowded.
        """
        none = uneven = latent_BPD.new_zeros(())
        counts_P = total(known_BP.sum(0), ranks)
        for p, words_KD in enumerate(self.unit()):
            soft_BK = torch.softmax(latent_BPD[known_BP[:, p], p] @ words_KD.T / SOFTNESS, dim=1)
            use_K = soft_BK.mean(0) if ranks.alone else total(soft_BK.sum(0), ranks) / counts_P[p]
            uneven = uneven + math.log(len(use_K)) + torch.xlogy(use_K, use_K).sum()
        return uneven if counts_P.all() else none


@torch.no_grad()
def revive(
    codewords_PKD: Tensor,
    usage_PK: Tensor,
    latent_BPD: Tensor,
    codes_BP: Tensor,
    known_BP: Tensor,
    *,
    share: float,
    chance: torch.Generator,
) -> int:
    """Move codewords used less than `share` of the uniform rate, in place, onto latents of overused
    codes; the number moved.
    """
    moved = 0
    for p, usage in enumerate(usage_PK):
        weak = torch.nonzero(usage < share * usage.sum() / len(usage)).flatten()
        rows = torch.nonzero(known_BP[:, p]).flatten()
        weak = weak[: len(rows)]
        if len(weak):
            crowd = usage[codes_BP[rows, p]].float() + 1e-9
            chosen = rows[drawn(crowd, len(weak), chance=chance)]
            codewords_PKD[p, weak] = latent_BPD[chosen, p]
            moved += len(weak)
    return moved


def drawn(weights: Tensor, count: int, *, chance: torch.Generator) -> Tensor:
    """Places drawn by weight, none twice, int64 [count]: the same on every device."""
    places = torch.multinomial(weights.cpu(), count, replacement=False, generator=chance)
    return places.to(weights.device)


def spherical_kmeans(
    latent_ND: Tensor, codes: int, *, iterations: int = 20, chance: torch.Generator
) -> Tensor:
    """`codes` unit directions that cover these unit latents, float32 [codes, D]; empty clusters
    restart on random rows.

    Ours and not scikit-learn's: that one sums in the order its threads finish.
    """
    words = latent_ND[
        torch.randint(len(latent_ND), (codes,), generator=chance).to(latent_ND.device)
    ]
    for _ in range(iterations):
        sums, counts = cluster_sums(latent_ND, (latent_ND @ words.T).argmax(-1), codes)
        empty = counts == 0
        restart = torch.randint(len(latent_ND), (int(empty.sum()),), generator=chance)
        sums[empty] = latent_ND[restart.to(latent_ND.device)]
        words = F.normalize(sums, dim=-1)
    return words


def cluster_sums(latent_ND: Tensor, codes_N: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Sums float32 [codes, D] and counts int64 [codes] of the rows of each code, added in the order
    of the rows.
    """
    sums = latent_ND.new_zeros(codes, latent_ND.shape[1]).index_add_(0, codes_N, latent_ND)
    return sums, torch.bincount(codes_N, minlength=codes)
