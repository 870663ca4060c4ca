"""Where the LMDB online store keeps the rows of a view.

Reads: a repository's configuration. Writes: nothing.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

from adc_features.store import _compat as feast
from adc_features.store.lmdb.environment import Environment, environment

_MEBIBYTE = 1 << 20


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
    path = os.path.join(config.repo_path or ".", place)
    try:
        status = os.stat(path)
        path = _resolved(os.getcwd(), path, status.st_dev, status.st_ino)
    except OSError:  # not there yet, or gone: the environment says which
        path = os.path.realpath(path)
    return environment(path, map_size=config.online_store.map_size_mb * _MEBIBYTE)


@functools.lru_cache(maxsize=64)
def _resolved(cwd: str, path: str, device: int, inode: int) -> str:
    """The path without links: asked for with every read, and walked again where a link, or the
    place from which it is read, came to lead to another directory."""
    return os.path.realpath(path)


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
