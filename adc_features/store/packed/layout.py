"""The layout of a packed file of codes. Reads: its header. Writes: nothing.

    bytes 0-19   magic "ADCSIDS\\0", format version, length and CRC-32 of the header (three
                 little-endian uint32)
    header       JSON: whose codes these are, the layout of a record, where each section lies,
                 CRC-32 of all sections
    sections     keys, starts (packed.id_index); records; profiles; for string ids id_offsets and
                 id_bytes (UTF-8)

A record is an item's weights, codes and profile number, without padding. Codes are stored as code +
1, 0 = no code: in a byte each where K fits one, else in as many bits as K needs, side by side (K =
300: nine bits; lowest first), filled up to a whole byte, of which there are four at least. Weights
are stored in the spec's precision, and only at positions where they vary; a weight that is the same
wherever there is a code (1 at shared positions) stands in the header. A profile is what many items
share: reliability, alignment, collision count, cold, found, cut-off; profile 0 is that of an item
nobody knows. Second codes and their probabilities, of generations that tell them, stand after the
codes in every record. All of it returns the same bits that went in.

Legend: N items, L positions.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adc_features.codes.rows import SECOND_FEATURES
from adc_features.errors import ArtifactError
from adc_features.formats import refuse_newer

MAGIC = b"ADCSIDS\0"
VERSION = 3
"""The newest format: 2, with second codes; written where there are some."""
PLAIN = 2
"""The format of codes without second ones, which is written for them still: the version before
this one reads it.
"""
BEFORE = 1
"""The format before, which is read too: codes in the smallest integers that hold K."""
START = struct.Struct("<8sIII")
ALIGNED = 64
WORD = 4
ROWS_AT_ONCE = 65_536
"""Rows gathered at a time: what they need stays in the processor's cache."""
SHARED = ("reliability", "alignment", "collision_count", "is_cold", "found")
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
NO_TIME = np.iinfo(np.int64).min
"""The cut-off of an item that nobody knows."""
WHAT_TO_DO = "publish the generation again, which writes its packed files anew"


def record_type(schema: Mapping[str, Any]) -> np.dtype:
    """How one record is laid out: stored weights, codes + 1, second codes + 1 and their
    probabilities where there are some, profile number.

    It is packed, and little-endian.
    """
    stored = sum(c is None for c in schema["constant_weights"])
    code_bytes = PackedCodes.stored(schema).bytes
    second = [
        ("second", "u1", (code_bytes,)),
        ("second_weight", schema["weight"], (schema["length"],)),
    ]
    return np.dtype(
        [
            ("weight", schema["weight"], (stored,)),
            ("code", "u1", (code_bytes,)),
            *(second if schema.get("second") else []),
            ("profile", schema["profile"]),
        ]
    )


def profile_type(second: int) -> np.dtype:
    """What is read of an item beside its codes: PROFILE, and second codes and their probabilities
    at so many positions; 0 for none.
    """
    if not second:
        return PROFILE
    told = [("sid_second", "<i4", (second,)), ("sid_second_weight", "<f4", (second,))]
    return np.dtype([*PROFILE.descr, *told])


def shared_columns(profile: np.ndarray) -> dict[str, np.ndarray]:
    """Fields of a SidTable that a profile [M] holds."""
    second = [name for name in SECOND_FEATURES.names if name in (profile.dtype.names or ())]
    return {name: np.ascontiguousarray(profile[name]) for name in (*SHARED, *second)}


