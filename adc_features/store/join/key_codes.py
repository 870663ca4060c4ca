"""Keys of any type as integers. Reads: Arrow key columns. Writes: int64 codes; no feast here."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.store.casts import MISFITS, family, fitted
from adc_features.store.join.gather import numbers_of
from adc_features.store.join.space import Space, arrow_space

Column: TypeAlias = pa.ChunkedArray | pa.Array


class KeyCodes:
    """Equal (composite) keys as equal integers below `size`.

    columns: the key columns of the feature side, F rows each, of any comparable types.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [_ColumnCodes.of_column(plain_key(column)) for column in columns]
        self._pairs: list[np.ndarray] = []
        self.size = self._columns[0].size if columns else 1

    @classmethod
    def of_features(
        cls,
        columns: Sequence[Column],
        *,
        rows: int,
        space: Space = arrow_space,
        spoil: bool = False,
    ) -> tuple[Self, np.ndarray]:
        """The codes of the feature side, and each row's code, int64 [F].

        A key with a null in it has the code -1: it matches nothing. spoil: the columns are not
        needed again, their memory may become that of the codes.
        """
        self = cls(columns)
        paired = np.zeros(0 if columns else rows, np.int64)
        for place, (column, codes) in enumerate(zip(columns, self._columns, strict=True)):
            own = codes.of(plain_key(column), space=space, spoil=spoil)
            if place:  # codes of two columns are sparse: number the pairs that occur
                own = _pair(paired, own, codes.size)
                self._pairs.append(_distinct(own))
                own = _place_in(self._pairs[-1], own)
                self.size = len(self._pairs[-1])
            paired = own
        return self, paired

    def parts(self) -> tuple[dict[str, Any], dict[str, pa.Array]]:
        """What `of_parts` makes the same codes of: facts as JSON knows them, and arrays."""
        arrays = {f"pairs_{place}": pa.array(codes) for place, codes in enumerate(self._pairs)}
        for place, column in enumerate(self._columns):
            if column.values is not None:
                arrays[f"keys_{place}"] = column.values
        columns = [{"low": column.low, "size": column.size} for column in self._columns]
        return {"size": self.size, "columns": columns}, arrays

    @classmethod
    def of_parts(cls, facts: Mapping[str, Any], arrays: Mapping[str, pa.Array]) -> Self:
        """The codes that gave these parts."""
        self = cls.__new__(cls)
        self.size = facts["size"]
        self._columns = [
            _ColumnCodes(arrays.get(f"keys_{place}"), **column)
            for place, column in enumerate(facts["columns"])
        ]
        self._pairs = [
            np.asarray(arrays[f"pairs_{place}"]) for place in range(len(self._columns) - 1)
        ]
        return self

    def of(self, columns: Sequence[Column], *, names: Sequence[str], rows: int = 0) -> np.ndarray:
        """int64 [Q] codes of other keys, -1 for those that the feature side lacks.

        Without columns `rows` times the one key of all.
        Raises InputError for types that can never match.
        """
        paired = np.zeros(0 if columns else rows, np.int64)
        for place, (column, codes, name) in enumerate(
            zip(columns, self._columns, names, strict=True)
        ):
            own = codes.of(comparable_key(column, codes.type, name=name))
            if place:
                own = _place_in(self._pairs[place - 1], _pair(paired, own, codes.size))
            paired = own
        return paired


class _ColumnCodes:
    """One key column.

    Integers in a narrow range are numbered by their distance from the lowest, other keys by their
    place among the distinct values.

    values: these; None for integers that are numbered from `low` on.
    """

    def __init__(self, values: pa.Array | None, *, low: int, size: int) -> None:
        self.values, self.low, self.size = values, low, size
        self.type = pa.int64() if values is None else values.type

    @classmethod
    def of_column(cls, column: Column) -> Self:
        if pa.types.is_integer(column.type) and len(column) > column.null_count:
            low, high = (int(v.as_py()) for v in pc.min_max(column).values())
            size = high - low + 1
            if size < 8 * len(column) + 1024:
                return cls(None, low=low, size=size)
        values = pc.unique(column).drop_null()
        return cls(values, low=0, size=max(len(values), 1))

    def of(self, column: Column, *, space: Space = arrow_space, spoil: bool = False) -> np.ndarray:
        """int64 [N]; -1 for nulls and for keys that the column did not hold.

        spoil: the codes may be written over a column that lies in one piece.
        """
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        inside = (
            spoil and self.values is None and len(chunks) == 1 and chunks[0].buffers()[1].is_mutable
        )
        codes, end = numbers_of(chunks[0]) if inside else None, 0
        if codes is None:
            codes = space(len(column))
        for chunk in chunks:
            start, end = end, end + len(chunk)
            if self.values is not None:
                codes[start:end] = np.asarray(
                    pc.index_in(chunk, value_set=self.values).fill_null(-1)
                )
                continue
            part = codes[start:end]
            np.subtract(
                np.asarray(pc.fill_null(chunk, 0) if chunk.null_count else chunk),
                self.low,
                out=part,
            )
            part[part.view(np.uint64) >= self.size] = -1
            if chunk.null_count:
                part[np.asarray(chunk.is_null())] = -1
        return codes


def _pair(codes: np.ndarray, more: np.ndarray, size: int) -> np.ndarray:
    return np.where((codes >= 0) & (more >= 0), codes * size + more, -1)


def _place_in(known: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.full(len(codes), -1, np.int64)
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[place] == codes, place, -1)


def plain_key(column: Column, *, name: str = "a key of the features") -> Column:
    """Keys in one type for each kind: int64, string, bytes; others as they are.

    Raises InputError for integers beyond int64.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain_key(column.cast(kind.value_type), name=name)
    if pa.types.is_integer(kind):
        return _whole(column, name)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    return column


def comparable_key(column: Column, wanted: pa.DataType, *, name: str) -> Column:
    """Entity keys in the plain type of the features' keys.

    Raises InputError for types that can never match, and for numbers that are no such keys.
    """
    column = plain_key(column, name=name)
    if column.type == wanted or not len(column):
        return column.cast(wanted) if column.type != wanted else column
    if pa.types.is_null(column.type):
        return column.cast(wanted)
    if pa.types.is_null(wanted):
        return pa.nulls(len(column))
    if wanted == pa.int64() and family(column.type) == "numbers":
        return _whole(column, name)
    raise InputError(
        f"{name} is {column.type} in the entity rows and {wanted} in the features: the two never"
        " match; convert one of them"
    )


def _whole(column: Column, name: str) -> Column:
    """Numbers as the integers that they are. Raises InputError for fractions and beyond 64 bits."""
    if column.type == pa.int64():
        return column
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    try:
        whole = fitted(chunked, pa.int64(), name=name)
    except MISFITS as error:
        raise InputError(
            f"{name} is {column.type} and no int64 key ({error}); correct these rows"
        ) from error
    return whole if column is chunked else pa.concat_arrays(whole.chunks)


def _distinct(codes: np.ndarray) -> np.ndarray:
    ordered = np.sort(codes[codes >= 0])
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
