"""A feature's values as LMDB rows hold them. Reads: columns of decoded rows. Writes: numbers, ids,
or an Arrow array where a reader asks for one.

A request reads dozens of columns, most of them as numbers or ids: an Arrow array in between would
cost more than the values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adc_features.store.lmdb.columns import BYTE, KINDS, Column
from adc_features.store.lmdb.kept_rows import NUMBERS, TEXT_KINDS, Dictionary, Kept
from adc_features.store.lmdb.slices import Texts

if TYPE_CHECKING:
    from adc_features.store.lmdb.row_table import Answer

_READERS = 16
"""How many readers of a feature's texts are remembered: a ranker's inputs, after a promotion the
next one's too."""
_WHOLE = ("int32_val", "int64_val")


class StoredColumn:
    """One feature of n keys, whose type is the declared one.

    Parameters
    ----------
    column : Column or Texts
        Of the rows that were found.
    places : ndarray, optional
        Where these stand among the n keys, rising; by default they are all.
    n : int
    """

    def __init__(self, column: Column | Texts, places: np.ndarray | None, n: int) -> None:
        self._found, self._places, self._n = column, places, n

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        return KINDS[self._found.kind].arrow

    @functools.cached_property
    def _column(self) -> Column:
        """[n], not valid where absent."""
        found = self._found.gathered() if isinstance(self._found, Texts) else self._found
        return found if self._places is None else found.scattered(self._places, self._n)

    @functools.cached_property
    def array(self) -> pa.Array:
        """The values as Arrow has them, null where absent."""
        return self._column.to_arrow()

    def numbers(self) -> np.ndarray | None:
        """float64 [n], NaN where absent; None for what are no numbers."""
        found = self._found
        if isinstance(found, Texts) or found.kind not in NUMBERS:
            return None
        if self._places is None:
            return found.numbers()
        numbers = np.full(self._n, np.nan)
        numbers[self._places] = found.numbers()
        return numbers

    @functools.cached_property
    def ids(self) -> list[Any] | None:
        """Whole numbers, or the bytes of texts (UTF-8) and bytes, None where absent; None for other
        types."""
        found = self._found
        if isinstance(found, Texts):
            values: list[Any] = list(found.checked())
        elif found.kind in _WHOLE:
            values = found.values.tolist()
        else:
            return None
        if not found.valid.all():
            for place in np.flatnonzero(~found.valid).tolist():
                values[place] = None
        if self._places is None:
            return values
        ids: list[Any] = [None] * self._n
        for place, value in zip(self._places.tolist(), values, strict=True):
            ids[place] = value
        return ids

    def rows_by(self, reader: Any, rows_of: Callable[[list[Any]], np.ndarray]) -> np.ndarray | None:
        """None: as of `KeptColumn`, for rows that are not kept."""
        return None

    def matrix(self, width: int, fill: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Lists of `width` numbers as [n, width], filled where absent, and where they are: bool
        [n]. None for other types and where a list is of another length."""
        column = self._column
        if column.offsets is None or column.texts is not None or column.values.dtype == BYTE:
            return None
        sizes = np.diff(column.offsets)
        if (sizes != width * column.valid).any():
            return None
        values = column.values.reshape(-1, width)
        if len(values) == self._n:
            return values, column.valid
        whole = np.full((self._n, width), fill, values.dtype)
        whole[column.valid] = values
        return whole, column.valid


class KeptColumn:
    """One feature of n keys that were read before, whose type is the declared one.

    Parameters
    ----------
    kept : Kept
    name : str
        Of the feature.
    answer : callable
        Gives the rows as a store reads them, decoded once for all features.
    """

    def __init__(self, kept: Kept, name: str, answer: Callable[[], Answer]) -> None:
        self._kept, self._name, self._answer = kept, name, answer
        self._kind, self._place = kept.columns[name]

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        return KINDS[self._kind].arrow

    @functools.cached_property
    def array(self) -> pa.Array:
        """The values as Arrow has them, null where absent."""
        return self._answer().to_arrow(self._name, self.type)

    def numbers(self) -> np.ndarray | None:
        """float64 [n], NaN where absent; None for what are no numbers."""
        return self._kept.numbers[:, self._place] if self._kind in NUMBERS else None

    @functools.cached_property
    def ids(self) -> list[Any] | None:
        """As of `StoredColumn`."""
        if self._kind in _WHOLE:
            return list(self.array.to_pylist())
        if (values := self._texts) is None:
            return None
        return [values.values[code] for code in self._kept.codes[:, self._place].tolist()]

    def rows_by(self, reader: Any, rows_of: Callable[[list[Any]], np.ndarray]) -> np.ndarray | None:
        """`rows_of` of the ids, int64 [n], asked once for each distinct text; None where texts are
        not kept. reader: what `rows_of` belongs to."""
        if (values := self._texts) is None:
            return None
        _, known = values.rows.get(id(reader), (None, np.zeros(0, np.int64)))
        if len(known) < len(values.values):
            more = rows_of(values.values[len(known) :])
            if len(values.rows) >= _READERS and id(reader) not in values.rows:
                values.rows.clear()
            known = np.concatenate([known, more])
            values.rows[id(reader)] = reader, known  # held, so that its id stays its own
        return known[self._kept.codes[:, self._place]]

    @property
    def _texts(self) -> Dictionary | None:
        return self._kept.dictionaries[self._place] if self._kind in TEXT_KINDS else None

    def matrix(self, width: int, fill: float) -> tuple[np.ndarray, np.ndarray] | None:
        """As of `StoredColumn`."""
        known = self._kept.lists.get(self._name)
        if known is None or known[0].shape[1] != width:
            return None
        values, valid = known
        if not valid.all():
            values[~valid] = fill
        return values, valid


def arrow_of(column: pa.Array | StoredColumn | KeptColumn) -> pa.Array:
    """The column as Arrow has it."""
    return column.array if isinstance(column, StoredColumn | KeptColumn) else column
