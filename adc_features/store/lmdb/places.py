"""Where the LMDB online store keeps the rows of a view.

Reads: a repository's configuration. Writes: nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from adc_features.store import _compat as feast
from adc_features.store.lmdb.environment import Environment, environment

_MEBIBYTE = 1 << 20
_real_paths: dict[str, str] = {}


def table_name(config: Any, table: Any) -> str:
    """The name of the table that holds the rows of a view.

    project/view, with @v and the number of a later version when the registry keeps versions.
    """
    version = None
    if config.registry.enable_online_feature_view_versioning:
        pinned = getattr(table.projection, "version_tag", None)
        version = pinned if pinned is not None else getattr(table, "current_version_number", None)
    return f"{config.project}/{table.name}" + (f"@v{version}" if version else "")


def directory_of(config: Any, *, live: bool = False) -> Environment:
    """The LMDB directory of a repository, by its configuration; or that of its live views."""
    settings = config.online_store
    place = settings.live_path if live else settings.path
    path = _resolved(os.path.join(config.repo_path or ".", place))
    return environment(path, map_size=config.online_store.map_size_mb * _MEBIBYTE)


def _resolved(path: str) -> str:
    """The real path. Every request asks for it, and resolving looks at each part of a path: it is
    resolved again only when another directory lies there."""
    known = _real_paths.get(path)
    if known is not None and (here := _identity(path)) and here == _identity(known):
        return known
    _real_paths[path] = found = os.path.realpath(path)
    return found


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a directory from others; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def tables_of(config: Any, views: Sequence[Any], held: Sequence[str]) -> list[str]:
    """Which of the tables `held` are of these views, in any version."""
    names = [re.compile(re.escape(f"{config.project}/{view.name}") + r"(@v\d+)?") for view in views]
    return [name for name in held if any(pattern.fullmatch(name) for pattern in names)]


def store_of(config: Any, block: dict[str, Any]) -> tuple[Any, Any]:
    """The online store that another `online_store:` block describes, and its configuration."""
    settings = feast.get_online_config_from_type(block["type"])(**block)
    theirs = config.model_copy()
    theirs.online_config = theirs._online_store = settings
    return feast.get_online_store_from_config(settings), theirs
