"""Two snapshots side by side, of one generation or of two. Reads: an index. Writes: facts of the
page `changes`.

Legend: N items in the index's order (the most popular first), L positions, K codes.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from adc_features.errors import RequestError
from adc_features.explore.find import PAGE, offset_of
from adc_features.explore.index import Codes, Index

TENTHS = 10
RENAMED = 0.5
"""A code counts as renamed when more of its items than this share moved to one other code, most of
whose items came from it.
"""
SHOWN = 12


def changes(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """What changed from one snapshot to another, among items with a code at the position in both.

    before, after: `GENERATION@NUMBER`, by default the last two snapshots of the newest generation.
    """
    places = [f"{c.id}@{n}" for c in index.generations.values() for n in range(len(c.codes))]
    chosen = [asked.get(n) or p for n, p in zip(("before", "after"), _default(index), strict=True)]
    (old, a), (new, b) = (_chosen(index, places, one) for one in chosen)
    length, start = min(old.length, new.length), offset_of(asked)
    before, after = old.codes[a], new.codes[b]
    items = before.shape[1]
    moved = np.zeros(items, bool)
    there = np.zeros((2, items), bool)
    positions, tenths = [], np.zeros((2, TENTHS), np.int64)
    edges = np.linspace(0, items, TENTHS + 1).astype(np.int64)
    for p in range(length):
        x, y = np.asarray(before[p]), np.asarray(after[p])
        has = x >= 0, y >= 0
        both = has[0] & has[1]
        changed = both & (x != y)
        moved |= changed
        there[0] |= has[0]
        there[1] |= has[1]
        counts = np.array(
            [[np.count_nonzero(c[i:j]) for i, j in pairwise(edges)] for c in (changed, both)]
        )
        tenths += counts
        in_both, in_changed = counts.sum(axis=1)[::-1].tolist()
        had, gets = (
            _counts(codes.use[n, p, :, 0], z, one, both)
            for codes, n, z, one in ((old, a, x, has[0]), (new, b, y, has[1]))
        )
        positions.append(
            {
                "position": p,
                "before": old.position_name(p),
                "after": new.position_name(p),
                "both": in_both,
                "changed": _share(in_changed, in_both),
                "renamed": _renamed(x[changed], y[changed], had, gets),
            }
        )
    changed_rows = np.flatnonzero(moved)
    return {
        "places": places,
        "before": _said(old, a),
        "after": _said(new, b),
        "both": int((there[0] & there[1]).sum()),
        "appeared": int((there[1] & ~there[0]).sum()),
        "disappeared": int((there[0] & ~there[1]).sum()),
        "changed_items": len(changed_rows),
        "changed": _share(tenths[0].sum(), tenths[1].sum()),
        "by_position": positions,
        "by_popularity": _by_popularity(index, edges, tenths),
        "examples": _examples(index, before, after, changed_rows[start : start + PAGE], length),
        "from": start,
        "next": start + PAGE if start + PAGE < len(changed_rows) else None,
    }


def _default(index: Index) -> tuple[str, str]:
    """The last two snapshots, of two generations where the newest has only one."""
    newest = index.newest
    last = len(newest.codes) - 1
    if last or len(index.generations) == 1:
        return f"{newest.id}@{max(last - 1, 0)}", f"{newest.id}@{last}"
    other = list(index.generations.values())[-2]
    return f"{other.id}@{len(other.codes) - 1}", f"{newest.id}@0"


def _chosen(index: Index, places: list[str], name: str) -> tuple[Codes, int]:
    if name not in places:
        raise RequestError(
            f"snapshot is {name[:60]!r}; expected GENERATION@NUMBER, one of {', '.join(places[:6])}"
            f"{' and more' if len(places) > 6 else ''}"
        )
    generation, _, number = name.rpartition("@")
    return index.codes(generation), int(number)


def _said(codes: Codes, snapshot: int) -> dict[str, Any]:
    one = codes.timeline.snapshots[snapshot]
    times: dict[str, datetime] = {"as_of": one.as_of, "servable_at": one.servable_at}
    return {"name": f"{codes.id}@{snapshot}", "generation": codes.id, **times}


def _share(part: Any, of: Any) -> float | None:
    return float(part) / float(of) if of else None


def _counts(
    every: np.ndarray, codes: np.ndarray, known: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Items of each code that are in both snapshots, [K]; every: those of one snapshot."""
    if np.count_nonzero(known) == np.count_nonzero(both):
        return every
    return every - np.bincount(codes[known & ~both], minlength=len(every))


def _renamed(
    before: np.ndarray, after: np.ndarray, had: np.ndarray, gets: np.ndarray
) -> list[dict[str, Any]]:
    """Codes whose items went to another one together, the largest first.

    before, after: codes of the items that changed. had, gets: items of each code before and after,
    of those that are in both.
    """
    key = before.astype(np.int64) * len(gets) + after
    table = np.bincount(key, minlength=len(had) * len(gets)).reshape(len(had), len(gets))
    to, code = table.argmax(axis=1), np.arange(len(had))
    went = table[code, to]
    is_renamed = (went > RENAMED * had) & (2 * went > gets[to])
    rows = code[is_renamed][np.argsort(-went[is_renamed], kind="stable")]
    return [
        {
            "before": int(c),
            "after": int(to[c]),
            "items": int(went[c]),
            "share": float(went[c] / had[c]),
        }
        for c in rows[:SHOWN]
    ]


def _by_popularity(index: Index, edges: np.ndarray, tenths: np.ndarray) -> list[dict[str, Any]]:
    """By tenths of the items, the rarest first."""
    told = []
    for n in reversed(range(TENTHS)):
        part = index.events[-1, edges[n] : edges[n + 1]]
        if not len(part):
            continue
        told.append(
            {
                "items": len(part),
                "mean_events": float(part.mean()) if index.has_events else None,
                "changed": _share(tenths[0, n], tenths[1, n]),
            }
        )
    return told


def _examples(
    index: Index, before: np.ndarray, after: np.ndarray, rows: np.ndarray, length: int
) -> list[dict[str, Any]]:
    """Items that changed, the most popular first, with their codes before and after."""
    x, y = (np.asarray(codes[:length, rows]).T.tolist() for codes in (before, after))
    return [
        {**one._asdict(), "before": old, "after": new}
        for one, old, new in zip(index.named(rows), x, y, strict=True)
    ]
