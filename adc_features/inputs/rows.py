"""Rows of features as encoders read them, joined or online. Reads: Arrow tables.

Legend: n rows of one part.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import CodeTimeline

Side = Literal["user", "item", "pair", "request", "global"]
"""Which part of a request a feature belongs to: keys that are constant within it, the candidate's,
both, the request itself, or none."""


class Stored(Protocol):
    """A column that is not in Arrow: what a store has read, in the declared type."""

    @property
    def array(self) -> pa.Array:
        """As Arrow has it."""
        ...

    def numbers(self) -> np.ndarray | None:
        """float64 [n], NaN where absent; None for what are no numbers."""
        ...

    @property
    def ids(self) -> list[Any] | None:
        """Whole numbers, or the bytes of texts and bytes, None where absent; None for other
        types."""
        ...

    def rows_by(self, reader: Any, rows_of: Callable[[list[Any]], np.ndarray]) -> np.ndarray | None:
        """`rows_of` of the ids, int64 [n], asked once for each distinct one; None where distinct
        ids are not known. reader: what `rows_of` belongs to."""
        ...

    def matrix(self, width: int, fill: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Lists of `width` numbers as [n, width], filled where absent, and where they are: bool
        [n]. None for other types and where a list is of another length."""
        ...

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        ...


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
    def of_columns(
        cls, columns: Mapping[str, pa.Array | Stored], times: np.ndarray
    ) -> "FeatureRows":
        """Rows whose columns are there already, one by one: a request reads dozens of them."""
        return _Columns(columns, times)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def names(self) -> Set[str]:
        """Of the columns."""
        return set(self.table.column_names)

    def column(self, name: str) -> pa.Array:
        """The column as one array."""
        return self._arrays[name] if name in self._arrays else self._kept(name)

    def stored(self, name: str) -> Stored | None:
        """The column as a store has read it; None where it is in Arrow."""
        return None

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What inputs have made of these rows and others read too, by what it is made of."""
        return {}

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


class _Columns(FeatureRows):
    """Rows by columns; the table is made where one asks for it."""

    _columns: Mapping[str, pa.Array | Stored]

    def __init__(self, columns: Mapping[str, pa.Array | Stored], times: np.ndarray) -> None:
        self.__dict__.update(_columns=columns, times=times)

    @cached_property
    def table(self) -> pa.Table:
        return pa.table({name: self.column(name) for name in self._columns})

    @property
    def names(self) -> Set[str]:
        return self._columns.keys()

    def column(self, name: str) -> pa.Array:
        column = self._columns[name]
        return column if isinstance(column, pa.Array) else column.array

    def stored(self, name: str) -> Stored | None:
        column = self._columns[name]
        return None if isinstance(column, pa.Array) else column


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
    first : int
        Where they begin among the training rows that they are a piece of.
    places : ndarray, optional
        int64 [N], where each of them stands there, at least `first`. None: one behind the other.
    """

    sides: Mapping[Side, FeatureRows]
    rows: int
    timeline: CodeTimeline | None = None
    first: int = 0
    places: np.ndarray | None = None

    def __getitem__(self, side: Side) -> FeatureRows:
        return self.sides[side]

    @classmethod
    def joined(
        cls,
        table: pa.Table,
        times: np.ndarray,
        *,
        timeline: CodeTimeline | None = None,
        first: int = 0,
    ) -> "Parts":
        """N joined rows, each with everything that is known of it."""
        rows = FeatureRows(table, times)
        return cls(dict.fromkeys(get_args(Side), rows), len(rows), timeline, first)
