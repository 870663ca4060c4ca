"""Pack a snapshot into one file. Reads: SidTable. Writes: `<as_of>.sids`; no feast here.

Legend: N items, S positions whose weights are stored.
"""

import json
import zlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import fresh_file
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE
from adc_features.errors import InputError
from adc_features.store.packed.id_index import build_index, string_buffers
from adc_features.store.packed.layout import (
    MAGIC,
    NO_TIME,
    PLAIN,
    PROFILE,
    SHARED,
    START,
    VERSION,
    PackedCodes,
    aligned,
    record_type,
    schema_hash,
)

_UNKNOWN = np.array([(NO_TIME, 0, 0, 0, True, False)], PROFILE)


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
    """Pack a snapshot into `path`, which is replaced at once.

    sid_as_of: the cut-off of each row, int64 [N], microseconds since 1970 UTC. weight_dtype:
    'float32' or 'float16'. Raises InputError when a weight does not fit it exactly: encode rounds
    once, nothing rounds after.
    """
    index, order = build_index(snapshot.item_ids)
    numbers, profiles = _profiles(snapshot, sid_as_of)
    weight, constants = _weights(snapshot, np.dtype(weight_dtype).newbyteorder("<"))
    codes = PackedCodes.of(snapshot.codebook_size, snapshot.length)
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
    version = PLAIN
    if snapshot.has_second:
        version, schema["second"] = VERSION, True
    # the last one stands for unknown items: no codes, profile 0
    records = np.zeros(len(snapshot) + 1, record_type(schema))
    records["weight"][:-1] = weight[order]
    records["code"][:-1] = codes.packed((snapshot.sid - NO_CODE)[order])
    records["profile"][:-1] = numbers[order]
    if snapshot.sid_second is not None:
        assert snapshot.sid_second_weight is not None, "SidTable has both or neither"
        second = _exactly(snapshot.sid_second_weight, weight.dtype)
        records["second"][:-1] = codes.packed((snapshot.sid_second - NO_CODE)[order])
        records["second_weight"][:-1] = second[order]
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
        "schema_hash": schema_hash(schema, version),
    }
    _write(Path(path), facts, sections, version=version)


def _weights(snapshot: SidTable, dtype: np.dtype) -> tuple[np.ndarray, list[float | None]]:
    """Weights at the positions where they vary, [N, S] in `dtype`.

    Also for each position the weight that is the same wherever there is a code, or None.
    """
    weight, coded = snapshot.sid_weight, snapshot.sid >= 0
    constants: list[float | None] = []
    for position in range(snapshot.length):
        values = weight[coded[:, position], position]
        one = values[:1] if len(values) else np.zeros(1, np.float32)
        constant = np.where(coded[:, position], one, np.float32(0)).view(np.int32)
        same = constant == np.ascontiguousarray(weight[:, position]).view(np.int32)
        constants.append(float(one[0]) if same.all() else None)
    return _exactly(weight[:, [c is None for c in constants]], dtype), constants


def _exactly(weight: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        packed = weight.astype(dtype)
    if not (packed.astype(np.float32) == weight).all():
        raise InputError(
            f"weights do not fit the spec's {dtype.name} exactly; encode the snapshot with its"
            " generation, which rounds them once"
        )
    return packed


def _profiles(snapshot: SidTable, sid_as_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's profile number [N] and the distinct profiles, that of unknown items first."""
    rows = np.empty(len(snapshot) + 1, PROFILE)
    rows[:1], rows["sid_as_of"][1:] = _UNKNOWN, sid_as_of
    for name in SHARED:
        rows[name][1:] = getattr(snapshot, name)
    column = pa.Array.from_buffers(
        pa.binary(PROFILE.itemsize), len(rows), [None, pa.py_buffer(rows)]
    )
    encoded = pc.dictionary_encode(column)
    distinct = np.frombuffer(encoded.dictionary.buffers()[1], PROFILE, len(encoded.dictionary))
    return encoded.indices.to_numpy()[1:], distinct


def _smallest(largest: int) -> np.dtype:
    """The smallest unsigned little-endian integer that holds `largest`."""
    return np.min_scalar_type(largest).newbyteorder("<")


def _bytes(array: np.ndarray) -> np.ndarray:
    """Records as uint8 [N, bytes of one]."""
    return array.view(np.uint8).reshape(len(array), array.dtype.itemsize)


def _write(
    path: Path, facts: Mapping[str, Any], sections: Mapping[str, np.ndarray], *, version: int
) -> None:
    def placed(header_bytes: int, crc32: int) -> tuple[dict[str, Any], bytes]:
        at = aligned(START.size + header_bytes)
        header = {**facts, "sections": {}, "payload_offset": at}
        for name, array in sections.items():
            header["sections"][name] = {
                "offset": at,
                "dtype": array.dtype.str,
                "shape": list(array.shape),
            }
            at = aligned(at + array.nbytes)
        text = json.dumps({**header, "file_bytes": at, "crc32": crc32}).encode()
        return header, text.ljust(header_bytes)

    # up to the first section: every byte is checked
    room = aligned(START.size + len(placed(0, 2**32 - 1)[1]) + 16 * len(sections)) - START.size
    header, _ = placed(room, 0)
    with fresh_file(path) as file:
        crc32, at = 0, header["payload_offset"]
        file.seek(at)
        for array in sections.values():
            block = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            for piece in (block, b"\0" * (aligned(at + len(block)) - at - len(block))):
                file.write(piece)
                crc32, at = zlib.crc32(piece, crc32), at + len(piece)
        _, text = placed(room, crc32)
        file.seek(0)
        file.write(START.pack(MAGIC, version, len(text), zlib.crc32(text)) + text)
