"""A user who is forgotten is gone from online rows of ordinary views, and listed where not."""

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from live_world import START, online
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.store.lmdb.entity_keys import key_part, row_key

KEYS = st.integers(-(1 << 63), (1 << 63) - 1) | st.text(max_size=60)


@settings(max_examples=40)
@given(st.lists(KEYS, min_size=1, max_size=3))
def test_a_key_is_taken_apart_as_it_was_made(values):
    """Each part of a key of several join keys is the key of that one alone."""
    key = row_key({f"k{place}": one for place, one in enumerate(values)})
    assert [key_part(key, place, len(values)) for place in range(len(values))] == [
        row_key({"k": one}) for one in values
    ]


def test_online_rows_of_stored_views_go_and_sources_are_listed(shop):
    """Alone and beside other keys; a source that would bring them back is named, with its rows."""
    from feast import FeatureStore

    store = FeatureStore(str(shop))
    for name, keys in {"loyalty": ["customer_id"], "taste": ["customer_id", "sku"]}.items():
        columns = {"customer_id": [1, 2, 1], "sku": ["a", "i1", "b"]}
        rows = pa.table(
            {
                **{key: columns[key] for key in keys},
                f"{name}_points": [5, 6, 7],
                "event_timestamp": [START, START, START + timedelta(days=1)],
            }
        )
        pq.write_table(rows, shop / f"{name}.parquet")
        store.write_to_online_store(name, rows.to_pandas())
    words = ["forget", "--repo", str(shop), "--key", "customer_id", "--user", "1", "--json", "-"]
    run = shop.parent / "run.json"
    run.touch()
    told = json.loads(CliRunner().invoke(application(), words).stdout)
    run.unlink()
    assert told["deleted"]["online_rows"] == 3
    assert [(one["what"], one["where"]) for one in told["left"]] == [
        ("source of a view", "loyalty"),
        ("source of a view", "taste"),
        ("run", shop.parent.name),
    ]
    assert told["left"][0]["remedy"].startswith("2 rows; ")
    served = online(shop, ["taste:taste_points"], customer_id=[1, 2], sku=["b", "i1"])
    assert served["taste_points"] == [None, 6]
    served = online(shop, ["loyalty:loyalty_points"], customer_id=[1, 2])
    assert served["loyalty_points"] == [None, 6]
    words = ["forget", "--repo", str(shop), "--older-than", "online=30d", "--json", "-"]
    told = json.loads(CliRunner().invoke(application(), words).stdout)
    assert told["deleted"] == {"online": 2}
