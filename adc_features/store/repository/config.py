"""The configuration of a Feast repository. Reads: feature_store.yaml. Writes: new repositories.
Light: no feast.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from adc_features.artifact import write_atomically
from adc_features.errors import ArtifactError, InputError
from adc_features.store.refresh import checked_text

CONFIG = "feature_store.yaml"

UNSAFE_OFFLINE_STORES = ("dask", "file")
"""Feast's default store under both of its names: measured to drop and corrupt rows without a
word.
"""


_YAML = """\
project: {project}
provider: local
registry:
  registry_type: sql
  # relative to this directory, from wherever it is opened, since the stores below are ours
  path: sqlite:///data/registry.db
  serve_features_while_materializing: true
offline_store:
  # never `dask` or `file`: measured to drop and corrupt rows without a word
  type: adc_features.store.offline_store.AsofOfflineStore
online_store:
  type: adc_features.store.online_store.LmdbOnlineStore
  path: data/online_lmdb
batch_engine:
  type: adc_features.store.compute_engine.ArrowComputeEngine
materialization:
  pull_latest_features: true
  online_write_batch_size: 10000
entity_key_serialization_version: 3
adc_features:
  join_rows: 100000  # entity rows joined at a time; bounds the memory of a point-in-time join
"""

_ITEM_SIDS = '''\
"""One feature view per live generation. Reads: data/live_generations.json, which publishing writes
last.
"""

from pathlib import Path

from adc_features.store.definitions import sid_views

globals().update({view.name: view for view in sid_views(Path(__file__).parent)})
'''

_RANKING_FEATURES = '''\
"""Entities, statistics views and one service per ranker. Reads: the schemas of what was published
under data/.
"""

from pathlib import Path

from adc_features.store.definitions import entities, services, statistics_views

REPO = Path(__file__).parent
globals().update(
    {
        declared.name: declared
        for declare in (entities, statistics_views, services)
        for declared in declare(REPO)
    }
)
'''


@dataclass(frozen=True)
class Settings:
    """The `adc_features:` block of feature_store.yaml.

    join_rows: entity rows joined at a time, >= 1. refresh: view -> how it is refreshed online, as
    `RefreshSchedule.parse` reads it, or `log` for the refreshes that are on record. code_source:
    `module:function` of the repository, which returns the source of a view of codes that people
    load themselves.
    """

    join_rows: int = 100_000
    refresh: Mapping[str, str] = field(default_factory=dict)
    code_source: str | None = None

    def __post_init__(self) -> None:
        rows = self.join_rows
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            raise InputError(
                f"adc_features.join_rows is {self.join_rows!r}; expected a whole number of rows, at"
                " least 1"
            )
        if not isinstance(self.refresh, Mapping):
            raise InputError(
                f"adc_features.refresh is {self.refresh!r}; expected a schedule for each view, such"
                " as {user_activity: 1d@03:00+20m}"
            )
        texts = {str(view): checked_text(text, of=view) for view, text in self.refresh.items()}
        object.__setattr__(self, "refresh", texts)
        if self.code_source is not None and not re.fullmatch(r"\w+:\w+", str(self.code_source)):
            raise InputError(
                f"adc_features.code_source is {self.code_source!r}; expected module:function, of a"
                " Python file beside feature_store.yaml"
            )


def create_repository(directory: Path, *, project: str) -> None:
    """Write a Feast repository; files that exist are kept.

    Parameters
    ----------
    directory : Path
        Where; created when it is not there.
    project : str
        Feast's name of the project: letters, digits and underscores.

    Raises
    ------
    InputError
        Feast refuses the name, or the directory belongs to another project.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     create_repository(Path(folder), project="shop")
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['data', 'feature_store.yaml', 'item_sids.py', 'ranking_features.py']

    Source
    ------
    Feast documentation, "Feature repository":
    https://docs.feast.dev/reference/feature-repository
    """
    if not project.replace("_", "").isalnum() or not project.isascii() or project.startswith("_"):
        raise InputError(
            f"project is {project!r}; expected letters, digits and underscores, not starting with"
            " an underscore"
        )
    directory = Path(directory)
    (directory / "data").mkdir(parents=True, exist_ok=True)
    contents = {
        CONFIG: _YAML.format(project=project),
        "item_sids.py": _ITEM_SIDS,
        "ranking_features.py": _RANKING_FEATURES,
    }
    for name, text in contents.items():
        if not (directory / name).exists():
            write_atomically(directory / name, text)
    if (found := read_config(directory)["project"]) != project:
        raise InputError(
            f"{directory} belongs to project {found!r}, asked for {project!r}; use another"
            " directory or that project"
        )


def read_config(repo: Path) -> dict[str, Any]:
    """feature_store.yaml as a dictionary, $VARIABLES filled in as Feast does.

    Raises ArtifactError when it is missing or not YAML with a project.
    """
    path = Path(repo) / CONFIG
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; create the repository first (create_repository)")
    try:
        config = yaml.safe_load(os.path.expandvars(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ArtifactError(
            f"{path} is not YAML ({error}); repair it or create the repository again"
        ) from error
    if not isinstance(config, dict) or "project" not in config:
        raise ArtifactError(f"{path} names no project; repair it or create the repository again")
    return config


def offline_store_type(config: Mapping[str, Any]) -> str:
    """The offline store that Feast would use; its default when the file names none."""
    offline = config.get("offline_store") or "dask"
    return str(offline.get("type", "dask") if isinstance(offline, dict) else offline)


def settings(repo: Path) -> Settings:
    """Our own settings. Raises InputError naming what is unknown or out of range."""
    block = read_config(repo).get("adc_features") or {}
    known = {f.name for f in fields(Settings)}
    if not isinstance(block, dict) or (unknown := sorted(set(block) - known)):
        raise InputError(
            f"the adc_features block of {CONFIG} holds"
            f" {unknown if isinstance(block, dict) else block!r}; expected only {sorted(known)}"
        )
    return Settings(**block)


def registry_beside(location: str, repo: Path) -> str:
    """Where a registry is.

    A relative SQLite file lies in the repository, whichever folder a process runs in; URLs of other
    databases, of absolute files and of memory stay as they are.
    location: as feature_store.yaml has it.
    """
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/?:][^?]*)(\?.*)?", location)
    if found is None:
        return location
    return f"{found[1]}{Path(repo).resolve() / found[2]}{found[3] or ''}"
