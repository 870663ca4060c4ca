"""RQ-KMeans, plain and balanced, and OPQ: codebooks by clustering alone. Reads: RowUnion. Writes: a
frozen AdditiveNetwork.

Legend: N rows, L positions, K codes, D width.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from adc_features.codes.reliability import Mode
from adc_features.codes.spec import SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.baselines.additive import AdditiveNetwork, Quantiser
from adc_features.tokenizer.codebook import cluster_sums
from adc_features.tokenizer.union import RowUnion, chance_of

Cluster = Callable[[np.ndarray, int, int], np.ndarray]
"""(rows float32 [N, D], K, seed) -> centroids float32 [K, D]"""


@dataclass(frozen=True)
class KMeansSettings:
    """How a clustering tokenizer is built. iterations: of each k-means, or rounds of OPQ.
    reliability: mode of the exported x.
    """

    tokenizer: Literal["rq_kmeans", "rq_kmeans_balanced", "opq"]
    iterations: int = 50
    reliability: Mode = "log_count"
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"iterations is {self.iterations}; expected at least 1")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rq_kmeans() -> KMeansSettings:
    """Residual k-means (QARM, OneRec: arXiv 2411.11739, 2502.18965). Published: L = 3, K = 8192,
    faiss with 20 iterations, on content vectors tuned on behaviour pairs. Here: L and K of the
    spec, scikit-learn with up to 50, on all modalities side by side.
    """
    return KMeansSettings("rq_kmeans")


def rq_kmeans_balanced() -> KMeansSettings:
    """OneRec's balanced residual k-means (arXiv 2502.18965): in turn each centroid takes its N/K
    nearest free rows. Here: 20 rounds at most; a code is the nearest centroid, because an item's
    code must not depend on the other items.
    """
    return KMeansSettings("rq_kmeans_balanced", iterations=20)


def opq() -> KMeansSettings:
    """Optimised product quantisation (Ge et al. 2013) as RPG uses it (arXiv 2506.05781). Published:
    PCA with whitening to 512, 32 subspaces of 256 codes, inner product. Here: L and K of the spec;
    no whitening, it would count noise dimensions as much as signal; the rotation starts from
    principal axes dealt out so that every subspace holds as much variance, then 50 rounds.
    """
    return KMeansSettings("opq")


def train(
    network: AdditiveNetwork, union: RowUnion, spec: SidSpec, s: KMeansSettings, *, seed: int
) -> None:
    """Set the codewords of the (only) quantiser from up to SAMPLE rows of the union."""
    (part,) = network.parts
    rows = np.concatenate(
        [part.input(r).numpy() for r in union.sample(chance=chance_of(seed, 3, 0))]
    )
    words = FITS[s.tokenizer](rows, spec.length, spec.codebook_size, s.iterations, seed)
    part.books.codewords.data.copy_(torch.from_numpy(words))


def residual_codebooks(
    rows_ND: np.ndarray, levels: int, codes: int, cluster: Cluster, seed: int
) -> np.ndarray:
    """Codebooks level by level, each over what the levels before it left:
    float32 [levels, codes, D].
    """
    words, residual = [], rows_ND.copy()
    for level in range(levels):
        words.append(cluster(residual, codes, seed + level))
        residual -= words[-1][nearest(residual, words[-1])]
    return np.stack(words)


def kmeans(rows_ND: np.ndarray, codes: int, seed: int, *, iterations: int = 20) -> np.ndarray:
    """Lloyd's k-means from k-means++ by scikit-learn, on one thread: with more it sums in the order
    they finish.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        # fewer distinct residuals than codes: some codes stay unused, the quality gate says so
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (
            KMeans(codes, n_init=1, max_iter=iterations, random_state=seed)
            .fit(rows_ND)
            .cluster_centers_.astype(np.float32)
        )


def balanced_kmeans(
    rows_ND: np.ndarray, codes: int, seed: int, *, iterations: int = 20
) -> np.ndarray:
    """Centroids of groups of equal size, N // K or one more: each takes its nearest rows among
    those that the ones before left.
    """
    return balanced_groups(rows_ND, codes, seed, iterations=iterations)[0]


