"""How long do codes for a catalogue take, beside plain residual k-means?
Reads: nothing. Writes: JSON.

    python benchmarks/encode.py --items 1000000 --json -

ADC-SID at full size (hidden 256, 6 codes of 100, weights, collision counts) against scikit-learn
residual k-means of 6 levels on the same vectors side by side. Vectors are random: neither system's
time depends on their values.
"""

import argparse
from datetime import UTC, datetime

import numpy as np
from _measure import apart, measured, write_report

WIDTH = 128
SPEC = {"content": {"title": 1, "image": 1}, "shared": 1, "behavior": 3, "codebook_size": 100}


def vectors(items: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((items, WIDTH), dtype=np.float32)


def adc(items: int) -> dict[str, float]:
    import torch

    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.generation import Generation
    from adc_features.codes.spec import BEHAVIOR, SidSpec
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import adc as recipe
    from adc_features.tokenizer.model import AdcModel

    spec = SidSpec(**SPEC)
    torch.manual_seed(0)
    tensors = {
        name: t.numpy()
        for name, t in (
            AdcModel(spec, dict.fromkeys(spec.modalities, WIDTH), recipe(), cutoffs=1)
            .state_dict()
            .items()
        )
    }
    now = datetime(2026, 1, 1, tzinfo=UTC)
    scale = {"mode": "log_count", "low": 0.0, "high": 6.0, "rank_correlation": 1.0}
    generation = Generation(
        "bench",
        "adc",
        spec,
        {"adc": recipe().to_dict(), "reliability": scale, "cutoffs": [now.isoformat()]},
        tensors,
        {},
        now,
        "",
    )
    warm = np.arange(items) % 10 > 0
    table = EmbeddingTable(
        np.arange(items),
        {
            m: vectors(items, i) * (warm[:, None] if m == BEHAVIOR else 1)
            for i, m in enumerate(spec.modalities)
        },
        {m: warm if m == BEHAVIOR else np.ones(items, bool) for m in spec.modalities},
        np.arange(items) % 300,
        now,
    )
    return measured(lambda: len(encode(table, generation)))


def residual_kmeans(items: int) -> dict[str, float]:
    from sklearn.cluster import KMeans

    matrix = np.concatenate([vectors(items, i) for i in range(3)], axis=1)
    levels, residual = [], matrix[:20_000].copy()
    for level in range(6):
        levels.append(
            KMeans(SPEC["codebook_size"], n_init=1, max_iter=10, random_state=level).fit(residual)
        )
        residual -= levels[-1].cluster_centers_[levels[-1].labels_]

    def encode() -> int:
        codes = np.empty((items, len(levels)), np.int32)
        for start in range(0, items, 65_536):
            residual = matrix[start : start + 65_536].copy()
            for i, level in enumerate(levels):
                codes[start : start + len(residual), i] = level.predict(residual)
                residual -= level.cluster_centers_[codes[start : start + len(residual), i]]
        return len(codes)

    return measured(encode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    systems = {
        "adc": apart(adc, asked.items),
        "sklearn_residual_kmeans": apart(residual_kmeans, asked.items),
    }
    ratio = {
        f"adc_{key}_over_sklearn": systems["adc"][key] / systems["sklearn_residual_kmeans"][key]
        for key in ("cpu_s", "wall_s", "peak_rss_bytes")
    }
    write_report(
        asked.json, systems=systems, ratios=ratio, items=asked.items, width=WIDTH, spec=SPEC
    )


if __name__ == "__main__":
    main()
