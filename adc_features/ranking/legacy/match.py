"""How an item meets the user's recent ones. Reads: Frame, CodeTimeline. Writes:
arrays.

Legend: N rows, L positions.
"""

import numpy as np

from adc_features.codes.sids import CodeTimeline
from adc_features.loader.frame import Frame
from adc_features.ranking.legacy.features import recent_items


def code_match(
    frame: Frame, timeline: CodeTimeline, sid: np.ndarray, weight: np.ndarray, *, weighted: bool
) -> np.ndarray:
    """How the item's codes meet those of the user's recent items, codes as of the row's time:
    float32 [N, 2L].

    sid: int32 [N, L], -1 = none; weight: float32 [N, L]. Per position first the share of recent
    items with the same code, then the same weighted by label - the user's mean (liked above,
    disliked below). `weighted` counts a match by the product of both weights. Shares are smoothed
    by two items that do not match. A frame of one row stands for the user of every row of `sid`.
    """
    row, items, label, size = recent_items(frame)
    length = sid.shape[1]
    out = np.zeros((len(sid), 2 * length), np.float32)
    if not len(row):
        return out
    their_sid, their_weight, _ = timeline.gather(items, frame.times[row])
    liking = label - frame.numbers("user_label_mean")[row]
    # one user: what each code of theirs counts is added up once, and then read by every candidate
    if len(frame) == 1:
        codes = max(int(sid.max(initial=0)), int(their_sid.max(initial=0))) + 2
        start = 1 + np.arange(length) * codes
        ours, theirs = sid + start, (their_sid + start).reshape(-1)
        counted = np.where(their_sid >= 0, their_weight if weighted else 1.0, 0.0)
        for half, worth in (
            (slice(length), counted),
            (slice(length, None), counted * liking[:, None]),
        ):
            out[:, half] = (
                np.bincount(theirs, worth.reshape(-1), length * codes)[ours]
                * (weight if weighted else 1.0)
                / (size + 2)
            )
        return out
    same = ((their_sid == sid[row]) & (their_sid >= 0)).astype(np.float64)
    if weighted:
        same *= their_weight * weight[row]
    for place in range(length):
        out[:, place] = np.bincount(row, same[:, place], len(frame)) / (size + 2)
        out[:, length + place] = np.bincount(row, same[:, place] * liking, len(frame)) / (size + 2)
    return out
