"""Why a candidate won: scores, what each group of inputs contributed, values and their ages, codes
of the user's history beside the candidate's. Reads: promoted and trained rankers, the online store,
a served log. Writes: facts of the page `decision`.

Everything is what the service answers: `adc rank --explain` says the same.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.clock import parse_utc
from adc_features.errors import RequestError
from adc_features.explore.deciding import Deciding, Opened
from adc_features.explore.index import Index
from adc_features.explore.logged import logged_request
from adc_features.serving.in_words import id_asked, keyed_request, keys_in_words
from adc_features.store.refresh_log import real_refreshes

MOST_ITEMS = 200
RECENT = 12
"""Items of the user's history that are shown, the newest."""


def decision(index: Index, deciding: Deciding, asked: Mapping[str, str]) -> dict[str, Any]:
    """One request, ranked by one ranker or by two. Parameters are those of the form; `of` is the
    candidate that is explained, by default the best.
    """
    names = deciding.names()
    facts: dict[str, Any] = {
        "rankers": names,
        "ranker": asked.get("ranker") or (names[0] if names else None),
        "beside": asked.get("beside") or None,
        "user": asked.get("user", ""),
        "items": [line for part in asked.get("items", "").splitlines() if (line := part.strip())],
        "fields": [line for part in asked.get("fields", "").splitlines() if (line := part.strip())],
        "request": asked.get("request") or None,
        "has_log": deciding.served_log is not None,
        "sides": [],
    }
    logged = logged_request(deciding.served_log, facts["request"]) if facts["request"] else None
    if logged is None and not (facts["user"] and facts["items"] and names):
        return {**facts, "now": asked.get("now") or None}
    if len(facts["items"]) > MOST_ITEMS:
        raise RequestError(f"{len(facts['items'])} candidates; explore at most {MOST_ITEMS}")
    now = parse_utc(asked["now"], name="now") if asked.get("now") else deciding.now()
    now = logged["now"] if logged else now
    of = asked.get("of")
    for name in dict.fromkeys(n for n in (facts["ranker"], facts["beside"]) if n):
        opened = deciding.opened(name)
        request = _as_logged(opened, logged["asked"]) if logged else _request(opened, facts)
        side = _side(index, opened, request, now=now, of=of)
        of = side["of"]  # two rankers are asked why of one candidate
        facts["sides"].append({"ranker": name, "by": deciding.by(name), **side})
    return {
        **facts,
        "now": now,
        "logged": {k: v for k, v in logged.items() if k != "asked"} if logged else None,
        "views": _view_ages(deciding.place.repo, now),
    }


