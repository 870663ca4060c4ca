"""Do codes tell what items truly are, and weights how far to trust them?
Reads: nothing. Writes: JSON.

    python benchmarks/ground_truth.py --seeds 3 --json docs/evidence/synthetic.json

On generated catalogues, where the truth is known. Each item's codes (one-hot, times their weights)
predict its true latent by ridge regression: fitted on half of the items, scored on the other half,
by popularity. For tokenizers with weights of their own the same codes are also read with equal
weights, with weights exchanged among warm items (in all and within popularity deciles), and, where
positions are of behaviour, with the true reliability as weight. Weights that are probabilities are
compared with how often codes are those of the same items without noise. Three levels of noise in
behaviour. Differences are paired on the same items; intervals are 95 % from a bootstrap of the
scored items. With `--bend` vectors are no linear map of the latent.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _measure import machine

if TYPE_CHECKING:
    import pyarrow as pa

    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.generation import Generation
    from adc_features.codes.sids import SidTable

NOISE = (0.5, 1.5, 4.0)
SPEC = {"content": {"text": 1, "image": 1}, "shared": 1, "behavior": 3, "codebook_size": 32}
JUDGES = ("posterior", "posterior_experts")
"""Tokenizers whose weights are probabilities and who estimate reliability."""
WEIGHTED = ("adc", "raw_gate", *JUDGES)
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
    "qarm",
    "etegrec_parallel",
    "diger",
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


class Run(NamedTuple):
    """One catalogue. errors: squared errors of the scored items by name; place: their slices;
    correlations of weights; claimed: by tokenizer, at each position, its weights as probabilities
    and whether the code is that of the same item without noise; refused: why, by tokenizer.
    """

    errors: dict[str, np.ndarray]
    place: np.ndarray
    correlations: dict[str, float]
    claimed: dict[str, list[tuple[np.ndarray, np.ndarray]]]
    refused: dict[str, str]


class Catalogue(NamedTuple):
    """Items, their truth, the same items without any noise, and the interactions."""

    items: EmbeddingTable
    reliability: np.ndarray
    latent: np.ndarray
    clean: EmbeddingTable
    events: pa.Table


def catalogue(noise: float, seed: int, bend: float) -> Catalogue:
    from adc_features.data.synthetic import noisy_behavior, synthetic

    def drawn(content_noise: float, noise: float) -> tuple[Any, Any]:
        made = synthetic(
            seed=seed,
            items=2_000,
            users=2_000,
            interactions=40_000,
            content_noise=content_noise,
            bend=bend,
        )
        return made, noisy_behavior(
            made, as_of=made.dataset.windows.validation_end, noise=noise, seed=seed, bend=bend
        )

    (made, noisy), (_, clean) = drawn(0.5, noise), drawn(0.0, 0.0)
    return Catalogue(
        noisy.items,
        noisy.reliability,
        made.truth.latent,
        clean.items,
        made.dataset.before(noisy.items.as_of),
    )


def fitted(items: EmbeddingTable, events: pa.Table, name: str, seed: int) -> Generation:
    """The tokenizer of this name on the items, with the short budget."""
    from adc_features.codes.spec import SidSpec
    from adc_features.tokenizer.fit import RECIPES, fit

    settings = RECIPES[name]()
    short = {"steps": STEPS, "batch": BATCH, "warmup_steps": STEPS // 10}
    settings = replace(
        settings, **{f.name: short[f.name] for f in fields(settings) if f.name in short}
    )
    with tempfile.TemporaryDirectory() as scratch:
        return fit(
            [items],
            SidSpec(**SPEC),
            settings=settings,
            generation_id="g",
            directory=Path(scratch) / "g",
            seed=seed,
            events=events,
        )


def one(noise: float, seed: int, names: list[str], bend: float) -> Run:
    from adc_features.codes.quality import popularity_slices
    from adc_features.codes.reliability import rank_correlation
    from adc_features.codes.spec import BEHAVIOR
    from adc_features.errors import QualityError, ReliabilityError
    from adc_features.tokenizer.encode import encode

    items, reliability, latent, clean, events = catalogue(noise, seed, bend)
    rng, codes = np.random.default_rng((seed, 2)), SPEC["codebook_size"]
    train = rng.permutation(len(items)) < len(items) // 2
    warm = items.present[BEHAVIOR]
    by_count = np.flatnonzero(warm)[np.argsort(items.interaction_count[warm], kind="stable")]
    deciles = np.array_split(by_count, 10)
    errors: dict[str, np.ndarray] = {
        "mean": np.square(latent - latent[train].mean(0), dtype=np.float64).sum(1)
    }
    raw = np.concatenate(list(items.vectors.values()), axis=1)
    errors["raw_vectors"] = residuals(raw, latent, train)
    correlations = {
        "count_and_reliability": rank_correlation(items.interaction_count[warm], reliability[warm])
    }
    claimed, refused = {}, {}
    for name in names:
        print(f"noise={noise:g} seed={seed} tokenizer={name}", file=sys.stderr)
        try:
            generation = fitted(items, events, name, seed)
        except (QualityError, ReliabilityError) as refusal:
            refused[name] = str(refusal)
            continue
        sids = encode(items, generation)
        errors[name] = residuals(features(sids.sid, sids.sid_weight, codes), latent, train)
        if name not in WEIGHTED:
            continue
        positions = generation.spec.positions
        weighted = np.array([i for i, p in enumerate(positions) if p.kind != "content"])
        behavioral = np.flatnonzero(generation.spec.is_behavioral)
        readings = {
            "equal_weights": (sids.sid >= 0).astype(np.float32),
            "weights_permuted": exchanged(sids.sid_weight, weighted, [by_count], rng),
            "weights_permuted_in_decile": exchanged(sids.sid_weight, weighted, deciles, rng),
        }
        if len(behavioral):
            trusted = sids.sid_weight.copy()
            trusted[:, behavioral] = np.where(sids.sid[:, behavioral] >= 0, reliability[:, None], 0)
            readings["true_reliability"] = trusted
        errors |= {
            f"{name}_{reading}": residuals(features(sids.sid, w, codes), latent, train)
            for reading, w in readings.items()
        }
        told = {"weight": sids.sid_weight[:, behavioral if len(behavioral) else weighted].mean(1)}
        if name in JUDGES:
            told["estimate"] = sids.reliability
            claimed[name] = claims(sids, encode(clean, generation), warm)
        correlations |= {
            f"{name}_{which}_and_reliability": rank_correlation(
                told[which][warm], reliability[warm]
            )
            for which in told
        }
        correlations |= {
            f"{name}_{which}_and_reliability_within_decile": float(
                np.nanmean([rank_correlation(told[which][d], reliability[d]) for d in deciles])
            )
            for which in told
        }
    place = np.where(warm, popularity_slices(items.interaction_count), 3)
    scored = ~train
    return Run(
        {name: e[scored] for name, e in errors.items()},
        place[scored],
        correlations,
        claimed,
        refused,
    )


def claims(
    sids: SidTable, clean: SidTable, rows: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """By position: the weights of these rows, and whether the code is that of the item without
    noise.
    """
    known = [rows & (column >= 0) for column in sids.sid.T]
    return [(sids.sid_weight[k, p], sids.sid[k, p] == clean.sid[k, p]) for p, k in enumerate(known)]


def miscalibration(runs: list[Run], name: str) -> list[float]:
    """By position: how far weights, as probabilities, are from the truth, over all runs."""
    from adc_features.tokenizer.baselines.chain import calibration_error

    told = [run.claimed[name] for run in runs if name in run.claimed]
    return [
        round(calibration_error(*(np.concatenate(part) for part in zip(*position, strict=True))), 4)
        for position in zip(*told, strict=True)
    ]


def interval(over: np.ndarray, under: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Mean and 95 % bounds of sum(over) / sum(under) over resampled items."""
    rows = rng.integers(len(over), size=(DRAWS, len(over)))
    ratio = over[rows].sum(1) / under[rows].sum(1)
    return {
        "mean": float(over.sum() / under.sum()),
        "low": float(np.quantile(ratio, 0.025)),
        "high": float(np.quantile(ratio, 0.975)),
    }


