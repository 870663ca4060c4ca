"""UniSID adapted to frozen encoders: one head a level, no residual chain. Reads: RowUnion. Writes:
a trained HeadNetwork.

Legend: B rows, L levels, K codes, D trunk width.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.codes.reliability import Mode
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.alignment import info_nce
from adc_features.tokenizer.baselines.additive import AdditiveCodebooks, JointNetwork, tower
from adc_features.tokenizer.baselines.guidance import nearest_in_behavior
from adc_features.tokenizer.baselines.kmeans import kmeans, residual_codebooks
from adc_features.tokenizer.baselines.loop import Curve, Progress, masked_mean, optimise
from adc_features.tokenizer.end_to_end.losses import unevenness
from adc_features.tokenizer.model import Rows
from adc_features.tokenizer.union import RowUnion, chance_of

BRANCHES = 4
"""Groups that each group of content vectors splits into at the next level."""


@dataclass(frozen=True)
class UniSidSettings:
    """How the adapted UniSID is built and trained.

    Network: hidden layers of the trunk, its width D. Loss: weights of reconstruction and of the
    entropy of mean use, temperature of the contrastive terms. Training as in RqVaeSettings; the
    published batch of 512, twice as often.
    """

    tokenizer: Literal["unisid"] = field(default="unisid")
    hidden: tuple[int, ...] = (512,)
    trunk: int = 256
    reconstruction_weight: float = 0.1
    entropy_weight: float = 1.0
    temperature: float = 0.1
    steps: int = 1200
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    reliability: Mode = "log_count"
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.steps < 1 or self.batch < 2:
            raise InputError(
                f"steps and batch are {self.steps} and {self.batch}; expected at least 1 and 2"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def unisid() -> UniSidSettings:
    """UniSID (arXiv 2602.10445), an adaptation to frozen encoders: content vectors instead of a
    multimodal LLM over raw items.

    Published: Qwen2.5-VL-3B with L = 3 SID tokens of 2,048 codes and an embedding token; at level l
    the positives of a contrast of logits share the category path to depth l; InfoNCE of the
    embedding over item pairs; a frozen LLM must write the item's summary from both (0.1). Here: a
    trunk of two layers with L heads of K logits and an embedding head; the tables know no
    categories, so the path is a nested clustering of content, 4 ways a level; pairs are nearest
    items in behaviour; instead of the summary the codes and the embedding restore the content
    vectors (0.1); the entropy of the batch's mean use is raised, because nothing else keeps codes
    in use.
    """
    return UniSidSettings()


class HeadNetwork(JointNetwork):
    """Content -> trunk -> L heads of K logits; a code is the largest logit. Codewords and a decoder
    restore content from codes.
    """

    def __init__(
        self, widths: dict[str, int], spec: SidSpec, s: UniSidSettings, *, cutoffs: int
    ) -> None:
        super().__init__(widths, cutoffs=cutoffs)
        self.length, self.size = spec.length, spec.codebook_size
        self.trunk = nn.Sequential(tower([sum(widths.values()), *s.hidden, s.trunk]), nn.ReLU())
        self.heads = nn.Linear(s.trunk, spec.length * spec.codebook_size)
        self.embedding = nn.Linear(s.trunk, s.trunk)
        self.restore = nn.Linear(spec.length * spec.codebook_size, sum(widths.values()))

    def freeze(self) -> None:
        """Nothing to prepare."""

    def logits(self, trunk_BD: Tensor) -> Tensor:
        """float32 [B, L, K]."""
        return self.heads(trunk_BD).unflatten(1, (self.length, self.size))

    def codes(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Codes int64 [B, L], and whether the item has any: bool [B, L]."""
        codes = self.logits(self.trunk(self.input(rows))).argmax(-1)
        return codes, self.input.known(rows)[:, None].expand_as(codes)

    def decode(self, chosen_BLK: Tensor) -> dict[str, Tensor]:
        """Standardised vectors from one-hot (or straight-through) codes, float32 [B, d]."""
        return self.input.split(self.restore(chosen_BLK.flatten(1)))

    def reconstruct(self, rows: Rows) -> dict[str, Tensor]:
        """Standardised vectors of every content modality, float32 [B, d], from the codes alone."""
        return self.decode(F.one_hot(self.codes(rows)[0], self.size).float())


