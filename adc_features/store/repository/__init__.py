"""A Feast repository on disk. Light: no feast.

<repo>/feature_store.yaml            stores, registry, and our own settings under `adc_features:`
<repo>/item_sids.py                  declares one view per live generation
<repo>/ranking_features.py           declares entities, statistics views, one service per ranker
<repo>/adc_codes.py, adc_code_services.py   in other people's repositories: views of codes, services
<repo>/data/live_generations.json    written last by `publish`
<repo>/data/item_sid_<generation>/   manifest.json, rows/<as_of>.parquet, packed/<as_of>.sids
<repo>/data/statistics/              manifest.json, item_profile.parquet, user_activity.parquet
<repo>/data/registry.db              Feast's own
<repo>/data/online_lmdb/             the online store
"""

from adc_features.store.repository.checks import check_repository, is_created
from adc_features.store.repository.code_files import (
    CODE_FILES,
    declare_code_service,
    declare_code_views,
)
from adc_features.store.repository.config import (
    CONFIG,
    UNSAFE_OFFLINE_STORES,
    Settings,
    create_repository,
    offline_store_type,
    read_config,
    registry_beside,
    settings,
)
from adc_features.store.repository.live import (
    STATISTICS,
    IdType,
    ItemKey,
    LiveGeneration,
    deletable_publication,
    live_generation,
    live_generations,
    live_generations_path,
    publication_manifest,
    publication_path,
    service_name,
    sid_view_name,
    statistics_manifest,
    statistics_path,
    write_live_generations,
)

__all__ = [
    "CODE_FILES",
    "CONFIG",
    "STATISTICS",
    "UNSAFE_OFFLINE_STORES",
    "IdType",
    "ItemKey",
    "LiveGeneration",
    "Settings",
    "check_repository",
    "create_repository",
    "declare_code_service",
    "declare_code_views",
    "deletable_publication",
    "is_created",
    "live_generation",
    "live_generations",
    "live_generations_path",
    "offline_store_type",
    "publication_manifest",
    "publication_path",
    "read_config",
    "registry_beside",
    "service_name",
    "settings",
    "sid_view_name",
    "statistics_manifest",
    "statistics_path",
    "write_live_generations",
]