def _side(
    index: Index, opened: Opened, request: dict[str, Any], *, now: datetime, of: str | None
) -> dict[str, Any]:
    """What one ranker says."""
    from adc_features.serving.protocol import RankRequest

    bundle, keys = opened.bundle, opened.item
    ranked = bundle.rank(RankRequest.model_validate(request), now=now)
    score = np.asarray(ranked.score, np.float64)
    columns = {key: list(ranked.columns[key]) for key in keys}
    tasks = [column for column in ranked.columns if column.startswith("p_")]
    order = np.argsort(-score, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(1, len(order) + 1)
    rows = [
        {
            "item": keys_in_words({key: columns[key][n] for key in keys}),
            **_titled(index, columns, keys, n),
            "score": float(score[n]),
            "rank": int(place[n]),
            "known": bool(ranked.known[n]),
            "coded": bool(ranked.coded[n]),
            "tasks": {task: float(ranked.columns[task][n]) for task in tasks},
        }
        for n in range(len(score))
    ]
    chosen = next((n for n, row in enumerate(rows) if row["item"] == of), int(order[0]))
    item = {key: columns[key][chosen] for key in keys}
    return {
        "pair": opened.pair.name,
        "generation": opened.pair.generation,
        "user_known": bool(ranked.user_known),
        "rows": rows,
        **_explained(index, opened, request, rows[chosen], item=item, now=now),
    }


def _titled(
    index: Index, columns: Mapping[str, Any], keys: Sequence[str], n: int
) -> dict[str, Any]:
    """What the index knows of a candidate: its id there and its title, None where it is none."""
    for key in keys:
        row = index.row(str(columns[key][n]))
        if row is not None:
            (named,) = index.named([row])
            return {"id": named.id, "title": named.title}
    return {"id": None, "title": None}


def _request(opened: Opened, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The request of the form's texts, in the types of the service."""
    bundle, user, items, fields = opened.bundle, facts["user"], facts["items"], facts["fields"]
    if hasattr(bundle, "key_types"):
        return keyed_request(bundle, user, items, fields)
    if fields:
        raise RequestError("this ranker reads no field of a request; leave the fields empty")
    asked: dict[str, Any] = {"user": user, "items": items}
    for name, key in (("user", "user_id"), ("items", "item_id")):
        if bundle.id_types[key] == "int64":
            asked[name] = id_asked(asked[name])
    return asked


def _as_logged(opened: Opened, request: Mapping[str, Any]) -> dict[str, Any]:
    """A logged request, as a ranker takes it: ids alone, or objects of keys and the fields that it
    reads. Raises RequestError when a ranker of other keys is asked.
    """
    user, items = request["user"], request["items"]
    if set(opened.user) != set(user) or set(opened.item) != set(items[0]):
        raise RequestError(
            f"the request was logged with the keys {[*user, *items[0]]}; this ranker's are"
            f" {[*opened.user, *opened.item]}, choose one of the same"
        )
    if not hasattr(opened.bundle, "key_types"):
        return {"user": user["user_id"], "items": [item["item_id"] for item in items]}
    read = opened.bundle.reader.request_fields
    fields = {name: value for name, value in request["request"].items() if name in read}
    return {"user": user, "items": items, "request": fields}


def _explained(
    index: Index,
    opened: Opened,
    request: Mapping[str, Any],
    row: Mapping[str, Any],
    *,
    item: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """What of a candidate was read, and what each group of inputs contributed. item: its keys."""
    from adc_features.serving.protocol import RankRequest

    is_declared = hasattr(opened.bundle, "key_types")
    alone = {**request, "items": [dict(item) if is_declared else next(iter(item.values()))]}
    try:
        asked = RankRequest.model_validate({**alone, "explain": True})
        told = opened.bundle.rank(asked, now=now).facts["explained"]
    except RequestError as error:  # a ranker of the former format
        none: dict[str, Any] = {key: [] for key in ("groups", "inputs", "history", "read")}
        return {"of": row["item"], **none, "why": str(error)}
    user = request["user"]
    keys = {**(user if isinstance(user, dict) else {opened.user[0]: user}), **item}
    read = _read_rows(index, opened, keys, now)
    inputs = [
        {
            "input": name,
            **{part: one[part] for part in ("side", "kind", "state")},
            "values": [
                {
                    "column": column,
                    "value": found,
                    "age_seconds": _age(found, now),
                    "row_age_seconds": _row_age(read, column),
                }
                for column, found in one["values"].items()
            ],
            "codes": one.get("codes"),
            "weights": one.get("weights"),
        }
        for name, one in told["inputs"].items()
    ]
    return {
        "of": row["item"],
        "score": told["score"],
        "definition": told["definition"],
        "groups": [{"group": name, **one} for name, one in told["groups"].items()],
        "inputs": inputs,
        "read": read,
        "history": _history(index, opened.pair.generation, inputs, row),
        "why": None,
    }


def _read_rows(
    index: Index, opened: Opened, keys: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """Each view that was read, and the event time of the row that it has of these keys. Rankers of
    a run read codes as they are published, not from the online store.
    """
    times = opened.row_times(keys)
    generation = opened.pair.generation
    if not hasattr(opened.bundle, "key_types") and generation in index.generations:
        served = [s.servable_at for s in index.codes(generation).timeline.snapshots]
        times[f"item_sid_{generation}"] = max((at for at in served if at <= now), default=None)
    return [
        {
            "view": view,
            "row_time": at,
            "age_seconds": None if at is None else (now - at).total_seconds(),
        }
        for view, at in sorted(times.items())
    ]


def _row_age(read: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """The age of the row that a column, `VIEW__FEATURE`, was read from."""
    ages = {
        one["view"]: one["age_seconds"] for one in read if column.startswith(f"{one['view']}__")
    }
    return ages[max(ages, key=len)] if ages else None


def _age(found: Any, now: datetime) -> float | None:
    """Seconds from a time, or the last of a list of times, to now; None for other values."""
    last = found[-1] if isinstance(found, list) and found else found
    if not isinstance(last, str) or len(last) < 20:
        return None
    try:
        time = datetime.fromisoformat(last)
    except ValueError:
        return None
    return (now - time).total_seconds() if time.tzinfo else None


def _history(
    index: Index,
    generation: str | None,
    inputs: Sequence[Mapping[str, Any]],
    row: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The user's items among what was read, the newest first, and at which positions each has the
    candidate's code in the newest snapshot.
    """
    lists = [v["value"] for one in inputs for v in one["values"] if isinstance(v["value"], list)]
    found: list[int] = []
    for values in lists:
        places = [index.row(str(v)) for v in values[-RECENT:] if isinstance(v, str | int)]
        known = [place for place in places if place is not None]
        found = known if len(known) > len(found) else found
    own = None if row["id"] is None else index.row(str(row["id"]))
    if not found or own is None or generation not in index.generations:
        return []
    rows, newest = found[::-1], index.codes(generation).codes[-1]
    mine = np.asarray(newest[:, own])
    told = []
    for one, r in zip(index.named(rows), rows, strict=True):
        theirs = np.asarray(newest[:, r])
        same = np.flatnonzero((theirs == mine) & (mine >= 0)).tolist()
        told.append({**one._asdict(), "sid": theirs.tolist(), "shared": same})
    return told


def _view_ages(repo: Path, now: datetime) -> list[dict[str, Any]]:
    """The last refresh of each view, whose rows were read, as the log of refreshes has it; its age
    is 0 where the request is as of an earlier time.
    """
    told = []
    for view, refreshes in sorted(real_refreshes(repo).items()):
        last = refreshes[-1]
        told.append(
            {
                "view": view,
                "cut": last.cut,
                "visible": last.visible,
                "age_seconds": max((now - last.cut).total_seconds(), 0.0),
            }
        )
    return told
