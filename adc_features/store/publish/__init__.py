"""Published codes and statistics: rows that Feast reads. Reads: SidTable snapshots, statistics.
Writes: data/ of a repository.

A publication is a directory that appears whole, manifest inside; the list of live generations is
written last.
"""

from adc_features.store.publish.changes import publish_changes, published_before
from adc_features.store.publish.codes import load_codes, publish, unpublish
from adc_features.store.publish.published import (
    LAST_TIME,
    PublishedSnapshot,
    newest_published,
    published_files,
    published_snapshots,
    published_timeline,
)
from adc_features.store.publish.statistics import check_validity, publish_statistics

__all__ = [
    "LAST_TIME",
    "PublishedSnapshot",
    "check_validity",
    "load_codes",
    "newest_published",
    "publish",
    "publish_changes",
    "publish_statistics",
    "published_before",
    "published_files",
    "published_snapshots",
    "published_timeline",
    "unpublish",
]
