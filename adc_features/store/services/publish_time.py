"""Up to which publish time live views are visible. Reads: the live directory of our online store.

A commit makes its rows visible together with its publish time, by which history stamps the same
rows. A request that read between two looks at the same publish time P read exactly what history
says as of P, or as of its own moment where that is later.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from adc_features.clock import instant, moment
from adc_features.store.live_views import is_live
from adc_features.store.services.plan import ServicePlan

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore

TRIES = 2
"""How often live views are read while events are committed."""
META, PUBLISHED = "meta", b"published"
"""Where a commit writes its publish time: of `adc_features.live`, which stands above the store."""


class PublishTime:
    """The publish time of a repository's live views, if a plan reads any from our store."""

    def __init__(self, store: FeatureStore, plan: ServicePlan) -> None:
        from adc_features.store import _compat as feast
        from adc_features.store.lmdb.places import directory_of
        from adc_features.store.online_store import LmdbOnlineStore

        live = [stored.view for stored in plan.stored if is_live(stored.view)]
        online: Any = feast.online_store(store)
        # of rows that another store serves, nobody knows when it took them
        ours = live and isinstance(online, LmdbOnlineStore)
        ours = ours and all(online.holds(store.config, view) for view in live)
        self._environment: Any = directory_of(store.config, live=True) if ours else None

    @property
    def is_read(self) -> bool:
        """Whether the plan reads live views whose publish time is known."""
        return self._environment is not None

    def last(self) -> int:
        """Microseconds since 1970; -1 before the first commit."""
        with self._environment.reading(META) as table:
            found = None if table is None else table.get(PUBLISHED)
            return -1 if found is None else int(bytes(found))


def as_of(published: int, now: datetime) -> datetime:
    """The time as of which history says what was read at `now`, with rows up to `published`."""
    return moment(max(instant(now), np.datetime64(published, "us")))
