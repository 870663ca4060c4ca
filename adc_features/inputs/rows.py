"""Rows of features as encoders read them, joined or online. Reads: Arrow tables.

Legend: n rows of one part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import CodeTimeline

Side = Literal["user", "item", "pair", "request", "global"]
"""Which part of a request a feature belongs to: keys that are constant within it, the candidate's,
both, the request itself, or none."""


@dataclass(frozen=True)
class FeatureRows:
    """Rows of one part.

    Parameters
    ----------
    table : pyarrow.Table
        Columns by source (feature keys `<view>__<feature>`, join keys, request fields) in their
        declared Arrow types; null = absent: not found, null or expired. Lists have no other states.
    times : ndarray
        datetime64[us] [n], UTC: the row's time, or the request's `now` for all.
    """

    table: pa.Table
    times: np.ndarray

    @classmethod
    def of_columns(cls, columns: Mapping[str, pa.Array], times: np.ndarray) -> "FeatureRows":
        """Rows whose columns are arrays already: a request reads dozens of them."""
        rows = cls(pa.table(dict(columns)), times)
        rows._arrays.update(columns)
        return rows

    def __len__(self) -> int:
        return len(self.times)

    def column(self, name: str) -> pa.Array:
        """The column as one array."""
        return self._arrays[name] if name in self._arrays else self._kept(name)

    @cached_property
    def _arrays(self) -> dict[str, pa.Array]:
        return {}

    def _kept(self, name: str) -> pa.Array:
        """The column, kept for the inputs that read it too."""
        column = self.table.column(name)
        self._arrays[name] = found = (
            column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        )
        return found


@dataclass(frozen=True)
class Parts:
    """The rows that inputs are encoded from, by side.

    Offline every side is the same N joined rows; online user, request and global have one row that
    stands for N candidates.

    Parameters
    ----------
    sides : mapping of str to FeatureRows
        By side.
    rows : int
        N.
    timeline : CodeTimeline, optional
        Codes through time, for inputs that read the codes of a user's recent items.
    """

    sides: Mapping[Side, FeatureRows]
    rows: int
    timeline: CodeTimeline | None = None

    def __getitem__(self, side: Side) -> FeatureRows:
        return self.sides[side]

    @classmethod
    def joined(
        cls, table: pa.Table, times: np.ndarray, *, timeline: CodeTimeline | None = None
    ) -> "Parts":
        """N joined rows, each with everything that is known of it."""
        rows = FeatureRows(table, times)
        return cls(dict.fromkeys(get_args(Side), rows), len(rows), timeline)
