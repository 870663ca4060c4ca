"""Publish codes and statistics as rows that Feast reads. Reads: SidTable snapshots, statistics.
Writes: data/ of a repository.

A publication is a directory that appears whole, manifest inside; the list of live generations is
written last.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.artifact import MANIFEST, file_hash, fresh_directory, recover, seal
from adc_features.clock import instant, moment, utc
from adc_features.codes.generation import Generation
from adc_features.codes.rows import (
    TIME,
    as_served,
    check_timed,
    completed,
    sid_rows,
    sid_table,
    with_missing_visible,
)
from adc_features.codes.sids import SidTable
from adc_features.data.statistics import NO_TIME
from adc_features.errors import ArtifactError, GenerationMismatch, InputError
from adc_features.store.definitions import (
    ENTITY_OF,
    FEATURE_TYPES,
    JOIN_KEY,
    feature_schema,
    id_type,
    statistics_schemas,
)
from adc_features.store.packed.snapshot import PackedSnapshot, write_snapshot
from adc_features.store.packed.timeline import PackedTimeline, open_timeline
from adc_features.store.repository import (
    STATISTICS,
    IdType,
    LiveGeneration,
    deletable_publication,
    live_generation,
    live_generations,
    live_generations_path,
    publication_manifest,
    publication_path,
    statistics_path,
    write_live_generations,
)

_log = logging.getLogger(__name__)
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
        """Where its packed file is: the same rows and, carried forward, the last row of every other
        item.
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


def publish(
    repo: Path,
    generation: Generation,
    snapshots: Sequence[SidTable],
    *,
    servable_at: Sequence[datetime],
    computed_at: datetime,
) -> Path:
    """Add snapshots of a generation to what Feast reads, replacing those with the same as_of;
    returns the publication's directory.

    servable_at: when each snapshot could first have been served, >= its as_of; the event time of
    its rows. computed_at: the real time of the computation; the created time of its rows, so that
    created-time filtering hides backfills. `apply` then declares the rows, `materialize` takes the
    newest online. Raises GenerationMismatch when the snapshots, or what is published under this id,
    come from another codebook; InputError for times that contradict each other. Any failure leaves
    the previous publication as it was.
    """
    fresh = _described(generation, snapshots, servable_at, utc(computed_at, name="computed_at"))
    kind = id_type(pa.schema({"item_id": pa.array(snapshots[0].item_ids[:1]).type}), "item_id")
    _check_same_ids(repo, "item", kind)
    live = LiveGeneration(
        generation.id,
        generation.codebook_hash,
        generation.trained_through,
        generation.spec.codebook_size,
        generation.spec.length,
        kind,
    )
    target = publication_path(repo, generation.id)
    with only_publisher(repo):
        recover(target)
        replaced = {s.as_of for s in fresh}
        kept = [s for s in _existing(target, live) if s.as_of not in replaced]
        entries = sorted([*kept, *fresh], key=lambda s: s.as_of)
        if any(later.servable_at <= earlier.servable_at for earlier, later in pairwise(entries)):
            raise InputError(
                "servable_at must rise with as_of: a snapshot of a later cut-off would be hidden by"
                " an earlier one; give each cut-off a later servable_at"
            )
        with fresh_directory(target) as aside:
            for folder in ("rows", "packed"):
                (aside / folder).mkdir()
            for entry in kept:
                _keep(target / entry.file, aside / entry.file)
            for snapshot, entry in zip(snapshots, fresh, strict=True):
                pq.write_table(
                    sid_rows(
                        snapshot, servable_at=entry.servable_at, computed_at=entry.computed_at
                    ),
                    aside / entry.file,
                    write_page_checksum=True,
                )
            _pack(
                target,
                aside,
                entries,
                {s.as_of: s for s in snapshots},
                live,
                weight_dtype=generation.spec.weight_dtype,
            )
            facts = {"kind": "publication", **asdict(live)}
            seal(aside, {**facts, "snapshots": [e.to_dict() for e in entries]})
        write_live_generations(
            repo, [*(g for g in live_generations(repo) if g.id != live.id), live]
        )
    _log.info(
        "stage=publish generation=%s snapshots=%d kept=%d rows=%d",
        live.id,
        len(fresh),
        len(kept),
        sum(map(len, snapshots)),
    )
    return target


