"""What a database has to do to hold codes. Reads: nothing. Writes: nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from adc_features.store.repository import LiveGeneration

_LONGEST = 63
"""Bytes of a name in PostgreSQL, the shortest among the databases that Feast reads."""


class Stored(NamedTuple):
    """How many rows there are of one event time and one created time (aware)."""

    servable_at: datetime
    computed_at: datetime
    rows: int


@dataclass(frozen=True)
class CodeFile:
    """The published rows of one snapshot.

    path: Parquet: the join key, `event_timestamp` = servable_at, `created_timestamp` = computed_at
    and the features. rows: how many. fresh: to be written even where as many are stored.
    """

    path: Path
    servable_at: datetime
    computed_at: datetime
    rows: int
    fresh: bool = False

    @property
    def stored(self) -> Stored:
        """What a table tells that holds them."""
        return Stored(self.servable_at, self.computed_at, self.rows)


class CodeTables(Protocol):
    """The tables of codes in the database of an offline store, one for each generation."""

    def check(self) -> None:
        """Raise InputError or ArtifactError where tables cannot be written: before any work."""

    def source(self, view: str, table: str, *, tags: dict[str, str]) -> object:
        """Feast's source of the view; nothing is connected to."""

    def write(self, table: str, join_key: str, files: Sequence[CodeFile]) -> int:
        """Let the table hold these rows and no others; how many were written.

        It is one transaction: readers see the table as it was, or as it will be. Raises
        ArtifactError, and the table is as it was.
        """

    def drop(self, table: str) -> None:
        """Delete the table, where there is one."""


def table_name(project: str, live: LiveGeneration) -> str:
    """The table of a generation. It names project and codebook, so that codes of two projects, or
    of two tokenizers, are never in one table.
    """
    name = f"{project}_{live.view}_{live.codebook_hash[:8]}"
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{live.view}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def differences(
    stored: Collection[Stored], files: Sequence[CodeFile]
) -> tuple[list[datetime], list[CodeFile]]:
    """The event times whose stored rows have to go, and the files to be written then.

    >>> from datetime import UTC
    >>> first, second = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
    >>> kept, new = CodeFile(Path("1"), first, first, 5), CodeFile(Path("2"), second, second, 2)
    >>> stale, missing = differences([kept.stored, Stored(second, first, 9)], [kept, new])
    >>> [time.day for time in stale], [file.path.name for file in missing]
    ([2], ['2'])
    """
    wanted = {file.stored for file in files}
    stale = {found.servable_at for found in stored if found not in wanted}
    stale |= {file.servable_at for file in files if file.fresh}
    missing = [f for f in files if f.servable_at in stale or f.stored not in stored]
    return sorted(stale), missing
