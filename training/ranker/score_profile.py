"""How the probabilities of a ranker are spread. Reads: probabilities. Writes: profiles, as JSON.

Legend: T tasks, N rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 10


def score_profiles(probabilities: np.ndarray, tasks: Sequence[str]) -> dict[str, Any]:
    """Task -> {"edges", "counts", "mean"} of probabilities [T, N].

    edges: the 9 inner deciles, float64; counts: rows of each of the 10 groups between them, each
    with its upper edge.
    """
    found = {}
    for name, values in zip(tasks, probabilities, strict=True):
        edges = np.quantile(values.astype(np.float64), np.arange(1, BINS) / BINS)
        found[name] = {
            "edges": edges.tolist(),
            "counts": counted(values, edges),
            "mean": float(values.mean()),
        }
    return found


def counted(values: np.ndarray, edges: Sequence[float] | np.ndarray) -> list[int]:
    """Rows of each group between edges."""
    places = np.searchsorted(np.asarray(edges), values.astype(np.float64), side="left")
    return np.bincount(places, minlength=len(edges) + 1).tolist()


def score_drift(profile: Mapping[str, Any], values: np.ndarray) -> float:
    """Jensen-Shannon distance (base 2, 0..1) of probabilities [N] from a profile of the same task,
    less what chance alone makes of it.
    """
    from adc_features.codes.drift import distance

    now = np.array(counted(values, profile["edges"]))
    return distance(np.array(profile["counts"]), now)
