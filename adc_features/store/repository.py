"""A Feast repository on disk. Reads: feature_store.yaml, the list of live generations. Writes: new
repositories. Light: no feast.

<repo>/feature_store.yaml            stores, registry, and our own settings under `adc_features:`
<repo>/item_sids.py                  declares one view per live generation
<repo>/ranking_features.py           declares entities, statistics views, one service per ranker
<repo>/data/live_generations.json    written last by `publish`
<repo>/data/item_sid_<generation>/   manifest.json, rows/<as_of>.parquet, packed/<as_of>.sids
<repo>/data/statistics/              manifest.json, item_profile.parquet, user_activity.parquet
<repo>/data/registry.db              Feast's own
<repo>/data/online_lmdb/             the online store
"""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from adc_features.artifact import (
    checked,
    deletable,
    read_manifest,
    require_files,
    with_check,
    within,
    write_json,
)
from adc_features.codes.generation import check_generation_id
from adc_features.errors import AdcError, ArtifactError, InputError
from adc_features.formats import format_of, numbered
from adc_features.store.registry_place import registry_beside

CONFIG = "feature_store.yaml"
STATISTICS = ("item_profile", "user_activity")
"""The statistics views, each with a Parquet file of its name."""

UNSAFE_OFFLINE_STORES = ("dask", "file")
"""Feast's default store under both of its names: measured to drop and corrupt rows without a
word.
"""

IdType = Literal["string", "int64"]

_YAML = """\
project: {project}
provider: local
registry:
  registry_type: sql
  path: sqlite:///data/registry.db  # relative to this directory, from wherever it is opened, since the stores below are ours
  serve_features_while_materializing: true
offline_store:
  type: adc_features.store.offline_store.AsofOfflineStore  # never `dask` or `file`: measured to drop and corrupt rows without a word
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
"""One feature view per live generation. Reads: data/live_generations.json, which publishing writes last."""

from pathlib import Path

from adc_features.store.definitions import sid_views

globals().update({view.name: view for view in sid_views(Path(__file__).parent)})
'''

_RANKING_FEATURES = '''\
"""Entities, statistics views and one service per ranker. Reads: the schemas of what was published under data/."""

from pathlib import Path

from adc_features.store.definitions import entities, services, statistics_views

REPO = Path(__file__).parent
globals().update({declared.name: declared for declare in (entities, statistics_views, services) for declared in declare(REPO)})
'''


@dataclass(frozen=True)
class Settings:
    """The `adc_features:` block of feature_store.yaml. join_rows: entity rows joined at a time, >=
    1.
    """

    join_rows: int = 100_000

    def __post_init__(self) -> None:
        if (
            not isinstance(self.join_rows, int)
            or isinstance(self.join_rows, bool)
            or self.join_rows < 1
        ):
            raise InputError(
                f"adc_features.join_rows is {self.join_rows!r}; expected a whole number of rows, at"
                " least 1"
            )


@dataclass(frozen=True)
class LiveGeneration:
    """One entry of live_generations.json: what the declarations and the lookups need to know of a
    published generation.
    """

    id: str
    codebook_hash: str
    trained_through: datetime
    codebook_size: int
    length: int
    id_type: IdType

    @property
    def view(self) -> str:
        """The name of its feature view."""
        return sid_view_name(self.id)


def sid_view_name(generation_id: str) -> str:
    """The feature view of a generation: the generation is in its name, so codes of two never meet
    in one view.
    """
    return f"item_sid_{generation_id}"


def service_name(generation_id: str | None) -> str:
    """The feature service of the ranker trained on this generation, or of the ranker without codes
    (None).
    """
    return f"ranker_{generation_id}" if generation_id else "ranker_no_sid"


def create_repository(directory: Path, *, project: str) -> None:
    """Write a Feast repository into `directory`; files that exist are kept, so a resumed run
    changes nothing.

    Raises InputError for a project name that Feast refuses, or when the directory belongs to
    another project.
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
            (directory / name).write_text(text, encoding="utf-8")
    if (found := read_config(directory)["project"]) != project:
        raise InputError(
            f"{directory} belongs to project {found!r}, asked for {project!r}; use another"
            " directory or that project"
        )


