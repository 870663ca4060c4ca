"""Each joined value is found in its source; a join that looked ahead is caught."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.store.services.provenance import _last, _numbers


@given(
    source=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=20),
    asked=st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 9)), min_size=1, max_size=20),
)
def test_the_newest_row_is_that_of_a_search_row_by_row(source, asked):
    """For each row, the place is the last in order of time of its own key at or before it."""
    source = sorted(source)
    theirs, at = np.array(source, np.int64).reshape(-1, 2).T
    own, times = np.array(asked, np.int64).T
    found = _last(theirs, at, own, times)
    for row, (key, time) in enumerate(asked):
        fits = [i for i, (k, t) in enumerate(source) if k == key and t <= time and key >= 0]
        expected = fits[-1] if fits else -1
        if expected < 0:
            assert found[row] == -1
        else:
            assert source[found[row]] == source[expected]


def test_keys_are_numbered_alike_on_both_sides():
    """Composite keys match as a whole; a null key matches nothing."""
    one = [pa.chunked_array([["a", "a", None]]), pa.chunked_array([[1, 2, 1]])]
    other = [pa.chunked_array([["a", "b"]]), pa.chunked_array([[2, 1]])]
    own, theirs = _numbers(one, other, 3, 2)
    assert own[1] == theirs[0]
    assert own[0] not in theirs.tolist()
    assert own[2] == -1


def test_a_value_of_a_later_row_is_found_in_the_future(served_shop):
    """A joined table in which one value is that of tomorrow, and one that of no row, names both."""
    repo, schema, joined, features, now = served_shop
    from adc_features.store.services.provenance import source_rows

    clean = source_rows(repo, schema, joined, features=features, until=now)
    assert not any(v.future.any() or v.different.any() for v in clean.values())
    assert any(v.known.any() for v in clean.values())
    place = joined.column_names.index("stock__quality")
    values = joined["stock__quality"].to_pylist()
    later = joined.set_column(place, "stock__quality", pa.array([9.0, 5.0, *values[2:]]))
    found = source_rows(repo, schema, later, features=features, until=now)["stock"]
    assert found.future.tolist()[:2] == [True, False]
    assert found.different.tolist()[:2] == [False, True]
    assert "later row of the source" in found.first


@pytest.fixture
def served_shop(tmp_path):
    """Two products, whose quality rises from 1 to 9 on the second day; rows at noon of the first,
    and of the third."""
    import pyarrow.parquet as pq
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        ValueType,
    )
    from feast.types import Float64, Int64

    from adc_features.store.services.schema import service_schema
    from adc_features.store.services.training_rows import join_service

    start = datetime(2026, 1, 1, tzinfo=UTC)
    utc = pa.timestamp("us", tz="UTC")
    days = [start, start + timedelta(days=1)] * 2
    table = {"sku": [1, 1, 2, 2], "at": pa.array(days, utc), "quality": [1.0, 9.0] * 2}
    pq.write_table(pa.table(table), tmp_path / "stock.parquet")
    (tmp_path / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: registry.db\noffline_store:\n  type: duckdb\n"
        "online_store:\n  type: sqlite\n  path: online.db\nentity_key_serialization_version: 3\n"
    )
    product = Entity(name="product", join_keys=["sku"], value_type=ValueType.INT64)
    source = FileSource(name="stock", path=str(tmp_path / "stock.parquet"), timestamp_field="at")
    stock = FeatureView(
        name="stock",
        entities=[product],
        ttl=timedelta(0),
        source=source,
        schema=[Field(name="sku", dtype=Int64), Field(name="quality", dtype=Float64)],
    )
    service = FeatureService(name="feed", features=[stock])
    FeatureStore(repo_path=str(tmp_path)).apply([product, stock, service])
    schema = service_schema(tmp_path, "feed")
    noon = [start + timedelta(hours=12), start + timedelta(days=2, hours=12)]
    rows = pa.table({"sku": [1, 1, 2, 3], "event_timestamp": pa.array(noon + noon, utc)})
    joined = join_service(tmp_path, schema, rows)
    assert joined["stock__quality"].to_pylist() == [1.0, 9.0, 1.0, None]
    return tmp_path, schema, joined, ["stock__quality"], start + timedelta(days=30)
