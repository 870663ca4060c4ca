"""Items that came for one generation, encoded for the next one too. Reads: what each item was
described by, published codes. Writes: as `Items.commit` does.

When another generation takes over, its first snapshot need not have an item that came last minute.
What was kept of such an item when it came, vectors and texts, is encoded by the tokenizer that
takes over.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from adc_features.clock import instant
from adc_features.live.items import Items
from adc_features.live.items_incoming import ItemChange, ItemShape
from adc_features.store.online_sids import OnlineSids

log = logging.getLogger(__name__)
_AT_ONCE = 500
"""Items of one commit."""


class CarriedOver(NamedTuple):
    """How many items, and removals, the next generation has now; and how many it cannot encode."""

    carried: int
    left: int


def carry_over(before: Items, after: Items) -> CarriedOver:
    """Add to a generation the items that came, or went, for the one before and that it lacks.

    An item is lacking where no row of the generation has it, or where it was described anew after
    the cut-off of the snapshot that is served; an item that went goes from the generation as well,
    whatever its snapshots list. Calling it again adds only what came meanwhile.

    Parameters
    ----------
    before, after : Items
        Of one repository.

    Returns
    -------
    CarriedOver
        `left` are items of which the generation reads nothing that was given: neither a vector of
        a modality of its own and of its width, nor a text.

    Raises
    ------
    ArtifactError
        The live directory cannot be written; what was committed before stays.
    """
    if before.repo != after.repo or before.live == after.live:
        return CarriedOver(0, 0)
    lacking = _lacking(before, after)
    described = [_fitting(one, after.encoder.shape) for one in lacking]
    changes = [one for one in described if one is not None]
    for start in range(0, len(changes), _AT_ONCE):
        after.commit(changes[start : start + _AT_ONCE])
    told = CarriedOver(len(changes), len(lacking) - len(changes))
    if lacking:
        ids = after.live.id, before.live.id
        log.info("stage=items generation=%s from=%s carried=%d left=%d", *ids, *told)
    return told


def _lacking(before: Items, after: Items) -> list[ItemChange]:
    """What one generation was sent and the other needs, in the order in which it came."""
    newest, done = before.published(), after.published()
    asked = [one for one, at in newest.items() if done.get(one, -1) < at]
    if not asked:
        return []
    timeline = OnlineSids(after.repo, after.live.id).timeline(after.live.id)
    snapshot = timeline.at(max(after.clock(), timeline.snapshots[0].servable_at))
    cutoff = int(instant(snapshot.as_of).astype(np.int64))
    known = snapshot.lookup(asked).found.tolist()
    return [
        item
        for item, is_known in zip(before.given(asked), known, strict=True)
        if (is_known if item.removed else not is_known or newest[item.id] > cutoff)
    ]


def _fitting(item: ItemChange, shape: ItemShape) -> ItemChange | None:
    """What a generation reads of an item; None where that is nothing. A vector that was made of a
    text is not taken: the generation may embed texts by another model.
    """
    texts = {m: text for m, text in item.texts.items() if m in shape.texts}
    vectors = {
        m: vector
        for m, vector in item.vectors.items()
        if m not in item.texts and shape.widths.get(m) == len(vector)
    }
    if not item.removed and not texts and not vectors:
        return None
    return item._replace(vectors=vectors, texts=texts)
