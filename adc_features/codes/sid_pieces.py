"""Codes of a snapshot that memory need not hold. Reads: tables in turn. Writes: nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

import numpy as np

from adc_features.codes.sids import SidTable

AT_ONCE = 1 << 20
"""Rows of a piece of what is in memory already: those of a row group of a Parquet file."""


@dataclass(frozen=True)
class SidPieces:
    """Codes of one snapshot, read from the start as often as needed, a table at a time.

    read: begins anew, and gives at least one table; no item stands in two of them, which are of
    this generation and as_of.
    """

    read: Callable[[], Iterator[SidTable]]
    generation: str
    codebook_size: int
    length: int
    as_of: datetime
    has_second: bool
    """Whether second codes are told, of all items or of none."""

    @classmethod
    def of(cls, codes: "SidTable | SidPieces") -> "SidPieces":
        """Codes in either form."""
        if isinstance(codes, SidPieces):
            return codes

        def read() -> Iterator[SidTable]:
            for start in range(0, max(len(codes), 1), AT_ONCE):
                yield some_rows(codes, slice(start, start + AT_ONCE))

        told = codes.generation, codes.codebook_size, codes.length, codes.as_of, codes.has_second
        return cls(read, *told)

    def through(self, change: Callable[[SidTable], SidTable]) -> "SidPieces":
        """The same with each table changed."""
        return replace(self, read=lambda: map(change, self.read()))


def some_rows(table: SidTable, which: np.ndarray | slice) -> SidTable:
    """Some rows of a table, by their places or a mask."""
    values = {f.name: getattr(table, f.name) for f in fields(table)}
    rows: dict[str, Any] = {n: v[which] for n, v in values.items() if isinstance(v, np.ndarray)}
    return replace(table, **rows)
