"""The live views of a Feast repository. Reads: its Python files, its registry. Writes: nothing
until an event comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.aggregates.declaration import AggregateView
from adc_features.aggregates.record import declaration_hash
from adc_features.errors import InputError
from adc_features.live.elsewhere import Elsewhere
from adc_features.live.history import Histories
from adc_features.live.known_items import KnownItems
from adc_features.live.ledger import Ledger
from adc_features.live.settings import LiveSettings
from adc_features.live.tables import ServedView
from adc_features.store.live_views import LIVE_TAG, PLACE, is_live
from adc_features.store.registry import open_any_store
from adc_features.store.services.rankers import declared_objects


class Live(NamedTuple):
    """The live directory of a repository: what is accepted and served, and its files."""

    ledger: Ledger
    histories: Histories


def declared_views(repo: Path) -> dict[str, AggregateView]:
    """The aggregates that a repository's Python files declare, by name."""
    return declared_objects(repo, AggregateView, name=lambda view: view.name)


def declared_view(repo: Path, name: str | None) -> AggregateView:
    """One of them; without a name the only one. Raises InputError where there is none such."""
    found = declared_views(repo)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise InputError(
            f"asked is the AggregateView {name or 'that is the only one'}, the Python files of"
            f" {repo} declare {', '.join(sorted(found)) or 'none'}; name one of them, --view"
        )
    return found[name]


def open_live(
    repo: Path,
    *,
    settings: LiveSettings | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    declared: Sequence[AggregateView] | None = None,
) -> Live:
    """The live directory of a repository whose aggregates are declared and applied.

    Parameters
    ----------
    repo : Path
    settings : LiveSettings, optional
    clock : callable
        The time, aware.
    declared : sequence of AggregateView, optional
        By default those of the repository's Python files.

    Raises
    ------
    InputError
        Nothing is declared, a declared view is not applied or was applied as another, or its
        declaration is not the one that the directory was filled by; a stream does not take events
        of unknown items, and no codes are published that would tell them.
    ArtifactError
        There is no repository.
    """
    from adc_features.store import _compat as feast
    from adc_features.store.lmdb.places import directory_of, table_name
    from adc_features.store.packed.overlay import live_environment

    repo = Path(repo).resolve()
    found = {v.name: v for v in declared} if declared is not None else declared_views(repo)
    if not found:
        raise InputError(
            f"no Python file of {repo} declares an AggregateView; declare one, docs/guides/live.md"
            " shows how"
        )
    with feast.quiet():
        store = open_any_store(repo)
        applied = {view.name: view for view in store.list_feature_views() if is_live(view)}
    served, ours = [], _held_by_us(store)
    for name, view in found.items():
        if name not in applied or applied[name].tags[LIVE_TAG] != declaration_hash(view):
            state = "is not applied" if name not in applied else "was applied as another"
            raise InputError(
                f"the live view {name!r} {state} in {repo}; make its Feast view by"
                " `live_view(...)`, and run `feast apply`"
            )
        if view.known != "sealed":
            raise InputError(
                f"the live view {name!r} is declared with known={view.known!r}, by which one late"
                " event changes the rows of everybody after it; a stream serves known='sealed'"
            )
        table = table_name(store.config, applied[name])
        served.append(ServedView(view, applied[name], table, elsewhere=not ours(applied[name])))
    own = hasattr(store.config.online_store, "live_path")
    environment = directory_of(store.config, live=True) if own else live_environment(repo)
    streams = {one.declared.stream.name: one.declared.stream for one in served}
    items = {
        name: KnownItems(repo, stream, clock=clock)
        for name, stream in streams.items()
        if stream.unknown_items != "create"
    }
    ledger = Ledger(environment, served, settings or LiveSettings(), clock, items)
    ledger.check_declarations()
    elsewhere = None
    if any(one.elsewhere for one in served):
        elsewhere = Elsewhere(ledger, repo / PLACE, store)
    return Live(ledger, Histories(ledger, repo / PLACE, elsewhere))


def _held_by_us(store: Any) -> Callable[[Any], bool]:
    """Which views our online store serves, and not another one or its delegate."""
    from adc_features.store import _compat as feast
    from adc_features.store.online_store import LmdbOnlineStore

    online: Any = feast.online_store(store)
    ours = isinstance(online, LmdbOnlineStore)
    return lambda view: ours and online.holds(store.config, view)
