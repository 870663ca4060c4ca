"""Find many items at once in a packed file: ids as 64-bit keys, keys in hashed buckets. Reads:
arrays. Writes: arrays.

An integer id is its own key, less the smallest id; a string's key is a 64-bit hash, and the string
itself is compared afterwards. Rows stand in the order of their bucket, `starts` says where each
bucket begins; about two keys share one. A lookup reads one bucket whatever the ids look like and
however many there are, where a binary search would touch twenty places.

Legend: N items in the file, M items asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.embeddings import id_array
from adc_features.codes.id_keys import code_points, id_keys, mixed
from adc_features.errors import InputError

KEYS_A_BUCKET = 2
_SHIFT = np.uint64(32)


@dataclass(frozen=True)
class IdIndex:
    """keys: uint32 or uint64 [N], in bucket order.

    starts: uint32 [B + 1]. base: the smallest integer id, 0 for strings.

    seed: of the string hash. strings: the ids of the rows as an Arrow array; None for integer ids.
    """

    keys: np.ndarray
    starts: np.ndarray
    base: int
    seed: int
    strings: pa.Array | None

    @property
    def id_type(self) -> Literal["string", "int64"]:
        """What the ids are."""
        return "int64" if self.strings is None else "string"

    def ids(self, rows: slice = slice(None)) -> np.ndarray:
        """The ids of adjacent rows in their order, by default of all: int64 or str [N].

        Raises IndexError when the strings were altered.
        """
        if self.strings is not None:
            strings = self.strings[rows]
            try:
                strings.validate(full=True)
            except pa.ArrowInvalid as error:
                raise IndexError(str(error)) from error
            return id_array(strings)
        ids = self.keys[rows].astype(np.uint64) + np.int64(self.base).astype(np.uint64)
        return ids.astype(np.int64)

    def find(self, item_ids: np.ndarray) -> np.ndarray:
        """The row of each id that `checked_ids` returned, N where it is absent: int64 [M]."""
        wanted = id_keys(item_ids, base=self.base, seed=self.seed)
        bucket = buckets(wanted, len(self.starts) - 1)
        row, end = self.starts.take(bucket).astype(np.int64), self.starts.take(bucket + 1)
        absent = np.ones(len(wanted), bool)
        searching = np.flatnonzero(row < end)
        while len(searching):
            hit = self.keys.take(row[searching]) == wanted[searching]
            absent[searching[hit]] = False
            searching = searching[~hit]
            row[searching] += 1
            searching = searching[row[searching] < end[searching]]
        if self.strings is not None and not absent.all():  # two strings of one hash are two items
            at = np.flatnonzero(~absent)
            absent[at] = ~self._same_strings(row[at], item_ids[at])
        row[absent] = len(self.keys)
        return row

    def _same_strings(self, rows: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        """Whether the string of each row is the id: bool [M].

        Arrow trusts offsets and would read anywhere, so those it needs are checked first.
        """
        assert self.strings is not None
        offsets, text = string_buffers(self.strings)
        begin, end = offsets.take(rows), offsets.take(rows + 1)
        if (begin < 0).any() or (begin > end).any() or (end > len(text)).any():
            raise IndexError("a string lies outside of the text")
        asked = pa.array(item_ids, self.strings.type)
        try:
            same = pc.equal(self.strings.take(pa.array(rows)), asked)
        except pa.ArrowInvalid as error:  # of the ends of the text, which Arrow looks at itself
            raise IndexError(str(error)) from error
        return same.to_numpy(zero_copy_only=False)


def string_buffers(strings: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int32 or int64 [N + 1] and the text as uint8, without copying."""
    kind = np.dtype("<i8" if pa.types.is_large_string(strings.type) else "<i4")
    place = strings.offset * kind.itemsize
    offsets = np.frombuffer(strings.buffers()[1], kind, len(strings) + 1, place)
    return offsets, np.frombuffer(strings.buffers()[2] or b"", np.uint8)


def bucket_count(items: int) -> int:
    """How many buckets there are of so many items."""
    return max(1, items // KEYS_A_BUCKET)


def checked_ids(item_ids: Iterable[Any], id_type: str) -> np.ndarray:
    """Ids as asked for, as int64 or str [M]; no ids are an empty array.

    Raises InputError for ids of another type than the file's, of several types, outside 64 bits,
    not one-dimensional or not Unicode.
    """
    if isinstance(item_ids, pa.Array | pa.ChunkedArray):
        item_ids = id_array(item_ids)
    if not isinstance(item_ids, np.ndarray) or item_ids.dtype == object:
        item_ids = list(item_ids)
        types = {type(each).__name__ for each in item_ids}
        if len(types) > 1 or types - {"str", "int", "str_", "int64", "int32"}:
            raise InputError(
                f"item ids are of type {' and '.join(sorted(types))}; this catalogue's are all"
                f" {id_type}, convert them"
            )
        try:
            item_ids = np.array(item_ids, np.str_ if types & {"str", "str_"} else np.int64)
        except OverflowError as error:
            raise InputError(
                "an item id lies outside 64 bits; give ids of this catalogue"
            ) from error
    if item_ids.ndim != 1:
        raise InputError(f"item ids have shape {list(item_ids.shape)}; expected one row of ids")
    if not len(item_ids):
        return np.empty(0, np.str_ if id_type == "string" else np.int64)
    if item_ids.dtype.kind not in ("U" if id_type == "string" else "iu"):
        raise InputError(
            f"asked for ids of type {item_ids.dtype}, the table holds {id_type}; convert one to the"
            " other"
        )
    if id_type == "string":
        if ((code_points(item_ids) & 0xFFFFF800) == 0xD800).any():
            raise InputError(
                "an item id holds half a character (a lone surrogate, as from bytes that are not"
                " UTF-8); decode the ids as UTF-8 first"
            )
        return item_ids
    if item_ids.dtype == np.uint64 and item_ids.max() > np.iinfo(np.int64).max:
        raise InputError("an item id lies outside 64 bits with sign; give ids of this catalogue")
    return item_ids.astype(np.int64, copy=False)


def buckets(keys: np.ndarray, count: int) -> np.ndarray:
    """Bucket of each key, int64 [M] in [0, count)."""
    return (((mixed(keys) >> _SHIFT) * np.uint64(count)) >> _SHIFT).astype(np.int64)
