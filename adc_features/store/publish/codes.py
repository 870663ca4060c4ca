"""Publish codes and statistics as rows that Feast reads. Reads: SidTable snapshots, statistics.
Writes: data/ of a repository.

A publication is a directory that appears whole, manifest inside; the list of live generations is
written last.
"""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.artifact import fresh_directory, recover, seal
from adc_features.clock import instant, utc
from adc_features.codes.generation import Generation
from adc_features.codes.rows import SECOND_FEATURES, SID_FEATURES, as_served, completed
from adc_features.codes.sids import SidTable, check_second
from adc_features.errors import GenerationMismatch, InputError
from adc_features.parquet_files import write_table
from adc_features.store.code_tables import CodeFile, tables_of
from adc_features.store.definitions import KEY_TYPES, id_type
from adc_features.store.packed.layout import refuse_newer_file
from adc_features.store.packed.overlay import OverlayReader
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.packed.writer import write_snapshot
from adc_features.store.publish.between import SEGMENTS, code_rows, heeding
from adc_features.store.publish.lock import only_publisher
from adc_features.store.publish.published import (
    PublishedSnapshot,
    check_same_ids,
    published_entries,
    published_rows,
)
from adc_features.store.repository import (
    CONFIG,
    ItemKey,
    LiveGeneration,
    deletable_publication,
    live_generation,
    live_generations,
    publication_path,
    write_live_generations,
)
from adc_features.store.repository.live import IdType

_log = logging.getLogger(__name__)


def publish(
    repo: Path,
    generation: Generation,
    snapshots: Sequence[SidTable],
    *,
    servable_at: Sequence[datetime],
    computed_at: datetime,
    key: ItemKey | None = None,
) -> Path:
    """Add snapshots of a generation to what Feast reads.

    Those with an as_of that is published already replace it. `apply` then declares the rows, and
    `materialize` takes the newest online. A failure leaves the previous publication as it was.

    Parameters
    ----------
    repo : Path
        A repository that `create_repository` wrote, or with `key` any other.
    generation : Generation
        The frozen tokenizer that the codes come from.
    snapshots : sequence of SidTable
        Codes of the catalogue, one table for each cut-off; at least one.
    servable_at : sequence of datetime
        When each snapshot could first have been served: the event time of its rows. Aware, not
        before its as_of, and rising with as_of.
    computed_at : datetime
        The real time of the computation, aware: the created time of the rows, by which
        created-time filtering hides backfills.
    key : ItemKey, optional
        What the repository calls its items, where they are not our own entity `item`.

    Returns
    -------
    Path
        The publication's directory.

    Raises
    ------
    GenerationMismatch
        The snapshots, or what is published under this id, come from another codebook, or only some
        of them tell second codes.
    InputError
        Times contradict each other, a snapshot is empty, ids are of another type than what is
        published, or the key is called like a feature of the codes.
    ArtifactError
        The repository cannot be written.

    Examples
    --------
    >>> from datetime import timedelta
    >>> directory = publish(
    ...     repo,
    ...     generation,
    ...     [snapshot],
    ...     servable_at=[snapshot.as_of + timedelta(hours=6)],
    ...     computed_at=snapshot.as_of + timedelta(days=10),
    ... )
    >>> directory.name
    'item_sid_g1'

    Source
    ------
    Feast documentation, "Data ingestion":
    https://docs.feast.dev/getting-started/concepts/data-ingestion
    """
    fresh = _described(generation, snapshots, servable_at, utc(computed_at, name="computed_at"))
    kind = id_type(pa.schema({"item_id": pa.array(snapshots[0].item_ids[:1]).type}), "item_id")
    if key is None:
        check_same_ids(repo, "item", kind)
    else:
        _check_key(key, kind)
    with only_publisher(repo):
        live = _live(generation, kind, key)
        overlay = OverlayReader(repo, live).now() if _is_repository(repo) else None
        if overlay is not None:
            snapshots = [
                heeding(overlay, snapshot, entry.servable_at)
                for snapshot, entry in zip(snapshots, fresh, strict=True)
            ]
        return _add(repo, live, fresh, snapshots, generation.spec.weight_dtype)


def _is_repository(repo: Path) -> bool:
    return (Path(repo) / CONFIG).is_file()


def _check_key(key: ItemKey, kind: IdType) -> None:
    """Refuse a key that no column of the rows could have."""
    if (wanted := KEY_TYPES.get(key.type)) is None:
        raise InputError(
            f"join key {key.join_key!r} of entity {key.entity!r} is {key.type}; expected one of"
            f" {', '.join(KEY_TYPES)}"
        )
    if wanted != kind:
        raise InputError(
            f"join key {key.join_key!r} of entity {key.entity!r} is {key.type}, the ids to publish"
            f" are {kind}; convert them, the two would never join"
        )
    codes = (*SID_FEATURES.names, *SECOND_FEATURES.names)
    if key.join_key in (taken := (*codes, "event_timestamp", "created_timestamp")):
        raise InputError(
            f"join key {key.join_key!r} is called like a column of the codes {list(taken)}; codes"
            " cannot be published for it"
        )


def _live(generation: Generation, kind: IdType, key: ItemKey | None) -> LiveGeneration:
    return LiveGeneration(
        generation.id,
        generation.codebook_hash,
        generation.trained_through,
        generation.spec.codebook_size,
        generation.spec.length,
        kind,
        key,
    )


