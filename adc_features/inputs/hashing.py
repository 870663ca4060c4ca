"""One 64-bit hash of every id, the same on every machine and in every version. Reads: Arrow arrays.
Writes: uint64 arrays.

Integers go through splitmix64, which is one-to-one: two integers never share a hash. Text, as its
UTF-8 bytes, and bytes go through MurmurHash3 x64 128 with seed 0, of which the first half counts.
Nothing is folded: case and Unicode forms are kept, and 12 differs from "12".
"""

from typing import Literal

import mmh3
import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError

ValueType = Literal["int64", "string", "binary"]
_CHUNK = 65_536
_32 = np.uint64(32)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """uint64 [n] of int64 or uint64 [n]: the output function of SplitMix64 (Steele, Lea and Flood
    2014), of which state `value` is the seed.
    """
    z = values.astype(np.uint64 if values.dtype == np.uint64 else np.int64).view(np.uint64)
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hashes(values: pa.Array) -> np.ndarray:
    """uint64 [n] of int64, string or binary values without nulls. Pass each value once: bytes are
    hashed one at a time.
    """
    if not len(values):
        return np.zeros(0, np.uint64)
    if pa.types.is_integer(values.type):
        return splitmix64(values.to_numpy(zero_copy_only=False))
    values, found = values.view(_bytes_of(values.type)), np.empty(len(values), np.uint64)
    for start in range(0, len(values), _CHUNK):  # a chunk at a time: Python objects are large
        part = values.slice(start, _CHUNK).to_pylist()
        found[start : start + len(part)] = [mmh3.mmh3_x64_128_utupledigest(v)[0] for v in part]
    return found


def _bytes_of(type_: pa.DataType) -> pa.DataType:
    """The type in which these values are their own bytes, without a copy."""
    large = pa.types.is_large_string(type_) or pa.types.is_large_binary(type_)
    return pa.large_binary() if large else pa.binary()


def bucket_of(hashed: np.ndarray, buckets: int) -> np.ndarray:
    """int64 [n] in [0, buckets), of uint64 [n]: their high 32 bits * buckets >> 32."""
    return (((hashed >> _32) * np.uint64(buckets)) >> _32).astype(np.int64)


def hash_vectors() -> dict[str, str]:
    """What the hash of a few values is here, hex; kept beside vocabularies and checked by
    `check_hashes`.
    """
    numbers = pa.array([0, 1, -1, 2**63 - 1], pa.int64())
    texts = pa.array(["", "12", "Ünïcode", "a longer text, of more than one block"])
    return {
        repr(value): f"{hashed:016x}"
        for values in (numbers, texts)
        for value, hashed in zip(values.to_pylist(), hashes(values).tolist(), strict=True)
    }


def check_hashes(vectors: object, *, of: object) -> None:
    """Raise ArtifactError unless values hash here as they did where `of` was written."""
    if vectors != (here := hash_vectors()):
        found = vectors if isinstance(vectors, dict) else {}
        name = next((k for k in here if found.get(k) != here[k]), "another value")
        raise ArtifactError(
            f"{of} was written where {name} hashes to {str(found.get(name))[:40]!r}, here it is"
            f" {here.get(name)!r}: the file was altered, or mmh3 is of another version; restore the"
            " file, or write it again with the command that made it"
        )
