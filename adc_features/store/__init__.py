"""Codes and statistics in Feast. The only package that imports feast, and only when a function
needs it.

create_repository -> publish, publish_statistics -> apply -> materialize -> training_features
offline, lookup and online_features online.
"""

from adc_features.store.history import (
    JoinFacts,
    PreparedJoin,
    join_facts,
    open_join,
    training_features,
)
from adc_features.store.online import (
    OnlineReader,
    lookup,
    materialize,
    materialized_through,
    online_features,
    open_reader,
)
from adc_features.store.online_record import online_problems
from adc_features.store.online_sids import OnlineSids
from adc_features.store.parity import parity, require_parity
from adc_features.store.parquet import write_parquet
from adc_features.store.publish import (
    check_validity,
    load_codes,
    newest_published,
    publish,
    publish_changes,
    publish_statistics,
    published_before,
    published_files,
    published_snapshots,
    published_timeline,
    unpublish,
)
from adc_features.store.refresh import RefreshSchedule
from adc_features.store.registry import apply, registry_problems
from adc_features.store.repository import (
    check_repository,
    create_repository,
    live_generations,
    service_name,
)

__all__ = [
    "OnlineReader",
    "OnlineSids",
    "PreparedJoin",
    "RefreshSchedule",
    "apply",
    "create_repository",
    "lookup",
    "materialize",
    "online_features",
    "open_join",
    "open_reader",
    "parity",
    "publish",
    "publish_statistics",
    "published_timeline",
    "require_parity",
    "service_name",
    "training_features",
    "unpublish",
]
