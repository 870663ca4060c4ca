"""Do codes tell what items truly are, and weights how far to trust them?
Reads: nothing. Writes: JSON.

    python benchmarks/ground_truth.py --seeds 3 --json docs/evidence/synthetic.json

On generated catalogues, where the truth is known. Each item's codes (one-hot, times their weights)
predict its true latent by ridge regression: fitted on half of the items, scored on the other half,
by popularity. For ADC-SID, with the gate as it is and at unit length, the same codes are also read
with equal weights, with weights exchanged among warm items (in all and within popularity deciles),
and with the true reliability as weight. Three levels of noise in behaviour. Differences are paired
on the same items; intervals are 95 % from a bootstrap of the scored items.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine

NOISE = (0.5, 1.5, 4.0)
SPEC = {"content": {"text": 1, "image": 1}, "shared": 1, "behavior": 3, "codebook_size": 32}
WEIGHTED = ("adc", "raw_gate")
"""Tokenizers with weights of their own, whose codes are also read with other weights."""
TOKENIZERS = (
    *WEIGHTED,
    "without_gate",
    "rq_vae",
    "rq_kmeans",
    "rq_kmeans_balanced",
    "opq",
    "letter",
    "das",
    "mm_rq_vae",
    "mmq",
    "unisid",
)
STEPS, BATCH = 200, 512
DRAWS = 1000


def features(sid: np.ndarray, weight: np.ndarray, codes: int) -> np.ndarray:
    """One-hot codes times their weights, float32 [N, L * K]; nothing where there is no code."""
    out = np.zeros((len(sid), sid.shape[1] * codes), np.float32)
    for p in range(sid.shape[1]):
        known = np.flatnonzero(sid[:, p] >= 0)
        out[known, p * codes + sid[known, p]] = weight[known, p]
    return out


def residuals(inputs: np.ndarray, latent: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Squared error of each item's latent, float64 [N]; the regression has seen only `train`."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(np.logspace(-1, 3, 9)).fit(inputs[train], latent[train])
    return np.square(latent - model.predict(inputs), dtype=np.float64).sum(1)


def exchanged(
    weight: np.ndarray, columns: np.ndarray, groups: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The weights of these columns, whole rows exchanged within each group of items."""
    out = weight.copy()
    for rows in groups:
        out[np.ix_(rows, columns)] = weight[np.ix_(rng.permutation(rows), columns)]
    return out