def train(
    net: HeadNetwork,
    union: RowUnion,
    s: UniSidSettings,
    *,
    behavior: nn.Module | None,
    seed: int,
    progress: Progress | None,
) -> Curve:
    """Train in place; returns the training curve. behavior: how behaviour vectors are standardised,
    None without behaviour.
    """
    paths = _paths(net, union, seed=seed)

    def step(_: int, rows: Rows, chance: torch.Generator) -> dict[str, Tensor]:
        known, trunk = net.input.known(rows), net.trunk(net.input(rows))
        logits_BLK = net.logits(trunk)
        soft_BLK = torch.softmax(logits_BLK, dim=-1)
        hard_BLK = F.one_hot(logits_BLK.argmax(-1), net.size).float()
        with torch.no_grad():
            path_BL = paths.lookup(net.input(rows))
        terms = {
            "contrast": _multi_granular(
                logits_BLK[known], path_BL[known], temperature=s.temperature
            )
        }
        if behavior is not None:
            warm = rows.present[BEHAVIOR]
            neighbour, has = nearest_in_behavior(
                behavior(rows.vectors[BEHAVIOR], warm, rows.cutoff), warm, rows.cutoff
            )
            embedding = net.embedding(trunk)
            terms["pairs"] = info_nce(
                embedding, embedding[neighbour], known & has, temperature=s.temperature
            ).mean()
        guesses = net.decode(soft_BLK + (hard_BLK - soft_BLK).detach())
        errors = [
            masked_mean(
                (guess - net.input.standard[m](rows.vectors[m], rows.present[m], rows.cutoff))
                .square()
                .mean(1),
                rows.present[m],
            )
            for m, guess in guesses.items()
        ]
        terms["reconstruction"] = s.reconstruction_weight * torch.stack(errors).sum()
        terms["evenness"] = s.entropy_weight * unevenness(logits_BLK[known])
        return terms

    return optimise(net.parameters(), union, s, step=step, seed=seed, progress=progress)


def _paths(net: HeadNetwork, union: RowUnion, *, seed: int) -> AdditiveCodebooks:
    """Nested groups of content, in place of category paths: the codes of a residual k-means of
    BRANCHES codes a level.
    """
    with torch.no_grad():
        rows = np.concatenate(
            [
                net.input(r)[net.input.known(r)].numpy()
                for r in union.sample(chance=chance_of(seed, 3, 0))
            ]
        )
    words = residual_codebooks(rows, net.length, BRANCHES, kmeans, seed)
    books = AdditiveCodebooks(net.length, BRANCHES, words.shape[2]).requires_grad_(False)
    books.codewords.copy_(torch.from_numpy(words))
    books.freeze()
    return books


def _multi_granular(logits_BLK: Tensor, path_BL: Tensor, *, temperature: float) -> Tensor:
    """Mean over levels and rows of minus the mean log-softmax, over the batch's other rows, of
    those on the same path so far (L_sid).
    """
    rows, levels = path_BL.shape
    other = ~torch.eye(rows, dtype=torch.bool)
    together, losses = other, []
    for level in range(levels):
        unit = F.normalize(logits_BLK[:, level], dim=-1)
        together = together & (path_BL[:, level, None] == path_BL[:, level])
        score = (unit @ unit.T / temperature).masked_fill(~other, float("-inf"))
        agreed = torch.where(together, F.log_softmax(score, dim=1), 0.0).sum(1) / together.sum(
            1
        ).clamp_min(1)
        losses.append(-masked_mean(agreed, together.any(1)))
    return torch.stack(losses).mean()