class PackedCodes(NamedTuple):
    """How L codes lie side by side.

    bits: of one code. begin: int64 [L], bit where each begins. bytes: of a record's codes.
    """

    bits: int
    begin: np.ndarray
    bytes: int

    @classmethod
    def of(cls, codebook_size: int, length: int) -> "PackedCodes":
        bits = max(8, codebook_size.bit_length())
        total = -(-length * bits // 8)
        return cls(bits, np.arange(length) * bits, total if bits == 8 else max(total, WORD))

    @classmethod
    def stored(cls, schema: Mapping[str, Any]) -> "PackedCodes":
        """How the codes of a file lie, by its schema: of format 2, or of format 1, whose schema
        says of which type (`code`) they are.
        """
        codes, length = cls.of(schema["codebook_size"], schema["length"]), schema["length"]
        if "code" not in schema:
            return codes
        size = np.dtype(schema["code"]).itemsize
        return cls(8 * size, np.arange(length) * 8 * size, length * size)

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
        """The inverse, int32 [N, L].

        records: uint8 [N, W], contiguous; their codes begin at byte `at`.
        """
        if self.bits == 8:
            return records[:, at : at + self.bytes].astype(np.int32)
        if self.bytes < WORD:  # one code of format 1
            code = np.ascontiguousarray(records[:, at : at + self.bytes])
            return code.view("<u2").astype(np.int32)
        n, width = records.shape
        # the four bytes from here on hold the code: it has 16 bits at most
        place = np.minimum(at + self.begin // 8, width - WORD)
        words = np.ndarray((n, width - WORD + 1), "<u4", records, strides=(width, 1))[:, place]
        words >>= (self.begin + 8 * (at - place)).astype(np.uint32)
        words &= np.uint32((1 << self.bits) - 1)
        return words.view(np.int32)


def span(places: np.ndarray) -> np.ndarray | slice:
    """Places as a slice where they are adjacent, as those of behavioural positions are.

    Numpy copies a slice many times faster.
    """
    adjacent = len(places) and places[-1] - places[0] == len(places) - 1
    return slice(int(places[0]), int(places[-1]) + 1) if adjacent else places


def schema_hash(schema: Mapping[str, Any], version: int = VERSION) -> str:
    """sha256 of a record's layout and the format's version."""
    return sha256(json.dumps({"format": version, **schema}, sort_keys=True).encode()).hexdigest()


def refuse_newer_file(path: Path) -> None:
    """Raise NewerFormatError when a newer version packed this file, which may then not be replaced.
    One that is absent or damaged may be.
    """
    try:
        with Path(path).open("rb") as file:
            magic, version, *_ = START.unpack(file.read(START.size))
    except (OSError, struct.error):
        return
    if magic == MAGIC:
        refuse_newer(version, reads=VERSION, of=path)


def read_header(data: Any, path: Path) -> dict[str, Any]:
    """The header of an open file, checked. Raises ArtifactError."""
    if len(data) < START.size or (start := START.unpack(data[: START.size]))[0] != MAGIC:
        raise ArtifactError(
            f"{path} is not a packed snapshot ({len(data)} bytes, first {bytes(data[:8])!r});"
            f" {WHAT_TO_DO}"
        )
    _, version, length, crc32 = start
    refuse_newer(version, reads=VERSION, of=path)
    if version < BEFORE:
        raise ArtifactError(
            f"{path} has format version {version}, of which there is none; {WHAT_TO_DO}"
        )
    text = data[START.size : START.size + length]
    if zlib.crc32(text) != crc32:
        raise ArtifactError(f"{path} has an altered or cut header (CRC-32 differs); {WHAT_TO_DO}")
    header = json.loads(text)
    if len(data) != header["file_bytes"]:
        raise ArtifactError(
            f"{path} has {len(data)} bytes, its header says {header['file_bytes']}; the file was"
            f" cut or appended to, {WHAT_TO_DO}"
        )
    schema, fields = header["schema"], [list(field) for field in PROFILE.descr]
    if header["schema_hash"] != schema_hash(schema, version) or schema["profile_fields"] != fields:
        raise ArtifactError(
            f"{path} was written with a schema that this library does not read; {WHAT_TO_DO}"
        )
    return header


def aligned(size: int) -> int:
    """The next place at which a section may begin."""
    return -(-size // ALIGNED) * ALIGNED