def _pack(
    target: Path,
    aside: Path,
    entries: Sequence[PublishedSnapshot],
    fresh: Mapping[datetime, SidTable],
    live: LiveGeneration,
    *,
    weight_dtype: str,
) -> None:
    """Packed files for all entries, oldest first: those before the first change are kept, those
    from it on complete the one before them.
    """
    before: PackedSnapshot | None = None
    changed = False
    for entry in entries:
        changed = changed or entry.as_of in fresh or not (target / entry.packed).is_file()
        if not changed:
            _keep(target / entry.packed, aside / entry.packed)
        else:
            snapshot = (
                as_served(fresh[entry.as_of])
                if entry.as_of in fresh
                else _rows_of(target, live, entry)
            )
            as_of = np.full(len(snapshot), instant(entry.as_of).astype(np.int64))
            if before is not None:
                earlier, earlier_as_of = before.table()
                snapshot, carried = completed(snapshot, earlier)
                as_of = np.concatenate([as_of, earlier_as_of[carried]])
            write_snapshot(
                aside / entry.packed,
                snapshot,
                sid_as_of=as_of,
                servable_at=entry.servable_at,
                computed_at=entry.computed_at,
                codebook_hash=live.codebook_hash,
                weight_dtype=weight_dtype,
            )
        before = PackedSnapshot(aside / entry.packed)
        if changed:
            before.verify()  # what readers will map is what was meant, before they are told of it


def _keep(old: Path, new: Path) -> None:
    """The same file under another directory: files are never changed in place, so a second name is
    enough where the system has them.
    """
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


@contextmanager
def only_publisher(repo: Path) -> Iterator[None]:
    """One publisher at a time in a repository: a second one waits; the system lets go of the lock
    of a killed one.

    Raises ArtifactError when the repository cannot be written.
    """
    data = live_generations_path(repo).parent
    data.mkdir(parents=True, exist_ok=True)
    if not os.access(data, os.W_OK):
        raise ArtifactError(
            f"{data} is read-only here; give the publisher the right to write it, or publish from"
            " where it can be written"
        )
    lock = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def unpublish(repo: Path, generation_id: str) -> None:
    """Take a generation from what is declared, then delete its rows; `apply` then deletes its view
    and online rows. Idempotent.

    Raises InputError for an id that is none, ArtifactError when its rows lie behind a symbolic
    link; nothing was deleted.
    """
    rows = deletable_publication(repo, generation_id)
    with only_publisher(repo):
        write_live_generations(repo, [g for g in live_generations(repo) if g.id != generation_id])
        shutil.rmtree(rows, ignore_errors=True)
    _log.info("stage=unpublish generation=%s", generation_id)


def published_snapshots(repo: Path, generation_id: str) -> list[PublishedSnapshot]:
    """The snapshots of a live generation, oldest first. Raises InputError when it is not live,
    ArtifactError when files are broken.
    """
    return _existing(publication_path(repo, generation_id), live_generation(repo, generation_id))


def published_files(repo: Path) -> dict[str, str]:
    """Live generation, or "statistics" -> sha256 of what is published of it, by its manifest: it
    changes when a value does.
    """
    directories = {g.id: publication_path(repo, g.id) for g in live_generations(repo)}
    if (statistics_path(repo) / MANIFEST).is_file():
        directories["statistics"] = statistics_path(repo)
    return {name: file_hash(directory / MANIFEST) for name, directory in directories.items()}


def newest_published(repo: Path) -> datetime | None:
    """When the newest of all published values holds from: of codes, their servable_at; None when
    nothing is published.
    """
    times = [s.servable_at for g in live_generations(repo) for s in published_snapshots(repo, g.id)]
    for path in (statistics_path(repo) / f"{name}.parquet" for name in STATISTICS):
        if (
            path.is_file()
            and (
                newest := pc.max(
                    pq.read_table(path, columns=["event_timestamp"])["event_timestamp"]
                )
            ).is_valid
        ):
            times.append(moment(np.datetime64(newest.cast(TIME).value, "us")))
    return max(times, default=None)


