"""Publish a later snapshot as what changed since the one before. Reads: a repository. Writes: its
publication.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from adc_features.codes.generation import Generation
from adc_features.codes.sid_pieces import SidPieces, some_rows
from adc_features.codes.sids import SidTable, differing
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.publish.codes import publish
from adc_features.store.publish.published import published_snapshots, published_timeline
from adc_features.store.repository import live_generation


def packed_before(repo: Path, generation_id: str, as_of: datetime) -> PackedSnapshot | None:
    """The published snapshot before this time, whole, as its file; None where there is none."""
    whole = published_timeline(repo, generation_id).snapshots
    return max((s for s in whole if s.as_of < as_of), key=lambda s: s.as_of, default=None)


def published_before(repo: Path, generation_id: str, as_of: datetime) -> SidTable | None:
    """The published snapshot before this time, whole; None where there is none."""
    newest = packed_before(repo, generation_id, as_of)
    return newest.table()[0] if newest else None


def publish_changes(
    repo: Path,
    generation: Generation,
    made: SidTable | SidPieces,
    *,
    servable_at: datetime,
    computed_at: datetime,
) -> int:
    """Publish what differs from the snapshot before; how many rows that were.

    A later snapshot that was published as a difference from that one is published whole first.
    """
    key, codes = live_generation(repo, generation.id).key, SidPieces.of(made)
    before = packed_before(repo, generation.id, codes.as_of)
    for entry, whole in zip(
        published_snapshots(repo, generation.id),
        published_timeline(repo, generation.id).snapshots,
        strict=True,
    ):
        if entry.as_of > codes.as_of and entry.items + entry.removed < len(whole):
            publish(
                repo,
                generation,
                [replace(codes, read=partial(_rows, whole), as_of=whole.as_of)],
                servable_at=[entry.servable_at],
                computed_at=entry.computed_at,
                key=key,
            )
            break
    rows = codes if before is None else replace(codes, read=partial(_changed, before, codes))
    publish(repo, generation, [rows], servable_at=[servable_at], computed_at=computed_at, key=key)
    (entry,) = (e for e in published_snapshots(repo, generation.id) if e.as_of == codes.as_of)
    return entry.items + entry.removed


def _rows(snapshot: PackedSnapshot) -> Iterator[SidTable]:
    return (piece for piece, _ in snapshot.pieces())


def _changed(before: PackedSnapshot, made: SidPieces) -> Iterator[SidTable]:
    """New and changed items, then, not found, items that are gone; all where nothing is other."""
    # the last one stands for items that are new
    held, other = np.zeros(len(before) + 1, bool), False
    for piece in made.read():
        places = before.places(piece.item_ids)
        held[places] = True
        mine = differing(before.lookup(piece.item_ids), piece) | (places == len(before))
        if mine.any():
            other = True
            yield some_rows(piece, mine)
    nobody, start = some_rows(next(made.read()), slice(0)), 0
    for piece in _rows(before):
        gone = piece.found & ~held[start : start + len(piece)]
        start += len(piece)
        if gone.any():
            other = True
            yield nobody.lookup(piece.item_ids[gone])
    if not other:
        yield from made.read()
