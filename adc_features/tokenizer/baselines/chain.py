"""Codewords that add up to a vector: the best few at each position, what is kept between
snapshots, and how likely a code is right. Reads: vectors. Writes: codes and probabilities.

Legend: B rows, n positions of the chain, K codes, D width, W ways that a search keeps open, S
draws.
"""

import numpy as np
import torch
from torch import Tensor, nn

from adc_features.codes.spec import NO_CODE
from adc_features.tokenizer.baselines.kmeans import kmeans, residual_codebooks
from adc_features.tokenizer.baselines.latent import wide

JOINT_ROUNDS = 6
PART = 1024
"""Rows that are searched at once, which bounds what a search holds."""


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + PART) for start in range(0, max(rows, 1), PART)]


class Chain(nn.Module):
    """n codebooks of K codewords [n, K, D], coarse to fine, of vectors of one kind.

    tau: mean squared distance between a vector of the fit and its codewords. chance: the
    probability of a code at each position, by the number of draws that agree with it
    [n, S + 1]. second_chance: that of a second code, by the number of draws that have it
    [n, S + 1]; of chains that tell second codes.
    """

    words: Tensor
    tau: Tensor
    chance: Tensor
    second_chance: Tensor

    def __init__(
        self, positions: int, codes: int, width: int, *, draws: int, second: bool = False
    ) -> None:
        super().__init__()
        self.codes = codes
        self.columns_nDK = self.half_nK = torch.empty(0)
        self.register_buffer("words", torch.zeros(positions, codes, width))
        self.register_buffer("tau", torch.zeros(()))
        share = (torch.arange(draws + 1) + 0.5) / (draws + 1)
        self.register_buffer("chance", share.repeat(positions, 1))
        if second:
            self.register_buffer("second_chance", torch.zeros(positions, draws + 1))

    def __len__(self) -> int:
        return len(self.words)

    def freeze(self) -> None:
        """Lay the codewords out for products: [n, D, K'] and half their squared lengths [n, K'],
        infinite where K' fills K up.
        """
        positions, codes, width = self.words.shape
        columns = torch.zeros(positions, width, wide(codes))
        columns[:, :, :codes] = self.words.transpose(1, 2)
        half = torch.full((positions, wide(codes)), torch.inf)
        half[:, :codes] = self.words.square().sum(2) / 2
        self.columns_nDK, self.half_nK = columns, half

    def word(self, position: int, codes: Tensor) -> Tensor:
        """Codewords of codes of any shape, [..., D]."""
        return nn.functional.embedding(codes, self.words[position])

    def sum(self, codes_Bn: Tensor) -> Tensor:
        """What codes stand for, [B, D]."""
        return torch.stack([self.word(p, codes_Bn[:, p]) for p in range(len(self))], dim=0).sum(0)

    def search(self, vectors_BD: Tensor, *, ways: int) -> Tensor:
        """The codes whose sum is nearest, int64 [B, n], as a beam search of `ways` finds them."""
        return torch.cat(
            [self._search(vectors_BD[part], ways=ways) for part in _parts(len(vectors_BD))]
        )

    def _search(self, vectors_BD: Tensor, *, ways: int) -> Tensor:
        rows, width = vectors_BD.shape
        left_BWD, cost_BW = vectors_BD[:, None], torch.zeros(rows, 1, dtype=vectors_BD.dtype)
        found_BWn = torch.zeros(rows, 1, 0, dtype=torch.int64)
        for p in range(len(self)):
            gain = left_BWD.reshape(-1, width) @ self.columns_nDK[p] - self.half_nK[p]
            cost = cost_BW[:, :, None] - gain.view(rows, left_BWD.shape[1], -1)
            columns = cost.shape[2]
            last = p + 1 == len(self)
            keep = 1 if last else min(ways, left_BWD.shape[1] * self.codes)
            if keep == 1:
                cost_BW, place = cost.flatten(1).min(1, keepdim=True)
            else:
                cost_BW, place = cost.flatten(1).topk(keep, largest=False)
            way, code = place // columns, place % columns
            found_BWn = torch.cat(
                [found_BWn.gather(1, way[:, :, None].expand(-1, -1, p)), code[:, :, None]], dim=2
            )
            if not last:
                left_BWD = left_BWD.gather(1, way[:, :, None].expand(-1, -1, width)) - self.word(
                    p, code
                )
        return found_BWn[:, 0]

    def hold(self, vectors_BD: Tensor, best_Bn: Tensor, held_Bn: Tensor, *, slack: float) -> Tensor:
        """The held codes (-1 where none: the best one stands there), of which one after the other
        is exchanged, the one and for the code that help most, while an exchange saves more than
        slack * tau of squared distance; the best codes, where they save more than that by each
        code in which they differ.
        """
        start_Bn = torch.where(held_Bn == NO_CODE, best_Bn, held_Bn)
        toll, codes_Bn = slack * self.tau, start_Bn
        columns, places = self.half_nK.shape[1], torch.arange(len(self))
        own_BnK = nn.functional.one_hot(start_Bn, columns).to(vectors_BD.dtype)
        for _ in range(2 * len(self)):
            left_BnD = self._without_each(vectors_BD, codes_Bn)
            cost_BnK = left_BnD.square().sum(2)[:, :, None] - 2 * self._scores(left_BnD)
            others_Bn = (codes_Bn != start_Bn).sum(1, keepdim=True) - (codes_Bn != start_Bn).long()
            cost_BnK += toll * (others_Bn[:, :, None] + 1 - own_BnK)
            least_B1, change_B1 = cost_BnK.flatten(1).min(1, keepdim=True)
            exchanged_Bn = torch.where(
                places == change_B1 // columns, change_B1 % columns, codes_Bn
            )
            helps_B1 = least_B1 < self._total(vectors_BD, codes_Bn, start_Bn, toll)
            if not (helps_B1 & (exchanged_Bn != codes_Bn)).any():
                break
            codes_Bn = torch.where(helps_B1, exchanged_Bn, codes_Bn)
        better_B1 = self._total(vectors_BD, best_Bn, start_Bn, toll) < self._total(
            vectors_BD, codes_Bn, start_Bn, toll
        )
        return torch.where(better_B1, best_Bn, codes_Bn)

    def _total(
        self, vectors_BD: Tensor, codes_Bn: Tensor, start_Bn: Tensor, toll: Tensor
    ) -> Tensor:
        """Squared distance and the toll of what was exchanged, [B, 1]."""
        distance_B = (vectors_BD - self.sum(codes_Bn)).square().sum(1)
        return (distance_B + toll * (codes_Bn != start_Bn).sum(1))[:, None]

    def _without_each(self, vectors_BD: Tensor, codes_Bn: Tensor) -> Tensor:
        """What is left of vectors without the codeword of one position each, [B, n, D]."""
        words = [self.word(p, codes_Bn[:, p]) for p in range(len(self))]
        return (vectors_BD - self.sum(codes_Bn))[:, None] + torch.stack(words, dim=1)

    def _scores(self, left_BnD: Tensor) -> Tensor:
        """Product of every codeword with what is left at its position, less half its squared
        length: largest for the nearest, [B, n, K'].
        """
        scores = [left_BnD[:, p] @ self.columns_nDK[p] for p in range(len(self))]
        return torch.stack(scores, dim=1) - self.half_nK

    def agreeing(self, vectors_BD: Tensor, codes_Bn: Tensor, noise_SBD: Tensor) -> Tensor:
        """How many draws agree with the codes up to each position, int64 [B, n].

        A draw is the vector with noise. It agrees at a position when the code is the nearest, the
        other positions as they are; a code after one that a draw contradicts says little, so
        agreement ends there.
        """
        return torch.cat(
            [
                self._agreeing(vectors_BD[part], codes_Bn[part], noise_SBD[:, part])
                for part in _parts(len(vectors_BD))
            ]
        )

    def _agreeing(self, vectors_BD: Tensor, codes_Bn: Tensor, noise_SBD: Tensor) -> Tensor:
        still_BK = self._scores(self._without_each(vectors_BD, codes_Bn)).flatten(1)
        flat_DK, score_BK = self.columns_nDK.transpose(0, 1).flatten(1), torch.empty_like(still_BK)
        count_Bn = torch.zeros(codes_Bn.shape, dtype=torch.int64)
        for noise_BD in noise_SBD:
            torch.addmm(still_BK, noise_BD, flat_DK, out=score_BK)
            score_BnK = score_BK.view(len(codes_Bn), len(self), -1)
            own_Bn = score_BnK.gather(2, codes_Bn[:, :, None])[:, :, 0]
            count_Bn += (own_Bn >= score_BnK.amax(2)).long().cumprod(1)
        return count_Bn

    def rivals(
        self, vectors_BD: Tensor, codes_Bn: Tensor, noise_SBD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The code that most draws have where they have another than this one, the lowest of
        several, and how many have it: int64 [B, n]; -1 and 0 where no draw has another.

        Each draw is coded anew, by the nearest codeword of one position after the other: a code
        that changes early changes those after it, as noise in the item's vectors would.
        """
        drawn_SBn = torch.stack([self.search(vectors_BD + noise, ways=1) for noise in noise_SBD])
        other_SBn = drawn_SBn != codes_Bn
        votes_SBn = (drawn_SBn[:, None] == drawn_SBn).sum(1)
        rank_SBn = (votes_SBn * self.codes - drawn_SBn).masked_fill(~other_SBn, -self.codes)
        best_Bn = rank_SBn.argmax(0, keepdim=True)
        code_Bn, votes_Bn = (each.gather(0, best_Bn)[0] for each in (drawn_SBn, votes_SBn))
        some_Bn = other_SBn.any(0)
        return torch.where(some_Bn, code_Bn, NO_CODE), torch.where(some_Bn, votes_Bn, 0)

    def probability(self, count_Bn: Tensor) -> Tensor:
        """The calibrated probability of each code, float32 [B, n]."""
        return _by_position(self.chance, count_Bn)

    def second(
        self, vectors_BD: Tensor, codes_Bn: Tensor, noise_SBD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Second codes and their calibrated probabilities, int64 and float32 [B, n]; -1 and 0
        where the probability is 0.
        """
        code_Bn, votes_Bn = self.rivals(vectors_BD, codes_Bn, noise_SBD)
        chance_Bn = _by_position(self.second_chance, votes_Bn)
        return torch.where(chance_Bn > 0, code_Bn, NO_CODE), chance_Bn


def _by_position(chance: Tensor, count_Bn: Tensor) -> Tensor:
    """Of each count what stands for it at its position in chance [n, S + 1]."""
    return torch.stack([of[count_Bn[:, p]] for p, of in enumerate(chance)], dim=1)


def learn(chain: Chain, vectors_BD: Tensor, *, iterations: int, ways: int, seed: int) -> None:
    """Set codewords and tau: residual k-means, then JOINT_ROUNDS of codes by search and all
    codewords together by least squares.

    A chain that has codewords already goes on from them.
    """
    positions, codes, _ = chain.words.shape
    rows = vectors_BD.numpy()
    if not chain.words.any():

        def cluster(rows_ND: np.ndarray, codes: int, seed: int) -> np.ndarray:
            return kmeans(rows_ND, codes, seed, iterations=iterations)

        chain.words = torch.from_numpy(residual_codebooks(rows, positions, codes, cluster, seed))
    chain.freeze()
    for _ in range(JOINT_ROUNDS):
        chain.words = _jointly(chain, vectors_BD, chain.search(vectors_BD, ways=ways))
        chain.freeze()
    left = vectors_BD - chain.sum(chain.search(vectors_BD, ways=ways))
    chain.tau = left.square().sum(1).mean()


def _jointly(chain: Chain, vectors_BD: Tensor, codes_Bn: Tensor) -> Tensor:
    """All codewords at once by least squares, each pulled to its old place by the weight of one
    row.
    """
    from scipy.sparse import csr_matrix

    positions, codes, width = chain.words.shape
    rows = len(codes_Bn)
    columns = (codes_Bn + torch.arange(positions) * codes).flatten().numpy()
    chosen = csr_matrix(
        (np.ones(rows * positions), columns, np.arange(0, rows * positions + 1, positions)),
        shape=(rows, positions * codes),
    )
    old = chain.words.flatten(0, 1).double().numpy()
    words = np.linalg.solve(
        (chosen.T @ chosen).toarray() + np.eye(positions * codes),
        chosen.T @ vectors_BD.double().numpy() + old,
    )
    return torch.from_numpy(words).float().view(positions, codes, width)


def chances(count_Bn: Tensor, right_Bn: Tensor, draws: int) -> tuple[Tensor, list[float | None]]:
    """Of each position the share that is right by the number of draws, float32 [n, draws + 1],
    rising: from every other row. And how far it is off on the rows between.
    """
    from sklearn.isotonic import IsotonicRegression

    found, errors = [], list[float | None]()
    for count, right in zip(count_Bn.numpy().T, right_Bn.numpy().astype(float).T, strict=True):
        regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        chance = regression.fit(count[::2], right[::2]).predict(np.arange(draws + 1))
        found.append(torch.from_numpy(chance.astype(np.float32)))
        errors.append(calibration_error(chance[count[1::2]], right[1::2]))
    return torch.stack(found), errors


def calibration_error(chance: np.ndarray, right: np.ndarray, *, bins: int = 10) -> float:
    """Mean distance of probabilities [N] from the share that was right, over `bins` groups of
    equally many; NaN of nothing.
    """
    if not len(chance):
        return float("nan")
    groups = np.array_split(np.argsort(chance, kind="stable"), bins)
    return float(
        sum(abs(chance[g].mean() - right[g].mean()) * len(g) for g in groups if len(g))
        / len(chance)
    )