def balanced_groups(
    rows_ND: np.ndarray, codes: int, seed: int, *, iterations: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """(centroids float32 [K, D], group int64 [N]) of balanced k-means; stops when no row changes
    its group.
    """
    n = len(rows_ND)
    centroids = rows_ND[np.random.default_rng(seed).choice(n, codes, replace=False)]
    sizes = np.full(codes, n // codes) + (np.arange(codes) < n % codes)
    group = np.full(n, -1)
    for _ in range(iterations):
        distance_NK = (centroids**2).sum(1) - 2 * rows_ND @ centroids.T
        before, group, free = group, np.full(n, -1), np.arange(n)
        for k, size in enumerate(sizes):
            order = (
                np.argpartition(distance_NK[free, k], size - 1)
                if size < len(free)
                else np.arange(len(free))
            )
            group[free[order[:size]]] = k
            free = np.delete(free, order[:size])
        centroids = np.stack([rows_ND[group == k].mean(0) for k in range(codes)])
        if np.array_equal(before, group):
            break
    return centroids, group


def nearest(rows_ND: np.ndarray, centroids_KD: np.ndarray) -> np.ndarray:
    """The nearest centroid of each row, int64 [N]."""
    half = (centroids_KD**2).sum(1) / 2
    return np.concatenate(
        [
            (rows_ND[i : i + 8192] @ centroids_KD.T - half).argmax(1)
            for i in range(0, len(rows_ND), 8192)
        ]
    )


def _rq(
    cluster: Callable[..., np.ndarray],
) -> Callable[[np.ndarray, int, int, int, int], np.ndarray]:
    def codebooks(
        rows: np.ndarray, levels: int, codes: int, iterations: int, seed: int
    ) -> np.ndarray:
        return residual_codebooks(
            rows,
            levels,
            codes,
            lambda r, k, chance: cluster(r, k, chance, iterations=iterations),
            seed,
        )

    return codebooks


def opq_codebooks(
    rows_ND: np.ndarray, subspaces: int, codes: int, rounds: int, seed: int
) -> np.ndarray:
    """Rotation and product codebooks in turn, the codewords rotated back: float32 [subspaces,
    codes, D], orthogonal across subspaces.

    Each round: one Lloyd step a subspace, then the rotation that brings the rows nearest to their
    codewords (Procrustes). D is filled up with zeros to a multiple of `subspaces`. An empty cluster
    keeps its codeword.
    """
    n, width = rows_ND.shape
    padded = -(-width // subspaces) * subspaces
    x = np.zeros((n, padded), np.float32)
    x[:, :width] = rows_ND
    rotation = _dealt_axes(x, subspaces)
    size = padded // subspaces
    blocks = [slice(p * size, (p + 1) * size) for p in range(subspaces)]
    turned = x @ rotation
    books = np.stack(
        [kmeans(turned[:, b], codes, seed + p, iterations=10) for p, b in enumerate(blocks)]
    )
    for _ in range(rounds):
        coded = np.empty_like(turned)
        for p, b in enumerate(blocks):
            code = nearest(turned[:, b], books[p])
            sums, count = (
                t.numpy()
                for t in cluster_sums(torch.from_numpy(turned[:, b]), torch.from_numpy(code), codes)
            )
            books[p] = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], books[p])
            coded[:, b] = books[p][code]
        left, _, right = np.linalg.svd(x.T @ coded)
        rotation = left @ right
        turned = x @ rotation
    words = np.zeros((subspaces, codes, padded), np.float32)
    for p, b in enumerate(blocks):
        words[p] = books[p] @ rotation[:, b].T
    return words[:, :, :width]


def _dealt_axes(x: np.ndarray, subspaces: int) -> np.ndarray:
    """Principal axes, each given to the subspace with room whose product of variances is smallest
    (Ge et al. 2013, parametric).
    """
    variance, axes = np.linalg.eigh(x.T @ x / len(x))
    variance, axes = np.maximum(variance[::-1], 1e-12), axes[:, ::-1]
    room, product = len(variance) // subspaces, np.zeros(subspaces)
    held: list[list[int]] = [[] for _ in range(subspaces)]
    for axis, v in enumerate(np.log(variance / variance[-1]) + 1e-9):
        p = min((q for q in range(subspaces) if len(held[q]) < room), key=lambda q: product[q])
        held[p].append(axis)
        product[p] += v
    return axes[:, [axis for axes_of in held for axis in axes_of]].astype(np.float32)


FITS: dict[str, Callable[[np.ndarray, int, int, int, int], np.ndarray]] = {
    "rq_kmeans": _rq(kmeans),
    "rq_kmeans_balanced": _rq(balanced_kmeans),
    "opq": opq_codebooks,
}


def network(widths: dict[str, int], spec: SidSpec, *, cutoffs: int) -> AdditiveNetwork:
    """The untrained network of these tokenizers."""
    return AdditiveNetwork(
        [Quantiser(widths, cutoffs=cutoffs, positions=spec.length, codes=spec.codebook_size)]
    )
