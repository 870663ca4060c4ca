"""How fresh and how whole it all is. Reads: the record of what is online, the log of refreshes, the
online store, publications, traffic of a run, a served log, promotions, and what `adc doctor` finds.
Writes: facts of the page `health`.

It takes seconds, so it is looked at once, beside the pages, when the explorer starts.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.codes.drift import distance
from adc_features.errors import AdcError, InputError
from adc_features.explore.deciding import Deciding
from adc_features.explore.index import Codes, Index
from adc_features.explore.online_rows import unknown_online
from adc_features.explore.place import Place
from adc_features.explore.served_traffic import served_traffic
from adc_features.serving.promoted import promotions
from adc_features.serving.promotion import PROMOTION, read_promotion
from adc_features.serving.workspace import Workspace, promoted_names
from adc_features.store.online_record import loaded
from adc_features.store.refresh_log import real_refreshes

log = logging.getLogger(__name__)


class Health:
    """What was found, once it was looked for; threads may share it."""

    def __init__(self, index: Index, deciding: Deciding) -> None:
        self._index, self._deciding = index, deciding
        self._found: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def look(self) -> dict[str, Any]:
        """Look now, or wait for who looks already."""
        with self._lock:
            if self._found is None:
                self._found = _looked(self._index, self._deciding)
            return self._found

    def facts(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """What was found; where it is still looked for, that it is. `wait` waits for it."""
        if self._found is None and not asked.get("wait"):
            return {"at_work": True}
        return {"at_work": False, **self.look()}


def _looked(index: Index, deciding: Deciding) -> dict[str, Any]:
    place, now, served_log = index.place, datetime.now(UTC), deciding.served_log
    parts: dict[str, Callable[[], Any]] = {
        "views": lambda: _views(place.repo, now),
        "unknown": lambda: unknown_online(index, deciding.now()),
        "coverage": lambda: [one for c in index.generations.values() for one in _coverage(c)],
        "use": lambda: {c.id: _use_drift(c) for c in index.generations.values()},
        "traffic": lambda: _traffic(place),
        "served": lambda: None if served_log is None else served_traffic(index, served_log),
        "promotions": lambda: _promotions(place),
        "findings": lambda: _findings(place),
    }
    found: dict[str, Any] = {"looked_at": now, "errors": {}, "has_run": place.run is not None}
    for name, part in parts.items():
        try:
            found[name] = part()
        except AdcError as error:  # one part that is damaged hides none of the others
            log.warning("stage=explore health=%s error=%s", name, error)
            found[name], found["errors"][name] = None, str(error)
    return found


def _views(repo: Path, now: datetime) -> list[dict[str, Any]]:
    """Each view that was put online: its rows, its newest row and its refreshes."""
    online, real = loaded(repo), real_refreshes(repo)
    told = []
    for view in sorted(set(online) | set(real)):
        one, refreshes = online.get(view), real.get(view, ())
        gaps = [(b.visible - a.visible).total_seconds() for a, b in pairwise(refreshes)]
        last = refreshes[-1] if refreshes else None
        newest = one.newest if one else None
        told.append(
            {
                "view": view,
                "rows": one.rows if one else None,
                "through": one.through if one else None,
                "newest": newest,
                "newest_age_seconds": (now - newest).total_seconds() if newest else None,
                "refreshes": len(refreshes),
                "last_cut": last.cut if last else None,
                "last_visible": last.visible if last else None,
                "median_gap_seconds": float(np.median(gaps)) if gaps else None,
            }
        )
    return told


def _coverage(codes: Codes) -> list[dict[str, Any]]:
    """Of each snapshot the share of all known items that have a code, and by position."""
    told = []
    for n in range(len(codes.codes)):
        has = [np.asarray(codes.codes[n, p]) >= 0 for p in range(codes.length)]
        some = np.logical_or.reduce(has)
        told.append(
            {
                "generation": codes.id,
                "as_of": codes.as_of(n),
                "coverage": float(some.mean()),
                "without_a_code": int((~some).sum()),
                "by_position": [float(one.mean()) for one in has],
            }
        )
    return told


def _use_drift(codes: Codes) -> list[dict[str, Any]]:
    """How far the use of the codes moved from the first snapshot, at each position: Jensen-Shannon
    distance, 0..1, less what chance makes of it.
    """
    return [
        {
            "as_of": codes.as_of(n),
            "by_position": [
                distance(codes.use[0, p, :, 0], codes.use[n, p, :, 0]) for p in range(codes.length)
            ],
        }
        for n in range(len(codes.use))
    ]


def _traffic(place: Place) -> dict[str, Any] | None:
    """The run's last month of traffic against its baseline, as `adc monitor` compares them; None
    without a run, or without traffic on one side.
    """
    if place.run is None:
        return None
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.traffic import traffic_drift

    try:
        found = traffic_drift(Run.open(place.run))
    except InputError:
        return None
    kept = ("impressions", "from", "to", "coverage", "unknown")
    return {
        "generation": found["generation"],
        **{side: {name: found[side].get(name) for name in kept} for side in ("now", "baseline")},
        "drift": found["drift"],
    }


def _promotions(place: Place) -> list[dict[str, Any]]:
    """What was promoted and when, the oldest first: by the catalogue of a run or the records of a
    repository, else what serves.
    """
    catalogue = None if place.run is None else place.run / "catalog.db"
    if catalogue is not None and catalogue.is_file():
        sql = "SELECT ranker, generation, promoted_at, state FROM promotions ORDER BY number"
        uri = f"{catalogue.resolve().as_uri()}?mode=ro"  # a reader must not bring it up to date
        try:
            with closing(sqlite3.connect(uri, uri=True)) as database:
                rows = database.execute(sql).fetchall()
        except sqlite3.Error as error:
            log.warning("stage=explore catalogue=%s error=%s", catalogue, error)
            rows = []
        if rows:
            return [
                {
                    "name": None,
                    "ranker": ranker[:12],
                    "generation": generation,
                    "promoted_at": datetime.fromisoformat(at).replace(tzinfo=UTC),
                    "state": state,
                }
                for ranker, generation, at, state in rows
            ]
    if place.run is None and (names := promoted_names(place.repo)):
        return _on_record(place.repo, names)
    file = place.promotion or (place.run and place.run / PROMOTION)
    if file is None or not file.is_file():
        return []
    pair = read_promotion(file)
    return [
        {
            "name": None,
            "ranker": pair.ranker_hash[:12],
            "generation": pair.generation,
            "promoted_at": pair.promoted_at,
            "state": "serving",
        }
    ]


def _on_record(repo: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The promotions of a repository's rankers by their records; the last one of each serves."""
    told = []
    for name in names:
        record = promotions(Workspace(repo, name))
        told += [
            {
                "name": name,
                "ranker": one.ranker_hash[:12],
                "generation": one.generation,
                "promoted_at": one.promoted_at,
                "state": "serving" if one is record[-1] else "retired",
            }
            for one in record
        ]
    return sorted(told, key=lambda one: (one["promoted_at"], one["name"]))


def _findings(place: Place) -> list[dict[str, Any]]:
    """What `adc doctor` finds, the worst first."""
    from adc_features.pipeline.checkup import checkup

    order = {"error": 0, "warning": 1, "fact": 2}
    found = checkup(place.run or place.repo)
    return [one._asdict() for one in sorted(found, key=lambda one: order[one.level])]
