"""Codes under any id type, on several stores: joined, online and through time they agree."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from coded_feed import feast_apply
from things_world import ASOF, DAY, IDS, ITEMS, START, make_things

from adc_features.store import published_timeline
from adc_features.store.services.code_view import declare_codes, take_codes_online
from adc_features.store.services.parity import service_parity
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ItemSources
from training.tokenizing.workflow import tokenize


@pytest.mark.parametrize(
    ("kind", "offline"), [("String", "duckdb"), ("Int32", "file"), ("Uuid", ASOF)]
)
def test_codes_join_under_the_users_key(tmp_path, kind, offline):
    """The key has the name and type of the user's entity; codes that are joined, online, and
    looked up through time are the same, and none before they could be served."""
    repo, now = make_things(tmp_path, kind, offline), START + 3 * DAY
    made = tokenize(
        repo,
        ItemSources(["pictures__picture"]),
        times=[START + DAY],
        computed_at=now,
        settings=TokenizeSettings(steps=80, codebook_size=4, publish_lag=timedelta(hours=6)),
    )
    assert (made["entity"], made["join_key"]) == ("thing", "code")
    declare_codes(repo, "g1", service="things")
    take_codes_online(repo, "g1", until=now)
    schema = service_schema(repo, "things_g1")
    assert schema.join_keys == {"code": kind}
    rows = pa.table(
        {
            "code": pq.read_table(repo / "pictures.parquet")["code"].combine_chunks(),
            "event_timestamp": pa.array([now] * ITEMS, pa.timestamp("us", "UTC")),
        }
    )
    codes, _, _ = published_timeline(repo, "g1").gather(
        np.array(IDS[kind]), np.full(ITEMS, np.datetime64(now.replace(tzinfo=None), "us"))
    )
    joined = join_service(repo, schema, rows, features=["item_sid_g1__sid"])
    assert joined["item_sid_g1__sid"].to_pylist() == codes.tolist()
    assert (codes >= 0).all()
    early = rows.set_column(
        1,
        "event_timestamp",
        pa.array([START + DAY + timedelta(hours=5)] * ITEMS, pa.timestamp("us", "UTC")),
    )
    none = join_service(repo, schema, early, features=["item_sid_g1__sid"])
    assert none["item_sid_g1__sid"].null_count == ITEMS
    features = ["item_sid_g1__sid", "item_sid_g1__sid_weight", "item_sid_g1__reliability"]
    found = service_parity(repo, schema, rows, now, user=[], item=["code"], features=features)
    assert (found["rows"], found["different"]) == (ITEMS, {})


def test_feast_apply_keeps_what_was_declared_at_once(tmp_path):
    """`declare_codes` and `feast apply` with the written file declare the same view."""
    from adc_features.store.registry import open_any_store

    repo = make_things(tmp_path)
    tokenize(
        repo,
        ItemSources(["pictures__picture"]),
        times=[START + DAY],
        computed_at=START + DAY,
        settings=TokenizeSettings(steps=80, codebook_size=4),
    )
    declare_codes(repo, "g1")
    at_once = _view(repo)
    feast_apply(repo)
    assert _view(repo) == at_once
    assert {v.name for v in open_any_store(repo).list_feature_views()} == {
        "pictures",
        "item_sid_g1",
    }


def _view(repo):
    """What the registry holds of the view, without times."""
    from adc_features.store.registry import open_any_store

    view = open_any_store(repo).get_feature_view("item_sid_g1")
    return view.entities, [(f.name, str(f.dtype), f.tags) for f in view.schema], view.tags
