"""What a code holds, the whole code book as a map, and items that share all their codes. Reads: an
index. Writes: facts of the pages `code`, `codes` and `collisions`.

Legend: N items, S snapshots, L positions, K codes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adc_features.codes.quality import usage_of
from adc_features.errors import RequestError
from adc_features.explore.crowding import within
from adc_features.explore.find import PAGE, offset_of, whole
from adc_features.explore.index import Codes, Index, rate

TOGETHER = 8
"""Codes of another position that a code is shown to occur with."""
SAMPLE = 20_000
"""Items of a code, the heaviest, from which that is counted."""
NUMBER = 8
"""Characters of a code that is still read as one."""
CROWDED = 2.0
"""A code with so many times its even share of items is called crowded."""


def code(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """A code: its items by weight, how it is used over time, and with which codes it occurs."""
    codes = index.codes(asked.get("generation"))
    position = whole(asked, "position", default=0, most=codes.length - 1)
    number = whole(asked, "code", default=0, most=codes.codebook_size - 1)
    rows, start = codes.rows_of(position, number), offset_of(asked)
    part = rows[start : start + PAGE]
    named = index.named(part)
    weights = codes.timeline.snapshots[-1].gather(_ids(named)).sid_weight[:, position]
    items, weight, events, labels = codes.use[-1, position, number].tolist()
    return {
        "generation": codes.id,
        "generations": list(index.generations),
        "position": position,
        "name": codes.position_name(position),
        "code": number,
        "codebook_size": codes.codebook_size,
        "items": int(items),
        "even_share": codes.use[-1, position, :, 0].sum() / codes.codebook_size,
        "mean_weight": weight / items if items else None,
        "events": int(events) if index.has_events else None,
        "label_rate": rate(labels, events),
        "titles": [
            {**one._asdict(), "weight": float(w)} for one, w in zip(named, weights, strict=True)
        ],
        "from": start,
        "next": start + PAGE if start + PAGE < len(rows) else None,
        "together": _together(codes, position, rows),
        "together_of": min(len(rows), SAMPLE),
        "timeline": _over_time(index, codes, position, number),
    }


def _ids(named: list[Any]) -> np.ndarray:
    return np.array([one.id for one in named]) if named else np.zeros(0, np.str_)


def _together(codes: Codes, position: int, rows: np.ndarray) -> list[dict[str, Any]]:
    """At every other position the codes that occur with a code the most. lift: how many times
    more often than among all items.
    """
    sample = np.sort(rows[:SAMPLE])
    told = []
    for p in range(codes.length):
        if p == position or not len(sample):
            continue
        theirs = np.asarray(codes.codes[-1][p, sample])
        theirs = theirs[theirs >= 0]
        count = np.bincount(theirs, minlength=codes.codebook_size)
        every = codes.use[-1, p, :, 0]
        top = [c for c in np.argsort(-count, kind="stable")[:TOGETHER].tolist() if count[c]]
        told.append(
            {
                "position": p,
                "name": codes.position_name(p),
                "codes": [
                    {
                        "code": c,
                        "items": int(count[c]),
                        "share": float(count[c] / len(theirs)),
                        "lift": float(count[c] / len(theirs) / (every[c] / every.sum())),
                    }
                    for c in top
                ],
            }
        )
    return told


def _over_time(index: Index, codes: Codes, position: int, number: int) -> list[dict[str, Any]]:
    """How a code was used in each snapshot, oldest first. share: of the items with a code."""
    told = []
    for n in range(len(codes.codes)):
        items, weight, events, labels = codes.use[n, position, number].tolist()
        every = codes.use[n, position, :, 0].sum()
        told.append(
            {
                "as_of": codes.as_of(n),
                "items": int(items),
                "share": items / every if every else None,
                "mean_weight": weight / items if items else None,
                "events": int(events) if index.has_events else None,
                "label_rate": rate(labels, events),
            }
        )
    return told


def codes(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """The code book of a generation as a map, as of one snapshot, by default the newest."""
    of = index.codes(asked.get("generation"))
    last = len(of.codes) - 1
    snapshot = whole(asked, "snapshot", default=last, most=last)
    books = [_book(index, of, snapshot, p) for p in range(of.length)]
    crowded = of.crowded[snapshot]
    return {
        "generation": of.id,
        "generations": list(index.generations),
        "tokenizer": of.tokenizer,
        "codebook_size": of.codebook_size,
        "snapshot": snapshot,
        "snapshots": [of.as_of(n) for n in range(last + 1)],
        "books": books,
        "buckets": crowded["buckets"],
        "crowded": [
            {**group, "rows": [one._asdict() for one in index.named(group["rows"])]}
            for group in crowded["ids"]
        ],
        "entropy": [
            {
                "as_of": of.as_of(n),
                "by_position": [
                    usage_of(of.use[n, p, :, 0].astype(np.int64))["entropy"]
                    for p in range(of.length)
                ],
            }
            for n in range(last + 1)
        ],
    }


def _book(index: Index, codes: Codes, snapshot: int, position: int) -> dict[str, Any]:
    """One position's codes. even: items that each code would have if all had the same."""
    items, weight, events, labels = codes.use[snapshot, position].T
    even = items.sum() / codes.codebook_size
    return {
        "position": position,
        "name": codes.position_name(position),
        **usage_of(items.astype(np.int64)),
        "even": even,
        "crowded": np.flatnonzero(items > CROWDED * even).tolist() if even else [],
        "items": items.astype(np.int64).tolist(),
        "mean_weight": np.divide(
            weight, items, out=np.zeros_like(weight), where=items > 0
        ).tolist(),
        "events": events.astype(np.int64).tolist() if index.has_events else None,
        "label_rate": [rate(a, b) for a, b in zip(labels, events, strict=True)],
    }


