"""All codes of a generation at one time in one packed file, memory-mapped. Reads: SidTable. Writes:
`<as_of>.sids`. No feast here.

    bytes 0-19   magic "ADCSIDS\\0", format version, length and CRC-32 of the header (three
                 little-endian uint32)
    header       JSON: whose codes these are, the layout of a record, where each section lies,
                 CRC-32 of all sections
    sections     keys, starts (store.id_index); records; profiles; for string ids id_offsets and
                 id_bytes (UTF-8)

A record is an item's weights, codes and profile number, without padding. Codes are stored as code +
1, 0 = no code: in a byte each where K fits one, else in as many bits as K needs, side by side (K =
300: nine bits; lowest first), filled up to a whole byte, of which there are four at least. Weights
are stored in the spec's precision, and only at positions where they vary; a weight that is the same
wherever there is a code (1 at shared positions) stands in the header. A profile is what many items
share: reliability, alignment, collision count, cold, found, cut-off; profile 0 is that of an item
nobody knows. All of it returns the same bits that went in.

Legend: N items, M items asked for, L positions.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.rows import SID_FEATURES, TIME
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE
from adc_features.errors import ArtifactError, InputError
from adc_features.store.packed.id_index import IdIndex, build_index, checked_ids, string_buffers

MAGIC = b"ADCSIDS\0"
VERSION = 2
_START = struct.Struct("<8sIII")
_ALIGNED = 64
_WORD = 4
ROWS_AT_ONCE = 65_536
"""Rows gathered at a time: what they need stays in the processor's cache."""

_SHARED = ("reliability", "alignment", "collision_count", "is_cold", "found")
PROFILE = np.dtype(
    [
        ("sid_as_of", "<i8"),
        ("reliability", "<f4"),
        ("alignment", "<f4"),
        ("collision_count", "<i4"),
        ("is_cold", "?"),
        ("found", "?"),
    ]
)
_NO_TIME = np.iinfo(np.int64).min
_NOBODY = np.array([(_NO_TIME, 0, 0, 0, True, False)], PROFILE)
T = TypeVar("T")
_DO = "publish the generation again, which writes its packed files anew"


class Gathered(NamedTuple):
    """What a file says of M items. sid: int32 [M, L]. sid_weight: float32 [M, L]. profile: PROFILE
    [M].
    """

    sid: np.ndarray
    sid_weight: np.ndarray
    profile: np.ndarray


