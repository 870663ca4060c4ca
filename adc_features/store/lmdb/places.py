"""Where the LMDB online store keeps the rows of a view.

Reads: a repository's configuration. Writes: nothing.
"""

from __future__ import annotations

import os
from typing import Any

from adc_features.store.lmdb.environment import Environment, environment

_MEBIBYTE = 1 << 20


def table_name(config: Any, table: Any) -> str:
    """Where the rows of a view are: project/view, with @v and the number of a later version when
    the registry keeps versions.
    """
    version = None
    if config.registry.enable_online_feature_view_versioning:
        pinned = getattr(table.projection, "version_tag", None)
        version = pinned if pinned is not None else getattr(table, "current_version_number", None)
    return f"{config.project}/{table.name}" + (f"@v{version}" if version else "")


def directory_of(config: Any) -> Environment:
    """The LMDB directory of a repository, by its configuration."""
    path = os.path.realpath(os.path.join(config.repo_path or ".", config.online_store.path))
    return environment(path, map_size=config.online_store.map_size_mb * _MEBIBYTE)
