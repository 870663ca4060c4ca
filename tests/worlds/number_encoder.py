"""What makes codes of new items without a network."""

import numpy as np

from adc_features import store
from adc_features.codes.sids import SidTable
from adc_features.live.items_incoming import ItemShape
from adc_features.store.repository import live_generation


class Encoder:
    """Codes by the first number of an item's vector, without a network."""

    shape = ItemShape("string", {"title": 2}, {})

    def __init__(self, repo, generation="g1"):
        self.live = live_generation(repo, generation)
        self.second = store.published_timeline(repo, generation).has_second

    def described(self, changes):
        return [dict(change.vectors) for change in changes], {}

    def encode(self, changes, vectors, as_of):
        n = len(changes)
        found = np.array([not change.removed for change in changes])
        sid = np.full((n, self.live.length), -1, np.int32)
        for row, of in enumerate(vectors):
            if found[row]:
                sid[row, :2] = int(of["title"][0]) % self.live.codebook_size
        zero = np.zeros(n, np.float32)
        return SidTable(
            item_ids=np.array([change.id for change in changes]),
            sid=sid,
            sid_weight=(sid >= 0).astype(np.float32),
            reliability=zero,
            alignment=zero,
            is_cold=np.ones(n, bool),
            collision_count=found.astype(np.int32),
            found=found,
            generation="g1",
            codebook_size=self.live.codebook_size,
            as_of=as_of,
            sid_second=np.full_like(sid, -1) if self.second else None,
            sid_second_weight=np.zeros(sid.shape, np.float32) if self.second else None,
        )