class PackedSnapshot:
    """An open file; threads may share it, and it stays whole when the file is replaced or deleted.

    generation, codebook_hash, codebook_size, length: whose codes. as_of: exclusive cut-off of the
    newest row; servable_at, computed_at: aware UTC. Opening reads the header alone: its checksum
    and the file's size are checked then, the sections by `verify`.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises ArtifactError naming it when it is missing, cut, altered in its
        header, or of another format.
        """
        self.path = Path(path)
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be opened ({error.strerror}); {_DO}") from error
        try:
            self._map = (
                mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
                if os.fstat(descriptor).st_size
                else b""
            )
        except OSError as error:  # a directory, a device
            raise ArtifactError(
                f"{path} cannot be mapped into memory ({error.strerror}); {_DO}"
            ) from error
        finally:
            os.close(descriptor)
        self._header = header = _header(self._map, self.path)
        self.generation: str = header["generation"]
        self.codebook_hash: str = header["codebook_hash"]
        self.codebook_size: int = header["schema"]["codebook_size"]
        self.length: int = header["schema"]["length"]
        self.schema_hash: str = header["schema_hash"]
        self.as_of, self.servable_at, self.computed_at = (
            datetime.fromisoformat(header[name]) for name in ("as_of", "servable_at", "computed_at")
        )
        sections = {name: self._section(**where) for name, where in header["sections"].items()}
        self._records, self._profiles = (
            sections["records"],
            sections["profiles"].view(PROFILE)[:, 0],
        )
        self.record = record_type(header["schema"])
        constants = header["schema"]["constant_weights"]
        self._constant = np.array([c or 0 for c in constants], np.float32)
        self._stored = _span(np.flatnonzero([c is None for c in constants]))
        self._codes = _Codes.of(self.codebook_size, self.length)
        strings = (
            _arrow_strings(sections["id_offsets"], sections["id_bytes"])
            if "id_offsets" in sections
            else None
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
        """Read the whole file once. Raises ArtifactError when a bit differs from what was
        written.
        """
        if (
            got := zlib.crc32(memoryview(self._map)[self._header["payload_offset"] :])
        ) != self._header["crc32"]:
            raise ArtifactError(
                f"{self.path} has CRC-32 {got:08x}, its header says {self._header['crc32']:08x};"
                f" the file was altered, {_DO}"
            )

    def lookup(self, item_ids: Iterable[Any]) -> SidTable:
        """These items in this order, repeats kept; unknown and removed ones with found = False,
        codes -1 and weights 0.

        Raises InputError as `checked_ids`, ArtifactError when the file turns out to be altered.
        """
        wanted = checked_ids(item_ids, self.id_type)
        return self._table(wanted, self.gather(wanted))

    def features(self, item_ids: Iterable[Any]) -> pa.Table:
        """The same as `sid_found` and SID_FEATURES, named and typed as a point-in-time join shows
        them.
        """
        return feature_table(self.gather(checked_ids(item_ids, self.id_type)))

    def table(self) -> tuple[SidTable, np.ndarray]:
        """Every row of the file, in its order, and each row's cut-off (int64 [N], microseconds
        since 1970 UTC).
        """
        gathered = self._sound(lambda: self._decode(np.arange(len(self))))
        return self._table(self.item_ids, gathered), gathered.profile["sid_as_of"]

    def gather(self, item_ids: np.ndarray) -> Gathered:
        """What `lookup` returns, for ids that are checked already, as bare arrays."""
        starts = range(0, max(len(item_ids), 1), ROWS_AT_ONCE)
        parts = [self._gather(item_ids[start : start + ROWS_AT_ONCE]) for start in starts]
        return (
            parts[0]
            if len(parts) == 1
            else Gathered(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        )

    def nobody(self, rows: int) -> Gathered:
        """What `gather` returns for so many items that are unknown."""
        return self._decode(np.full(rows, len(self)))

    def _gather(self, item_ids: np.ndarray) -> Gathered:
        return self._sound(lambda: self._decode(self._index.find(item_ids)))

    def _sound(self, read: Callable[[], T]) -> T:
        """What `read` returns; a row, profile or string that is not there means that the file is no
        longer what was written.
        """
        try:
            return read()
        except IndexError as error:
            raise ArtifactError(
                f"{self.path} points outside of itself; the file was altered, {_DO}"
            ) from error

    def _decode(self, rows: np.ndarray) -> Gathered:
        raw = self._records.take(rows, axis=0)
        record = raw.view(self.record)[:, 0]
        sid = self._codes.unpacked(raw, at=self.record["weight"].itemsize)
        sid += NO_CODE
        weight = np.where(sid >= 0, self._constant, np.float32(0))
        weight[:, self._stored] = record["weight"]
        return Gathered(sid, weight, self._profiles.take(record["profile"]))

    def _table(self, item_ids: np.ndarray, gathered: Gathered) -> SidTable:
        sid, weight, profile = gathered
        columns = {name: np.ascontiguousarray(profile[name]) for name in _SHARED}
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
                f"{self.path} holds values that cannot be ({error}); the file was altered, {_DO}"
            ) from error

    def _section(self, offset: int, dtype: str, shape: list[int]) -> np.ndarray:
        return np.frombuffer(self._map, dtype, int(np.prod(shape)), offset).reshape(shape)


def record_type(schema: Mapping[str, Any]) -> np.dtype:
    """How one record is laid out: stored weights, codes + 1, profile number; packed,
    little-endian.
    """
    stored = sum(c is None for c in schema["constant_weights"])
    code_bytes = _Codes.of(schema["codebook_size"], schema["length"]).bytes
    return np.dtype(
        [
            ("weight", schema["weight"], (stored,)),
            ("code", "u1", (code_bytes,)),
            ("profile", schema["profile"]),
        ]
    )


class _Codes(NamedTuple):
    """How L codes lie side by side. bits: of one code. begin: int64 [L], bit where each begins.
    bytes: of a record's codes.
    """

    bits: int
    begin: np.ndarray
    bytes: int

    @classmethod
    def of(cls, codebook_size: int, length: int) -> "_Codes":
        bits = max(8, codebook_size.bit_length())
        total = -(-length * bits // 8)
        return cls(bits, np.arange(length) * bits, total if bits == 8 else max(total, _WORD))

    def packed(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [N, bytes] of numbers int32 [N, L] below 2 ** bits."""
        if self.bits == 8:
            return codes.astype(np.uint8)
        out = np.zeros((len(codes), self.bytes), np.uint8)
        for start in range(0, len(codes), ROWS_AT_ONCE):
            part = codes[start : start + ROWS_AT_ONCE]
            bits = (part[:, :, None] >> np.arange(self.bits)).astype(np.uint8) & 1
            packed = np.packbits(bits.reshape(len(part), -1), axis=1, bitorder="little")
            out[start : start + ROWS_AT_ONCE, : packed.shape[1]] = packed
        return out

    def unpacked(self, records: np.ndarray, *, at: int) -> np.ndarray:
        """The inverse, int32 [N, L], of records uint8 [N, W], contiguous, whose codes begin at byte
        `at`.
        """
        if self.bits == 8:
            return records[:, at : at + self.bytes].astype(np.int32)
        n, width = records.shape
        # the four bytes from here on hold the code: it has 16 bits at most
        place = np.minimum(at + self.begin // 8, width - _WORD)
        words = np.ndarray((n, width - _WORD + 1), "<u4", records, strides=(width, 1))[:, place]
        words >>= (self.begin + 8 * (at - place)).astype(np.uint32)
        words &= np.uint32((1 << self.bits) - 1)
        return words.view(np.int32)


def feature_table(gathered: Gathered) -> pa.Table:
    """bool `sid_found`, then SID_FEATURES without nulls, `sid_as_of` as timestamp[us, UTC], null
    for unknown items (as `rows.with_missing_visible`).
    """
    sid, weight, profile = gathered
    offsets = pa.array(np.arange(len(sid) + 1, dtype=np.int32) * sid.shape[1])
    as_of = profile["sid_as_of"]
    columns = {
        "sid_found": pa.array(profile["found"]),
        "sid": pa.ListArray.from_arrays(offsets, pa.array(sid.reshape(-1))),
        "sid_weight": pa.ListArray.from_arrays(offsets, pa.array(weight.reshape(-1))),
        **{
            name: pa.array(profile[name], SID_FEATURES.field(name).type)
            for name in ("reliability", "alignment", "is_cold", "collision_count")
        },
        "sid_as_of": pa.array(as_of, mask=as_of == _NO_TIME).cast(TIME),
    }
    return pa.table(columns)


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
    """Pack a snapshot whose rows have the cut-offs sid_as_of (int64 [N], microseconds since 1970
    UTC) into `path`: beside, synced, renamed.

    weight_dtype: 'float32' or 'float16'. Raises InputError when a weight does not fit it exactly:
    encode rounds once, nothing rounds after.
    """
    index, order = build_index(snapshot.item_ids)
    numbers, profiles = _profiles(snapshot, sid_as_of)
    weight, constants = _weights(snapshot, np.dtype(weight_dtype).newbyteorder("<"))
    codes = _Codes.of(snapshot.codebook_size, snapshot.length)
    schema = {
        "id_type": index.id_type,
        "codebook_size": snapshot.codebook_size,
        "length": snapshot.length,
        "code_bits": codes.bits,
        "weight": weight.dtype.str,
        "constant_weights": constants,
        "profile": _smallest(len(profiles) - 1).str,
        "profile_fields": PROFILE.descr,
    }
    # the last one is nobody's: no codes, profile 0
    records = np.zeros(len(snapshot) + 1, record_type(schema))
    records["weight"][:-1], records["code"][:-1], records["profile"][:-1] = (
        weight[order],
        codes.packed((snapshot.sid - NO_CODE)[order]),
        numbers[order],
    )
    sections = {
        "keys": index.keys,
        "starts": index.starts,
        "records": _bytes(records),
        "profiles": _bytes(profiles),
    }
    if index.strings is not None:
        offsets, text = string_buffers(index.strings)
        sections |= {"id_offsets": offsets, "id_bytes": text[: offsets[-1]]}
    facts = {
        "generation": snapshot.generation,
        "codebook_hash": codebook_hash,
        "as_of": snapshot.as_of.isoformat(),
        "servable_at": servable_at.isoformat(),
        "computed_at": computed_at.isoformat(),
        "items": len(snapshot),
        "base": index.base,
        "seed": index.seed,
        "schema": schema,
        "schema_hash": _schema_hash(schema),
    }
    _write(Path(path), facts, sections)


def _weights(snapshot: SidTable, dtype: np.dtype) -> tuple[np.ndarray, list[float | None]]:
    """Weights at the positions where they vary [N, S], in `dtype`, and for each position its
    constant or None.
    """
    weight, coded = snapshot.sid_weight, snapshot.sid >= 0
    constants: list[float | None] = []
    for position in range(snapshot.length):
        values = weight[coded[:, position], position]
        one = values[:1] if len(values) else np.zeros(1, np.float32)
        same = np.where(coded[:, position], one, np.float32(0)).view(
            np.int32
        ) == np.ascontiguousarray(weight[:, position]).view(np.int32)
        constants.append(float(one[0]) if same.all() else None)
    stored = weight[:, [c is None for c in constants]]
    with np.errstate(over="ignore"):
        packed = stored.astype(dtype)
    if not (packed.astype(np.float32) == stored).all():
        raise InputError(
            f"weights do not fit the spec's {dtype.name} exactly; encode the snapshot with its"
            " generation, which rounds them once"
        )
    return packed, constants


def _profiles(snapshot: SidTable, sid_as_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's profile number [N] and the distinct profiles, nobody's first."""
    rows = np.empty(len(snapshot) + 1, PROFILE)
    rows[:1], rows["sid_as_of"][1:] = _NOBODY, sid_as_of
    for name in _SHARED:
        rows[name][1:] = getattr(snapshot, name)
    column = pa.Array.from_buffers(
        pa.binary(PROFILE.itemsize), len(rows), [None, pa.py_buffer(rows)]
    )
    encoded = pc.dictionary_encode(column)
    distinct = np.frombuffer(encoded.dictionary.buffers()[1], PROFILE, len(encoded.dictionary))
    return encoded.indices.to_numpy()[1:], distinct


def _span(places: np.ndarray) -> np.ndarray | slice:
    """Places as a slice where they are adjacent, as those of behavioural positions are: numpy
    copies a slice many times faster.
    """
    adjacent = len(places) and places[-1] - places[0] == len(places) - 1
    return slice(int(places[0]), int(places[-1]) + 1) if adjacent else places


def _smallest(largest: int) -> np.dtype:
    """The smallest unsigned little-endian integer that holds `largest`."""
    return np.min_scalar_type(largest).newbyteorder("<")


def _bytes(array: np.ndarray) -> np.ndarray:
    """Records as uint8 [N, bytes of one]."""
    return array.view(np.uint8).reshape(len(array), array.dtype.itemsize)


def _arrow_strings(offsets: np.ndarray, text: np.ndarray) -> pa.Array:
    kind = pa.large_string() if offsets.dtype.itemsize == 8 else pa.string()
    return pa.Array.from_buffers(
        kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )


def _schema_hash(schema: Mapping[str, Any]) -> str:
    return sha256(json.dumps({"format": VERSION, **schema}, sort_keys=True).encode()).hexdigest()


def _write(path: Path, facts: Mapping[str, Any], sections: Mapping[str, np.ndarray]) -> None:
    def placed(header_bytes: int, crc32: int) -> tuple[dict[str, Any], bytes]:
        at = _up(_START.size + header_bytes)
        header = {**facts, "sections": {}, "payload_offset": at}
        for name, array in sections.items():
            header["sections"][name] = {
                "offset": at,
                "dtype": array.dtype.str,
                "shape": list(array.shape),
            }
            at = _up(at + array.nbytes)
        text = json.dumps({**header, "file_bytes": at, "crc32": crc32}).encode()
        return header, text.ljust(header_bytes)

    # up to the first section: every byte is checked
    room = _up(_START.size + len(placed(0, 2**32 - 1)[1]) + 16 * len(sections)) - _START.size
    header, _ = placed(room, 0)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            crc32, at = 0, header["payload_offset"]
            file.seek(at)
            for array in sections.values():
                block = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                for piece in (block, b"\0" * (_up(at + len(block)) - at - len(block))):
                    file.write(piece)
                    crc32, at = zlib.crc32(piece, crc32), at + len(piece)
            _, text = placed(room, crc32)
            file.seek(0)
            file.write(_START.pack(MAGIC, VERSION, len(text), zlib.crc32(text)) + text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _header(data: Any, path: Path) -> dict[str, Any]:
    """The header of an open file, checked. Raises ArtifactError."""
    if len(data) < _START.size or (start := _START.unpack(data[: _START.size]))[0] != MAGIC:
        raise ArtifactError(
            f"{path} is not a packed snapshot ({len(data)} bytes, first {bytes(data[:8])!r}); {_DO}"
        )
    _, version, length, crc32 = start
    if version != VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, this library reads {VERSION}; {_DO}"
        )
    text = data[_START.size : _START.size + length]
    if zlib.crc32(text) != crc32:
        raise ArtifactError(f"{path} has an altered or cut header (CRC-32 differs); {_DO}")
    header = json.loads(text)
    if len(data) != header["file_bytes"]:
        raise ArtifactError(
            f"{path} has {len(data)} bytes, its header says {header['file_bytes']}; the file was"
            f" cut or appended to, {_DO}"
        )
    if header["schema_hash"] != _schema_hash(header["schema"]) or header["schema"][
        "profile_fields"
    ] != [list(field) for field in PROFILE.descr]:
        raise ArtifactError(
            f"{path} was written with a schema that this library does not read; {_DO}"
        )
    return header


def _up(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _reopened(path: Path, crc32: int) -> PackedSnapshot:
    """The same file in another process. Raises ArtifactError when another publication took its
    place meanwhile.
    """
    snapshot = PackedSnapshot(path)
    if snapshot._header["crc32"] != crc32:
        raise ArtifactError(
            f"{path} was published anew since it was opened; open the published timeline again"
        )
    return snapshot
