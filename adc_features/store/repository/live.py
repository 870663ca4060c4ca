"""What is published in a repository: which generations are live, and where their rows are. Reads,
writes: the list of live generations. Light: no feast.
"""

import functools
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from adc_features.artifact import (
    checked,
    deletable,
    read_manifest,
    require_files,
    within,
    write_document,
)
from adc_features.codes.generation import check_generation_id
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import format_of

STATISTICS = ("item_profile", "user_activity")
"""The statistics views, each with a Parquet file of its name."""
IdType = Literal["string", "int64"]


@dataclass(frozen=True)
class ItemKey:
    """What a repository calls its items.

    entity: name of the Feast entity. join_key: its column. type: the Feast type of the column, such
    as "Int64".
    """

    entity: str
    join_key: str
    type: str


@dataclass(frozen=True)
class LiveGeneration:
    """What declarations and lookups need to know of a published generation.

    One entry of live_generations.json. key: of a repository that `create_repository` did not
    write; None where the entity is our own `item`.
    """

    id: str
    codebook_hash: str
    trained_through: datetime
    codebook_size: int
    length: int
    id_type: IdType
    key: ItemKey | None = None

    @property
    def join_key(self) -> str:
        """The column of ids in its published rows."""
        return self.key.join_key if self.key else "item_id"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; no key where it is our own."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def view(self) -> str:
        """The name of its feature view."""
        return sid_view_name(self.id)


def sid_view_name(generation_id: str) -> str:
    """The name of the feature view of a generation.

    The generation is in it, so that codes of two generations are never mixed in one view.
    """
    return f"item_sid_{generation_id}"


def service_name(generation_id: str | None) -> str:
    """The feature service of a ranker.

    Parameters
    ----------
    generation_id : str or None
        The generation whose codes it reads; None for a ranker without codes.

    Returns
    -------
    str
        A name of a Feast feature service; `apply` declares it.

    Examples
    --------
    >>> service_name("2024-06")
    'ranker_2024-06'
    >>> service_name(None)
    'ranker_no_sid'

    Source
    ------
    Feast documentation, "Feature retrieval":
    https://docs.feast.dev/getting-started/concepts/feature-retrieval
    """
    return f"ranker_{generation_id}" if generation_id else "ranker_no_sid"


def live_generations(repo: Path) -> list[LiveGeneration]:
    """The generations that are published, and declared to Feast by the next `apply`.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    list of LiveGeneration
        Oldest publication first; empty before the first.

    Raises
    ------
    ArtifactError
        The list was altered.
    """
    path = live_generations_path(repo)
    try:
        stat = path.stat()
    except FileNotFoundError:
        return []
    return list(_listed(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size)))


@functools.lru_cache(maxsize=8)
def _listed(path: Path, version: tuple[int, ...]) -> tuple[LiveGeneration, ...]:
    """The entries of one version of the file, which is replaced by renaming.

    Every online read asks for them.
    """
    try:
        listed = checked(json.loads(path.read_text(encoding="utf-8")), path)
        format_of("live_generations", listed, of=path)
        entries = listed["generations"]
        generations = tuple(
            LiveGeneration(
                **{
                    **entry,
                    "trained_through": datetime.fromisoformat(entry["trained_through"]),
                    "key": ItemKey(**entry["key"]) if "key" in entry else None,
                }
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
    write_document(
        live_generations_path(repo),
        "live_generations",
        {"generations": [g.to_dict() for g in generations]},
        check=True,
    )


def publication_path(repo: Path, generation_id: str) -> Path:
    """The directory of a generation's published rows.

    Raises InputError for an id that is none, ArtifactError when a link leads it out of the
    repository's data.
    """
    return within(_data(repo), _publication(generation_id), said_by=f"generation {generation_id!r}")


def deletable_publication(repo: Path, generation_id: str) -> Path:
    """The same, to be deleted.

    Raises ArtifactError too when `data` or the directory is a symbolic link.
    """
    name = f"data/{_publication(generation_id)}"
    return deletable(Path(repo), name, said_by=f"generation {generation_id!r}")


def _publication(generation_id: str) -> str:
    return sid_view_name(check_generation_id(generation_id))


def publication_manifest(directory: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a publication.

    Raises ArtifactError too when it does not name the files of every snapshot.
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
