"""What is wrong with a repository, by its files alone. Light: no feast.

Reads: a repository. Writes: nothing.
"""

from pathlib import Path
from typing import Any

from adc_features.errors import AdcError, ArtifactError, InputError, NewerFormatError
from adc_features.store.repository.config import (
    CONFIG,
    UNSAFE_OFFLINE_STORES,
    offline_store_type,
    read_config,
    registry_beside,
    settings,
)
from adc_features.store.repository.live import (
    live_generations,
    live_generations_path,
    publication_manifest,
    publication_path,
    statistics_manifest,
    statistics_path,
)

_DECLARING = ("item_sids.py", "ranking_features.py")
"""The files by which a repository of `create_repository` declares itself."""


def is_created(repo: Path) -> bool:
    """Whether `create_repository` made a repository; one of a team's own lacks what that writes."""
    files = (Path(repo) / name for name in _DECLARING)
    return statistics_path(repo).exists() or any(path.is_file() for path in files)


def check_repository(repo: Path) -> list[str]:
    """What is wrong with a repository, by its files alone.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    list of str
        What is wrong and what to do, a sentence each; empty when nothing is. Without feast.

    Examples
    --------
    >>> check_repository(Path("/nowhere"))
    ['/nowhere/feature_store.yaml is missing; create the repository first (create_repository)']
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
    created = is_created(repo)
    if created and not (config.get("materialization") or {}).get("pull_latest_features"):
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
        for name in _DECLARING
        if created and not (Path(repo) / name).is_file()
    ]
    return problems


def _registry_problems(repo: Path, config: dict[str, Any]) -> list[str]:
    """A relative registry, where none of our classes lets it be found from any folder.

    Feast itself takes it relative to the current folder.
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
    except NewerFormatError as error:
        return [str(error)]
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
