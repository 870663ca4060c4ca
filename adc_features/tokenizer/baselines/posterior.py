"""Posterior semantic IDs: denoise first, code what is left, weigh a code by the chance that it is
right. Reads: RowUnion. Writes: a trained PosteriorNetwork.

Our own method (docs/method_notes.md, "Posterior semantic IDs"). Legend: B rows, L positions, n
positions of a chain, Q width of the latent z, S draws.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from adc_features.codes.reliability import Mode
from adc_features.codes.spec import BEHAVIOR, NO_CODE, SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.baselines import chain as chains
from adc_features.tokenizer.baselines import latent
from adc_features.tokenizer.baselines.chain import Chain, chances
from adc_features.tokenizer.baselines.latent import WIDE, Belief, LatentModel
from adc_features.tokenizer.model import Rows, Standard
from adc_features.tokenizer.union import RowUnion, chance_of

CONTENT_SHARE = 0.25
"""What distances in content count beside those in behaviour, which count 1."""
REDRAWN = 8192
"""How many rows are drawn again to calibrate probabilities, those of a small fit several times;
half of them measure what remains.
"""


@dataclass(frozen=True)
class PosteriorSettings:
    """How a posterior tokenizer is built.

    iterations: of expectation maximisation, and at most of each k-means. latent: width of z, a
    multiple of 16. ways: codes that the search for the nearest sum keeps open at each position.
    draws: of z, by which probabilities are told. slack: the squared distance, in units of its mean,
    that each exchange of a held code has to save. reliability: mode of the signal x, from which the
    noise of behaviour is expected.
    """

    tokenizer: Literal["posterior", "posterior_experts", "posterior_second"]
    iterations: int = 30
    latent: int = 32
    ways: int = 4
    draws: int = 8
    slack: float = 0.4
    reliability: Mode = "log_count"
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        if min(self.iterations, self.ways, self.draws) < 1 or self.slack < 0:
            raise InputError(
                f"iterations, ways, draws and slack are {self.iterations}, {self.ways},"
                f" {self.draws} and {self.slack}; expected at least 1, 1, 1 and 0"
            )
        if self.latent < 1 or self.latent % WIDE:
            raise InputError(f"latent is {self.latent}; expected a multiple of {WIDE}")

    @property
    def tells_second(self) -> bool:
        """Whether second codes are told."""
        return self.tokenizer == "posterior_second"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def posterior() -> PosteriorSettings:
    """Posterior semantic IDs in levels: every code reads all modalities, coarse to fine."""
    return PosteriorSettings("posterior")


def posterior_experts() -> PosteriorSettings:
    """Posterior semantic IDs at the positions of ADC-SID: shared codes of everything, content
    codes of each modality as it is, and behavioural codes of denoised behaviour.
    """
    return PosteriorSettings("posterior_experts")


def posterior_second() -> PosteriorSettings:
    """The codes of `posterior`, and at each position the second likeliest code and its
    probability.
    """
    return PosteriorSettings("posterior_second")


class Tokens(NamedTuple):
    """Codes of rows int64 [B, L], -1 where none; their weights float32 [B, L], 0 there; the share
    of signal in the variance of behaviour, float32 [B], 0 without behaviour; and second codes and
    their probabilities, as codes and weights, None where they are not told.
    """

    codes_BL: Tensor
    weight_BL: Tensor
    reliability_B: Tensor
    second_BL: Tensor | None = None
    second_weight_BL: Tensor | None = None


class PosteriorNetwork(nn.Module):
    """Vectors -> a belief about z -> chains of codes, by the name of what they code: `shared` (all
    modalities together; all positions under `levels`), a content modality or behaviour.
    """

    draws: Tensor

    def __init__(
        self, widths: Mapping[str, int], spec: SidSpec, s: PosteriorSettings, *, cutoffs: int
    ) -> None:
        super().__init__()
        self.settings, self.widths = s, dict(widths)
        self.standard = nn.ModuleDict(
            {m: Standard(d, cutoffs if m == BEHAVIOR else 1) for m, d in widths.items()}
        )
        self.model = LatentModel(widths, s.latent)
        counts = {"shared": spec.length}
        if spec.layout == "experts":
            counts = {"shared": spec.shared, **spec.content, BEHAVIOR: spec.behavior}
        self.chains = nn.ModuleDict(
            {
                name: Chain(
                    n,
                    spec.codebook_size,
                    self._width(name),
                    draws=s.draws,
                    second=s.tells_second,
                )
                for name, n in counts.items()
                if n
            }
        )
        self.register_buffer("draws", torch.zeros(s.draws, s.latent))
        self.metrics: dict[str, Tensor] = {}

    def _width(self, name: str) -> int:
        if name in self.model.contents:
            return self.model.view(name).axes.shape[1]
        return self.settings.latent

    def chain(self, name: str) -> Chain:
        return cast(Chain, self.chains[name])

    def standard_of(self, modality: str) -> Standard:
        """The frozen input statistics of a modality."""
        return cast(Standard, self.standard[modality])

    def freeze(self) -> None:
        """Prepare products and metrics, once parameters no longer change."""
        self.model.forget()
        self.metrics = {name: self._metric(name) for name in ("shared", BEHAVIOR)}
        for name in self.chains:
            self.chain(name).freeze()

    def _metric(self, name: str) -> Tensor:
        """M [Q, Q]: |M (z - z')|^2 is the squared distance between what z and z' make of the
        modalities that are coded, each over its sum of variances; the square root of their W'W.
        """
        model = self.model
        shares = dict.fromkeys(model.contents, CONTENT_SHARE) | {BEHAVIOR: 1.0}
        total = torch.zeros(model.latent, model.latent, dtype=torch.float64)
        for m in model.views if name == "shared" else {BEHAVIOR} & {*model.views}:
            gram = model.gram(m).double()
            total += shares[m] * gram / gram.trace().clamp_min(1e-12)
        eigenvalues, axes = torch.linalg.eigh(total)
        return ((axes * eigenvalues.clamp_min(0).sqrt()) @ axes.T).to(model.level.dtype)

    def read(self, rows: Rows) -> dict[str, Tensor]:
        """Vectors as the latent model reads them: standardised, content on its axes."""
        return {
            m: standard if m == BEHAVIOR else standard @ self.model.view(m).axes
            for m, standard in (
                (m, scale(rows.vectors[m], rows.present[m], rows.cutoff))
                for m, scale in self.standard.items()
            )
        }

    def coded(self, name: str, vectors: Mapping[str, Tensor], belief: Belief) -> Tensor:
        """What a chain codes, [B, D]."""
        if name in self.model.contents:
            return vectors[name]
        return self.model.out(belief, belief.mean_BQ, self.metrics[name])

    def known(self, name: str, rows: Rows) -> Tensor:
        """bool [B]: is what a chain codes present?"""
        if name == "shared":
            return torch.stack([rows.present[m] for m in self.widths]).any(0)
        return rows.present[name]

    def noise(self, name: str, belief: Belief) -> Tensor:
        """Draws of z about its mean, as a chain sees them: [S, B, D]."""
        return torch.stack(
            [
                self.model.out(belief, draw_Q * belief.variance_BQ.sqrt(), self.metrics[name])
                for draw_Q in self.draws
            ]
        )

    def tokens(self, rows: Rows, held_BL: Tensor | None = None) -> Tokens:
        """Codes, weights and reliability; held_BL: the codes of the snapshot before, -1 where
        none.
        """
        vectors = self.read(rows)
        belief = self.model.believe(self.model.inputs(vectors, rows.present, rows.x))
        codes, weights, seconds, first = [], [], [], 0
        for name in self.chains:
            chain, known = self.chain(name), self.known(name, rows)[:, None]
            coded_BD = self.coded(name, vectors, belief)
            codes_Bn = chain.search(coded_BD, ways=self.settings.ways)
            if held_BL is not None:
                held_Bn = held_BL[:, first : first + len(chain)]
                codes_Bn = chain.hold(coded_BD, codes_Bn, held_Bn, slack=self.settings.slack)
            weight_Bn = torch.ones(codes_Bn.shape)
            if name not in self.model.contents:
                noise_SBD = self.noise(name, belief)
                weight_Bn = chain.probability(chain.agreeing(coded_BD, codes_Bn, noise_SBD))
                if self.settings.tells_second:
                    second_Bn, chance_Bn = chain.second(coded_BD, codes_Bn, noise_SBD)
                    likely_Bn = known & (second_Bn != NO_CODE)
                    chance_Bn = torch.minimum(chance_Bn, 1 - weight_Bn)
                    seconds.append(
                        (
                            torch.where(likely_Bn, second_Bn, NO_CODE),
                            torch.where(likely_Bn, chance_Bn, 0.0),
                        )
                    )
            codes.append(torch.where(known, codes_Bn, NO_CODE))
            weights.append(torch.where(known, weight_Bn, 0.0))
            first += len(chain)
        told = [torch.cat(part, dim=1) for part in zip(*seconds, strict=True)]
        return Tokens(
            torch.cat(codes, dim=1), torch.cat(weights, dim=1), self._trusted(belief), *told
        )

    def _trusted(self, belief: Belief) -> Tensor:
        if BEHAVIOR not in self.widths:
            return torch.zeros(len(belief.noise_B))
        signal = self.model.signal()
        return signal / (signal + belief.noise_B)

    def reconstruct(self, rows: Rows) -> dict[str, Tensor]:
        """Standardised vectors of every modality, float32 [B, d], from the codes alone."""
        codes_BL, first = self.tokens(rows).codes_BL.clamp_min(0), 0
        sums: dict[str, Tensor] = {}
        for name in self.chains:
            chain = self.chain(name)
            sums[name] = chain.sum(codes_BL[:, first : first + len(chain)])
            first += len(chain)
        out: dict[str, Tensor] = {}
        for m in self.widths:
            view = self.model.view(m)
            if m in self.model.contents and m in sums:
                out[m] = sums[m] @ view.axes.T
                continue
            source = m if m in sums else "shared"
            z_BQ = sums[source] @ torch.linalg.pinv(self.metrics[source], hermitian=True)
            read_BR = z_BQ @ view.loading.T
            out[m] = read_BR if m == BEHAVIOR else read_BR @ view.axes.T
        return out


def train(
    net: PosteriorNetwork, union: RowUnion, *, fresh: bool, seed: int
) -> dict[str, list[float | None]]:
    """Fit the latent model, then the codewords of every chain, then the probabilities of codes, on
    up to SAMPLE rows of the union; returns what remains of their error (`_calibrate`).

    fresh: start anew, else from what the network holds, with a third of the iterations.
    """
    from threadpoolctl import threadpool_limits

    s = net.settings
    with threadpool_limits(1), torch.no_grad():
        rows = _together(list(union.sample(chance=chance_of(seed, 3, 0))))
        if fresh:
            net.draws = torch.randn(net.draws.shape, generator=chance_of(seed, 4, 0))
            for m in net.model.contents:
                _set_axes(net, rows, m)
        vectors = net.read(rows)
        latent.learn(
            net.model,
            {m: v.double() for m, v in vectors.items()},
            rows.present,
            rows.x.double(),
            iterations=s.iterations if fresh else max(s.iterations // 3, 1),
            fresh=fresh,
        )
        net.freeze()
        belief = net.model.believe(net.model.inputs(vectors, rows.present, rows.x))
        for name in net.chains:
            coded_BD = net.coded(name, vectors, belief)[net.known(name, rows)]
            chains.learn(net.chain(name), coded_BD, iterations=s.iterations, ways=s.ways, seed=seed)
        few = torch.arange(REDRAWN) % len(rows.x)
        return _calibrate(net, _part(rows, few), Belief(*(t[few] for t in belief)), seed=seed)


def _together(blocks: list[Rows]) -> Rows:
    return Rows(
        {m: torch.cat([b.vectors[m] for b in blocks]) for m in blocks[0].vectors},
        {m: torch.cat([b.present[m] for b in blocks]) for m in blocks[0].present},
        torch.cat([b.x for b in blocks]),
        torch.cat([b.cutoff for b in blocks]),
    )


def _part(rows: Rows, part: Tensor) -> Rows:
    return Rows(
        {m: v[part] for m, v in rows.vectors.items()},
        {m: p[part] for m, p in rows.present.items()},
        rows.x[part],
        rows.cutoff[part],
    )


def _set_axes(net: PosteriorNetwork, rows: Rows, modality: str) -> None:
    """Principal axes of a content modality; all of them, turned, where it is narrow."""
    view = net.model.view(modality)
    known = rows.present[modality]
    standard = net.standard_of(modality)(rows.vectors[modality], known, rows.cutoff)[known].double()
    axes = torch.linalg.eigh(standard.T @ standard)[1][:, -view.components :].flip(1)
    view.axes = torch.zeros_like(view.axes)
    view.axes[:, : view.components] = axes.float()


def _calibrate(
    net: PosteriorNetwork, rows: Rows, belief: Belief, *, seed: int
) -> dict[str, list[float | None]]:
    """Turn numbers of draws into probabilities, by isotonic regression on redraws: of those that
    agree with a code, and of those that have the second code.

    Returns the expected error of each position's probabilities on redraws of other rows; None for
    content as it is, whose codes are certain.
    """
    remaining: dict[str, list[float | None]] = {"calibration_error": []}
    if net.settings.tells_second:
        remaining["second_calibration_error"] = []
    drawn, z_BQ = _redrawn(net, rows, belief, chance=chance_of(seed, 5, 0))
    after = net.model.believe(net.model.inputs(drawn, rows.present, rows.x))
    ways, draws = net.settings.ways, net.settings.draws
    for name in net.chains:
        chain = net.chain(name)
        if name in net.model.contents:
            for told in remaining.values():
                told.extend([None] * len(chain))
            continue
        known = net.known(name, rows)
        coded_BD, noise_SBD = net.coded(name, drawn, after), net.noise(name, after)
        codes_Bn = chain.search(coded_BD, ways=ways)
        true_Bn = chain.search(z_BQ @ net.metrics[name], ways=ways)
        count_Bn = chain.agreeing(coded_BD, codes_Bn, noise_SBD)
        chain.chance, errors = chances(count_Bn[known], (codes_Bn == true_Bn)[known], draws)
        remaining["calibration_error"] += errors
        if net.settings.tells_second:
            second_Bn, votes_Bn = chain.rivals(coded_BD, codes_Bn, noise_SBD)
            chain.second_chance, errors = chances(
                votes_Bn[known], (second_Bn == true_Bn)[known], draws
            )
            remaining["second_calibration_error"] += errors
    return remaining


def _redrawn(
    net: PosteriorNetwork, rows: Rows, belief: Belief, *, chance: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Vectors drawn again, as the model reads them, and the z that they were made of [B, Q]: z from
    what is believed of a row, vectors of it with the row's noises.
    """

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=chance)

    z_BQ = net.model.out(
        belief, belief.mean_BQ + belief.variance_BQ.sqrt() * normal(belief.mean_BQ)
    )
    drawn: dict[str, Tensor] = {}
    for m in net.widths:
        view = net.model.view(m)
        variance = belief.noise_B[:, None] if m == BEHAVIOR else view.noise
        made = z_BQ @ view.loading.T
        made = made + variance.sqrt() * normal(made)
        drawn[m] = torch.where(rows.present[m][:, None], made, 0.0)
    return drawn, z_BQ
