"""Why a candidate won: scores, what each group of inputs contributed, values and their ages, codes
of the user's history beside the candidate's. Reads: promoted and trained rankers, the online store,
a served log. Writes: facts of the page `decision`.

Everything is what the service answers: `adc rank --explain` says the same.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST
from adc_features.clock import parse_utc
from adc_features.errors import AdcError, InputError, RequestError
from adc_features.explore.index import Index
from adc_features.explore.place import Place
from adc_features.serving.in_words import id_asked, keyed_request
from adc_features.serving.promotion import PROMOTION, Promotion, read_promotion, served_recipes
from adc_features.serving.workspace import Workspace, promoted_names
from adc_features.store.refresh_log import real_refreshes

log = logging.getLogger(__name__)
PROMOTED = "promoted"
MOST_ITEMS = 200
RECENT = 12
"""Items of the user's history that are shown, the newest."""


class Deciding:
    """The rankers of a place, each opened when it is first asked; threads may share it.

    served_log : Path or None
        What `adc serve --log` keeps, by which a request is found by its id.
    """

    def __init__(self, place: Place, served_log: Path | None = None) -> None:
        self.place, self.served_log = place, served_log
        self._opened: dict[str, tuple[Promotion, Any]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What can decide: the promoted ranker first, then those that the run trained."""
        place = self.place
        if place.promotion is not None:
            return [PROMOTED]
        if place.run is None:
            return promoted_names(place.repo)
        run = place.run
        trained = [r for r in served_recipes() if (run / f"ranker_{r}" / MANIFEST).is_file()]
        trained.sort(key=lambda name: name != "codes_weights")  # what serves before a promotion
        return [PROMOTED] * (run / PROMOTION).is_file() + trained

    def pair(self, name: str) -> Promotion:
        """The ranker and the codes that a name stands for."""
        from adc_features.pipeline.pairs import promotion_of
        from adc_features.pipeline.run import Run

        place = self.place
        if place.promotion is not None:
            return read_promotion(place.promotion)
        if place.run is None:
            return read_promotion(Workspace(place.repo, name).promotion)
        if name == PROMOTED:
            return read_promotion(place.run / PROMOTION)
        return promotion_of(Run.open(place.run), recipe=name, promoted_at=datetime.now(UTC))

    def bundle(self, name: str) -> Any:
        """An opened ranker; opened again when another one was promoted under its name."""
        from adc_features.serving.opening import open_bundle

        if name not in (names := self.names()):
            raise RequestError(
                f"ranker is {name[:60]!r}; expected one of {', '.join(names) or 'none: train one'}"
            )
        with self._lock:
            pair, opened = self._opened.get(name, (None, None))
            if pair is None or (name in (PROMOTED, *promoted_names(self.place.repo))):
                now = self.pair(name)
                if pair is None or (now.ranker_hash, now.generation) != (
                    pair.ranker_hash,
                    pair.generation,
                ):
                    pair, opened = now, open_bundle(now)
                    self._opened[name] = pair, opened
        return opened

    def warm(self) -> None:
        """Open what the page asks first, and Feast with it, beside the pages that need neither."""
        try:
            if names := self.names():
                self.bundle(names[0])
        except AdcError as error:
            log.warning("stage=explore decision=none reason=%s", error)

    def now(self) -> datetime:
        """As of when features age: the end of a run's data, else the clock."""
        if self.place.run is None:
            return datetime.now(UTC)
        from adc_features.pipeline.context import serving_time
        from adc_features.pipeline.run import Run

        return serving_time(Run.open(self.place.run))


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
    logged = _logged(deciding.served_log, facts["request"]) if facts["request"] else None
    if logged is None and not (facts["user"] and facts["items"] and names):
        return {**facts, "now": asked.get("now") or None}
    if len(facts["items"]) > MOST_ITEMS:
        raise RequestError(f"{len(facts['items'])} candidates; explore at most {MOST_ITEMS}")
    now = parse_utc(asked["now"], name="now") if asked.get("now") else deciding.now()
    now = logged["now"] if logged else now
    for name in dict.fromkeys(n for n in (facts["ranker"], facts["beside"]) if n):
        request = logged["asked"] if logged else None
        side = _side(index, deciding.bundle(name), facts, request, now=now, of=asked.get("of"))
        facts["sides"].append({"ranker": name, **side})
    return {
        **facts,
        "now": now,
        "logged": {k: v for k, v in logged.items() if k != "asked"} if logged else None,
        "views": _view_ages(deciding.place.repo, now),
    }


def _side(
    index: Index,
    bundle: Any,
    facts: Mapping[str, Any],
    request: dict[str, Any] | None,
    *,
    now: datetime,
    of: str | None,
) -> dict[str, Any]:
    """What one ranker says."""
    from adc_features.serving.protocol import RankRequest

    if request is None:
        request = _request(bundle, facts["user"], facts["items"], facts["fields"])
    ranked = bundle.rank(RankRequest.model_validate(request), now=now)
    score = np.asarray(ranked.score, np.float64)
    keys = _item_keys(bundle)
    columns = {key: list(ranked.columns[key]) for key in keys}
    tasks = [column for column in ranked.columns if column.startswith("p_")]
    order = np.argsort(-score, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(1, len(order) + 1)
    rows = [
        {
            "item": _words(keys, [columns[key][n] for key in keys]),
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
        "pair": bundle.promotion.name,
        "generation": bundle.promotion.generation,
        "user_known": bool(ranked.user_known),
        "rows": rows,
        **_explained(index, bundle, request, rows[chosen], item=item, now=now),
    }


def _item_keys(bundle: Any) -> list[str]:
    """The join keys of a candidate."""
    return list(bundle.trained.ranker.item) if hasattr(bundle, "key_types") else ["item_id"]


def _words(keys: Sequence[str], values: Sequence[Any]) -> str:
    """A candidate as `adc rank` takes it."""
    if len(keys) == 1:
        return str(values[0])
    return ",".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))


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


def _request(bundle: Any, user: str, items: list[str], fields: list[str]) -> dict[str, Any]:
    """The request of the form's texts, in the types of the service."""
    if hasattr(bundle, "key_types"):
        return keyed_request(bundle, user, items, fields)
    if fields:
        raise RequestError("this ranker reads no field of a request; leave the fields empty")
    asked: dict[str, Any] = {"user": user, "items": items}
    for name, key in (("user", "user_id"), ("items", "item_id")):
        if bundle.id_types[key] == "int64":
            asked[name] = id_asked(asked[name])
    return asked


def _explained(
    index: Index,
    bundle: Any,
    request: Mapping[str, Any],
    row: Mapping[str, Any],
    *,
    item: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    """What of a candidate was read, and what each group of inputs contributed. item: its keys."""
    from adc_features.serving.protocol import RankRequest

    one = dict(item) if hasattr(bundle, "key_types") else next(iter(item.values()))
    alone = {**request, "items": [one]}
    try:
        asked = RankRequest.model_validate({**alone, "explain": True})
        told = bundle.rank(asked, now=now).facts["explained"]
    except RequestError as error:  # a ranker of the former format
        return {"of": row["item"], "groups": [], "inputs": [], "history": [], "why": str(error)}
    inputs = [
        {
            "input": name,
            **{part: one[part] for part in ("side", "kind", "state")},
            "values": [
                {"column": column, "value": found, "age_seconds": _age(found, now)}
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
        "history": _history(index, bundle.promotion.generation, inputs, row),
        "why": None,
    }


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


def _logged(served_log: Path | None, request_id: str) -> dict[str, Any]:
    """A request as it was served. Raises InputError without a log, RequestError for no such id."""
    import pyarrow.compute as pc

    from adc_features.served.record import ITEM, REQUEST, USER
    from adc_features.served.segments import sealed_segments

    if served_log is None:
        raise InputError("no served log was given; start `adc explore` with --log DIR")
    for segment in reversed(sealed_segments(served_log)):
        places = pc.equal(segment.request_rows(["request_id"])["request_id"], request_id)
        if not pc.any(places).as_py():
            continue
        (one,) = segment.request_rows().filter(places).to_pylist()[:1]
        rows = segment.candidate_rows()
        rows = rows.filter(pc.equal(rows["request_id"], request_id)).to_pylist()
        about = segment.about
        carried = {name: one.get(REQUEST + name) for name, _ in about.request}
        fields = {name: value for name, value in carried.items() if value is not None}
        return {
            "asked": {
                "user": {key: one[USER + key] for key in about.user},
                "items": [{key: row[ITEM + key] for key in about.item} for row in rows],
                "request": fields,
            },
            "request_id": request_id,
            "received": one["received"],
            "now": one["now"],
            "pair": one["pair"],
            "generation": one["generation"],
            "scores": {
                _words(about.item, [row[ITEM + key] for key in about.item]): row["score"]
                for row in rows
            },
        }
    raise RequestError(f"no request {request_id[:100]!r} is in the log {served_log.name}")
