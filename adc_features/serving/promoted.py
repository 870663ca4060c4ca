"""Which versions of a ranker have served. Reads, writes: `<repo>/rankers/<name>/promotions.json`.

What serves is what the promotion file names; this is the record of what did before, for a rollback.
A promotion that a kill cut short of its record is recorded by the next one.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import write_json
from adc_features.clock import parse_utc
from adc_features.errors import ArtifactError, InputError
from adc_features.file_lock import file_lock
from adc_features.serving.promotion import Promotion, promote, read_promotion
from adc_features.serving.workspace import Workspace

RECORD = "promotions.json"
WAIT_S = 30.0
"""Seconds to wait for another promotion of the same ranker."""


@dataclass(frozen=True)
class Promoted:
    """One promotion on record.

    number: from 1. version: name of the ranker's directory. ranker_hash: sha256 (hex) of its
    manifest. why: in words.
    """

    number: int
    version: str
    ranker_hash: str
    generation: str | None
    promoted_at: datetime
    why: str


def promotions(place: Workspace) -> list[Promoted]:
    """Every promotion of a ranker, the oldest first; the last one serves.

    Raises ArtifactError when the record or the promotion file is damaged.
    """
    path = place.directory / RECORD
    found: list[Promoted] = []
    if path.is_file():
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["promotions"]
            found = [
                Promoted(**{**row, "promoted_at": parse_utc(row["promoted_at"])}) for row in rows
            ]
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise ArtifactError(
                f"{path} is no record of promotions ({error}); restore it, or move it away and"
                " promote again"
            ) from error
    if place.promotion.is_file():
        pair = read_promotion(place.promotion)
        last = (found[-1].ranker_hash, found[-1].promoted_at) if found else None
        if last != (pair.ranker_hash, pair.promoted_at):
            found.append(_row(pair, len(found) + 1, "found in the promotion file"))
    return found


def promote_on_record(
    place: Workspace, pair: Promotion, *, why: str, ended: Collection[str] = ()
) -> int:
    """Let a checked pair serve, and record it; returns the promotion's number. ended: names of
    variants that end with it.

    Raises
    ------
    ArtifactError, GenerationMismatch
        As `promote`; what serves is left as it was.
    InputError
        Another promotion of this ranker does not end.
    """
    with promoting(place):
        before = promotions(place)
        promote(place.promotion, pair, ended=ended)
        rows = [*before, _row(pair, len(before) + 1, why)]
        document: dict[str, Any] = {"promotions": [asdict(row) for row in rows]}
        write_json(place.directory / RECORD, document)
        return len(rows)


@contextmanager
def promoting(place: Workspace) -> Iterator[None]:
    """While nothing else writes the promotion file of a ranker. Raises InputError when another
    promotion does not end."""
    with file_lock(place.directory, wait=WAIT_S) as taken:
        if not taken:
            raise InputError(
                f"another promotion of ranker {place.name!r} is running for more than"
                f" {WAIT_S:.0f} s; try again when it has ended"
            )
        yield


def _row(pair: Promotion, number: int, why: str) -> Promoted:
    version = Path(pair.ranker).name
    return Promoted(number, version, pair.ranker_hash, pair.generation, pair.promoted_at, why)
