"""Which items have rows online, in any online store. Reads: a Feast repository, its online store.
Writes: rows by view.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from adc_features.errors import ArtifactError
from adc_features.store.registry import open_any_store
from adc_features.store.repository import ItemKey
from adc_features.store.services.item_rows import views_of_items
from adc_features.store.services.lookups import Found, Lookup, read_by_feast
from adc_features.store.services.plan import StoredView
from adc_features.store.services.values import arrow_type


def items_online(
    repo: Path, key: ItemKey, ids: Sequence[Any], *, now: datetime
) -> dict[str, Found]:
    """What the online store has of items, in every view that is looked up by their key alone.

    Parameters
    ----------
    repo : Path
        An applied repository.
    key : ItemKey
    ids : sequence of str or int
        N items.
    now : datetime
        Aware. A row that its view's ttl has let expire by then is not there.

    Returns
    -------
    dict of str to Found
        By view, of N items; the column of its first feature, of codes `sid`.

    Raises
    ------
    ArtifactError
        The online store cannot be read.
    """
    from adc_features.store import _compat as feast

    store = open_any_store(repo)
    asked = {key.join_key: pa.array(ids)}
    found: dict[str, Found] = {}
    for view in views_of_items(store, key):
        types = {field.name: str(field.dtype) for field in view.features}
        readable = [name for name, dtype in types.items() if arrow_type(dtype) is not None]
        if not view.online or not readable:
            continue
        ttl = view.ttl.total_seconds() if view.ttl else 0.0
        name = "sid" if "sid" in readable else readable[0]
        own = StoredView(view, None, {key.join_key: key.join_key}, ttl, {name: types[name]})
        lookup = Lookup({0: own}, {key.join_key: key.join_key})
        try:
            with feast.quiet():
                found[view.name] = read_by_feast(store, lookup, asked, len(ids), now=now)[0]
        except Exception as error:  # whatever that store's client raises
            raise ArtifactError(
                f"view {view.name!r} cannot be read online ({error!r}); look after the online store"
            ) from error
    return found
