"""What can decide at a place, each opened when it is first asked. Reads: promoted and trained
rankers, the online store. Writes: nothing.
"""

import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.artifact import MANIFEST
from adc_features.errors import AdcError, RequestError
from adc_features.explore.place import Place
from adc_features.serving.promotion import (
    PROMOTION,
    Promotion,
    read_promotion,
    served_recipes,
    trained_pair,
)
from adc_features.serving.workspace import Workspace, promoted_names, trained_names

log = logging.getLogger(__name__)
PROMOTED = "promoted"
RETRAINED = "retrains/*/ranker/model"
"""Where `adc retrain` leaves the rankers of a run."""


class Opened(NamedTuple):
    """A ranker and the times of the rows that it reads. keys: of the user and of a candidate."""

    pair: Promotion
    bundle: Any
    user: list[str]
    item: list[str]
    store: Any
    plan: Any

    def row_times(self, keys: Mapping[str, Any]) -> dict[str, datetime | None]:
        """Of each view the event time of the row that these keys read; None without one."""
        from adc_features.store import _compat as feast
        from adc_features.store.services.lookups import row_time

        with feast.quiet():
            return {view.name: row_time(self.store, view, keys) for view in self.plan.stored}


class Deciding:
    """The rankers of a place, each opened when it is first asked; threads may share it.

    served_log : Path or None
        What `adc serve --log` keeps, by which a request is found by its id.
    """

    def __init__(self, place: Place, served_log: Path | None = None) -> None:
        self.place, self.served_log = place, served_log
        self._opened: dict[str, Opened] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What can decide: the promoted ranker first, then those of the run by recipe and as they
        were retrained, or those of the repository: promoted ones, and `NAME@VERSION` of each other
        version.
        """
        place = self.place
        names = [PROMOTED] * (place.promotion is not None or self._run_has_promoted())
        if place.run is not None:
            run = place.run
            trained = [r for r in served_recipes() if (run / f"ranker_{r}" / MANIFEST).is_file()]
            trained.sort(key=lambda name: name != "codes_weights")  # what serves before a promotion
            again = sorted(run.glob(f"{RETRAINED}/{MANIFEST}"), reverse=True)
            return names + trained + [path.parts[-4] for path in again]
        promoted = promoted_names(place.repo)
        names += promoted
        for name in trained_names(place.repo):
            versions = [path.name for path in reversed(Workspace(place.repo, name).versions())]
            serving = self.pair(name).ranker.name if name in promoted else None
            names += [f"{name}@{version}" for version in versions if version != serving]
        return names

    def _run_has_promoted(self) -> bool:
        return self.place.run is not None and (self.place.run / PROMOTION).is_file()

    def pair(self, name: str) -> Promotion:
        """The ranker and the codes that one of the names stands for."""
        from adc_features.pipeline.pairs import promotion_of
        from adc_features.pipeline.run import Run

        place, now = self.place, datetime.now(UTC)
        if name == PROMOTED:
            file = place.promotion or (place.run and place.run / PROMOTION)
            assert file is not None
            return read_promotion(file)
        if place.run is None:
            ranker, _, version = name.partition("@")
            workspace = Workspace(place.repo, ranker)
            if not version:
                return read_promotion(workspace.promotion)
            return trained_pair(place.repo, workspace.directory / version, at=now)
        if name in served_recipes():
            return promotion_of(Run.open(place.run), recipe=name, promoted_at=now)
        return trained_pair(place.repo, place.run / RETRAINED.replace("*", name), at=now)

    def by(self, name: str) -> list[str] | None:
        """The options by which `adc rank` ranks with a name's ranker at this place; None where it
        cannot: a run's `adc rank` takes the promoted one, else the default recipe's.
        """
        names, place = self.names(), self.place
        if place.run is not None:
            return [] if name == names[0] and self._serves_the_run() else None
        serving = {one: self.pair(one).ranker_hash for one in promoted_names(place.repo)}
        mine = self.pair(name).ranker_hash
        found = [one for one, ranker in serving.items() if ranker == mine and "@" not in name]
        return ["--ranker", found[0]] if found else None

    def _serves_the_run(self) -> bool:
        """Whether a promotion file that was named is the run's own."""
        own = self.place.run and self.place.run / PROMOTION
        given = self.place.promotion
        return given is None or (own is not None and given.resolve() == own.resolve())

    def opened(self, name: str) -> Opened:
        """An opened ranker; opened again when another one was promoted under its name."""
        if name not in (names := self.names()):
            raise RequestError(
                f"ranker is {name[:60]!r}; expected one of {', '.join(names) or 'none: train one'}"
            )
        with self._lock:
            opened = self._opened.get(name)
            if opened is None or name == PROMOTED or name in promoted_names(self.place.repo):
                now = self.pair(name)
                if opened is None or (now.ranker_hash, now.generation) != (
                    opened.pair.ranker_hash,
                    opened.pair.generation,
                ):
                    opened = self._opened[name] = _opened(now)
        return opened

    def warm(self) -> None:
        """Open what the page asks first, and Feast with it, beside the pages that need neither."""
        try:
            if names := self.names():
                self.opened(names[0])
        except AdcError as error:
            log.warning("stage=explore decision=none reason=%s", error)

    def now(self) -> datetime:
        """As of when features age: the end of a run's data, else the clock."""
        if self.place.run is None:
            return datetime.now(UTC)
        from adc_features.pipeline.context import serving_time
        from adc_features.pipeline.run import Run

        return serving_time(Run.open(self.place.run))


def _opened(pair: Promotion) -> Opened:
    from adc_features.serving.opening import open_bundle
    from adc_features.store.registry import open_any_store
    from adc_features.store.repository import service_name
    from adc_features.store.services.plan import service_plan
    from adc_features.store.services.schema import service_schema

    bundle: Any = open_bundle(pair)
    declared = bundle.trained.ranker if hasattr(bundle, "key_types") else None
    service = declared.service if declared else service_name(pair.generation)
    store = open_any_store(pair.repository, pinned=True)
    plan = service_plan(store, service_schema(pair.repository, service))
    user, item = (declared.user, declared.item) if declared else (["user_id"], ["item_id"])
    return Opened(pair, bundle, list(user), list(item), store, plan)