def _add(
    repo: Path,
    live: LiveGeneration,
    fresh: Sequence[PublishedSnapshot],
    snapshots: Sequence[SidTable],
    weight_dtype: str,
) -> Path:
    """Write a publication of what is published and these snapshots, then list the generation."""
    target = publication_path(repo, live.id)
    recover(target)
    replaced = {s.as_of for s in fresh}
    published = published_entries(target, live)
    for snapshot in published:
        refuse_newer_file(target / snapshot.packed)
    kept = [s for s in published if s.as_of not in replaced]
    entries = sorted([*kept, *fresh], key=lambda s: s.as_of)
    if any(later.servable_at <= earlier.servable_at for earlier, later in pairwise(entries)):
        raise InputError(
            "servable_at must rise with as_of: a snapshot of a later cut-off would be hidden by"
            " an earlier one; give each cut-off a later servable_at"
        )
    with fresh_directory(target) as aside:
        _write_rows(target, aside, kept, fresh, snapshots, live=live)
        of_time = {s.as_of: s for s in snapshots}
        _pack(target, aside, entries, of_time, live, weight_dtype=weight_dtype)
        facts = {"kind": "publication", **live.to_dict()}
        seal(aside, {**facts, "snapshots": [e.to_dict() for e in entries]})
        # before the files: what a killed publication leaves there, the next one puts right
        _load(repo, aside, live, entries, fresh=set(of_time))
    write_live_generations(repo, [*(g for g in live_generations(repo) if g.id != live.id), live])
    _log.info(
        "stage=publish generation=%s snapshots=%d kept=%d rows=%d",
        live.id,
        len(fresh),
        len(kept),
        sum(map(len, snapshots)),
    )
    return target


def _write_rows(
    target: Path,
    aside: Path,
    kept: Sequence[PublishedSnapshot],
    fresh: Sequence[PublishedSnapshot],
    snapshots: Sequence[SidTable],
    *,
    live: LiveGeneration,
) -> None:
    """Write the rows of all entries into the new publication `aside`.

    Those kept come from `target`, the fresh ones from their snapshots.
    """
    for folder in ("rows", "packed"):
        (aside / folder).mkdir()
    for entry in kept:
        _keep(target / entry.file, aside / entry.file)
    for segment in target.glob(f"rows/{SEGMENTS}"):
        _keep(segment, aside / "rows" / segment.name)
    for snapshot, entry in zip(snapshots, fresh, strict=True):
        rows = code_rows(
            live, snapshot, servable_at=entry.servable_at, computed_at=entry.computed_at
        )
        write_table(rows, aside / entry.file)


def _pack(
    target: Path,
    aside: Path,
    entries: Sequence[PublishedSnapshot],
    fresh: Mapping[datetime, SidTable],
    live: LiveGeneration,
    *,
    weight_dtype: str,
) -> None:
    """Write the packed files of all entries, oldest first.

    Those before the first change are kept; from it on each completes the one before it.
    """
    before: PackedSnapshot | None = None
    changed = False
    for entry in entries:
        changed = changed or entry.as_of in fresh or not (target / entry.packed).is_file()
        if not changed:
            _keep(target / entry.packed, aside / entry.packed)
        else:
            if entry.as_of in fresh:
                snapshot = as_served(fresh[entry.as_of])
            else:
                snapshot = published_rows(target, live, entry)
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


def load_codes(repo: Path, generation_id: str) -> int:
    """Let the offline store's table of a generation hold what is published; how many rows were
    missing there. 0 where the offline store reads the published files.

    Raises InputError when the generation is not published, ArtifactError when the table cannot be
    written; it is as it was then.
    """
    with only_publisher(repo):
        live, target = live_generation(repo, generation_id), publication_path(repo, generation_id)
        return _load(repo, target, live, published_entries(target, live), fresh=set())


def _load(
    repo: Path,
    directory: Path,
    live: LiveGeneration,
    entries: Sequence[PublishedSnapshot],
    *,
    fresh: set[datetime],
) -> int:
    if (found := tables_of(repo, live)) is None:
        return 0
    tables, table = found
    files = [
        CodeFile(
            directory / e.file,
            e.servable_at,
            e.computed_at,
            e.items + e.removed,
            fresh=e.as_of in fresh,
        )
        for e in entries
    ]
    return tables.write(table, live.join_key, files)


def _keep(old: Path, new: Path) -> None:
    """Give a file a second name, under another directory.

    Files are never changed in place, so that is enough where the system has links.
    """
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def unpublish(repo: Path, generation_id: str) -> None:
    """Take a generation from what is declared, then delete its rows.

    The next `apply` deletes its view and its online rows. Repeating it changes nothing.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    generation_id : str
        The generation.

    Raises
    ------
    InputError
        The id is none.
    ArtifactError
        Its rows lie behind a symbolic link, or the database of the offline store, where its table
        is, does not answer; nothing was deleted.

    Examples
    --------
    >>> unpublish(repo, "g2")

    Source
    ------
    Feast documentation, "Registry":
    https://docs.feast.dev/getting-started/components/registry
    """
    rows = deletable_publication(repo, generation_id)
    with only_publisher(repo):
        live = live_generations(repo)
        # the table first: where that fails, the same call tries again
        for gone in (g for g in live if g.id == generation_id):
            if (found := tables_of(repo, gone)) is not None:
                found[0].drop(found[1])
        write_live_generations(repo, [g for g in live if g.id != generation_id])
        shutil.rmtree(rows, ignore_errors=True)
    _log.info("stage=unpublish generation=%s", generation_id)


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
        got = snapshot.generation, snapshot.codebook_size, snapshot.length
        wanted = generation.id, generation.spec.codebook_size, generation.spec.length
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
    check_second(snapshots)
    return described
