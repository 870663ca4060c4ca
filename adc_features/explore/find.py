"""Find an item; what an item's codes are, how they moved, and what is like it. Reads: an index.
Writes: facts of the pages `find` and `item`.

Legend: N items, S snapshots, L positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adc_features.clock import moment
from adc_features.errors import RequestError
from adc_features.explore.between import Came
from adc_features.explore.index import TITLE, Codes, Index, Named, rate
from adc_features.store.packed.layout import NO_TIME
from adc_features.store.packed.snapshot import Gathered

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
    """Items by words or id, the most popular first; before them, of what came or went since the
    newest snapshot, what has the words, the newest first.
    """
    words, start = asked.get("q", "")[:400], offset_of(asked)
    rows = index.search(words, limit=PAGE + 1, offset=start)
    named = index.named(rows[:PAGE])
    told: dict[str, Any] = {"generation": None, "positions": [], "came": [], "came_all": 0}
    if not index.generations:
        told["items"] = [{**one._asdict(), "sid": [], "came": None} for one in named]
    else:
        codes = index.newest
        came = codes.between.search(words) if start == 0 else []
        told = {
            "generation": codes.id,
            "positions": [codes.position_name(p) for p in range(codes.length)],
            "items": _listed(codes, named),
            "came": _listed(codes, [_named(index, codes, one) for one in came[:PAGE]]),
            "came_all": len(came),
        }
    return {
        "q": words,
        "catalogue": index.items,
        **told,
        "from": start,
        "next": start + PAGE if len(rows) > PAGE else None,
    }


def _listed(codes: Codes, named: Sequence[Named]) -> list[dict[str, Any]]:
    """Rows of a list with the codes that are served, and since when where no snapshot has them."""
    if not named:
        return []
    served, ids = codes.between.served(), [one.id for one in named]
    sid, came = served.gather(np.array(ids)).sid.tolist(), codes.between.came(served, ids)
    return [
        {**one._asdict(), "sid": of, "came": None if at is None else at._asdict()}
        for one, of, at in zip(named, sid, came, strict=True)
    ]


def _named(index: Index, codes: Codes, came: Came) -> Named:
    """An item that came, as a list shows it: its own words before those of the catalogue."""
    row, (given,) = index.row(str(came.id)), codes.between.given([came])
    known = Named(came.id, None, None, None, None) if row is None else index.named([row])[0]
    title = given.title if given.title is None else given.title[:TITLE]
    return known._replace(title=title or known.title, about=given.about or known.about)


def item(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
    """An item: its codes and what they mean, its timeline in every generation, what is like it.
    Codes are those that are served: of the newest snapshot, or since the item came or went.
    """
    name = asked.get("id", "")
    item_id, row = index.typed(name), index.row(name)
    if not index.generations:
        return _uncoded(index, name, row)
    codes = index.codes(asked.get("generation"))
    served = codes.between.served()
    came = None if item_id is None else codes.between.came(served, [item_id])[0]
    if row is None and came is None:
        raise _unknown(name)
    of = Subject(item_id, row, *(part[0] for part in served.gather(np.array([item_id]))[:2]))
    vectors: dict[str, np.ndarray] = {}
    if came is not None:
        said, vectors = _named(index, codes, came), codes.between.given([came])[0].vectors
    else:
        assert row is not None
        said = index.named([row])[0]._replace(title=index.whole_title(row))
    return {
        **said._asdict(),
        "generation": codes.id,
        "generations": list(index.generations),
        "tokenizer": codes.tokenizer,
        "came": None if came is None else came._asdict(),
        "codes": _meanings(index, codes, of),
        "timeline": [
            one for each in index.generations.values() for one in timeline(index, each, of)
        ],
        "sharing": _sharing(index, codes, of),
        "near": {n: _near(index, codes, n, of, vectors.get(n)) for n in index.vectors},
        "no_vectors": _no_vectors(index),
    }


def _unknown(name: str) -> RequestError:
    return RequestError(f"no item has the id {name[:100]!r}; search for it by its words")


def _uncoded(index: Index, name: str, row: int | None) -> dict[str, Any]:
    """An item of a catalogue for which no codes are published."""
    if row is None:
        raise _unknown(name)
    of = Subject(index.typed(name), row, np.zeros(0, np.int32), np.zeros(0, np.float32))
    return {
        **index.named([row])[0]._replace(title=index.whole_title(row))._asdict(),
        **dict.fromkeys(("generation", "tokenizer", "came")),
        **{part: [] for part in ("generations", "codes", "timeline", "sharing")},
        "near": {n: _near(index, None, n, of, None) for n in index.vectors},
        "no_vectors": _no_vectors(index),
    }


def _no_vectors(index: Index) -> str | None:
    """Why nothing is like an item by vectors, in words; None where something may be."""
    if index.vectors:
        return None
    return index.no_vectors or "neither a tokenizer's record nor a view names vectors of the items"


class Subject(NamedTuple):
    """The item of a page. row: in the index, None for one that came since; sid, weight: [L], as
    served."""

    id: Any
    row: int | None
    sid: np.ndarray
    weight: np.ndarray


def timeline(index: Index, codes: Codes, of: Subject) -> list[dict[str, Any]]:
    """What each snapshot of a generation says of an item, oldest first, and what came after."""
    ids, between = np.array([of.id]), codes.between
    served = between.served()
    told = [
        _moment(index, codes, of, snapshot.gather(ids), n)
        for n, snapshot in enumerate(codes.timeline.snapshots)
    ]
    if between.came(served, [of.id])[0] is not None:
        told.append(_moment(index, codes, of, served.gather(ids), None))
    return told


def _moment(
    index: Index, codes: Codes, of: Subject, found: Gathered, number: int | None
) -> dict[str, Any]:
    """What is said of an item by a snapshot, or, without a number, since it came or went."""
    profile = found.profile[0]
    at = profile["sid_as_of"]
    encoded = None if at == NO_TIME else moment(np.datetime64(int(at), "us"))
    snapshot = None if number is None else codes.timeline.snapshots[number]
    events, label_rate = None, None
    if number is not None and of.row is not None and index.has_events:
        place = codes.cutoffs[number], of.row
        events = int(index.events[place])
        label_rate = rate(index.labels[place], events)
    return {
        "generation": codes.id,
        "as_of": snapshot.as_of if snapshot else encoded,
        "servable_at": snapshot.servable_at if snapshot else encoded,
        "between": snapshot is None,
        "found": bool(profile["found"]),
        "encoded_as_of": encoded,
        "sid": found.sid[0].tolist(),
        "sid_weight": found.sid_weight[0].tolist(),
        "reliability": float(profile["reliability"]),
        "alignment": float(profile["alignment"]),
        "is_cold": bool(profile["is_cold"]),
        "collision_count": int(profile["collision_count"]),
        "events": events,
        "label_rate": label_rate,
    }


def _meanings(index: Index, codes: Codes, of: Subject) -> list[dict[str, Any]]:
    """Each of an item's codes, with the heaviest items of the newest snapshot that share it."""
    told = []
    for p, (code, weight) in enumerate(zip(of.sid.tolist(), of.weight.tolist(), strict=True)):
        rows = codes.rows_of(p, code) if code >= 0 else np.zeros(0, np.int32)
        top = [r for r in rows[: SHOWN + 1].tolist() if r != of.row][:SHOWN]
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


