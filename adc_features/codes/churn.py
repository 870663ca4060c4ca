"""What a new generation changed for the readers of the old one. Reads: SidTables of both. Writes:
relabellings, the churn report, a plain dict.

Legend: N items, L positions, K codes. Codes are unordered across positions, so each position is
relabelled alone.
"""

from typing import Any

import numpy as np

from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE, SidSpec
from adc_features.errors import InputError
from adc_features.extras import extra_modules

DECILES = 10


def relabelling(old: np.ndarray, new: np.ndarray, *, codebook_size: int) -> np.ndarray:
    """New names of the new codes under which as many items as possible keep their old code: int64
    [L, K], a permutation at each position.

    old, new: int32 [N, L], the codes of the same items, -1 = none. Optimal assignment on the table
    of items that have both (scipy's linear_sum_assignment); a code that meets no old one takes a
    name that is left.
    """
    with extra_modules():
        from scipy.optimize import linear_sum_assignment

    if old.shape != new.shape:
        raise InputError(
            f"old codes are {list(old.shape)}, new codes {list(new.shape)}; give the codes of the"
            " same items at the same positions"
        )
    names = np.empty((old.shape[1], codebook_size), np.int64)
    for p in range(old.shape[1]):
        both = (old[:, p] >= 0) & (new[:, p] >= 0)
        shared = np.bincount(
            new[both, p].astype(np.int64) * codebook_size + old[both, p], minlength=codebook_size**2
        ).reshape(codebook_size, codebook_size)
        # one part in K of a vote for the own name: what no item decides stays as it is
        rows, columns = linear_sum_assignment(
            shared + np.eye(codebook_size) / (codebook_size + 1), maximize=True
        )
        names[p, rows] = columns
    return names


def relabelled(sid: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The codes under their new names, int32 [N, L]; -1 stays -1."""
    return np.where(sid >= 0, names[np.arange(sid.shape[1]), np.maximum(sid, 0)], NO_CODE).astype(
        np.int32
    )


def churn_report(
    old: SidTable,
    new: SidTable,
    interaction_count: np.ndarray,
    *,
    spec: SidSpec,
    names: np.ndarray | None = None,
) -> dict[str, Any]:
    """Share of (item, position) codes that changed from `old` to `new`, among items that have a
    code at the position in both.

    new: under its final names. names: the relabelling that gave them, to report the raw churn as
    well. interaction_count: int64 [N], of new.item_ids. Shares over all positions, behavioural
    ones, each position, and deciles of popularity (rarest first); weight_drift: mean absolute
    difference of the weights by position. NaN where nothing is shared.
    """
    before, behavioral = old.lookup(new.item_ids), np.array(spec.is_behavioral)
    both = (before.sid >= 0) & (new.sid >= 0)
    changed = before.sid != new.sid
    difference = np.abs(before.sid_weight - new.sid_weight)
    order = np.argsort(interaction_count, kind="stable")
    report: dict[str, Any] = {
        "items": int(both.any(axis=1).sum()),
        "changed": _share(changed, both),
        "changed_behavioral": _share(changed[:, behavioral], both[:, behavioral]),
        "by_position": [_share(changed[:, p], both[:, p]) for p in range(new.length)],
        "by_popularity": [
            {
                "interactions": float(interaction_count[g].mean()),
                "changed": _share(changed[g], both[g]),
            }
            for g in np.array_split(order, DECILES)
            if len(g)
        ],
        "weight_drift": [
            float(difference[both[:, p], p].mean()) if both[:, p].any() else float("nan")
            for p in range(new.length)
        ],
    }
    if names is not None:
        raw = relabelled(new.sid, np.argsort(names, axis=1))
        report["changed_raw"] = _share(before.sid != raw, both)
    return report


def _share(changed: np.ndarray, among: np.ndarray) -> float:
    return float(changed[among].mean()) if among.any() else float("nan")


def usage_distance(before: np.ndarray, after: np.ndarray, *, codebook_size: int) -> np.ndarray:
    """How far the use of the codes moved: Jensen-Shannon distance at each position, float64 [L] in
    0..1 (base 2).

    before, after: int32 [N, L] and [M, L], the codes of what was shown then and now, repeats and -1
    (none) included; a position without any code on one side has NaN.
    """
    with extra_modules():
        from scipy.spatial.distance import jensenshannon

    used = [
        [np.bincount(codes[codes >= 0], minlength=codebook_size) for codes in side.T]
        for side in (before, after)
    ]
    return np.array(
        [
            jensenshannon(a, b, base=2) if a.any() and b.any() else np.nan
            for a, b in zip(*used, strict=True)
        ],
        np.float64,
    )
