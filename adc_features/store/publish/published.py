"""What is published in a repository. Reads: publications, statistics. Writes: nothing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.artifact import MANIFEST, file_hash
from adc_features.clock import moment
from adc_features.codes.generation import check_generation_id
from adc_features.codes.rows import SECOND_FEATURES, TIME, sid_table, with_missing_visible
from adc_features.codes.sid_pieces import SidPieces
from adc_features.codes.sids import SidTable
from adc_features.errors import GenerationMismatch, InputError
from adc_features.parquet_files import parquet_pieces, read_parquet
from adc_features.pulled import pulled_directory
from adc_features.store.definitions import ENTITY_OF, JOIN_KEY, id_type, statistics_schemas
from adc_features.store.packed.overlay import OverlayReader
from adc_features.store.packed.timeline import PackedTimeline, open_timeline
from adc_features.store.repository import (
    STATISTICS,
    IdType,
    LiveGeneration,
    live_generation,
    live_generations,
    publication_manifest,
    publication_path,
    sid_view_name,
    statistics_path,
)
from adc_features.uris import below, is_remote, local_path

LAST_TIME = "_last_time"
"""Suffix of statistics that hold the time of the last event contained: int64, microseconds since
1970 UTC, NO_TIME for none.
"""


@dataclass(frozen=True)
class PublishedSnapshot:
    """What a publication's manifest says of one snapshot; times are aware UTC.

    hindsight: the tokenizer was trained on data from after as_of, so the codes are counterfactual.
    items, removed: its rows.
    """

    as_of: datetime
    servable_at: datetime
    computed_at: datetime
    hindsight: bool
    items: int
    removed: int

    @property
    def file(self) -> str:
        """Where its rows are, inside the publication."""
        return f"rows/{self._name}.parquet"

    @property
    def packed(self) -> str:
        """Where its packed file is.

        It holds the same rows and, carried forward, the last row of every other item.
        """
        return f"packed/{self._name}.sids"

    @property
    def _name(self) -> str:
        return f"{self.as_of:%Y%m%dT%H%M%S%f}"

    def to_dict(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {**asdict(self), "packed": self.packed}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "PublishedSnapshot":
        times = {
            name: datetime.fromisoformat(entry[name])
            for name in ("as_of", "servable_at", "computed_at")
        }
        return cls(**{name: value for name, value in entry.items() if name != "packed"} | times)


def published_snapshots(repo: Path, generation_id: str) -> list[PublishedSnapshot]:
    """The snapshots of a published generation.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    generation_id : str
        The generation.

    Returns
    -------
    list of PublishedSnapshot
        Oldest first; their times are aware UTC.

    Raises
    ------
    InputError
        The generation is not published.
    ArtifactError
        Files are missing or altered.
    """
    return published_entries(
        publication_path(repo, generation_id), live_generation(repo, generation_id)
    )


def published_files(repo: Path) -> dict[str, str]:
    """What is published, by a hash that changes when any value does.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    dict of str to str
        Generation id, or "statistics" -> sha256 (hex) of the manifest.
    """
    directories = {g.id: publication_path(repo, g.id) for g in live_generations(repo)}
    if (statistics_path(repo) / MANIFEST).is_file():
        directories["statistics"] = statistics_path(repo)
    return {name: file_hash(directory / MANIFEST) for name, directory in directories.items()}


def newest_published(repo: Path) -> datetime | None:
    """When the newest of all published values begins to hold.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    datetime or None
        Aware UTC: of codes their servable_at, of statistics their event time.
        None when nothing is published.
    """
    times = [s.servable_at for g in live_generations(repo) for s in published_snapshots(repo, g.id)]
    for path in (statistics_path(repo) / f"{name}.parquet" for name in STATISTICS):
        if not path.is_file():
            continue
        newest = pc.max(read_parquet(path, columns=["event_timestamp"])["event_timestamp"])
        if newest.is_valid:
            times.append(moment(np.datetime64(newest.cast(TIME).value, "us")))
    return max(times, default=None)


def published_timeline(repo: Path | str, generation_id: str) -> PackedTimeline:
    """The snapshots of a generation, memory-mapped, to look up codes as of the time of each row.

    Parameters
    ----------
    repo : Path or str
        A Feast repository; or its address on an object store, of which the published snapshots
        are copied to this machine and verified. Items that came since the newest snapshot are in
        the live directory of a local repository, and not in such a copy.
    generation_id : str
        The generation.

    Returns
    -------
    PackedTimeline
        Its `gather(item_ids, times)` equals the point-in-time join of the published rows.

    Raises
    ------
    InputError
        The generation is not published.
    ArtifactError
        Files are missing or altered.

    Examples
    --------
    >>> items = np.array(["a", "a"])
    >>> times = np.array(["2014-01-15", "2014-01-25"], "datetime64[us]")
    >>> published_timeline(repo, "g1").gather(items, times)[0].tolist()
    [[1, 1, -1], [2, 2, -1]]

    Source
    ------
    Feast documentation, "Point-in-time joins":
    https://docs.feast.dev/getting-started/concepts/point-in-time-joins
    """
    if is_remote(repo):
        place = below(repo, f"data/{sid_view_name(check_generation_id(generation_id))}")
        return open_timeline(pulled_directory(place)).timeline
    repo = local_path(repo)
    live = live_generation(repo, generation_id)
    timeline = open_timeline(publication_path(repo, live.id), tries=6).timeline
    return timeline.overlaid(OverlayReader(repo, live).now())


def published_rows(target: Path, live: LiveGeneration, snapshot: PublishedSnapshot) -> SidPieces:
    """The rows of a published snapshot, those alone."""

    def codes(rows: pa.Table) -> SidTable:
        visible = with_missing_visible(rows, length=live.length).append_column(
            "item_id", rows[live.join_key]
        )
        return sid_table(
            visible,
            generation=live.id,
            codebook_size=live.codebook_size,
            length=live.length,
            as_of=snapshot.as_of,
        )

    return SidPieces(
        lambda: map(codes, parquet_pieces(target / snapshot.file)),
        live.id,
        live.codebook_size,
        live.length,
        snapshot.as_of,
        set(SECOND_FEATURES.names) <= set(pq.read_schema(target / snapshot.file).names),
    )


def published_entries(target: Path, live: LiveGeneration) -> list[PublishedSnapshot]:
    """What is published already.

    Raises GenerationMismatch when it was made with another codebook.
    """
    if not target.exists():
        return []
    manifest = publication_manifest(target)
    if manifest["codebook_hash"] != live.codebook_hash:
        raise GenerationMismatch(
            f"{target} holds codes of codebook {manifest['codebook_hash'][:12]}..., offered are"
            f" codes of {live.codebook_hash[:12]}...: one generation is one frozen tokenizer,"
            " publish the new one under its own id"
        )
    return [PublishedSnapshot.from_dict(entry) for entry in manifest["snapshots"]]


def check_same_ids(repo: Path, entity: str, kind: IdType) -> None:
    """Refuse ids of another type than what is published for the same entity.

    They would never join.
    """
    ours = [g for g in live_generations(repo) if g.key is None]
    known: set[IdType] = {g.id_type for g in ours} if entity == "item" else set()
    known |= {
        id_type(schema, JOIN_KEY[entity])
        for view, schema in statistics_schemas(repo).items()
        if ENTITY_OF[view] == entity
    }
    if known - {kind}:
        raise InputError(
            f"{JOIN_KEY[entity]} is {kind} here but {known.pop()} in what is published; convert"
            " one, the two would never join"
        )
