"""What an item's vectors say of it, given how noisy they are. Reads: vectors by modality. Writes:
beliefs about a latent z.

One linear model with noise: z ~ N(0, I); content x_m = W_m z + e, e ~ N(0, psi_m I); behaviour
b = W_b z + e, e ~ N(0, s^2 I), where every item has an s^2 of its own, about v(x), which does not
rise with the item's reliability signal x. Legend: B rows, Q width of z, R width of a modality as
it is read here.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from adc_features.codes.spec import BEHAVIOR

COMPONENTS = 96
"""Principal components of a content modality that are read."""
WIDE = 16
"""A matrix product of fewer columns rounds a row differently in another place of the batch, so all
widths are multiples of it, filled up with zeros.
"""
PRIOR = 4.0
"""How many dimensions' worth of evidence v(x) is, beside an item's own residual (nu)."""
ROUNDS = 8
"""Rounds between an item's s^2 and its z; both settle within."""
LEAST_NOISE = 1e-3
"""Lower bound of a variance of noise; vectors have variance 1."""


def wide(columns: int) -> int:
    """The next multiple of WIDE."""
    return -(-columns // WIDE) * WIDE


class View(nn.Module):
    """One modality in the model: principal axes [d, R] (content only), loading W [R, Q] and noise
    psi (content only).
    """

    axes: Tensor
    loading: Tensor
    noise: Tensor

    def __init__(self, width: int, latent: int, *, content: bool) -> None:
        super().__init__()
        self.components = min(width, COMPONENTS) if content else width
        read = wide(self.components) if content else width
        if content:
            self.register_buffer("axes", torch.zeros(width, read))
            self.register_buffer("noise", torch.ones(()))
        self.register_buffer("loading", torch.zeros(read, latent))


class Inputs(NamedTuple):
    """Rows as the model reads them: sum of W_m' x_m / psi_m over present content [B, Q], which
    content is present (a number of C bits) [B], W_b' b [B, Q], |b|^2 [B], is b present [B], x [B].
    """

    content_BQ: Tensor
    pattern_B: Tensor
    behavior_BQ: Tensor
    length_B: Tensor
    warm_B: Tensor
    x_B: Tensor


class Belief(NamedTuple):
    """z of rows, in the basis of the row's pattern: means and variances [B, Q], and the variance
    s^2 of the noise in behaviour [B], infinite where there is none.
    """

    pattern_B: Tensor
    mean_BQ: Tensor
    variance_BQ: Tensor
    noise_B: Tensor


class LatentModel(nn.Module):
    """The loadings and noises of all modalities, and what they make of rows."""

    level: Tensor
    slope: Tensor

    def __init__(self, widths: Mapping[str, int], latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.contents = [m for m in widths if m != BEHAVIOR]
        self.views = nn.ModuleDict(
            {m: View(d, latent, content=m != BEHAVIOR) for m, d in widths.items()}
        )
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("slope", torch.zeros(()))
        self._bases: dict[int, tuple[Tensor, Tensor]] = {}

    def view(self, modality: str) -> View:
        return cast(View, self.views[modality])

    def forget(self) -> None:
        """Call when parameters have changed."""
        self._bases = {}

    def gram(self, modality: str) -> Tensor:
        """W'W, [Q, Q]."""
        loading = self.view(modality).loading
        return loading.T @ loading

    def signal(self) -> float:
        """Mean variance of a behaviour dimension that z accounts for."""
        loading = self.view(BEHAVIOR).loading
        return float(loading.double().square().sum()) / len(loading)

    def inputs(
        self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor], x_B: Tensor
    ) -> Inputs:
        """From vectors as they are read here [B, R]: zeros where absent."""
        content_BQ = torch.zeros(len(x_B), self.latent, dtype=self.level.dtype)
        pattern_B = torch.zeros(len(x_B), dtype=torch.int64)
        for bit, m in enumerate(self.contents):
            content_BQ = content_BQ + vectors[m] @ (self.view(m).loading / self.view(m).noise)
            pattern_B = pattern_B + present[m].long() * 2**bit
        if BEHAVIOR not in self.views:
            nothing = torch.zeros_like(content_BQ)
            return Inputs(
                content_BQ, pattern_B, nothing, nothing[:, 0], torch.zeros_like(x_B).bool(), x_B
            )
        b = vectors[BEHAVIOR]
        behavior_BQ = b @ self.view(BEHAVIOR).loading
        return Inputs(content_BQ, pattern_B, behavior_BQ, b.square().sum(1), present[BEHAVIOR], x_B)

    def basis(self, pattern: int) -> tuple[Tensor, Tensor]:
        """T [Q, Q] and lambda [Q] of a pattern of content: given behaviour of noise s^2, z has the
        covariance T' diag(1 / (1 + lambda / s^2)) T.

        So the covariances of all rows share one matrix, and none is built row by row.
        """
        if pattern not in self._bases:
            precision = torch.eye(self.latent, dtype=torch.float64)
            for bit, m in enumerate(self.contents):
                if pattern >> bit & 1:
                    precision += self.gram(m).double() / self.view(m).noise.double()
            lower = torch.linalg.cholesky(precision)
            inverse = torch.linalg.solve_triangular(
                lower, torch.eye(self.latent).double(), upper=False
            )
            seen = torch.zeros_like(precision)
            if BEHAVIOR in self.views:
                seen = inverse @ self.gram(BEHAVIOR).double() @ inverse.T
            eigenvalues, vectors = torch.linalg.eigh(seen)
            dtype = self.level.dtype
            self._bases[pattern] = (
                (vectors.T @ inverse).to(dtype),
                eigenvalues.clamp_min(0).to(dtype),
            )
        return self._bases[pattern]

    def patterns(self, pattern_B: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The patterns that occur and their rows, bool [B, 1]."""
        for pattern in pattern_B.unique().tolist():
            yield pattern, (pattern_B == pattern)[:, None]

    def believe(
        self, inputs: Inputs, *, rounds: int = ROUNDS, noise_B: Tensor | None = None
    ) -> Belief:
        """What rows say of z; noise_B: where to start from instead of v(x).

        Products are over all rows for each pattern, and rows then choose: their shape must not
        depend on which rows come together.
        """
        content_BQ, behavior_BQ = torch.empty_like(inputs.content_BQ), inputs.behavior_BQ
        seen_BQ = torch.empty_like(content_BQ)
        turned_BQ = torch.empty_like(content_BQ)
        for pattern, rows in self.patterns(inputs.pattern_B):
            turn_QQ, eigenvalues_Q = self.basis(pattern)
            content_BQ = torch.where(rows, inputs.content_BQ @ turn_QQ.T, content_BQ)
            turned_BQ = torch.where(rows, behavior_BQ @ turn_QQ.T, turned_BQ)
            seen_BQ = torch.where(rows, eigenvalues_Q, seen_BQ)
        warm_B1 = inputs.warm_B[:, None]
        expected_B = torch.exp(self.level + self.slope * inputs.x_B)
        noise_B = expected_B if noise_B is None else noise_B
        width = len(self.view(BEHAVIOR).loading) if BEHAVIOR in self.views else 0
        for left in range(rounds, -1, -1):
            precision_B1 = torch.where(warm_B1, 1 / noise_B[:, None], 0.0)
            variance_BQ = 1 / (1 + seen_BQ * precision_B1)
            mean_BQ = variance_BQ * (content_BQ + precision_B1 * turned_BQ)
            if left:
                residual_B = (
                    inputs.length_B
                    - 2 * (turned_BQ * mean_BQ).sum(1)
                    + (seen_BQ * (mean_BQ.square() + variance_BQ)).sum(1)
                )
                noise_B = (PRIOR * expected_B + residual_B.clamp_min(0)) / (PRIOR + width)
        noise_B = torch.where(inputs.warm_B, noise_B, math.inf)
        return Belief(inputs.pattern_B, mean_BQ, variance_BQ, noise_B)

    def out(self, belief: Belief, turned_BQ: Tensor, metric_QQ: Tensor | None = None) -> Tensor:
        """Values in the bases of the rows as values of z, or of M z with a symmetric M, [B, Q]."""
        result = torch.empty_like(turned_BQ)
        for pattern, rows in self.patterns(belief.pattern_B):
            turn_QQ = self.basis(pattern)[0]
            turn_QQ = turn_QQ if metric_QQ is None else turn_QQ @ metric_QQ
            result = torch.where(rows, turned_BQ @ turn_QQ, result)
        return result

    def moment(self, belief: Belief, mean_BQ: Tensor, weight_B: Tensor) -> Tensor:
        """sum of weight * E[z z'] over rows, [Q, Q]. mean_BQ: of z itself."""
        total = (mean_BQ * weight_B[:, None]).T @ mean_BQ
        for pattern, rows in self.patterns(belief.pattern_B):
            turn_QQ = self.basis(pattern)[0]
            spread_Q = torch.where(rows, weight_B[:, None] * belief.variance_BQ, 0.0).sum(0)
            total = total + turn_QQ.T @ (spread_Q[:, None] * turn_QQ)
        return total


def learn(
    model: LatentModel,
    vectors: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    x_B: Tensor,
    *,
    iterations: int,
    fresh: bool = True,
) -> None:
    """Set the model's parameters by expectation maximisation, float64.

    vectors: as the model reads them, float64 [B, R], zeros where absent. fresh: start from
    principal components, else from the parameters that the model has.
    """
    model.double()
    if fresh:
        _start(model, vectors, present, x_B)
    noise_B: Tensor | None = None
    for _ in range(iterations):
        model.forget()
        belief = model.believe(
            model.inputs(vectors, present, x_B),
            rounds=ROUNDS if noise_B is None else 1,
            noise_B=noise_B,
        )
        _improve(model, vectors, present, x_B, belief)
        # infinite where there is no behaviour, and never read there
        noise_B = belief.noise_B
    model.float().forget()


def _start(
    model: LatentModel,
    vectors: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    x_B: Tensor,
) -> None:
    """Loadings from the joint principal components of the rows whose behaviour is known best."""
    rows = torch.ones(len(x_B), dtype=torch.bool)
    if BEHAVIOR in model.views:
        warm = present[BEHAVIOR]
        rows = warm & (x_B >= x_B[warm].median())
    joint = torch.cat([v[rows] / math.sqrt(v.shape[1]) for v in vectors.values()], dim=1)
    real = sum(model.view(m).components for m in vectors)
    width = max(min(model.latent, real // 2, len(joint) - 1), 1)
    eigenvalues, axes = torch.linalg.eigh(joint.T @ joint / len(joint))
    scores = joint @ axes[:, -width:] / eigenvalues[-width:].clamp_min(1e-9).sqrt()
    for m, view in ((m, model.view(m)) for m in vectors):
        loading = vectors[m][rows].T @ scores / len(scores)
        view.loading = torch.zeros_like(view.loading)
        view.loading[:, :width] = loading
        left = (vectors[m][rows] - scores @ loading.T).square().sum() / (
            len(scores) * view.components
        )
        if m == BEHAVIOR:
            model.level = left.clamp_min(LEAST_NOISE).log()
            model.slope = torch.zeros_like(model.level)
        else:
            view.noise = left.clamp_min(LEAST_NOISE)


def _improve(
    model: LatentModel,
    vectors: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    x_B: Tensor,
    belief: Belief,
) -> None:
    """New loadings and noises: weighted least squares on what is believed of z."""
    mean_BQ = model.out(belief, belief.mean_BQ)
    small = 1e-6 * torch.eye(model.latent, dtype=torch.float64)
    fresh: dict[str, Tensor] = {}
    for m, vectors_BR in vectors.items():
        weight_B = present[m].double()
        if m == BEHAVIOR:
            weight_B = torch.where(present[m], 1 / belief.noise_B, 0.0)
        cross = (vectors_BR * weight_B[:, None]).T @ mean_BQ
        fresh[m] = torch.linalg.solve(
            model.moment(belief, mean_BQ, weight_B) + small, cross.T
        ).T.contiguous()
        if m != BEHAVIOR:
            left = (vectors_BR.square().sum() - (fresh[m] * cross).sum()) / (
                weight_B.sum() * model.view(m).components
            )
            model.view(m).noise = left.clamp_min(LEAST_NOISE)
    for m, loading in fresh.items():
        model.view(m).loading = loading
    if BEHAVIOR in model.views:
        warm = present[BEHAVIOR]
        x, log = x_B[warm], belief.noise_B[warm].clamp_min(LEAST_NOISE).log()
        spread = (x - x.mean()).square().sum().clamp_min(1e-12)
        # more evidence never means more noise
        model.slope = (((x - x.mean()) * log).sum() / spread).clamp_max(0)
        model.level = log.mean() - model.slope * x.mean()
