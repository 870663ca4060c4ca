"""What many items of a packed file share, numbered in the order in which it first appears. Reads:
codes in pieces. Writes: files in a working directory.

The number of a profile is that of the rows before its first one at which another profile appeared
first. To find first rows, profiles are spread over files by their hash, so that memory holds those
of one file, and some ten bytes an item.

Legend: N items.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.id_keys import mixed
from adc_features.codes.sids import SidTable
from adc_features.partition_files import PartitionWriter, read_partition
from adc_features.store.packed.layout import NO_TIME, PROFILE, SHARED

UNKNOWN = np.array([(NO_TIME, 0, 0, 0, True, False)], PROFILE)
"""The profile of an item that nobody knows, which has number 0."""
_SCHEMA = pa.schema({"row": pa.uint32(), "profile": pa.binary(PROFILE.itemsize)})


class Profiles(NamedTuple):
    """number: of each row's profile, uint32 [N]. first: whether the row is the first with its
    profile, bool [N]. distinct: how many profiles there are, that of unknown items included.
    """

    number: np.ndarray
    first: np.ndarray
    distinct: int


def profile_rows(codes: SidTable, sid_as_of: np.ndarray) -> np.ndarray:
    """The profile of each item, PROFILE [N]."""
    rows = np.empty(len(codes), PROFILE)
    rows["sid_as_of"] = sid_as_of
    for name in SHARED:
        rows[name] = getattr(codes, name)
    return rows


class ProfileSpool:
    """Profiles on their way. directory: empty; files: how many they are spread over."""

    def __init__(self, directory: Path, files: int) -> None:
        self._directory, self._files, self._rows = directory, files, 0
        self._writer = PartitionWriter(directory, _SCHEMA, files)
        self.add(UNKNOWN)

    def add(self, profiles: np.ndarray) -> None:
        """profiles: PROFILE [n], of the rows that come next."""
        rows = np.arange(self._rows, self._rows + len(profiles), dtype=np.uint32)
        table = pa.table([pa.array(rows), binary_column(profiles)], schema=_SCHEMA)
        self._writer.add(table, (_hashes(profiles) % np.uint64(self._files)).astype(np.int64))
        self._rows += len(profiles)

    def numbered(self) -> Profiles:
        """All of them."""
        with self._writer:
            first = np.empty(self._rows, np.uint32)
        for number in range(self._files):
            table = read_partition(self._directory, number).combine_chunks()
            rows, encoded = table["row"].to_numpy(), pc.dictionary_encode(table["profile"])
            code = encoded.combine_chunks().indices.to_numpy()
            place = np.empty(code.max(initial=-1) + 1, np.uint32)
            place[code[::-1]] = rows[::-1]  # of several the one that was written last: the first
            first[rows] = place[code]
        is_first = first == np.arange(self._rows, dtype=np.uint32)
        rank = np.cumsum(is_first, dtype=np.uint32) - np.uint32(1)
        return Profiles(rank[first][1:], is_first[1:], int(rank[-1]) + 1)


def binary_column(records: np.ndarray) -> pa.Array:
    """Records of one dtype as binary of their size, without copying."""
    kind = pa.binary(records.dtype.itemsize)
    return pa.Array.from_buffers(kind, len(records), [None, pa.py_buffer(records)])


def _hashes(profiles: np.ndarray) -> np.ndarray:
    """uint64 [n], equal where the profiles are; others may have the same."""
    words = np.zeros((len(profiles), -(-PROFILE.itemsize // 8)), np.uint64)
    words.view(np.uint8)[:, : PROFILE.itemsize] = profiles.view(np.uint8).reshape(
        len(profiles), PROFILE.itemsize
    )
    factors = mixed(np.arange(1, words.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    return mixed(words @ factors)
