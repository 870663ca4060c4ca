"""Lists of a column as flat arrays: nulls dropped, cut to the newest. Reads: Arrow list columns.
Writes: Lists.

Legend: n rows, T elements of all rows' lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError

_BITS = 63
"""Of a whole number that is at least 0."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Lists:
    """Elements of n rows' lists, several columns of equal lengths beside each other.

    Parameters
    ----------
    columns : mapping of str to pyarrow.Array
        Role -> its elements [T], none of them null; they may be dictionary-encoded.
    offsets : ndarray
        int64 [n + 1].
    absent : ndarray
        bool [n], the list is null; an empty list is there.
    dropped : int
        Elements that were null.
    """

    columns: Mapping[str, pa.Array]
    offsets: np.ndarray
    absent: np.ndarray
    dropped: int

    def __len__(self) -> int:
        return len(self.absent)

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64 [n]."""
        return np.diff(self.offsets)

    @cached_property
    def row(self) -> np.ndarray:
        """The row of each element, int64 [T]."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def encoded(self, role: str) -> "Lists":
        """With the elements of a role dictionary-encoded, so that they are compared once."""
        return replace(self, columns={**self.columns, role: self.columns[role].dictionary_encode()})

    def newest(self, last: int, order: Literal["newest_last", "newest_first"]) -> "Lists":
        """The newest `last` elements of each row, oldest first."""
        if order == "newest_last" and (not len(self) or self.sizes.max() <= last):
            return self
        kept = np.minimum(self.sizes, last)
        offsets = _offsets(kept)
        place = np.arange(offsets[-1])
        if order == "newest_last":
            element = place + np.repeat(self.offsets[1:] - kept - offsets[:-1], kept)
        else:
            element = np.repeat(self.offsets[:-1] + kept - 1 + offsets[:-1], kept) - place
        return replace(self, columns=_taken(self.columns, element), offsets=offsets)

    def where(self, kept: np.ndarray) -> "Lists":
        """The elements of which `kept` (bool [T]) is true."""
        ends = np.concatenate([[0], np.cumsum(kept)])
        mask = pa.array(kept)
        columns = {role: column.filter(mask) for role, column in self.columns.items()}
        return replace(self, columns=columns, offsets=ends[self.offsets])


def read_lists(columns: Mapping[str, pa.Array], *, name: str) -> Lists:
    """Lists of equal lengths as they are stored.

    Parameters
    ----------
    columns : mapping of str to pyarrow.Array
        Role -> list column [n]. An element that is null, or not a number, in one of them is dropped
        from all.
    name : str
        The input, for messages.

    Raises
    ------
    InputError
        For a column that holds no lists, and for the first row whose lists differ in length.
    """
    flat, sizes, absent = {}, {}, {}
    for role, stored in columns.items():
        column = _as_list(stored, f"{name}: {role}")
        if column.null_count or not len(column):  # without rows there may be no offsets
            flat[role] = column.flatten()  # leaves out what a null list may hide
            sizes[role] = np.asarray(pc.list_value_length(column).fill_null(0)).astype(np.int64)
            absent[role] = column.is_null().to_numpy(zero_copy_only=False)
        else:  # as above, in a third of the time: a request reads lists of one row
            ends = np.asarray(column.offsets).astype(np.int64)
            flat[role] = column.values[ends[0] : ends[-1]]
            sizes[role], absent[role] = np.diff(ends), np.zeros(len(column), bool)
    first = next(iter(columns))
    for role in columns:
        differs = (sizes[role] != sizes[first]) | (absent[role] != absent[first])
        if differs.any():
            row = int(np.argmax(differs))
            of = [
                f"{r} has {'no list' if absent[r][row] else f'{sizes[r][row]} elements'}"
                for r in (first, role)
            ]
            raise InputError(
                f"{name}: in row {row} {of[0]} and {of[1]}; these lists describe the same elements,"
                " store them with equal lengths"
            )
    lists = Lists(flat, _offsets(sizes[first]), absent[first], 0)
    bad = [gone for column in flat.values() if (gone := _no_value(column)) is not None]
    if not bad:
        return lists
    kept = ~np.logical_or.reduce(bad)
    return replace(lists.where(kept), dropped=int(np.count_nonzero(~kept)))


def coded(values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Elements as places in their distinct values: int64 [T] and the values."""
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def places(values: pa.Array, distinct: pa.Array, *, name: str) -> np.ndarray:
    """The place of each value in `distinct`, -1 where it is not there or null: int64 [n].

    Raises InputError where one side holds numbers and the other text: 12 and "12" differ.
    """
    if distinct.type != values.type:
        if not (pa.types.is_integer(values.type) and pa.types.is_integer(distinct.type)):
            raise InputError(
                f"{name}: the list holds {distinct.type}, the candidate is {values.type}; 12 and"
                ' "12" are different ids, give both features one type'
            )
        values, distinct = values.cast(pa.int64()), distinct.cast(pa.int64())
    found = pc.index_in(values, value_set=distinct, skip_nulls=True)
    return np.asarray(found.fill_null(-1)).astype(np.int64)


def first_in_row(code: np.ndarray, lists: Lists) -> np.ndarray | None:
    """Which elements are the first of their value in their row: bool [T], None where all are.

    code: int64 [T], equal for equal values.
    """
    if not len(code):
        return None
    # one number a (row, value, place in the row): sorted, the first of each value leads
    bits = [int(n).bit_length() for n in (len(lists), code.max(), lists.sizes.max())]
    if sum(bits) > _BITS:
        key = lists.row * (int(code.max()) + 1) + code
        found = np.unique(key, return_index=True)[1]
    else:
        key = (lists.row << bits[1]) | code
        key <<= bits[2]
        key |= np.arange(len(code)) - np.repeat(lists.offsets[:-1], lists.sizes)
        # rows are in order already: blocks of them are sorted within a cache
        ends = [*lists.offsets[::_ROWS_AT_ONCE], len(key)]
        for start, end in pairwise(ends):
            key[start:end].sort()
        value = key >> bits[2]
        leads = np.flatnonzero(value[1:] != value[:-1]) + 1
        key = np.append(key[:1], key[leads])
        found = lists.offsets[key >> (bits[1] + bits[2])] + (key & ((1 << bits[2]) - 1))
    if len(found) == len(code):
        return None
    first = np.zeros(len(code), bool)
    first[found] = True
    return first


def _as_list(column: pa.Array, what: str) -> pa.Array:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column
    if pa.types.is_fixed_size_list(kind) or pa.types.is_null(kind):
        item = kind.value_type if pa.types.is_fixed_size_list(kind) else pa.string()
        return column.cast(pa.list_(item))
    raise InputError(f"{what} is {kind}; expected a list in every row, declare another kind for it")


def _no_value(column: pa.Array) -> np.ndarray | None:
    """Which elements are null or not a finite number: bool [T], None where none is."""
    gone = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if pa.types.is_floating(column.type):
        finite = np.isfinite(column.to_numpy(zero_copy_only=False))
        if not finite.all():
            return ~finite
    return gone


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _taken(columns: Mapping[str, pa.Array], element: np.ndarray) -> dict[str, pa.Array]:
    index = pa.array(element)
    return {role: column.take(index) for role, column in columns.items()}
