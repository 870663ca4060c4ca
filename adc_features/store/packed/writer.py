"""Pack a snapshot into one file. Reads: codes in pieces. Writes: `<as_of>.sids`; no feast here.

The pieces are read twice. The first time tells what the layout depends on: how many items there
are, which weights are the same everywhere, which profiles there are. The second time the records
are spread over working files by ranges of buckets, each of which is then sorted and written in its
turn, so that memory holds one of them, and some ten bytes an item.

Legend: N items, L positions, S positions whose weights are stored.
"""

import json
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import fresh_file
from adc_features.codes.id_keys import id_keys
from adc_features.codes.sid_pieces import SidPieces
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE
from adc_features.errors import InputError
from adc_features.partition_files import MOST_FILES, PartitionWriter, read_partition
from adc_features.store.packed.id_index import bucket_count, buckets, string_buffers
from adc_features.store.packed.layout import (
    MAGIC,
    PROFILE,
    START,
    PackedCodes,
    aligned,
    record_type,
    schema_hash,
    version_of,
)
from adc_features.store.packed.profiles import (
    UNKNOWN,
    Profiles,
    ProfileSpool,
    binary_column,
    profile_rows,
)

AT_ONCE = 1 << 20
"""Rows of a working file, about: what is sorted at a time."""
_BLOCK = 1 << 20


class Stamped(NamedTuple):
    """Some codes, and the cut-off of each row: int64 [n], microseconds since 1970 UTC."""

    codes: SidTable
    sid_as_of: np.ndarray


Pieces = Callable[[], Iterable[Stamped]]
"""Reads a snapshot's rows from the start."""


def write_snapshot(
    path: Path,
    snapshot: SidTable,
    *,
    sid_as_of: np.ndarray,
    servable_at: datetime,
    computed_at: datetime,
    codebook_hash: str,
    weight_dtype: str,
) -> None:
    """`write_pieces` of a snapshot in memory. sid_as_of: of each row, as in `Stamped`."""
    write_pieces(
        path,
        SidPieces.of(snapshot),
        lambda: [Stamped(snapshot, sid_as_of)],
        rows=len(snapshot),
        servable_at=servable_at,
        computed_at=computed_at,
        codebook_hash=codebook_hash,
        weight_dtype=weight_dtype,
    )


