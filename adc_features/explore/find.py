"""Find an item; what an item's codes are, how they moved, and what is like it. Reads: an index.
Writes: facts of the pages `find` and `item`.

Legend: N items, S snapshots, L positions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adc_features.errors import RequestError
from adc_features.explore.index import Codes, Index, rate
from adc_features.store.packed.layout import NO_TIME

PAGE = 30
"""Rows of one list."""
SHOWN = 5
"""Titles that say what a code means."""
SIMILAR = 12
EXACT = 20_000_000
"""Numbers of a modality's vectors up to which all items are compared; of more, the NEAR items that
share the most codes.
"""
NEAR = 20_000


def offset_of(asked: Mapping[str, str], name: str = "from") -> int:
    """Where a list goes on, at least 0. Raises RequestError for what is no number."""
    return whole(asked, name, default=0, most=100_000)


def whole(asked: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    """A whole number among the parameters, 0 to `most`. Raises RequestError."""
    text = asked.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= most):
        raise RequestError(f"{name} is {text[:40]!r}; expected a whole number, 0 to {most}")
    return int(text)


def find(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """Items by words or id, the most popular first."""
    words, start = asked.get("q", "")[:400], offset_of(asked)
    rows = index.search(words, limit=PAGE + 1, offset=start)
    codes = index.newest
    sid = np.asarray(codes.codes[-1][:, rows[:PAGE]]).T.tolist()
    items = [
        {**one._asdict(), "sid": codes_of}
        for one, codes_of in zip(index.named(rows[:PAGE]), sid, strict=True)
    ]
    return {
        "q": words,
        "generation": codes.id,
        "positions": [codes.position_name(p) for p in range(codes.length)],
        "catalogue": index.items,
        "items": items,
        "from": start,
        "next": start + PAGE if len(rows) > PAGE else None,
    }


def item(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """An item: its codes and what they mean, its timeline in every generation, what is like it."""
    name = asked.get("id", "")
    row = index.row(name)
    if row is None:
        raise RequestError(f"no item has the id {name[:100]!r}; search for it by its words")
    codes = index.codes(asked.get("generation"))
    (said,) = index.named([row])
    return {
        **said._asdict(),
        "title": index.whole_title(row),
        "generation": codes.id,
        "generations": list(index.generations),
        "tokenizer": codes.tokenizer,
        "codes": _meanings(index, codes, row),
        "timeline": [
            one for each in index.generations.values() for one in timeline(index, each, row)
        ],
        "sharing": _sharing(index, codes, row),
        "near": {name: _near(index, codes, name, row) for name in index.vectors},
    }


def timeline(index: Index, codes: Codes, row: int) -> list[dict[str, Any]]:
    """What each snapshot of a generation says of an item, oldest first."""
    (named,) = index.named([row])
    ids, told = np.array([named.id]), []
    for n, snapshot in enumerate(codes.timeline.snapshots):
        found = snapshot.gather(ids)
        profile = found.profile[0]
        at = profile["sid_as_of"]
        events = int(index.events[codes.cutoffs[n], row])
        told.append(
            {
                "generation": codes.id,
                "as_of": snapshot.as_of,
                "servable_at": snapshot.servable_at,
                "found": bool(profile["found"]),
                "encoded_as_of": None if at == NO_TIME else at.astype("datetime64[us]").item(),
                "sid": found.sid[0].tolist(),
                "sid_weight": found.sid_weight[0].tolist(),
                "reliability": float(profile["reliability"]),
                "alignment": float(profile["alignment"]),
                "is_cold": bool(profile["is_cold"]),
                "collision_count": int(profile["collision_count"]),
                "events": events if index.has_events else None,
                "label_rate": rate(index.labels[codes.cutoffs[n], row], events),
            }
        )
    return told


def _meanings(index: Index, codes: Codes, row: int) -> list[dict[str, Any]]:
    """Each of an item's codes in the newest snapshot, with the heaviest items that share it."""
    (named,) = index.named([row])
    found = codes.timeline.snapshots[-1].gather(np.array([named.id]))
    told = []
    for p, (code, weight) in enumerate(
        zip(found.sid[0].tolist(), found.sid_weight[0].tolist(), strict=True)
    ):
        rows = codes.rows_of(p, code) if code >= 0 else np.zeros(0, np.int32)
        top = [r for r in rows[: SHOWN + 1].tolist() if r != row][:SHOWN]
        told.append(
            {
                "position": p,
                "name": codes.position_name(p),
                "code": code,
                "weight": weight,
                "items": len(rows),
                "top": [one._asdict() for one in index.named(top)],
            }
        )
    return told


def _shared(codes: Codes, row: int) -> np.ndarray:
    """At how many positions each item has the item's code, uint8 [N]; itself 0."""
    newest = codes.codes[-1]
    count = np.zeros(newest.shape[1], np.uint8)
    for p in range(codes.length):
        if newest[p, row] >= 0:
            count += newest[p] == newest[p, row]
    count[row] = 0
    return count


def _most(score: np.ndarray, many: int) -> np.ndarray:
    """The places of the highest scores above 0, equal ones in their order: int64 [<= many].

    score: whole numbers, of few different values.
    """
    parts, left = [np.zeros(0, np.int64)], many
    for value in range(int(score.max(initial=0)), 0, -1):
        parts.append(np.flatnonzero(score == value)[:left])
        left -= len(parts[-1])
        if not left:
            break
    return np.concatenate(parts)


def _sharing(index: Index, codes: Codes, row: int) -> list[dict[str, Any]]:
    """The items that share the most codes, of equal ones the most popular."""
    rows, newest = _most(_shared(codes, row), SIMILAR), codes.codes[-1]
    own = np.asarray(newest[:, row])
    same = (np.asarray(newest[:, rows]) == own[:, None]) & (own[:, None] >= 0)
    return [
        {**one._asdict(), "positions": np.flatnonzero(at).tolist()}
        for one, at in zip(index.named(rows), same.T, strict=True)
    ]


def _near(index: Index, codes: Codes, modality: str, row: int) -> dict[str, Any]:
    """The items whose vectors have the highest cosine with the item's.

    Of many vectors only those of the items that share the most codes are compared.
    """
    vectors = index.vectors[modality]
    own = np.asarray(vectors[row], np.float32)
    if not own.any():
        return {"compared": 0, "items": []}
    among = None if vectors.size <= EXACT else np.sort(_most(_shared(codes, row), NEAR))
    part = np.asarray(vectors if among is None else vectors[among], np.float32)
    cosine = part @ own
    if among is None:
        cosine[row] = -np.inf
    best = np.argsort(-cosine, kind="stable")[:SIMILAR]
    rows = best if among is None else among[best]
    return {
        "compared": len(part),
        "items": [
            {**one._asdict(), "cosine": float(value)}
            for one, value in zip(index.named(rows), cosine[best], strict=True)
            if np.isfinite(value)
        ],
    }
