"""New items of a repository whose entities and stores are its own."""

import shutil
from datetime import timedelta

import numpy as np
from coded_feed import feast_apply
from conftest import FAST, NOW
from feast import FeatureStore
from feed_world import START

from adc_features.live.items import Items
from adc_features.live.items_encoding import open_encoder
from adc_features.live.items_incoming import incoming_items
from adc_features.store import OnlineSids
from training.tokenizing.sources import ItemSources
from training.tokenizing.workflow import tokenize


def test_an_item_comes_to_the_stores_of_a_repository(applied, tmp_path):
    """Under its own join key: online, in the packed lookup and in the point-in-time join."""
    repo = shutil.copytree(applied.folder, tmp_path / "feed")
    feast_apply(repo)
    sources = ItemSources(vectors=["looks__vector"])
    tokenize(repo, sources, times=[START + timedelta(days=1)], computed_at=NOW, settings=FAST)
    feast_apply(repo)
    items = Items(repo, open_encoder(repo, "g1"), clock=lambda: NOW)
    (modality,) = items.encoder.shape.widths
    asked = [{"id": 777_777, "vectors": {modality: np.arange(8.0).tolist()}}]
    came = items.commit(incoming_items(items.encoder.shape, asked).changes).codes
    items.follow()
    store = FeatureStore(str(repo))
    online = store.get_online_features(["item_sid_g1:sid"], [{"sku": 777_777}]).to_dict()
    assert online["sid"] == came.sid.tolist()
    assert OnlineSids(repo, "g1").lookup([777_777], now=NOW).sid.tolist() == came.sid.tolist()
    import pandas as pd

    moments = [NOW - timedelta(seconds=1), NOW]
    rows = pd.DataFrame({"sku": [777_777] * 2, "event_timestamp": moments})
    joined = store.get_historical_features(rows, ["item_sid_g1:sid"]).to_df()
    joined = joined.sort_values("event_timestamp")
    first, second = joined["sid"].tolist()
    assert first is None or not np.size(first) or np.isnan(first).all()
    assert list(second) == came.sid[0].tolist()