def write_pieces(
    path: Path,
    snapshot: SidPieces,
    pieces: Pieces,
    *,
    rows: int,
    servable_at: datetime,
    computed_at: datetime,
    codebook_hash: str,
    weight_dtype: str,
) -> None:
    """Pack a snapshot into `path`, which is replaced at once. How rows are divided into pieces
    changes no byte of it.

    snapshot: whose codes these are. pieces: all rows, at least one, those that are carried from the
    snapshot before included. rows: how many there are at most, about. weight_dtype: 'float32' or
    'float16'. Raises InputError when a weight does not fit it exactly (encode rounds once, nothing
    rounds after) and when an id stands twice.
    """
    path, files = Path(path), min(MOST_FILES, max(1, -(-rows // AT_ONCE)))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        found = _survey(pieces, snapshot.length, Path(scratch), files)
        codes = PackedCodes.of(snapshot.codebook_size, snapshot.length)
        schema = {
            "id_type": "string" if found.text is not None else "int64",
            "codebook_size": snapshot.codebook_size,
            "length": snapshot.length,
            "code_bits": codes.bits,
            "weight": np.dtype(weight_dtype).newbyteorder("<").str,
            "constant_weights": found.constants,
            "profile": _smallest(found.profiles.distinct - 1).str,
            "profile_fields": PROFILE.descr,
            **({"second": True} if snapshot.has_second else {}),
        }
        facts = {
            "generation": snapshot.generation,
            "codebook_hash": codebook_hash,
            "as_of": snapshot.as_of.isoformat(),
            "servable_at": servable_at.isoformat(),
            "computed_at": computed_at.isoformat(),
            "items": found.rows,
            "base": found.base,
        }
        packing = _Packing(pieces, Path(scratch), files, found, schema)
        with fresh_file(path) as file:
            seed = 0  # two ids have one hash in about one of 10^5 catalogues of 10M items
            while not packing.fill(file, facts, seed):
                seed += 1


# ---- what the layout depends on


class _Survey(NamedTuple):
    """rows: N. base: the smallest integer id, 0 for strings. wide: whether keys need 64 bits.

    text: bytes of all ids as UTF-8, None for integers. constants: of each position the weight that
    is the same wherever there is a code, or None.
    """

    rows: int
    base: int
    wide: bool
    text: int | None
    constants: list[float | None]
    profiles: Profiles


def _survey(pieces: Pieces, length: int, scratch: Path, files: int) -> _Survey:
    directory = scratch / "profiles"
    directory.mkdir()
    profiles, weights = ProfileSpool(directory, files), _Constants(length)
    rows, text, smallest, largest = 0, None, 0, 0
    for codes, sid_as_of in pieces():
        ids = codes.item_ids
        if ids.dtype.kind == "U":
            text = (text or 0) + len(string_buffers(pa.array(ids, pa.large_string()))[1])
        elif len(ids):
            low, high = int(ids.min()), int(ids.max())
            smallest, largest = (min(low, smallest), max(high, largest)) if rows else (low, high)
        profiles.add(profile_rows(codes, sid_as_of))
        weights.add(codes)
        rows += len(ids)
    wide = text is not None or largest - smallest >= 1 << 32
    return _Survey(rows, smallest, wide, text, weights.found(), profiles.numbered())


class _Constants:
    """Which positions have one weight wherever there is a code.

    one: bits of the first weight of each position, int32 [L]. known: whether there was one yet.
    same: whether all that came is that one, or 0 where there is no code.
    """

    def __init__(self, length: int) -> None:
        self._one, self._known = np.zeros(length, np.int32), np.zeros(length, bool)
        self._same = np.ones(length, bool)

    def add(self, codes: SidTable) -> None:
        if not len(codes):
            return
        coded, bits = codes.sid >= 0, np.ascontiguousarray(codes.sid_weight).view(np.int32)
        fresh = np.flatnonzero(~self._known & coded.any(axis=0))
        self._one[fresh] = bits[coded[:, fresh].argmax(axis=0), fresh]
        self._known[fresh] = True
        self._same &= (np.where(coded, self._one, np.int32(0)) == bits).all(axis=0)

    def found(self) -> list[float | None]:
        pairs = zip(self._one.view(np.float32).tolist(), self._same.tolist(), strict=True)
        return [one if same else None for one, same in pairs]


# ---- the sections


class _Section(NamedTuple):
    offset: int
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class _Packing:
    """A file on its way. scratch: a working directory; files: how many records are spread over."""

    pieces: Pieces
    scratch: Path
    files: int
    found: _Survey
    schema: Mapping[str, Any]

    def fill(self, file: BinaryIO, facts: Mapping[str, Any], seed: int) -> bool:
        """Write the whole file; False where two strings have one hash under this seed."""
        facts = {
            **facts,
            "seed": seed,
            "schema": self.schema,
            "schema_hash": schema_hash(self.schema, version_of(self.schema)),
        }
        room, sections, size = self._placed(facts)
        file.truncate(size)
        with tempfile.TemporaryDirectory(dir=self.scratch) as spool:
            self._spread(Path(spool), seed, file, sections["profiles"].offset)
            if not self._sort(Path(spool), file, sections):
                return False
        file.flush()
        text = _header_text(facts, sections, size, room, crc32=_crc32(file, sections, size))
        file.seek(0)
        file.write(START.pack(MAGIC, version_of(self.schema), len(text), zlib.crc32(text)) + text)
        return True

    def _placed(self, facts: Mapping[str, Any]) -> tuple[int, dict[str, _Section], int]:
        """Bytes of the header, where each section lies, and bytes of the file."""
        found, rows = self.found, self.found.rows
        arrays: dict[str, tuple[str, list[int]]] = {
            "keys": ("<u8" if found.wide else "<u4", [rows]),
            "starts": ("<u4", [bucket_count(rows) + 1]),
            # the last one stands for unknown items: no codes, profile 0
            "records": ("|u1", [rows + 1, self._record.itemsize]),
            "profiles": ("|u1", [found.profiles.distinct, PROFILE.itemsize]),
        }
        if found.text is not None:
            arrays["id_offsets"] = ("<i8" if found.text >= 1 << 31 else "<i4", [rows + 1])
            arrays["id_bytes"] = ("|u1", [found.text])

        def placed(room: int) -> tuple[dict[str, _Section], int]:
            at, sections = aligned(START.size + room), {}
            for name, (dtype, shape) in arrays.items():
                sections[name] = _Section(at, dtype, shape)
                at = aligned(at + int(np.prod(shape)) * np.dtype(dtype).itemsize)
            return sections, at

        # up to the first section: every byte is checked
        text = _header_text(facts, *placed(0), 0, crc32=2**32 - 1)
        room = aligned(START.size + len(text) + 16 * len(arrays)) - START.size
        return room, *placed(room)

    @property
    def _record(self) -> np.dtype:
        return record_type(self.schema)

    def _spread(self, spool: Path, seed: int, file: BinaryIO, profiles_at: int) -> None:
        """Records into working files by ranges of buckets; profiles into their section, each where
        it first appears.
        """
        count, profiles, start = bucket_count(self.found.rows), self.found.profiles, 0
        file.seek(profiles_at)
        file.write(UNKNOWN.tobytes())
        fields = {"key": pa.uint64(), "record": pa.binary(self._record.itemsize)}
        if self.found.text is not None:
            fields["id"] = pa.large_string()
        with PartitionWriter(spool, pa.schema(fields), self.files) as writer:
            for codes, sid_as_of in self.pieces():
                rows = slice(start, start + len(codes))
                start = rows.stop
                fresh = profile_rows(codes, sid_as_of)[profiles.first[rows]]
                file.write(fresh.tobytes())
                keys = id_keys(codes.item_ids, base=self.found.base, seed=seed)
                records = self._records(codes, profiles.number[rows])
                columns = [pa.array(keys), binary_column(records)]
                if self.found.text is not None:
                    columns.append(pa.array(codes.item_ids, pa.large_string()))
                table = pa.table(columns, schema=writer.schema)
                writer.add(table, buckets(keys, count) * self.files // count)

    def _records(self, codes: SidTable, profile: np.ndarray) -> np.ndarray:
        """The records of some items. Raises InputError when a weight does not fit exactly."""
        stored = codes.sid_weight[:, [c is None for c in self.found.constants]]
        packed = PackedCodes.stored(self.schema)
        records = np.zeros(len(codes), self._record)
        records["weight"] = self._exactly(stored)
        records["code"] = packed.packed(codes.sid - NO_CODE)
        if codes.sid_second is not None and codes.sid_second_weight is not None:
            records["second"] = packed.packed(codes.sid_second - NO_CODE)
            records["second_weight"] = self._exactly(codes.sid_second_weight)
        records["profile"] = profile
        return records

    def _exactly(self, weight: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = weight.astype(self.schema["weight"])
        if not (stored.astype(np.float32) == weight).all():
            raise InputError(
                f"weights do not fit the spec's {stored.dtype.name} exactly; encode the snapshot"
                " with its generation, which rounds them once"
            )
        return stored

    def _sort(self, spool: Path, file: BinaryIO, sections: Mapping[str, _Section]) -> bool:
        """Write the records in the order of their buckets, file by file; False as `fill`."""
        count = bucket_count(self.found.rows)
        ends = [-(-number * count // self.files) for number in range(self.files + 1)]
        into = {name: _Filling(file, section) for name, section in sections.items()}
        rows = text = 0
        into["starts"].add(np.zeros(1))
        if self.found.text is not None:
            into["id_offsets"].add(np.zeros(1))
        for number, (begin, end) in enumerate(pairwise(ends)):
            table = read_partition(spool, number).combine_chunks()
            keys = table["key"].to_numpy()
            if len(np.unique(keys)) < len(keys):
                if self.found.text is None or pc.count_distinct(table["id"]).as_py() < len(keys):
                    raise InputError("an item id stands more than once; keep one row an item")
                return False
            bucket = buckets(keys, count) - begin
            order = np.argsort(bucket, kind="stable")
            into["keys"].add(keys[order])
            into["starts"].add(rows + np.cumsum(np.bincount(bucket, minlength=end - begin)))
            into["records"].add(_binary(table["record"], self._record.itemsize)[order])
            rows += len(keys)
            if self.found.text is not None and len(keys):
                offsets, letters = string_buffers(
                    table["id"].combine_chunks().take(pa.array(order))
                )
                into["id_offsets"].add(text + offsets[1:])
                into["id_bytes"].add(letters[: offsets[-1]])
                text += int(offsets[-1])
        return True


@dataclass
class _Filling:
    """A section that is filled from its beginning."""

    file: BinaryIO
    section: _Section
    done: int = 0

    def add(self, array: np.ndarray) -> None:
        block = np.ascontiguousarray(array, self.section.dtype).tobytes()
        self.file.seek(self.section.offset + self.done)
        self.file.write(block)
        self.done += len(block)


def _binary(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of binary of one size as uint8 [n, width]."""
    array = column.combine_chunks()
    if not len(array):
        return np.empty((0, width), np.uint8)
    return np.frombuffer(array.buffers()[1], np.uint8, len(array) * width).reshape(-1, width)


def _smallest(largest: int) -> np.dtype:
    """The smallest unsigned little-endian integer that holds `largest`."""
    return np.min_scalar_type(largest).newbyteorder("<")


def _header_text(
    facts: Mapping[str, Any], sections: Mapping[str, _Section], size: int, room: int, *, crc32: int
) -> bytes:
    header = {
        **facts,
        "sections": {name: section._asdict() for name, section in sections.items()},
        "payload_offset": sections["keys"].offset,
        "file_bytes": size,
        "crc32": crc32,
    }
    return json.dumps(header).encode().ljust(room)


def _crc32(file: BinaryIO, sections: Mapping[str, _Section], size: int) -> int:
    """CRC-32 of all sections, read from the disk."""
    crc32 = 0
    with open(file.name, "rb") as written:
        written.seek(sections["keys"].offset)
        while block := written.read(_BLOCK):
            crc32 = zlib.crc32(block, crc32)
        if written.tell() != size:
            raise AssertionError(f"{written.tell()} bytes were written of {size}")
    return crc32
