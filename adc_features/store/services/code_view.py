"""Declare published codes to a repository's registry, and take them online. Reads: a publication.
Writes: Feast's registry and online store.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.store.definitions import sid_views, with_codes
from adc_features.store.publish import published_snapshots
from adc_features.store.registry import open_any_store
from adc_features.store.repository import live_generation

_log = logging.getLogger(__name__)


def declare_codes(repo: Path, generation: str, *, service: str | None = None) -> None:
    """Apply the view of a generation, and a service with it, beside what is applied.

    `feast apply` does the same with all files of the repository; here nothing else changes.

    Parameters
    ----------
    repo : Path
        An applied repository.
    generation : str
        A published generation.
    service : str, optional
        An applied feature service; `<service>_<generation>` offers its features and the codes.

    Raises
    ------
    InputError
        The generation is not published, or the service not applied.
    """
    from adc_features.store import _compat as feast

    name = live_generation(repo, generation).view
    view = next(v for v in sid_views(Path(repo).resolve()) if v.name == name)
    with feast.quiet():
        store = open_any_store(repo)
        known = {s.name: s for s in store.list_feature_services()}
        declared: list[Any] = [view]
        if service is not None:
            if service not in known:
                raise InputError(
                    f"feature service {service!r} is not applied in {repo}; applied are"
                    f" {sorted(known) or 'none'}"
                )
            declared.append(
                with_codes(known[service], repo=Path(repo).resolve(), generation=generation)
            )
        store.apply(declared)
    _log.info("stage=declare_codes generation=%s service=%s", generation, service)


def take_codes_online(repo: Path, generation: str, *, until: datetime) -> None:
    """Materialize the codes of a generation that may be served until a time (aware)."""
    from adc_features.store import _compat as feast

    first = min(s.servable_at for s in published_snapshots(repo, generation))
    with feast.quiet():
        open_any_store(repo).materialize(
            feature_views=[live_generation(repo, generation).view],
            start_date=first - timedelta(seconds=1),
            end_date=utc(until, name="until"),
        )
