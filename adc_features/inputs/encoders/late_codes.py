"""Codes of lists of items, each as of a time. Reads: CodeTimeline. Writes: arrays.

Legend: T elements, U distinct items, S snapshots, L positions.
"""

import numpy as np
import pyarrow as pa

from adc_features.codes.embeddings import id_array
from adc_features.codes.sids import CodeTimeline


def rows_as_of(
    timeline: CodeTimeline, item: np.ndarray, distinct: pa.Array, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Code + 1 int64 [T, L], 0 for none, and weights float32 [T, L] as they were served then.

    Each (item, snapshot) is looked up once, so text ids are compared once and not T times.

    Parameters
    ----------
    timeline : CodeTimeline
        Codes through time.
    item : ndarray
        int64 [T], places in `distinct`.
    distinct : pyarrow.Array
        Item ids [U].
    times : ndarray
        datetime64[us] [T], UTC.
    """
    if not len(item):
        empty = np.zeros((0, timeline.length))
        return empty.astype(np.int64), empty.astype(np.float32)
    served = timeline.servable_at
    # 0: before the first snapshot
    which = np.searchsorted(served, times, side="right")
    moments = np.concatenate([served[:1] - np.timedelta64(1, "us"), served])
    key = item * len(moments) + which
    pairs, back = _distinct(key, len(distinct) * len(moments))
    ids = id_array(distinct)[pairs // len(moments)]
    codes, weights, _ = timeline.gather(ids, moments[pairs % len(moments)])
    rows = codes.astype(np.int64) + 1
    return rows.take(back, axis=0), weights.take(back, axis=0)


def _distinct(key: np.ndarray, bound: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, all below `bound`, and the place of each key among them."""
    if bound > 4 * len(key) + 1_000_000:
        return np.unique(key, return_inverse=True)
    seen = np.zeros(bound, bool)
    seen[key] = True
    place = np.cumsum(seen) - 1
    return np.flatnonzero(seen), place[key]
