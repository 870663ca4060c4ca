"""Which items the online store knows, and whether it has the codes that are served. Reads: an
index, an online store. Writes: facts of the page `health`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from adc_features.errors import InputError
from adc_features.explore.index import Codes, Index

POPULAR = 500
"""Most popular items that are looked up."""
SPREAD = 500
"""Other items that are looked up, evenly over the catalogue."""


def unknown_online(index: Index, now: datetime) -> list[dict[str, Any]]:
    """Of each view that is looked up by the key of the items: the shares of the most popular items
    and of others that have no row online, and of a view of codes the share whose codes are not
    those that are served.

    Raises InputError without items, ArtifactError when the online store cannot be read.
    """
    from adc_features.store.services.item_online import items_online

    if not index.items:
        raise InputError("no item is known here; give a table of the items, --items FILE")
    popular = min(POPULAR, index.items)
    rest = min(SPREAD, index.items - popular)
    rows = [*range(popular), *np.linspace(popular, index.items - 1, rest).astype(int).tolist()]
    ids = [one.id for one in index.named(rows)]
    views = {f"item_sid_{codes.id}": codes for codes in index.generations.values()}
    told = []
    for view, found in items_online(index.place.repo, index.place.item_key(), ids, now=now).items():
        missing = ~found.stored
        told.append(
            {
                "view": view,
                "popular": popular,
                "others": len(ids) - popular,
                "unknown_popular": float(missing[:popular].mean()),
                "unknown_others": float(missing[popular:].mean()) if len(ids) > popular else None,
                "other_codes": _other_codes(views[view], ids, found.columns, found.stored)
                if view in views
                else None,
            }
        )
    return told


def _other_codes(
    codes: Codes, ids: list[Any], columns: Mapping[str, Any], stored: np.ndarray
) -> float | None:
    """Of the items that have codes online the share whose codes are not those that are served."""
    if not stored.any():
        return None
    served = codes.between.served().gather(np.array(ids)).sid.tolist()
    online = columns["sid"].to_pylist()
    other = [a != b for a, b, there in zip(online, served, stored, strict=True) if there]
    return float(np.mean(other))
