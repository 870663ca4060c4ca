"""Codes of a run as of further cut-offs, and in a further generation. Reads: a run, newer data.
Writes: the directories below, rows of the run's repository.

<run>/snapshots/<as_of>/state.npz       behaviour, for later cut-offs to continue from
<run>/snapshots/<as_of>/codes.parquet   the whole snapshot
<run>/snapshots/<as_of>/manifest.json   written last: what it was made of
<run>/generations/<id>/                 generations after the run's first
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import fresh_directory, read_manifest, seal
from adc_features.clock import utc
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.sid_pieces import SidPieces
from adc_features.codes.sids import SidTable
from adc_features.encoders.behavior_state import write_state
from adc_features.encoding import EncodedItems
from adc_features.errors import GenerationMismatch, InputError
from adc_features.parquet_files import read_parquet, write_table
from adc_features.pipeline.continuation import (
    data_until,
    is_current,
    made_of,
    refuse_after_window,
    state_until,
    table_of,
)
from adc_features.pipeline.renewal import renew
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import (
    generation_of,
    refresh_times,
    repository_of,
    serving_time,
    statistics_of,
)
from adc_features.store import publish_changes, published_before, published_snapshots
from adc_features.store.publish.changes import packed_before

__all__ = [
    "backfill_times",
    "publish_codes",
    "refresh_statistics",
    "refuse_after_window",
    "renew",
    "snapshot",
    "snapshot_before",
]

log = logging.getLogger(__name__)


def snapshot(
    run: Run,
    as_of: datetime,
    *,
    source: str | None = None,
    backfill: bool = False,
    complete_through: datetime | None = None,
) -> dict[str, Any]:
    """Encode every item as of a cut-off with the run's frozen generation and publish the rows that
    changed; returns what was done.

    as_of: aware, exclusive. source: newer data than the run's own, its items and interactions from
    the start on; new items are coded, those without an event are cold. Behaviour continues from the
    newest state before as_of, on events before as_of only. A snapshot that exists is not made
    again. complete_through: the data is complete up to here, whatever its last event is
    (`Dataset.end`). Raises InputError, nothing changed, when as_of lies before the generation's
    trained_through and it is no backfill, before every behaviour state, or after the data that the
    run may look at; when no event lies between; when another process works on the run.
    """
    as_of, generation = utc(as_of, name="as_of"), generation_of(run)
    if as_of < generation.trained_through and not backfill:
        raise InputError(
            f"as_of {as_of.isoformat()} lies before {generation.trained_through.isoformat()},"
            f" through which generation {generation.id!r} was trained: its codes would be made in"
            " hindsight; ask for a backfill if that is what you want, or train a generation on"
            " data before as_of"
        )
    with run.lock():
        repo = repository_of(run)
        if any(s.as_of == as_of for s in published_snapshots(repo, generation.id)):
            return {"as_of": as_of, "generation": generation.id, "reused": True}
        directory = run.directory / "snapshots" / f"{as_of:%Y%m%dT%H%M%S%f}"
        if not is_current(run, directory):
            dataset = data_until(run, as_of, source)
            replace(
                dataset, complete_through=complete_through or dataset.complete_through
            ).refuse_after_end(as_of)
            state = state_until(run, dataset, as_of)
            table = table_of(run, dataset, state, own=source is None)
            with fresh_directory(directory) as aside:
                write_state(aside / "state.npz", state)
                write_table(_encoded(run, generation, table).to_arrow(), aside / "codes.parquet")
                seal(
                    aside,
                    {
                        "as_of": as_of,
                        "made_of": made_of(run),
                        "alignment_residual": state.alignment_residual,
                    },
                )
        made = SidTable.from_arrow(read_parquet(directory / "codes.parquet"))
        return {
            **_published(run, generation, made),
            "alignment_residual": read_manifest(directory)["alignment_residual"],
            "reused": False,
        }


def snapshot_before(run: Run, as_of: datetime) -> Path | None:
    """The packed file whose codes a snapshot as of this time holds on to; None where none is
    published before it.
    """
    from adc_features.store import live_generations
    from adc_features.store.repository import publication_path

    repo, id_ = repository_of(run), generation_of(run).id
    if not repo.is_dir() or id_ not in {g.id for g in live_generations(repo)}:
        return None
    before = [s for s in published_snapshots(repo, id_) if s.as_of < as_of]
    newest = max(before, key=lambda s: s.as_of, default=None)
    return None if newest is None else publication_path(repo, id_) / newest.packed


def publish_codes(run: Run, encoded: EncodedItems) -> dict[str, Any]:
    """Publish codes that were encoded from files as a snapshot of the run, as `snapshot` does.

    Raises GenerationMismatch when they come from another generation than the run's own, InputError
    when that is not published yet.
    """
    generation = generation_of(run)
    if encoded.generation.codebook_hash != generation.codebook_hash:
        raise GenerationMismatch(
            f"{encoded.place.uri} holds codes of generation {encoded.generation.id!r}, the run's is"
            f" {generation.id!r}, and their codebooks differ; encode with the run's generation"
        )
    with run.lock():
        return _published(run, generation, encoded.codes())


def refresh_statistics(run: Run, until: datetime, *, source: str | None = None) -> bool:
    """Publish the statistics of users and items through `until` where those of the run end before
    it; True when it did.

    source: newer data than the run's own. Raises InputError when the run may not look at its data
    as far as that.
    """
    from adc_features.store import apply, publish_statistics

    until = utc(until, name="until")
    if source is None and until <= serving_time(run):
        return False
    dataset = data_until(run, until, source)
    statistics = statistics_of(dataset, dataset.before(until), refresh_at=refresh_times(run, until))
    with run.lock():
        publish_statistics(repository_of(run), **statistics, resolution=dataset.resolution)
        apply(repository_of(run))
    return True


def backfill_times(start: datetime, end: datetime, every: str) -> list[datetime]:
    """start, start + every, ... up to and including end. every: '<n>d' days, '<n>w' weeks or
    '<n>mo' calendar months.
    """
    match = re.fullmatch(r"([1-9]\d{0,3})(d|w|mo)", every)
    if not match:
        raise InputError(
            f"every is {every!r}; expected a number of days, weeks or months such as 30d, 2w or 1mo"
        )
    start, end = utc(start, name="from"), utc(end, name="to")
    if end < start:
        raise InputError(f"from {start.isoformat()} lies after to {end.isoformat()}; exchange them")
    if match[2] == "mo" and start.day > 28:
        raise InputError(
            f"from {start.isoformat()} is a day that not every month has; start on the 28th or"
            " before, or step by days"
        )
    return list(_steps(start, end, int(match[1]), match[2]))


def _steps(start: datetime, end: datetime, count: int, unit: str) -> Iterator[datetime]:
    at, number = start, 0
    while at <= end:
        yield at
        number += count
        months = start.year * 12 + start.month - 1 + number
        at = (
            start.replace(year=months // 12, month=months % 12 + 1)
            if unit == "mo"
            else start + timedelta(days=number * (7 if unit == "w" else 1))
        )


def _encoded(run: Run, generation: Generation, table: EmbeddingTable) -> SidTable:
    from adc_features.tokenizer.encode import encode

    return encode(
        table,
        generation,
        previous=published_before(repository_of(run), generation.id, table.as_of),
        progress=run.progress,
    )


def _published(run: Run, generation: Generation, made: SidTable | SidPieces) -> dict[str, Any]:
    """Publish what differs from the snapshot before."""
    repo, lag = repository_of(run), timedelta(hours=run.settings.publish_lag_hours)
    before = packed_before(repo, generation.id, made.as_of)
    rows = publish_changes(
        repo, generation, made, servable_at=made.as_of + lag, computed_at=datetime.now(UTC)
    )
    run.record("snapshot", as_of=made.as_of, generation=generation.id, rows=rows)
    facts = {
        "as_of": made.as_of,
        "servable_at": made.as_of + lag,
        "generation": generation.id,
        "hindsight": made.as_of < generation.trained_through,
    }
    items = cold = new = both = 0
    kept = np.zeros(generation.spec.length, np.int64)
    for codes in SidPieces.of(made).read():
        items, cold = items + len(codes), cold + int(codes.is_cold.sum())
        if before is not None:
            old = before.lookup(codes.item_ids)
            warm = old.found & ~old.is_cold & ~codes.is_cold
            new, both = new + int((~old.found).sum()), both + int(warm.sum())
            kept += (old.sid == codes.sid)[warm].sum(axis=0)
    facts |= {"items": items, "cold_items": cold, "published_rows": rows}
    if before is not None:
        share = kept / both if both else np.full(len(kept), np.nan)
        facts |= {
            "new_items": new,
            "kept_codes": float(share.mean()),
            "kept_behavioral_codes": float(share[np.array(generation.spec.is_behavioral)].mean()),
        }
    return facts
