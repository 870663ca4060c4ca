"""A served log in Feast's format. Reads: a log, a repository. Writes: logged features."""

import shutil

import pyarrow as pa
import pyarrow.dataset as ds
from served_world import apply_views, definitions

from adc_features.served.export import feast_log
from adc_features.served.segments import sealed_segments

LOGGED = """
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination

feed_v1 = FeatureService(
    name="feed_v1", features=[profile, stock, affinity, shelf],
    logging_config=LoggingConfig(
        destination=FileLoggingDestination(path=str(HERE / "logged"))
    ),
)
"""


def test_feast_takes_the_log_to_the_destination_that_the_service_declares(small_feed, tmp_path):
    """Every candidate is a row under Feast's names and types, with its keys and its request."""
    from feast import FeatureStore
    from feast.feature_logging import FeatureServiceLoggingSource

    repo = tmp_path / "repo"
    shutil.copytree(small_feed.repo, repo)
    config = (repo / "feature_store.yaml").read_text()
    ours = "adc_features.store.offline_store.AsofOfflineStore"
    (repo / "feature_store.yaml").write_text(config.replace("type: duckdb", f"type: {ours}"))
    (repo / "definitions.py").write_text(definitions() + LOGGED)
    apply_views(repo)
    small_feed.log(tmp_path / "log")
    store = FeatureStore(repo_path=str(repo))
    service = store.get_feature_service("feed_v1")
    wanted = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    tables = list(feast_log(tmp_path / "log", service="feed_v1"))
    for table in tables:
        found = {f.name: f.type for f in table.schema}
        shared = [f for f in wanted if f.name in found]
        assert {f.name for f in shared} >= {"sku", "stock__price", "__request_id", "__log_date"}
        assert {f.name: found[f.name] for f in shared} == {f.name: f.type for f in shared}
        store.write_logged_features(table, service)
    rows = ds.dataset(repo / "logged", partitioning="hive").to_table().to_pylist()
    (segment,) = sealed_segments(tmp_path / "log")
    served = {
        (row["request_id"], row["item.sku"]): row["feature.stock__price"]
        for row in segment.candidate_rows().to_pylist()
    }
    assert {(r["__request_id"], r["sku"]): r["stock__price"] for r in rows} == served
    assert {r["affinity__visits__status"] for r in rows if r["affinity__visits"] is None} == {1}
    assert {r["stock__price__status"] for r in rows} == {2}
    assert list(feast_log(tmp_path / "log", service="other")) == []
    assert pa.types.is_date32(tables[0].schema.field("__log_date").type)