def summary(runs: list[Run]) -> dict[str, Any]:
    """R2 of the latent by tokenizer and slice, paired differences in R2, mean correlations and
    errors of calibration; seeds pooled item by item.
    """
    rng = np.random.default_rng(0)
    place = np.concatenate([run.place for run in runs])
    refused = {name: why for run in runs for name, why in run.refused.items()}
    errors = {
        name: np.concatenate([run.errors[name] for run in runs])
        for name in runs[0].errors
        if all(name in run.errors for run in runs)
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
        for w in (*WEIGHTED, *(f"{judge}_equal_weights" for judge in JUDGES))
        if w in errors
        for name, e in errors.items()
        if name != w
    }
    correlations = {
        k: [run.correlations[k] for run in runs if k in run.correlations]
        for k in runs[0].correlations
    }
    return {
        "latent_r2": r2,
        "paired": pairs,
        "rank_correlation": {
            k: {"mean": float(np.mean(v)), "least": float(np.min(v)), "most": float(np.max(v))}
            for k, v in correlations.items()
        },
        "calibration_error_by_position": {
            name: miscalibration(runs, name) for name in runs[0].claimed
        },
        "refused": refused,
        "scored_items": len(place),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--noise", default=",".join(f"{n:g}" for n in NOISE))
    parser.add_argument("--bend", type=float, default=0.0, help="of vectors; see `synthetic`")
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS))
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    asked = parser.parse_args()
    import json

    import torch

    torch.set_num_threads(1)
    names = asked.tokenizers.split(",")
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    levels = {
        f"noise_{noise:g}": summary([one(noise, seed, names, asked.bend) for seed in seeds])
        for noise in map(float, asked.noise.split(","))
    }
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = (
        f"python benchmarks/ground_truth.py --seeds {asked.seeds} --first-seed {asked.first_seed}"
        f" --noise {asked.noise} --bend {asked.bend:g} --tokenizers {asked.tokenizers}"
    )
    facts = {
        "command": command,
        "commit": commit,
        "seeds": list(seeds),
        "bend": asked.bend,
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
