"""Two snapshots side by side, of one generation or of two. Reads: an index. Writes: facts of the
page `changes`.

Legend: N items in the index's order (the most popular first), L positions, K codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
DENSE = 1 << 22
"""Pairs of codes up to which changes are counted in one array."""


def changes(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """What changed from one snapshot to another, among items with a code at the position in both.

    before, after: `GENERATION@NUMBER`, by default the last two snapshots of the newest generation.
    """
    places = [f"{c.id}@{n}" for c in index.generations.values() for n in range(len(c.codes))]
    chosen = [asked.get(n) or p for n, p in zip(("before", "after"), _default(index), strict=True)]
    (old, a), (new, b) = (_chosen(index, places, one) for one in chosen)
    length, start = min(old.length, new.length), offset_of(asked)
    before, after = (np.asarray(c.codes[n][:length]) for c, n in ((old, a), (new, b)))
    found = _compared(before, after, new.codebook_size)
    positions = []
    for p in range(length):
        both, changed = found.both[:, p].sum(), found.changed[:, p].sum()
        of = (old.use[a, p, :, 0], found.left[p]), (new.use[b, p, :, 0], found.came[p])
        positions.append(
            {
                "position": p,
                "before": old.position_name(p),
                "after": new.position_name(p),
                "both": int(both),
                "changed": _share(changed, both),
                "renamed": _renamed(found.moves[p], *(_less(every, one) for every, one in of)),
            }
        )
    changed_rows = np.flatnonzero(found.moved)
    return {
        "places": places,
        "before": _said(old, a),
        "after": _said(new, b),
        "both": found.in_both,
        "appeared": found.appeared,
        "disappeared": found.disappeared,
        "changed_items": len(changed_rows),
        "changed": _share(found.changed.sum(), found.both.sum()),
        "by_position": positions,
        "by_popularity": _by_popularity(index, found),
        "examples": _examples(index, before, after, changed_rows[start : start + PAGE]),
        "from": start,
        "next": start + PAGE if start + PAGE < len(changed_rows) else None,
    }


@dataclass
class _Compared:
    """What two snapshots have in common.

    edges: int [TENTHS + 1], where each tenth of the items begins. both, changed: int64 [TENTHS, L],
    items with a code in both, and with another one. moved: bool [N]. moves: of each position
    `before * size + after` of every change. left, came: codes of the items that have one on that
    side alone.
    """

    edges: np.ndarray
    both: np.ndarray
    changed: np.ndarray
    moved: np.ndarray
    moves: list[np.ndarray]
    left: list[np.ndarray]
    came: list[np.ndarray]
    in_both: int = 0
    appeared: int = 0
    disappeared: int = 0


def _compared(before: np.ndarray, after: np.ndarray, size: int) -> _Compared:
    """Compare codes [L, N] of two snapshots, a tenth of the items at a time: what is looked at
    stays in the processor's cache. size: codes of a position after.
    """
    length, items = before.shape
    edges = np.linspace(0, items, TENTHS + 1).astype(np.int64)
    both, changed = np.zeros((2, TENTHS, length), np.int64)
    found = _Compared(edges, both, changed, np.zeros(items, bool), [], [], [])
    was, is_there = np.zeros((2, items), bool)
    for p in range(length):
        none = np.zeros(0, np.int32)
        moves, left, came = [none], [none], [none]
        for n, (start, end) in enumerate(pairwise(edges.tolist())):
            part = slice(start, end)
            x, y = before[p, part], after[p, part]
            has = x >= 0, y >= 0
            common, other = has[0] & has[1], x != y
            other &= common
            both[n, p], changed[n, p] = np.count_nonzero(common), np.count_nonzero(other)
            found.moved[part] |= other
            was[part] |= has[0]
            is_there[part] |= has[1]
            rows = np.flatnonzero(other)
            moves.append(x[rows].astype(np.int32 if size < 1 << 15 else np.int64) * size + y[rows])
            for codes, mine, told in ((x, has[0], left), (y, has[1], came)):
                if np.count_nonzero(mine) != both[n, p]:
                    told.append(codes[mine & ~common])
        for told, each in ((found.moves, moves), (found.left, left), (found.came, came)):
            told.append(np.concatenate(each))
    found.in_both = int(np.count_nonzero(was & is_there))
    found.appeared = int(np.count_nonzero(is_there & ~was))
    found.disappeared = int(np.count_nonzero(was & ~is_there))
    return found


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


def _less(every: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Items of each code, [K], without those of some codes."""
    return every - np.bincount(codes, minlength=len(every)) if len(codes) else every


def _renamed(moves: np.ndarray, had: np.ndarray, gets: np.ndarray) -> list[dict[str, Any]]:
    """Codes whose items went to another one together, the largest first.

    moves: `before * K + after` of each item that changed. had, gets: items of each code before and
    after, of those that are in both.
    """
    size = len(gets)
    if len(had) * size <= DENSE:
        table = np.bincount(moves, minlength=len(had) * size).reshape(len(had), size)
        code = np.flatnonzero(table.max(axis=1) > RENAMED * had)
        to = table[code].argmax(axis=1)
        went = table[code, to]
    else:
        pairs, went = np.unique(moves, return_counts=True)
        code, to = np.divmod(pairs, size)
    is_renamed = np.flatnonzero((went > RENAMED * had[code]) & (2 * went > gets[to]))
    rows = is_renamed[np.argsort(-went[is_renamed], kind="stable")][:SHOWN]
    return [
        {
            "before": int(code[n]),
            "after": int(to[n]),
            "items": int(went[n]),
            "share": float(went[n] / had[code[n]]),
        }
        for n in rows
    ]


def _by_popularity(index: Index, found: _Compared) -> list[dict[str, Any]]:
    """By tenths of the items, the rarest first."""
    told = []
    for n in reversed(range(TENTHS)):
        part = index.events[-1, found.edges[n] : found.edges[n + 1]]
        if not len(part):
            continue
        told.append(
            {
                "items": len(part),
                "mean_events": float(part.mean()) if index.has_events else None,
                "changed": _share(found.changed[n].sum(), found.both[n].sum()),
            }
        )
    return told


def _examples(
    index: Index, before: np.ndarray, after: np.ndarray, rows: np.ndarray
) -> list[dict[str, Any]]:
    """Items that changed, the most popular first, with their codes before and after."""
    x, y = (codes[:, rows].T.tolist() for codes in (before, after))
    return [
        {**one._asdict(), "before": old, "after": new}
        for one, old, new in zip(index.named(rows), x, y, strict=True)
    ]
