"""Publish a later snapshot as what changed since the one before. Reads: a repository. Writes: its
publication.
"""

from datetime import datetime
from pathlib import Path

from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable, changed_rows
from adc_features.store.publish.codes import publish
from adc_features.store.publish.published import published_snapshots, published_timeline
from adc_features.store.repository import live_generation


def published_before(repo: Path, generation_id: str, as_of: datetime) -> SidTable | None:
    """The published snapshot before this time, whole; None where there is none."""
    whole = published_timeline(repo, generation_id).snapshots
    newest = max((s for s in whole if s.as_of < as_of), key=lambda s: s.as_of, default=None)
    return newest.table()[0] if newest else None


def publish_changes(
    repo: Path,
    generation: Generation,
    made: SidTable,
    *,
    servable_at: datetime,
    computed_at: datetime,
) -> int:
    """Publish what differs from the snapshot before; how many rows that were.

    A later snapshot that was published as a difference from that one is published whole first.
    """
    key = live_generation(repo, generation.id).key
    before = published_before(repo, generation.id, made.as_of)
    for entry, whole in zip(
        published_snapshots(repo, generation.id),
        published_timeline(repo, generation.id).snapshots,
        strict=True,
    ):
        if entry.as_of > made.as_of and entry.items + entry.removed < len(whole):
            publish(
                repo,
                generation,
                [whole.table()[0]],
                servable_at=[entry.servable_at],
                computed_at=entry.computed_at,
                key=key,
            )
            break
    rows = changed_rows(before, made) if before is not None else made
    rows = rows if len(rows) else made
    publish(repo, generation, [rows], servable_at=[servable_at], computed_at=computed_at, key=key)
    return len(rows)
