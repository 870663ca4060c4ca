"""QARM: content aligned with behaviour, then residual k-means and the nearest anchors. Reads:
RowUnion. Writes: a trained QarmNetwork.

Legend: B rows, S sampled rows, L positions, R of them residual, K codes, D width of content.
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
from adc_features.tokenizer.baselines.additive import AdditiveCodebooks, JointNetwork
from adc_features.tokenizer.baselines.kmeans import kmeans, residual_codebooks
from adc_features.tokenizer.baselines.loop import Curve, Progress, optimise
from adc_features.tokenizer.model import Rows
from adc_features.tokenizer.union import RowUnion, chance_of

BLOCK = 2048


@dataclass(frozen=True)
class QarmSettings:
    """How the adapted QARM is built and trained.

    neighbours: a pair of items are each other's nearest in behaviour, among so many.
    iterations: of each k-means. Training as in RqVaeSettings; a batch counts pairs.
    """

    tokenizer: Literal["qarm"] = field(default="qarm")
    neighbours: int = 5
    temperature: float = 0.1
    iterations: int = 50
    steps: int = 600
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    reliability: Mode = "log_count"
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("neighbours", 1), ("iterations", 1), ("steps", 1), ("batch", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def qarm() -> QarmSettings:
    """QARM (arXiv 2411.11739), adapted to frozen encoders.

    Published: a multimodal LLM tuned by a contrast of item pairs (the most similar of the user's
    last 50 clicks for each click, and stable item-item neighbours), then codes of two kinds:
    residual k-means with L = 6, and the ids of the 25 nearest anchors of a fixed pool. Here: a
    linear map of the content vectors that starts as the identity is tuned, on pairs that are each
    other's nearest in behaviour, drawn by the reliability of both; the first half of the L
    positions are residual k-means, the others the nearest, second nearest ... of K anchors, items
    drawn at random.
    """
    return QarmSettings()


class QarmNetwork(JointNetwork):
    """Content -> a unit vector that was drawn to behaviour -> R residual codes and L - R anchors. A
    linear map restores content from the residual codes.
    """

    def __init__(self, widths: dict[str, int], spec: SidSpec, *, cutoffs: int) -> None:
        super().__init__(widths, cutoffs=cutoffs)
        width = sum(widths.values())
        self.ranked = spec.length // 2
        self.change = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.change.weight)
        self.books = AdditiveCodebooks(spec.length - self.ranked, spec.codebook_size, width)
        self.anchors = nn.Parameter(torch.zeros(spec.codebook_size, width))
        self.restore = nn.Linear(width, width)

    def freeze(self) -> None:
        self.books.freeze()

    def aligned(self, joint_BD: Tensor) -> Tensor:
        """Unit vectors that are near where behaviour was, float32 [B, D]."""
        return F.normalize(joint_BD + self.change(joint_BD), dim=-1)

    def codes(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Codes int64 [B, L], and whether the item has any: bool [B, L]."""
        aligned = self.aligned(self.input(rows))
        nearest = (aligned @ self.anchors.T).topk(self.ranked, dim=1).indices
        codes = torch.cat([self.books.lookup(aligned), nearest], dim=1)
        return codes, self.input.known(rows)[:, None].expand_as(codes)

    def reconstruct(self, rows: Rows) -> dict[str, Tensor]:
        """Standardised vectors of every content modality, float32 [B, d], from the codes alone."""
        codes = self.books.lookup(self.aligned(self.input(rows)))
        return self.input.split(self.restore(self.books.codeword(codes).sum(1)))


