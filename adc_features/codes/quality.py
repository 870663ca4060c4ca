"""How well a vocabulary is used. Reads: SidTable, interaction counts. Writes: the quality report, a
plain dict.

Legend: N items, L positions, K codes. Entropy is in nats beside its bound ln K; positions without a
code (-1) are ignored.
"""

from typing import Any

import numpy as np

from adc_features.codes.reliability import rank_correlation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE, SidSpec
from adc_features.errors import InputError

SLICES = ("head", "middle", "tail")


def popularity_slices(counts: np.ndarray) -> np.ndarray:
    """The slice of each item, int8 [N]: 0 head, 1 middle, 2 tail; counts: interactions of each
    item, int [N].

    Head are the most popular items that together hold the first 20 % of interactions, tail the
    least popular that hold the last 20 % and all without any, the rest is the middle (the split of
    Abdollahpouri et al., arXiv 1901.07555). Items of equal count share a slice; when head and tail
    would claim the same count (all items alike), it is the middle.
    """
    levels, level = np.unique(counts, return_inverse=True)
    held = np.bincount(level, weights=counts, minlength=len(levels))
    total = max(held.sum(), 1)
    below = (np.cumsum(held) - held) / total
    above = 1 - below - held / total
    head, tail = above < 0.2 - 1e-9, below < 0.2 - 1e-9
    return np.select([head & ~tail, tail & ~head], [0, 2], default=1).astype(np.int8)[level]


def collision_counts(sid: np.ndarray, *, codebook_size: int) -> np.ndarray:
    """How many rows carry the same codes at every position, the row itself included: int32 [N] from
    int32 [N, L].
    """
    _, group, size = np.unique(
        _sid_key(sid, codebook_size), return_inverse=True, return_counts=True
    )
    return size[group].astype(np.int32)


def _sid_key(sid: np.ndarray, codebook_size: int) -> np.ndarray:
    """One int64 a row, equal exactly where the codes are; folded to ranks whenever the next digit
    would overflow.
    """
    key, bound = np.zeros(len(sid), np.int64), 1
    for column in sid.T:
        if bound > np.iinfo(np.int64).max // (codebook_size + 1):
            key = np.unique(key, return_inverse=True)[1]
            bound = len(sid)
        key = key * (codebook_size + 1) + column + 1
        bound *= codebook_size + 1
    return key


def quality_report(
    sids: SidTable, interaction_count: np.ndarray, *, spec: SidSpec
) -> dict[str, Any]:
    """Use of every codebook, uniqueness and weights, over all items and per popularity slice.

    codebooks: per position its kind and modality, entropy and entropy_bound (nats), utilisation,
    perplexity, gini, dead codes. uniqueness: distinct SIDs an item; largest_collision: items on the
    most crowded SID. weights: rank correlation of the mean behavioural weight with the count and
    the share of zero behavioural weights by popularity decile (rarest first), over warm items.
    interaction_count: int [N], of the same items in the same order.
    Raises InputError when they differ.
    """
    if len(interaction_count) != len(sids) or spec.length != sids.length or not len(sids):
        raise InputError(
            f"{len(sids)} items of {sids.length} positions met {len(interaction_count)} counts and"
            f" a spec of {spec.length}; expected equal, not empty"
        )
    report = _usage(sids.sid, spec)
    slices = popularity_slices(interaction_count)
    for number, name in enumerate(SLICES):
        inside = slices == number
        report[name] = {
            "items": int(inside.sum()),
            "interactions": int(interaction_count[inside].sum()),
        }
        report[name] |= _usage(sids.sid[inside], spec) if inside.any() else {}
    if any(spec.is_behavioral):
        report["weights"] = _weights(sids, interaction_count, spec)
    return report


def _usage(sid: np.ndarray, spec: SidSpec) -> dict[str, Any]:
    codebooks = [
        {
            "position": i,
            "kind": p.kind,
            "modality": p.modality,
            **code_usage(sid[:, i], codebook_size=spec.codebook_size),
        }
        for i, p in enumerate(spec.positions)
    ]
    collisions = np.unique(_sid_key(sid, spec.codebook_size), return_counts=True)[1]
    return {
        "codebooks": codebooks,
        "uniqueness": len(collisions) / len(sid),
        "largest_collision": int(collisions.max()),
    }


def code_usage(codes: np.ndarray, *, codebook_size: int) -> dict[str, float]:
    """Entropy in nats and its bound, utilisation, perplexity, Gini coefficient and dead codes of
    one codebook's codes [N].
    """
    return usage_of(np.bincount(codes[codes != NO_CODE], minlength=codebook_size))


def usage_of(counts: np.ndarray) -> dict[str, float]:
    """The same of the number of items of each code, int64 [K]."""
    codebook_size = len(counts)
    share = counts[counts > 0] / max(counts.sum(), 1)
    entropy = float(-(share * np.log(share)).sum())
    rank = np.arange(1, codebook_size + 1)
    gini = float(
        (2 * rank - codebook_size - 1) @ np.sort(counts) / (codebook_size * max(counts.sum(), 1))
    )
    dead = int((counts == 0).sum())
    return {
        "entropy": entropy,
        "entropy_bound": float(np.log(codebook_size)),
        "utilisation": 1 - dead / codebook_size,
        "perplexity": float(np.exp(entropy)),
        "gini": gini,
        "dead": dead,
    }


def _weights(sids: SidTable, interaction_count: np.ndarray, spec: SidSpec) -> dict[str, Any]:
    warm = ~sids.is_cold
    weight, count = sids.sid_weight[warm][:, np.array(spec.is_behavioral)], interaction_count[warm]
    by_count = np.argsort(count, kind="stable")
    return {
        "rank_correlation": rank_correlation(weight.mean(1), count),
        "active_mean": float((weight > 0).sum(1).mean()) if warm.any() else 0.0,
        "zero_share_by_decile": [
            float((weight[rows] == 0).mean()) for rows in np.array_split(by_count, 10) if len(rows)
        ],
        "mean_by_decile": [
            float(weight[rows].mean()) for rows in np.array_split(by_count, 10) if len(rows)
        ],
    }