def read_config(repo: Path) -> dict[str, Any]:
    """feature_store.yaml as a dictionary, $VARIABLES filled in as Feast does. Raises ArtifactError
    when it is missing or not YAML with a project.
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


def live_generations(repo: Path) -> list[LiveGeneration]:
    """The generations that are declared to Feast, oldest publication first; empty before the first
    publication.
    """
    path = live_generations_path(repo)
    try:
        stat = path.stat()
    except FileNotFoundError:
        return []
    return list(_listed(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size)))


@functools.lru_cache(maxsize=8)
def _listed(path: Path, version: tuple[int, ...]) -> tuple[LiveGeneration, ...]:
    """The entries of one version of the file: every online read asks for them, and it is replaced
    by renaming.
    """
    try:
        listed = checked(json.loads(path.read_text(encoding="utf-8")), path)
        format_of("live_generations", listed, of=path)
        entries = listed["generations"]
        generations = tuple(
            LiveGeneration(
                **{**entry, "trained_through": datetime.fromisoformat(entry["trained_through"])}
            )
            for entry in entries
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} lists no generations that can be read ({error!r}); the file was altered,"
            " publish a generation again to rewrite it"
        ) from error
    for entry in entries:
        try:
            check_generation_id(entry["id"])
        except InputError as error:
            raise ArtifactError(
                f"{path}: {error}; the file was altered, publish a generation again to rewrite it"
            ) from error
    return generations


def live_generation(repo: Path, generation_id: str) -> LiveGeneration:
    """One of them. Raises InputError when it is not live."""
    live = {g.id: g for g in live_generations(repo)}
    if generation_id not in live:
        raise InputError(
            f"generation {generation_id!r} is not published in {repo}; live are"
            f" {sorted(live) or 'none'}, publish it first"
        )
    return live[generation_id]


def write_live_generations(repo: Path, generations: list[LiveGeneration]) -> None:
    """Replace the list, atomically."""
    write_json(
        live_generations_path(repo),
        with_check(numbered("live_generations", {"generations": [asdict(g) for g in generations]})),
    )


def publication_path(repo: Path, generation_id: str) -> Path:
    """The directory of a generation's published rows.

    Raises InputError for an id that is none, ArtifactError when a link leads it out of the
    repository's data.
    """
    return within(_data(repo), _publication(generation_id), said_by=f"generation {generation_id!r}")


def deletable_publication(repo: Path, generation_id: str) -> Path:
    """The same, to be deleted: raises ArtifactError too when `data` or the directory is a symbolic
    link.
    """
    name = f"data/{_publication(generation_id)}"
    return deletable(Path(repo), name, said_by=f"generation {generation_id!r}")


def _publication(generation_id: str) -> str:
    return sid_view_name(check_generation_id(generation_id))


def publication_manifest(directory: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a publication; raises ArtifactError too when it does not name the files of
    every snapshot.
    """
    manifest = read_manifest(directory, verify=verify)
    try:
        names = [entry["packed"] for entry in manifest["snapshots"] if "packed" in entry]
        rows = [
            f"rows/{datetime.fromisoformat(entry['as_of']):%Y%m%dT%H%M%S%f}.parquet"
            for entry in manifest["snapshots"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{directory} has a manifest that lists no snapshots ({error}): it was altered, publish"
            " the generation again"
        ) from error
    if not rows:
        raise ArtifactError(
            f"{directory} has a manifest without a snapshot: it was altered, publish the generation"
            " again"
        )
    require_files(directory, manifest, [*names, *rows])
    return manifest


def statistics_manifest(repo: Path) -> dict[str, Any]:
    """The manifest of the published statistics, every file checked."""
    return read_manifest(
        statistics_path(repo), requires=("item_profile.parquet", "user_activity.parquet")
    )


def statistics_path(repo: Path) -> Path:
    """The directory of the published statistics."""
    return _data(repo) / "statistics"


def live_generations_path(repo: Path) -> Path:
    """The list that publishing writes last."""
    # every request asks for it: not resolved, which stats each part of the path
    return Path(repo) / "data" / "live_generations.json"


def _data(repo: Path) -> Path:
    return Path(repo).resolve() / "data"


def check_repository(repo: Path) -> list[str]:
    """What is wrong with a repository, in plain words; an empty list when nothing is. Reads files
    only, imports no feast.
    """
    try:
        config = read_config(repo)
    except ArtifactError as error:
        return [str(error)]
    return [
        *_config_problems(repo, config),
        *_registry_problems(repo, config),
        *_data_problems(repo),
    ]


def _config_problems(repo: Path, config: dict[str, Any]) -> list[str]:
    problems = []
    if (kind := offline_store_type(config)) in UNSAFE_OFFLINE_STORES:
        how = "" if "offline_store" in config else " (Feast's default, since the file names none)"
        problems.append(
            f"the offline store is {kind!r}{how}: it drops rows whose only match is in the future,"
            " collapses the rows of one user at one time and resolves ties wrongly (measured:"
            " 9,309 of 10,000 rows came back, 656 of them wrong); set offline_store.type to"
            " adc_features.store.offline_store.AsofOfflineStore"
        )
    if not (config.get("materialization") or {}).get("pull_latest_features"):
        problems.append(
            "materialization.pull_latest_features is off: every past snapshot would pass through"
            " memory; set it to true"
        )
    try:
        settings(repo)
    except InputError as error:
        problems.append(str(error))
    problems += [
        f"{name} is missing: `feast apply` would delete what it declares; create the repository"
        " again"
        for name in ("item_sids.py", "ranking_features.py")
        if not (Path(repo) / name).is_file()
    ]
    return problems


def _registry_problems(repo: Path, config: dict[str, Any]) -> list[str]:
    """A relative registry is found from any folder where one of our classes is loaded, since Feast
    itself takes the current folder.
    """
    registry = config.get("registry")
    if not isinstance(registry, dict) or registry.get("registry_type") != "sql":
        return []
    location = str(registry.get("path", ""))
    absolute = registry_beside(location, repo)
    ours = [
        block
        for block in (
            config.get("online_store"),
            config.get("offline_store"),
            config.get("batch_engine"),
        )
        if isinstance(block, dict)
    ]
    if absolute == location or any(
        str(block.get("type", "")).startswith("adc_features.") for block in ours
    ):
        return []
    return [
        f"the line `path: {location}` of registry in {Path(repo) / CONFIG} is relative to the"
        " current folder, so that Feast sees another, empty registry from elsewhere; change it to"
        f" `path: {absolute}`"
    ]


def _data_problems(repo: Path) -> list[str]:
    problems = []
    try:
        live = live_generations(repo)
    except (ValueError, KeyError, TypeError, ArtifactError) as error:
        return [
            f"{live_generations_path(repo)} cannot be read ({error}); publish a generation again to"
            " rewrite it"
        ]
    for generation in live:
        try:
            manifest = publication_manifest(publication_path(repo, generation.id))
        except AdcError as error:
            problems.append(f"generation {generation.id} is live, but {error}")
        else:
            if manifest["codebook_hash"] != generation.codebook_hash:
                problems.append(
                    f"generation {generation.id} is live with codebook"
                    f" {generation.codebook_hash[:12]}..., its rows have"
                    f" {manifest['codebook_hash'][:12]}...; publish it again"
                )
    if statistics_path(repo).exists():
        try:
            statistics_manifest(repo)
        except AdcError as error:
            problems.append(f"the statistics are broken: {error}")
    return problems
