"""A feature's values as LMDB rows hold them. Reads: columns of decoded rows. Writes: numbers, ids,
or an Arrow array where a reader asks for one.

A request reads dozens of columns, most of them as numbers or ids: an Arrow array in between would
cost more than the values.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.store.lmdb.columns import KINDS, Column

_NUMBERS = ("int32_val", "int64_val", "float_val", "double_val")
_WHOLE = ("int32_val", "int64_val")
_TEXTS = ("string_val", "bytes_val")


class StoredColumn:
    """One feature of n keys, whose type is the declared one.

    Parameters
    ----------
    column : Column
        [n], not valid where absent.
    """

    def __init__(self, column: Column) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column.valid)

    @property
    def type(self) -> pa.DataType:
        """The Arrow type."""
        return KINDS[self._column.kind].arrow

    @functools.cached_property
    def array(self) -> pa.Array:
        """The values as Arrow has them, null where absent."""
        return self._column.to_arrow()

    def numbers(self) -> np.ndarray | None:
        """float64 [n], NaN where absent; None for what are no numbers."""
        return self._column.numbers() if self._column.kind in _NUMBERS else None

    @functools.cached_property
    def ids(self) -> list[Any] | None:
        """Whole numbers, or the bytes of texts (UTF-8) and bytes, None where absent; None for other
        types."""
        column = self._column
        if column.kind in _WHOLE:
            found: list[Any] = column.values.tolist()
        elif column.kind in _TEXTS and column.offsets is not None:
            content = column.values.tobytes()
            if not content.isascii() and column.kind == "string_val":
                _ = self.array  # which refuses what is no UTF-8
            found = [content[a:b] for a, b in itertools.pairwise(column.offsets.tolist())]
        else:
            return None
        if not column.valid.all():
            for place in np.flatnonzero(~column.valid).tolist():
                found[place] = None
        return found


def arrow_of(column: pa.Array | StoredColumn) -> pa.Array:
    """The column as Arrow has it."""
    return column.array if isinstance(column, StoredColumn) else column