def collisions(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """Items that share all their codes in one snapshot, by default the newest: those of a bucket,
    that is, of a group by how many share them, or with `sid` those of one semantic ID.
    """
    of = index.codes(asked.get("generation"))
    last = len(of.codes) - 1
    snapshot = whole(asked, "snapshot", default=last, most=last)
    buckets, start = of.crowded[snapshot]["buckets"], offset_of(asked)
    codes, sid = of.codes[snapshot], _sid(asked.get("sid", ""), of)
    bucket = None
    if sid is None and buckets:
        full = [n for n, one in enumerate(buckets) if one["items"]]
        bucket = whole(asked, "bucket", default=full[-1], most=len(buckets) - 1)
        chosen = buckets[bucket]
        rows = np.flatnonzero(within(of.collisions[snapshot], chosen["from"], chosen["to"]))
    elif sid is not None:
        same = np.asarray(codes[0]) == sid[0]
        for position, number in enumerate(sid[1:], start=1):
            same &= codes[position] == number
        rows = np.flatnonzero(same)
    else:
        rows = np.zeros(0, np.int64)
    part = rows[start : start + PAGE]
    sids, shared = np.asarray(codes[:, part]).T.tolist(), of.collisions[snapshot, part].tolist()
    return {
        "generation": of.id,
        "generations": list(index.generations),
        "snapshot": snapshot,
        "snapshots": [of.as_of(n) for n in range(last + 1)],
        "buckets": buckets,
        "bucket": bucket,
        "sid": sid,
        "count": len(rows),
        "items": [
            {**one._asdict(), "sid": codes_of, "sharing": many}
            for one, codes_of, many in zip(index.named(part), sids, shared, strict=True)
        ],
        "from": start,
        "next": start + PAGE if start + PAGE < len(rows) else None,
    }


def _sid(text: str, codes: Codes) -> list[int] | None:
    """A semantic ID as addresses have it, `3,1,-1`; None without one. Raises RequestError."""
    if not text:
        return None
    parts = text.split(",")
    numbers = [int(one) for one in parts if one.removeprefix("-").isdecimal() and len(one) < NUMBER]
    if len(numbers) != codes.length or len(parts) != codes.length or max(numbers) < 0:
        raise RequestError(
            f"sid is {text[:60]!r}; expected {codes.length} codes, -1 where there is none, with"
            " commas between them"
        )
    return numbers
