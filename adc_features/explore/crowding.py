"""Items that share all their codes, in every snapshot. Reads: codes of a generation. Writes: how
many share each item's codes, and a summary.

Legend: N items in the index's order (the most popular first), S snapshots, L positions.
"""

from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import write_json
from adc_features.codes.quality import collision_counts

BUCKETS = (1, 2, 5, 10, 100)
"""Upper ends of the groups of items by how many share their codes."""
CROWDED = 40
"""Most crowded semantic IDs that are kept."""
SHOWN = 5
"""Items of each, the most popular, that are kept with it."""


def write_crowding(folder: Path, codes: np.ndarray, size: int) -> None:
    """`collisions.npy`, int32 [S, N], how many items have an item's codes, 0 without any; and
    `crowded.json`, a summary of each snapshot. codes: int [S, L, N], -1 = no code; size: codes of a
    position.
    """
    shape = len(codes), codes.shape[2]
    counts = np.lib.format.open_memmap(folder / "collisions.npy", "w+", np.int32, shape)
    told = []
    for n, of in enumerate(codes):
        sid = np.ascontiguousarray(of.T, np.int32)
        rows = np.flatnonzero((sid >= 0).any(axis=1))
        if len(rows):
            counts[n, rows] = collision_counts(sid[rows], codebook_size=size)
        told.append(_summary(sid, counts[n]))
    counts.flush()
    write_json(folder / "crowded.json", told)


def _summary(sid: np.ndarray, count: np.ndarray) -> dict[str, Any]:
    """Items by how many share all their codes, and the most crowded semantic IDs with their most
    popular items. sid: [N, L]; count: [N].
    """
    if not count.any():
        return {"buckets": [], "ids": []}
    below, buckets = 0, []
    for end in (*BUCKETS, None):
        inside = within(count, below + 1, end)
        buckets.append({"from": below + 1, "to": end, "items": int(inside.sum())})
        below = end or below
    left = np.where(count > 1, count, 0)
    ids: list[dict[str, Any]] = []
    while len(ids) < CROWDED and left.any():
        first = int(left.argmax())
        same = np.flatnonzero(left == left[first])
        same = same[(sid[same] == sid[first]).all(axis=1)]
        ids.append(
            {
                "sid": sid[first].tolist(),
                "items": len(same),
                "rows": same[:SHOWN].tolist(),
            }
        )
        left[same] = 0
    return {"buckets": buckets, "ids": ids}


def within(count: np.ndarray, least: int, most: int | None) -> np.ndarray:
    """Which counts lie in a group, bool [N]; most: None where it has no upper end."""
    inside = count >= least
    return inside if most is None else inside & (count <= most)