def published_timeline(repo: Path, generation_id: str) -> PackedTimeline:
    """The published snapshots for the late join, each complete, memory-mapped. Raises InputError
    and ArtifactError as `published_snapshots`.
    """
    return open_timeline(
        publication_path(repo, live_generation(repo, generation_id).id), tries=6
    ).timeline


def _rows_of(target: Path, live: LiveGeneration, snapshot: PublishedSnapshot) -> SidTable:
    """The rows of a published snapshot, those alone."""
    rows = pq.read_table(target / snapshot.file)
    visible = with_missing_visible(rows, length=live.length).append_column(
        "item_id", rows["item_id"]
    )
    return sid_table(
        visible,
        generation=live.id,
        codebook_size=live.codebook_size,
        length=live.length,
        as_of=snapshot.as_of,
    )


def _described(
    generation: Generation,
    snapshots: Sequence[SidTable],
    servable_at: Sequence[datetime],
    computed_at: datetime,
) -> list[PublishedSnapshot]:
    """New snapshots as manifest entries, each checked against the generation and its own time."""
    if not snapshots or len(snapshots) != len(servable_at):
        raise InputError(
            f"{len(snapshots)} snapshots with {len(servable_at)} servable_at times; give at least"
            " one snapshot and one time each"
        )
    described = []
    for snapshot, at in zip(snapshots, servable_at, strict=True):
        got, wanted = (
            (snapshot.generation, snapshot.codebook_size, snapshot.length),
            (
                generation.id,
                generation.spec.codebook_size,
                generation.spec.length,
            ),
        )
        if got != wanted:
            raise GenerationMismatch(
                f"a snapshot has generation, K, L = {got}, the generation to publish {wanted};"
                " encode it with that generation"
            )
        if not len(snapshot):
            raise InputError(
                f"the snapshot as of {snapshot.as_of.isoformat()} is empty; publish at least one"
                " item"
            )
        if utc(at, name="servable_at") < snapshot.as_of:
            raise InputError(
                f"servable_at {at.isoformat()} lies before as_of {snapshot.as_of.isoformat()};"
                " codes cannot be served before their data ends"
            )
        hindsight, found = generation.trained_through > snapshot.as_of, int(snapshot.found.sum())
        described.append(
            PublishedSnapshot(
                snapshot.as_of, utc(at), computed_at, hindsight, found, len(snapshot) - found
            )
        )
    if len({s.as_of for s in described}) < len(described):
        raise InputError("two snapshots have the same as_of; publish one per cut-off")
    return described


