"""Our stores in Feast's universal test-suite;
`benchmarks/feast_suite.py` puts this module on its path.

Feast reads both names; tests that say `only=["redis"]` match the key of AVAILABLE_ONLINE_STORES.
"""

import os

from tests.universal.feature_repos.universal.data_sources.file import FileDataSourceCreator

from adc_features.store.offline_store import AsofOfflineStoreConfig


class AsofDataSourceCreator(FileDataSourceCreator):
    """Parquet files as Feast's own tests make them, read by our store."""

    def create_offline_store_config(self):
        return AsofOfflineStoreConfig()


AVAILABLE_OFFLINE_STORES = [("local", AsofDataSourceCreator)]
OURS = {"type": "adc_features.store.online_store.LmdbOnlineStore", "path": "online_lmdb"}
AVAILABLE_ONLINE_STORES = (
    {alias: (OURS, None)}
    if (alias := os.environ.get("ADC_ONLINE_ALIAS"))
    else {"sqlite": ({"type": "sqlite"}, None)}
)