def one(
    noise: float, seed: int, names: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, dict[str, float]], dict[str, str]]:
    """(squared errors of the scored items by name, facts of those items, correlations of weights,
    collapsed tokenizers).
    """
    from adc_features.codes.quality import popularity_slices
    from adc_features.codes.reliability import rank_correlation
    from adc_features.codes.spec import BEHAVIOR, SidSpec
    from adc_features.data.synthetic import noisy_behavior, synthetic
    from adc_features.errors import QualityError, ReliabilityError
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import RECIPES, fit

    made = synthetic(seed=seed, items=2_000, users=2_000, interactions=40_000)
    items, reliability = noisy_behavior(
        made, as_of=made.dataset.windows.validation_end, noise=noise, seed=seed
    )
    latent, rng, spec = made.truth.latent, np.random.default_rng((seed, 2)), SidSpec(**SPEC)
    train = rng.permutation(len(items)) < len(items) // 2
    warm = items.present[BEHAVIOR]
    by_count = np.flatnonzero(warm)[np.argsort(items.interaction_count[warm], kind="stable")]
    deciles = np.array_split(by_count, 10)
    errors: dict[str, np.ndarray] = {
        "mean": np.square(latent - latent[train].mean(0), dtype=np.float64).sum(1)
    }
    raw = np.concatenate(list(items.vectors.values()), axis=1)
    errors["raw_vectors"] = residuals(raw, latent, train)
    correlations, refused = {}, {}
    for name in names:
        print(f"noise={noise:g} seed={seed} tokenizer={name}", file=sys.stderr)
        settings = RECIPES[name]()
        short = {"steps": STEPS, "batch": BATCH, "warmup_steps": STEPS // 10}
        settings = replace(
            settings, **{f.name: short[f.name] for f in fields(settings) if f.name in short}
        )
        with tempfile.TemporaryDirectory() as scratch:
            try:
                sids = encode(
                    items,
                    fit(
                        [items],
                        spec,
                        settings=settings,
                        generation_id="g",
                        directory=Path(scratch) / "g",
                        seed=seed,
                    ),
                )
            except (QualityError, ReliabilityError) as refusal:
                refused[name] = str(refusal)
                continue
        errors[name] = residuals(
            features(sids.sid, sids.sid_weight, spec.codebook_size), latent, train
        )
        if name not in WEIGHTED:
            continue
        behavioral = np.flatnonzero(spec.is_behavioral)
        trusted = sids.sid_weight.copy()
        trusted[:, behavioral] = np.where(sids.sid[:, behavioral] >= 0, reliability[:, None], 0)
        readings = {
            "equal_weights": (sids.sid >= 0).astype(np.float32),
            "weights_permuted": exchanged(sids.sid_weight, behavioral, [by_count], rng),
            "weights_permuted_in_decile": exchanged(sids.sid_weight, behavioral, deciles, rng),
            "true_reliability": trusted,
        }
        errors |= {
            f"{name}_{reading}": residuals(features(sids.sid, w, spec.codebook_size), latent, train)
            for reading, w in readings.items()
        }
        weight = sids.sid_weight[:, behavioral].mean(1)
        correlations |= {
            f"{name}_weight_and_reliability": rank_correlation(weight[warm], reliability[warm]),
            f"{name}_weight_and_reliability_within_decile": float(
                np.nanmean([rank_correlation(weight[d], reliability[d]) for d in deciles])
            ),
            "count_and_reliability": rank_correlation(
                items.interaction_count[warm], reliability[warm]
            ),
        }
    scored = ~train
    place = np.where(warm, popularity_slices(items.interaction_count), 3)
    return (
        {name: e[scored] for name, e in errors.items()},
        {"slice": place[scored]},
        correlations,
        refused,
    )


def interval(over: np.ndarray, under: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Mean and 95 % bounds of sum(over) / sum(under) over resampled items."""
    rows = rng.integers(len(over), size=(DRAWS, len(over)))
    ratio = over[rows].sum(1) / under[rows].sum(1)
    return {
        "mean": float(over.sum() / under.sum()),
        "low": float(np.quantile(ratio, 0.025)),
        "high": float(np.quantile(ratio, 0.975)),
    }


def summary(
    runs: list[
        tuple[dict[str, np.ndarray], dict[str, Any], dict[str, dict[str, float]], dict[str, str]]
    ],
) -> dict[str, Any]:
    """R2 of the latent by tokenizer and slice, paired differences in R2, mean correlations; seeds
    pooled item by item.
    """
    rng = np.random.default_rng(0)
    place = np.concatenate([facts["slice"] for _, facts, _, _ in runs])
    refused = {name: why for *_, r in runs for name, why in r.items()}
    errors = {
        name: np.concatenate([e[name] for e, *_ in runs])
        for name in runs[0][0]
        if all(name in e for e, *_ in runs)
    }
    base = errors.pop("mean")
    r2 = {
        name: (
            {"all": interval(base - e, base, rng)}
            | {
                where: interval((base - e)[place == n], base[place == n], rng)
                for n, where in enumerate(("head", "middle", "tail", "cold"))
                if (place == n).any()
            }
        )
        for name, e in errors.items()
    }
    pairs = {
        f"{w}_minus_{name}": interval(e - errors[w], base, rng)
        for w in WEIGHTED
        if w in errors
        for name, e in errors.items()
        if name != w
    }
    correlations = {k: [c[k] for _, _, c, _ in runs if c] for k in runs[0][2]}
    return {
        "latent_r2": r2,
        "paired": pairs,
        "rank_correlation": {
            k: {"mean": float(np.mean(v)), "least": float(np.min(v)), "most": float(np.max(v))}
            for k, v in correlations.items()
        },
        "refused": refused,
        "scored_items": len(place),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS))
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    import json

    import torch

    torch.set_num_threads(1)
    names = asked.tokenizers.split(",")
    levels = {
        f"noise_{noise:g}": summary([one(noise, seed, names) for seed in range(asked.seeds)])
        for noise in NOISE
    }
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = (
        f"python benchmarks/ground_truth.py --seeds {asked.seeds} --tokenizers {asked.tokenizers}"
    )
    facts = {
        "command": command,
        "commit": commit,
        "seeds": list(range(asked.seeds)),
        "spec": SPEC,
        "steps": STEPS,
        "batch": BATCH,
        "machine": machine(),
    }
    text = json.dumps({**facts, **levels}, indent=2)
    if asked.json == "-":
        print(text)
    else:
        Path(asked.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