def _existing(target: Path, live: LiveGeneration) -> list[PublishedSnapshot]:
    """What is published already; raises GenerationMismatch when it was made with another
    codebook.
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


def _check_same_ids(repo: Path, entity: str, kind: IdType) -> None:
    """Refuse ids of another type than what is published for the same entity: they would
    never join.
    """
    known: set[IdType] = {g.id_type for g in live_generations(repo)} if entity == "item" else set()
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


def publish_statistics(
    repo: Path, *, item_profile: pa.Table, user_activity: pa.Table, resolution: timedelta
) -> Path:
    """Replace the published statistics by these, both at once; returns their directory.

    Each table: its id column, event_timestamp (aware), then features. resolution: the data's
    smallest time step. Raises InputError on naive or null times, null ids, duplicate (id,
    event_timestamp), nulls in integers or inside lists, NaN, types that Feast lacks, or rows that
    would leak (`check_validity`).
    """
    tables = {
        name: _checked(table, JOIN_KEY[ENTITY_OF[name]], name)
        for name, table in (("item_profile", item_profile), ("user_activity", user_activity))
    }
    shared = set(feature_schema(tables["item_profile"].schema).names) & set(
        feature_schema(tables["user_activity"].schema).names
    )
    if shared:
        raise InputError(
            f"both statistics have columns {sorted(shared)}; feature names are unique across views,"
            " rename them"
        )
    for name, table in tables.items():
        check_validity(table, resolution=resolution)
        if ENTITY_OF[name] == "item" and live_generations(repo):
            _check_same_ids(repo, "item", id_type(table.schema, "item_id"))
    with only_publisher(repo), fresh_directory(statistics_path(repo)) as aside:
        for name, table in tables.items():
            pq.write_table(table, aside / f"{name}.parquet", write_page_checksum=True)
        seal(
            aside,
            {
                "kind": "statistics",
                "rows": {name: len(table) for name, table in tables.items()},
                "resolution_seconds": resolution.total_seconds(),
            },
        )
    _log.info(
        "stage=publish_statistics %s",
        " ".join(f"{name}={len(table)}" for name, table in tables.items()),
    )
    return statistics_path(repo)


def check_validity(rows: pa.Table, *, resolution: timedelta) -> None:
    """The leak guard: a row that contains an event at t must be valid strictly after t, by the
    data's resolution.

    Checks every `*_last_time` column (int64 microseconds) against event_timestamp: last_time +
    resolution <= event_timestamp. Feast joins with <=, so a row stamped at the time of an event
    that it contains would hand that event, label included, to its own training row. Raises
    InputError naming the column, the count and the first row; also when there is no such column.
    """
    if resolution <= timedelta(0):
        raise InputError(
            f"resolution is {resolution}; expected the smallest step of the data's times, above 0"
        )
    columns = [name for name in rows.column_names if name.endswith(LAST_TIME)]
    if not columns:
        raise InputError(
            f"no column ends with '{LAST_TIME}' among {rows.column_names}; without the time of the"
            " last event a leak cannot be ruled out, add it"
        )
    valid_from = rows["event_timestamp"].cast(TIME).cast(pa.int64()).to_numpy()
    for name in columns:
        last = rows[name].to_numpy()
        leaking = np.flatnonzero(
            (last != NO_TIME) & (last + resolution // timedelta(microseconds=1) > valid_from)
        )
        if len(leaking):
            first = leaking[0]
            raise InputError(
                f"{len(leaking)} rows leak: row {first} is valid from"
                f" {moment(valid_from[first].astype('datetime64[us]')).isoformat()} but holds an"
                f" event of {name} = {moment(last[first].astype('datetime64[us]')).isoformat()},"
                f" known only {resolution} later; stamp such rows last_time + resolution"
            )


def _checked(table: pa.Table, key: str, name: str) -> pa.Table:
    """The table with event_timestamp in microseconds, refused when Feast could not carry it
    faithfully.
    """
    check_timed(table, [key], name=name)
    for field in feature_schema(table.schema):
        column = table[field.name]
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        if inner not in FEATURE_TYPES:
            raise InputError(
                f"{name}: column {field.name!r} is of type {field.type}; expected"
                f" {', '.join(map(str, FEATURE_TYPES))}, or a list of one of them"
            )
        if pa.types.is_integer(field.type) and column.null_count:
            raise InputError(
                f"{name}: {column.null_count} nulls in integer column {field.name!r}, which would"
                " become floats; give a value that means none"
            )
        if pa.types.is_list(field.type) and pc.list_flatten(column).null_count:
            raise InputError(
                f"{name}: nulls inside the lists of {field.name!r}, which Feast turns into 0; drop"
                " them"
            )
        if (
            pa.types.is_floating(inner)
            and pc.any(
                pc.is_nan(pc.list_flatten(column) if inner != field.type else column)
            ).as_py()
        ):
            raise InputError(
                f"{name}: NaN in {field.name!r}, which would be served as null; use null"
            )
        if field.name.endswith("_y"):
            raise InputError(
                f"{name}: column {field.name!r} ends with '_y', which Feast's DuckDB store drops;"
                " rename it"
            )
    table = table.set_column(
        table.column_names.index("event_timestamp"),
        "event_timestamp",
        table["event_timestamp"].cast(TIME),
    )
    if not len(table):
        raise InputError(f"{name} is empty; publish at least one row")
    if len(table.group_by([key, "event_timestamp"]).aggregate([])) < len(table):
        raise InputError(
            f"{name}: several rows of one {key} at one event_timestamp; keep the last of each"
        )
    return table.replace_schema_metadata(None)
