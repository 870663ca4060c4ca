"""What codes look like in traffic, and how far that has moved. Reads: item ids and times of
traffic, a CodeTimeline. Writes: profiles and findings, plain dicts.

Feast's own monitoring compares numbers of columns; codes are names, so their use is compared as
histograms by position, and what matters to a ranker is weighed by what was shown, not by what is in
the catalogue.

Legend: N impressions, L positions, K codes, W bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adc_features.clock import moment
from adc_features.codes.quality import code_usage
from adc_features.codes.sids import CodeTimeline, find_rows
from adc_features.errors import GenerationMismatch, InputError
from adc_features.extras import extra_modules

BINS = 20
WEIGHT_RANGE, RELIABILITY_RANGE = (0.0, 4.0), (0.0, 1.0)


@dataclass(frozen=True)
class DriftThresholds:
    """What is still the same. Distances are Jensen-Shannon's (base 2), 0..1, at the worst position;
    the others are differences of shares, or of entropy in nats.

    Two samples of the same traffic differ too: what chance alone makes of their distance is taken
    off first (see `distance`).
    """

    usage: float = 0.2
    weight: float = 0.2
    reliability: float = 0.2
    entropy: float = 0.3
    coverage: float = 0.05
    unknown: float = 0.05


def traffic_profile(
    item_ids: np.ndarray,
    times: np.ndarray,
    timeline: CodeTimeline,
    *,
    codebook_size: int,
    codebook_hash: str,
    catalogue: np.ndarray,
) -> dict[str, Any]:
    """How codes, weights and reliability are spread over impressions, each as served at its time.

    item_ids, times (datetime64[us]): [N], of what was shown. catalogue: ids of the items that
    exist. Returns {"generation", "codebook_hash", "codebook_size", "impressions", "from", "to",
    "coverage": share with a code, "unknown": share of items that the catalogue lacks, "usage": int
    [L][K], "entropy": [L] nats, "weight": int [L][W], "reliability": int [W]}. Raises InputError
    without impressions.
    """
    if not len(item_ids):
        raise InputError("no impressions were given; a profile needs traffic, widen the window")
    sid, weight, reliability = timeline.gather(item_ids, times)
    coded = (sid >= 0).any(axis=1)
    _, known = find_rows(catalogue, item_ids)
    usage = [np.bincount(codes[codes >= 0], minlength=codebook_size) for codes in sid.T]
    return {
        "generation": timeline.generation,
        "codebook_hash": codebook_hash,
        "codebook_size": codebook_size,
        "impressions": len(item_ids),
        "from": moment(times.min()),
        "to": moment(times.max()),
        "coverage": float(coded.mean()),
        "unknown": float(1 - known.mean()),
        "usage": [counts.tolist() for counts in usage],
        "entropy": [
            (
                code_usage(codes[codes >= 0], codebook_size=codebook_size)["entropy"]
                if (codes >= 0).any()
                else 0.0
            )
            for codes in sid.T
        ],
        "weight": [
            _histogram(w[c >= 0], WEIGHT_RANGE) for w, c in zip(weight.T, sid.T, strict=True)
        ],
        "reliability": _histogram(reliability[coded], RELIABILITY_RANGE),
    }


def _histogram(values: np.ndarray, span: tuple[float, float]) -> list[int]:
    return np.histogram(np.clip(values, *span), bins=BINS, range=span)[0].tolist()


def drift(
    baseline: Mapping[str, Any], now: Mapping[str, Any], thresholds: DriftThresholds
) -> dict[str, dict[str, Any]]:
    """Name -> {"value", "limit", "beyond", "by_position"}:
    how far each part moved from the baseline.

    Raises GenerationMismatch when the profiles are of different codebooks: their codes are
    different words.
    """
    if baseline["codebook_hash"] != now["codebook_hash"]:
        raise GenerationMismatch(
            f"the baseline is of generation {baseline['generation']!r} with codebook"
            f" {baseline['codebook_hash'][:12]}..., the traffic of {now['generation']!r} with"
            f" {now['codebook_hash'][:12]}...; make a baseline of this generation"
        )
    found: dict[str, dict[str, Any]] = {}
    for name in ("usage", "weight"):
        each = [
            distance(np.asarray(a), np.asarray(b))
            for a, b in zip(baseline[name], now[name], strict=True)
        ]
        found[name] = _finding(max(each, default=0.0), getattr(thresholds, name), by_position=each)
    found["reliability"] = _finding(
        distance(np.asarray(baseline["reliability"]), np.asarray(now["reliability"])),
        thresholds.reliability,
    )
    each = [abs(a - b) for a, b in zip(baseline["entropy"], now["entropy"], strict=True)]
    found["entropy"] = _finding(max(each, default=0.0), thresholds.entropy, by_position=each)
    found["coverage"] = _finding(baseline["coverage"] - now["coverage"], thresholds.coverage)
    found["unknown"] = _finding(now["unknown"] - baseline["unknown"], thresholds.unknown)
    return found


def _finding(value: float, limit: float, **facts: Any) -> dict[str, Any]:
    return {"value": value, "limit": limit, "beyond": bool(value > limit), **facts}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Jensen-Shannon distance (base 2) of two histograms, 0..1, less what chance alone makes of two
    samples of these sizes; 0 when both are empty, 1 when one is.

    The expected divergence of two samples from one distribution over k used bins is about (k - 1)
    (1/n + 1/m) / (8 ln 2) (second-order expansion).
    """
    with extra_modules():
        from scipy.spatial.distance import jensenshannon

    n, m = a.sum(), b.sum()
    if not n or not m:
        return 0.0 if n == m else 1.0
    chance = (np.count_nonzero(a + b) - 1) * (1 / n + 1 / m) / (8 * np.log(2))
    return float(np.sqrt(max(float(jensenshannon(a, b, base=2)) ** 2 - chance, 0.0)))