def train(
    net: QarmNetwork,
    union: RowUnion,
    s: QarmSettings,
    *,
    behavior: nn.Module,
    seed: int,
    progress: Progress | None,
) -> Curve:
    """Train in place on up to SAMPLE rows; returns the training curve. behavior: how behaviour
    vectors are standardised.
    """
    blocks = list(union.sample(chance=chance_of(seed, 3, 0)))
    known_S = torch.cat([net.input.known(rows) for rows in blocks])
    with torch.no_grad():
        joint_SD = torch.cat([net.input(rows) for rows in blocks])
        behavior_SD = torch.cat(
            [behavior(r.vectors[BEHAVIOR], r.present[BEHAVIOR], r.cutoff) for r in blocks]
        )
    warm_S = known_S & torch.cat([rows.present[BEHAVIOR] for rows in blocks])
    pairs_P2 = mutual_neighbours(
        behavior_SD, warm_S, torch.cat([rows.cutoff for rows in blocks]), count=s.neighbours
    )
    if not len(pairs_P2):
        raise InputError(
            f"qarm learns from items that are near in behaviour; none of {int(warm_S.sum())} rows"
            " with behaviour has another one at its cut-off. Give behaviour of more items"
        )
    x_S = torch.cat([rows.x for rows in blocks])
    # log_count is 0 for the rarest: they stay possible, and a table of these alone has pairs
    trust_P = x_S[pairs_P2].prod(1) + 1e-3

    # pairs are drawn from all sampled rows: a batch of the union would hold few of them
    def step(_: int, _rows: Rows, chance: torch.Generator) -> dict[str, Tensor]:
        drawn = pairs_P2[torch.multinomial(trust_P, s.batch, replacement=True, generator=chance)]
        anchor, other = (net.aligned(joint_SD[drawn[:, side]]) for side in (0, 1))
        sure = torch.ones(len(drawn), dtype=torch.bool)
        return {"pairs": info_nce(anchor, other, sure, temperature=s.temperature).mean()}

    curve = optimise(net.change.parameters(), union, s, step=step, seed=seed, progress=progress)
    with torch.no_grad():
        _set_codes(net, joint_SD[known_S], s, seed=seed)
    return curve


def mutual_neighbours(
    vectors_SD: Tensor, known_S: Tensor, group_S: Tensor, *, count: int
) -> Tensor:
    """Pairs of known rows of one group that are each among the other's `count` nearest by cosine:
    int64 [P, 2], both orders of a pair.
    """
    pairs = [torch.zeros(0, 2, dtype=torch.int64)]
    for group in torch.unique(group_S):
        rows = torch.nonzero(known_S & (group_S == group)).flatten()
        if len(rows) < 2:
            continue
        unit, own = F.normalize(vectors_SD[rows], dim=-1), torch.arange(len(rows))
        k = min(count, len(rows) - 1)
        near = torch.cat(
            [
                (unit[own[i : i + BLOCK]] @ unit.T)
                .scatter(1, own[i : i + BLOCK, None], float("-inf"))
                .topk(k, dim=1)
                .indices
                for i in range(0, len(rows), BLOCK)
            ]
        )
        forth = own.repeat_interleave(k) * len(rows) + near.flatten()
        back = near.flatten() * len(rows) + own.repeat_interleave(k)
        both = forth[torch.isin(forth, back)]
        pairs.append(rows[torch.stack([both // len(rows), both % len(rows)], dim=1)])
    return torch.cat(pairs)


def _set_codes(net: QarmNetwork, joint_SD: Tensor, s: QarmSettings, *, seed: int) -> None:
    """Codewords, anchors and the map back, from the aligned rows."""
    aligned_SD = net.aligned(joint_SD)
    levels, codes, _ = net.books.codewords.shape

    def cluster(rows: np.ndarray, codes: int, chance: int) -> np.ndarray:
        return kmeans(rows, codes, chance, iterations=s.iterations)

    words = residual_codebooks(aligned_SD.numpy(), levels, codes, cluster, seed)
    net.books.codewords.copy_(torch.from_numpy(words))
    whole = np.dtype((np.void, aligned_SD.shape[1] * aligned_SD.element_size()))
    distinct = np.unique(aligned_SD.numpy().view(whole), return_index=True)[1]  # at every cut-off
    chosen = torch.randperm(len(distinct), generator=chance_of(seed, 4, 0))[:codes]
    net.anchors.copy_(aligned_SD[torch.from_numpy(distinct)[chosen]])
    coded = net.books.codeword(net.books.lookup(aligned_SD)).sum(1)
    mean, target = coded.mean(0), joint_SD.mean(0)
    square = (coded - mean).T @ (coded - mean) + 1e-3 * len(coded) * torch.eye(len(mean)) / len(
        mean
    )
    net.restore.weight.copy_(torch.linalg.solve(square, (coded - mean).T @ (joint_SD - target)).T)
    net.restore.bias.copy_(target - net.restore.weight @ mean)
