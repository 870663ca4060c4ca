"""Behaviour vectors of two cut-offs in one space, and how far they moved.
Reads and writes: BehaviorVectors.

Legend: D dims.
"""

from dataclasses import replace

import numpy as np

from adc_features.encoders.behavior_state import BehaviorVectors


def carried(
    previous: BehaviorVectors, learned: BehaviorVectors, *, new_event_weight: float
) -> BehaviorVectors:
    """The vectors as of learned.as_of, in the space of `previous`: each item's vector of then,
    moved by its share of new evidence.

    learned is rotated onto `previous` (orthogonal Procrustes on common items); an item with n
    events then and m since goes w m / (n + w m) of the way to it, w = new_event_weight. An item
    without new events keeps its vector to the bit, one that was not seen before takes the learned
    one. Taking every learned vector as it is moved them all, at every cut-off: optimiser noise,
    since most items had no event in between.
    """
    common = previous.present & learned.present
    turned = learned.vectors @ rotation(learned.vectors[common], previous.vectors[common])
    old = previous.interaction_count
    new = new_event_weight * np.maximum(learned.interaction_count - old, 0)
    share = (new / np.maximum(old + new, 1e-12))[:, None]
    vectors = (previous.vectors + share * (turned - previous.vectors)).astype(np.float32)
    residual = float(
        np.linalg.norm(turned[common] - previous.vectors[common])
        / np.linalg.norm(previous.vectors[common])
    )
    return replace(
        learned, vectors=np.where(share > 0, vectors, previous.vectors), alignment_residual=residual
    )


def drift(a: BehaviorVectors, b: BehaviorVectors) -> dict[str, float]:
    """How far common items moved from `a` to `b`.

    items: how many are in both. cosine_mean, cosine_median: of an item's two vectors. residual:
    ||A - B|| / ||B||. The same after the best rotation of A onto B (orthogonal Procrustes) under
    `rotated_`: where rotation gains little, the two already share a space.
    """
    common = a.present & b.present
    left, right = a.vectors[common].astype(np.float64), b.vectors[common].astype(np.float64)
    rotated = left @ rotation(left, right)
    facts: dict[str, float] = {"items": int(common.sum())}
    for prefix, matrix in (("", left), ("rotated_", rotated)):
        cosines = cosine(matrix, right)
        facts[f"{prefix}cosine_mean"] = float(cosines.mean())
        facts[f"{prefix}cosine_median"] = float(np.median(cosines))
        facts[f"{prefix}residual"] = float(np.linalg.norm(matrix - right) / np.linalg.norm(right))
    return facts


def rotation(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rotation of `left` that comes nearest to `right` (orthogonal Procrustes): float64
    [D, D].
    """
    from scipy.linalg import orthogonal_procrustes

    return orthogonal_procrustes(left.astype(np.float64), right.astype(np.float64))[0]


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The cosine of each pair of rows; 0 where a row is zero."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("nd,nd->n", left, right) / np.maximum(norms, 1e-12)
