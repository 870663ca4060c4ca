"""Who is to be forgotten. Reads: ids as text. Writes: ids of a column's type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError


@dataclass(frozen=True)
class Subject:
    """Ids of one join key, as somebody wrote them.

    Raises
    ------
    InputError
        No id, or an empty one.
    """

    key: str
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ids or not all(self.ids):
            raise InputError("no id to forget, or an empty one; give --user ID, or --users FILE")

    def typed(self, kind: pa.DataType) -> pa.Array:
        """The ids as values of a column; without those that no such column can hold."""
        if pa.types.is_integer(kind):
            whole = [int(one) for one in self.ids if is_whole(one)]
            return pa.array(whole, pa.int64())
        return pa.array(self.ids, pa.string())

    def values(self, kind: str) -> list[Any]:
        """The same of a key that is "string" or "int64", as Python values."""
        return self.typed(pa.int64() if kind == "int64" else pa.string()).to_pylist()

    def among(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Which rows hold one of the ids: bool [n]."""
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_integer(kind) or _is_text(kind)):
            return np.zeros(len(column), bool)
        plain = pa.int64() if pa.types.is_integer(kind) else pa.string()
        held = pc.is_in(column.cast(plain), value_set=self.typed(kind))
        found: np.ndarray = (
            held.to_numpy(zero_copy_only=False) if isinstance(held, pa.Array) else held.to_numpy()
        )
        return found


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of 64 bits, as it is usually written."""
    try:
        number = int(text)
    except ValueError:
        return False
    return str(number) == text and -(1 << 63) <= number < 1 << 63


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
