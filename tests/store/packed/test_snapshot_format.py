"""docs/reference/snapshots.md is enough to read a packed file. Reads: that page, and what
adc_features.store.packed.snapshot writes.
"""

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from store_world import START, with_second

from adc_features.codes.sids import SidTable
from adc_features.store.packed.layout import VERSION
from adc_features.store.packed.writer import write_snapshot

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "snapshots.md").read_text(
    encoding="utf-8"
)
U64 = (1 << 64) - 1


class PageReader:
    """A reader that follows docs/reference/snapshots.md, with the standard library and numpy."""

    def __init__(self, data: bytes) -> None:
        magic, version, length, crc = struct.unpack("<8sIII", data[:20])
        text = data[20 : 20 + length]
        assert (magic, zlib.crc32(text)) == (b"ADCSIDS\0", crc)
        self.header = header = json.loads(text)
        assert len(data) == header["file_bytes"]
        assert zlib.crc32(data[header["payload_offset"] :]) == header["crc32"]
        self.schema = schema = header["schema"]
        assert version == (3 if schema.get("second") else 2)
        told = json.dumps({"format": version, **schema}, sort_keys=True)
        assert hashlib.sha256(told.encode()).hexdigest() == header["schema_hash"]
        self.sections = {
            name: (
                np.frombuffer(data, s["dtype"], int(np.prod(s["shape"])), s["offset"]).reshape(
                    s["shape"]
                )
            )
            for name, s in header["sections"].items()
        }
        assert all(s["offset"] % 64 == 0 for s in header["sections"].values())

    def record(self, row: int) -> dict:
        """Codes, weights and profile of a row; row N stands for unknown items."""
        schema, raw = self.schema, self.sections["records"][row].tobytes()
        bits, length, constants = schema["code_bits"], schema["length"], schema["constant_weights"]
        stored, weight = constants.count(None), np.dtype(schema["weight"])
        size = -(-length * bits // 8)
        size = size if bits == 8 else max(size, 4)
        weights = np.frombuffer(raw, weight, stored).tolist()
        at = stored * weight.itemsize

        def codes_at(place: int) -> list[int]:
            number = int.from_bytes(raw[place:][:size], "little")
            return [((number >> (i * bits)) & ((1 << bits) - 1)) - 1 for i in range(length)]

        codes, at, second = codes_at(at), at + size, {}
        if schema.get("second"):
            second["sid_second"] = codes_at(at)
            chances = np.frombuffer(raw, weight, length, at + size)
            second["sid_second_weight"] = chances.tolist()
            at += size + length * weight.itemsize
        profile = int(np.frombuffer(raw[at:], schema["profile"])[0])
        stored_ones = iter(weights)
        all_weights = [next(stored_ones) if c is None else c for c in constants]
        as_of, reliability, alignment, collisions, cold, found = struct.unpack(
            "<qffi??", self.sections["profiles"][profile].tobytes()
        )
        return {
            "sid": codes,
            "sid_weight": [w if c >= 0 else 0.0 for w, c in zip(all_weights, codes, strict=True)],
            "reliability": reliability,
            "alignment": alignment,
            "collision_count": collisions,
            "is_cold": cold,
            "found": found,
            "as_of": as_of,
            **second,
        }

    def find(self, item: int | str) -> int:
        """The row of an item, N when it is not there."""
        starts, keys = self.sections["starts"], self.sections["keys"]
        key = self.hash(item) if isinstance(item, str) else (item - self.header["base"]) & U64
        bucket = ((mix(key) >> 32) * (len(starts) - 1)) >> 32
        rows = [
            r
            for r in range(starts[bucket], starts[bucket + 1])
            if int(keys[r]) == key and (isinstance(item, int) or self.text(r) == item)
        ]
        return rows[0] if rows else len(keys)

    def hash(self, text: str) -> int:
        seed = self.header["seed"] << 32
        return sum(ord(c) * (mix(mix(i + seed)) | 1) for i, c in enumerate(text, 1)) & U64

    def text(self, row: int) -> str:
        begin, end = self.sections["id_offsets"][row : row + 2]
        return self.sections["id_bytes"][begin:end].tobytes().decode()


def mix(k: int) -> int:
    k ^= k >> 32
    k = k * 0x9E3779B97F4A7C15 & U64
    k ^= k >> 29
    k = k * 0xBF58476D1CE4E5B9 & U64
    return k ^ (k >> 32)


def table(ids: np.ndarray, *, size: int, length: int) -> SidTable:
    """Random codes with gaps, one constant weight and the others of float16's precision."""
    n, rng = len(ids), np.random.default_rng(size * length)
    found = rng.random(n) < 0.9
    sid = np.where(
        found[:, None] & (rng.random((n, length)) < 0.8), rng.integers(0, size, (n, length)), -1
    ).astype(np.int32)
    weight = rng.random((n, length), np.float32).astype(np.float16).astype(np.float32)
    weight[:, 0] = 1
    weight = np.where(sid < 0, np.float32(0), weight).astype(np.float32)
    count = np.where(found, rng.integers(1, 9, n), 0).astype(np.int32)
    reliability, alignment = (rng.choice([0, 0.25, 1], n).astype(np.float32) for _ in range(2))
    return SidTable(
        ids, sid, weight, reliability, alignment, ~found, count, found, "g1", size, START
    )


@pytest.mark.parametrize("weight", ["float32", "float16"])
@pytest.mark.parametrize(
    ("size", "length"), [(4, 1), (255, 6), (256, 1), (256, 3), (300, 10), (65_535, 4)]
)
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_a_reader_made_from_the_page_reads_what_we_write(
    tmp_path, weight, size, length, text, second
):
    """Every item by its id, a stranger, and the rows in order:
    equal to the table that was written.
    """
    numbers = np.arange(-20, 60) * 3
    written = table(
        np.array([f"ding {i} ü" for i in numbers]) if text else numbers, size=size, length=length
    )
    written = with_second(written) if second else written
    as_of = np.arange(len(written), dtype=np.int64) * 1_000_000
    write_snapshot(
        tmp_path / "x.sids",
        written,
        sid_as_of=as_of,
        servable_at=written.as_of,
        computed_at=written.as_of,
        codebook_hash="11" * 32,
        weight_dtype=weight,
    )
    reader = PageReader((tmp_path / "x.sids").read_bytes())
    assert reader.header["items"] == len(written)
    assert reader.schema["code_bits"] == max(8, size.bit_length())
    for place, item in enumerate(written.item_ids.tolist()):
        got = reader.record(reader.find(item))
        for name, array in written.arrays.items():
            assert got[name] == array[place].tolist(), name
        assert got["as_of"] == as_of[place]
    nobody = reader.record(reader.find("nobody" if text else 1))
    assert (nobody["found"], nobody["sid"], nobody["sid_weight"]) == (
        False,
        [-1] * length,
        [0.0] * length,
    )


def test_the_page_is_of_the_version_that_is_written():
    """The heading names the version, and each name that the reader needs stands on the page."""
    assert re.findall(r"## The format, version (\d+)", PAGE) == [str(VERSION)]
    needed = [
        "payload_offset",
        "crc32",
        "file_bytes",
        "schema_hash",
        "code_bits",
        "constant_weights",
        "profile_fields",
        "base",
        "seed",
        "id_offsets",
        "id_bytes",
    ]
    assert [name for name in needed if f"`{name}`" not in PAGE] == []
