"""All codes of a generation at one time in one packed file, memory-mapped. Reads: `<as_of>.sids`.
Writes: nothing; no feast here.

Legend: N items, M items asked for, L positions.
"""

import copy
import mmap
import os
import zlib
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from adc_features.codes.rows import SECOND_FEATURES, SID_FEATURES, TIME
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE
from adc_features.errors import ArtifactError, InputError
from adc_features.store.packed.id_index import IdIndex, checked_ids
from adc_features.store.packed.layout import (
    NO_TIME,
    PROFILE,
    ROWS_AT_ONCE,
    SHARED,
    WHAT_TO_DO,
    PackedCodes,
    profile_type,
    read_header,
    record_type,
    shared_columns,
    span,
)

T = TypeVar("T")


class Gathered(NamedTuple):
    """What a file says of M items.

    sid: int32 [M, L]. sid_weight: float32 [M, L]. profile: `profile_type` [M].
    """

    sid: np.ndarray
    sid_weight: np.ndarray
    profile: np.ndarray


Over = Callable[[np.ndarray, Gathered], Gathered]
"""Ids and what a file says of them -> what is served."""


class PackedSnapshot:
    """An open file; threads may share it, and it stays whole when the file is replaced or deleted.

    generation, codebook_hash, codebook_size, length: whose codes; has_second: whether second ones
    are told. as_of: exclusive cut-off of the
    newest row; servable_at, computed_at: aware UTC. Opening reads the header alone: its checksum
    and the file's size are checked then, the sections by `verify`.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises ArtifactError naming it when it is missing,
        cut, altered in its header, or of another format.
        """
        self.path = Path(path)
        self._over: Over | None = None
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ArtifactError(
                f"{path} cannot be opened ({error.strerror}); {WHAT_TO_DO}"
            ) from error
        try:
            self._map: Any = b""
            if os.fstat(descriptor).st_size:
                self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:  # a directory, a device
            raise ArtifactError(
                f"{path} cannot be mapped into memory ({error.strerror}); {WHAT_TO_DO}"
            ) from error
        finally:
            os.close(descriptor)
        self._header = header = read_header(self._map, self.path)
        self.generation: str = header["generation"]
        self.codebook_hash: str = header["codebook_hash"]
        self.codebook_size: int = header["schema"]["codebook_size"]
        self.length: int = header["schema"]["length"]
        self.schema_hash: str = header["schema_hash"]
        self.has_second: bool = header["schema"].get("second", False)
        self.as_of, self.servable_at, self.computed_at = (
            datetime.fromisoformat(header[name]) for name in ("as_of", "servable_at", "computed_at")
        )
        sections = {name: self._section(**where) for name, where in header["sections"].items()}
        self._records = sections["records"]
        self._profiles = sections["profiles"].view(PROFILE)[:, 0]
        self._profile_type = profile_type(self.length if self.has_second else 0)
        self.record = record_type(header["schema"])
        constants = header["schema"]["constant_weights"]
        self._constant = np.array([c or 0 for c in constants], np.float32)
        self._stored = span(np.flatnonzero([c is None for c in constants]))
        self._codes = PackedCodes.stored(header["schema"])
        strings = None
        if "id_offsets" in sections:
            strings = self._sound(
                lambda: _arrow_strings(sections["id_offsets"], sections["id_bytes"])
            )
        self._index = IdIndex(
            sections["keys"], sections["starts"], header["base"], header["seed"], strings
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self._header["crc32"])

    def __len__(self) -> int:
        return len(self._index.keys)

    @property
    def id_type(self) -> str:
        """'string' or 'int64'."""
        return self._index.id_type

    @property
    def item_ids(self) -> np.ndarray:
        """Every id in the file's order, removed items included: int64 or str [N]."""
        return self._sound(self._index.ids)

    def verify(self) -> None:
        """Read the whole file once.

        Raises ArtifactError when a bit differs from what was written.
        """
        got = zlib.crc32(memoryview(self._map)[self._header["payload_offset"] :])
        if got != self._header["crc32"]:
            raise ArtifactError(
                f"{self.path} has CRC-32 {got:08x}, its header says {self._header['crc32']:08x};"
                f" the file was altered, {WHAT_TO_DO}"
            )

    def lookup(self, item_ids: Iterable[Any]) -> SidTable:
        """These items in this order, repeats kept.

        Unknown and removed ones have found = False, codes -1 and weights 0. Raises InputError as
        `checked_ids`, ArtifactError when the file turns out to be altered.
        """
        wanted = checked_ids(item_ids, self.id_type)
        return self._table(wanted, self.gather(wanted))

    def features(self, item_ids: Iterable[Any]) -> pa.Table:
        """The same as columns, named and typed as a point-in-time join shows them."""
        return feature_table(self.gather(checked_ids(item_ids, self.id_type)))

    def table(self) -> tuple[SidTable, np.ndarray]:
        """Every row of the file, in its order, and each row's cut-off.

        int64 [N], microseconds since 1970 UTC.
        """
        gathered = self._sound(lambda: self._decode(np.arange(len(self))))
        return self._table(self.item_ids, gathered), gathered.profile["sid_as_of"]

    def overlaid(self, over: "Over") -> "PackedSnapshot":
        """The same file, whose answers are those of `over`, which gets the ids and its answer."""
        laid = copy.copy(self)
        laid._over = over
        return laid

    def gather(self, item_ids: np.ndarray) -> Gathered:
        """What `lookup` returns, for ids that are checked already, as bare arrays."""
        stored = self._gather_stored(item_ids)
        return stored if self._over is None else self._over(item_ids, stored)

    def _gather_stored(self, item_ids: np.ndarray) -> Gathered:
        starts = range(0, max(len(item_ids), 1), ROWS_AT_ONCE)
        parts = [self._gather(item_ids[start : start + ROWS_AT_ONCE]) for start in starts]
        return (
            parts[0]
            if len(parts) == 1
            else Gathered(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        )

    def unknown_rows(self, rows: int) -> Gathered:
        """What `gather` returns for so many items that are unknown."""
        return self._decode(np.full(rows, len(self)))

    def _gather(self, item_ids: np.ndarray) -> Gathered:
        return self._sound(lambda: self._decode(self._index.find(item_ids)))

    def _sound(self, read: Callable[[], T]) -> T:
        """What `read` returns.

        A row, profile or string that is not there means
        that the file is no longer what was written.
        """
        try:
            return read()
        except IndexError as error:
            raise ArtifactError(
                f"{self.path} points outside of itself; the file was altered, {WHAT_TO_DO}"
            ) from error

    def _decode(self, rows: np.ndarray) -> Gathered:
        raw = self._records.take(rows, axis=0)
        record = raw.view(self.record)[:, 0]
        sid = self._unpacked(raw, "code")
        weight = np.where(sid >= 0, self._constant, np.float32(0))
        weight[:, self._stored] = record["weight"]
        shared = self._profiles.take(record["profile"])
        if not self.has_second:
            return Gathered(sid, weight, shared)
        profile = np.empty(len(rows), self._profile_type)
        for name in ("sid_as_of", *SHARED):
            profile[name] = shared[name]
        profile["sid_second"] = self._unpacked(raw, "second")
        profile["sid_second_weight"] = record["second_weight"]
        return Gathered(sid, weight, profile)

    def _unpacked(self, records: np.ndarray, field: str) -> np.ndarray:
        assert self.record.fields is not None, "a record has fields"
        codes = self._codes.unpacked(records, at=self.record.fields[field][1])
        codes += NO_CODE
        return codes

    def _table(self, item_ids: np.ndarray, gathered: Gathered) -> SidTable:
        sid, weight, profile = gathered
        columns = shared_columns(profile)
        try:
            return SidTable(
                item_ids=item_ids,
                sid=sid,
                sid_weight=weight,
                **columns,
                generation=self.generation,
                codebook_size=self.codebook_size,
                as_of=self.as_of,
            )
        except InputError as error:
            # the writer's table was sound, so these bits are not the ones it wrote
            raise ArtifactError(
                f"{self.path} holds values that cannot be ({error}); the file was altered,"
                f" {WHAT_TO_DO}"
            ) from error

    def _section(self, offset: int, dtype: str, shape: list[int]) -> np.ndarray:
        return np.frombuffer(self._map, dtype, int(np.prod(shape)), offset).reshape(shape)


def feature_table(gathered: Gathered) -> pa.Table:
    """What was gathered as `sid_found` bool, then SID_FEATURES without nulls, and SECOND_FEATURES
    where they are told.

    `sid_as_of` is timestamp[us, UTC],
    null for unknown items (as `rows.with_missing_visible` has it).
    """
    sid, weight, profile = gathered
    offsets = pa.array(np.arange(len(sid) + 1, dtype=np.int32) * sid.shape[1])
    as_of, shared = profile["sid_as_of"], shared_columns(profile)
    second = {name: shared[name] for name in SECOND_FEATURES.names if name in shared}
    columns = {
        "sid_found": pa.array(profile["found"]),
        **{
            name: pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))
            for name, matrix in {"sid": sid, "sid_weight": weight, **second}.items()
        },
        **{
            name: pa.array(profile[name], SID_FEATURES.field(name).type)
            for name in ("reliability", "alignment", "is_cold", "collision_count")
        },
        "sid_as_of": pa.array(as_of, mask=as_of == NO_TIME).cast(TIME),
    }
    return pa.table(columns)


def _arrow_strings(offsets: np.ndarray, text: np.ndarray) -> pa.Array:
    """The strings without copying. Raises IndexError when they end outside of the text."""
    kind = pa.large_string() if offsets.dtype.itemsize == 8 else pa.string()
    try:
        return pa.Array.from_buffers(
            kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
        )
    except pa.ArrowInvalid as error:
        raise IndexError(str(error)) from error


def _reopened(path: Path, crc32: int) -> PackedSnapshot:
    """The same file in another process.

    Raises ArtifactError when another publication took its place meanwhile.
    """
    snapshot = PackedSnapshot(path)
    if snapshot._header["crc32"] != crc32:
        raise ArtifactError(
            f"{path} was published anew since it was opened; open the published timeline again"
        )
    return snapshot