def _shared(codes: Codes, of: Subject) -> np.ndarray:
    """At how many positions each item of the newest snapshot has the item's code, uint8 [N]; itself
    0."""
    newest = codes.codes[-1]
    count = np.zeros(newest.shape[1], np.uint8)
    for p, code in enumerate(of.sid.tolist()):
        if code >= 0:
            count += newest[p] == code
    if of.row is not None:
        count[of.row] = 0
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


def _highest(score: np.ndarray, many: int) -> np.ndarray:
    """The places of the highest scores, the highest first and equal ones in their order: int64 [<=
    many]. Of millions of numbers, without sorting them.
    """
    places = np.arange(len(score))
    if len(score) > many:
        places = np.flatnonzero(score >= np.partition(score, -many)[-many])
    return places[np.argsort(-score[places], kind="stable")][:many]


def _sharing(index: Index, codes: Codes, of: Subject) -> list[dict[str, Any]]:
    """The items that share the most codes, of equal ones the most popular."""
    rows, newest = _most(_shared(codes, of), SIMILAR), codes.codes[-1]
    same = (np.asarray(newest[:, rows]) == of.sid[:, None]) & (of.sid[:, None] >= 0)
    return [
        {**one._asdict(), "positions": np.flatnonzero(at).tolist()}
        for one, at in zip(index.named(rows), same.T, strict=True)
    ]


def _near(
    index: Index, codes: Codes | None, modality: str, of: Subject, given: np.ndarray | None
) -> dict[str, Any]:
    """The items whose vectors have the highest cosine with the item's. given: the vector with which
    it came since the newest snapshot.

    Of many vectors only those of the items that share the most codes are compared, without codes
    those of the most popular items.
    """
    vectors = index.vectors[modality]
    own = given if given is not None or of.row is None else np.asarray(vectors[of.row], np.float32)
    told: dict[str, Any] = {"of": index.vectors_of[modality], "among": None}
    if own is None or own.shape != vectors.shape[1:] or not own.any():
        return {**told, "compared": 0, "items": []}
    own = own / np.linalg.norm(own)
    among = None
    if vectors.size > EXACT:
        told["among"] = "popular" if codes is None else "sharing"
        shared = None if codes is None else _shared(codes, of)
        among = np.arange(NEAR) if shared is None else np.sort(_most(shared, NEAR))
    part = np.asarray(vectors if among is None else vectors[among], np.float32)
    cosine = part @ own
    if among is None and of.row is not None:
        cosine[of.row] = -np.inf
    best = _highest(cosine, SIMILAR)
    rows = best if among is None else among[best]
    return {
        **told,
        "compared": len(part),
        "items": [
            {**one._asdict(), "cosine": float(value)}
            for one, value in zip(index.named(rows), cosine[best], strict=True)
            if np.isfinite(value)
        ],
    }
