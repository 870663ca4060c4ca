"""The bytes under which a row is stored. Reads: columns of entity values. Writes: key bytes that
sort as the values do; no feast.

A key is the values of its join keys, in the order of the join keys' names: a whole number as `i`
and 8 big-endian bytes with the sign bit flipped, text as `s` and bytes as `b` with their content,
which all but the last value precede by its u32 length. Numbers of 32 and 64 bits are one key. A key
longer than LMDB allows (511 bytes) is `#` and a hash of 32 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.store.byte_columns import joined, of_numbers

LONGEST = 511
_SIGN = np.uint64(1 << 63)
_WHOLE = np.dtype([("tag", "S1"), ("value", ">u8")])


def key_array(columns: Mapping[str, pa.Array]) -> pa.LargeBinaryArray:
    """The keys of n rows.

    columns: join key -> integers, text, bytes or timestamps (whole seconds count) [n].

    Raises InputError for nulls and for other types.
    """
    names = sorted(columns)
    parts = [_part(columns[name], name, is_last=name == names[-1]) for name in names]
    keys = parts[0] if len(parts) == 1 else joined(*parts)
    if len(keys) and pc.max(pc.binary_length(keys)).as_py() > LONGEST:
        keys = pa.array([_short(key) for key in keys.to_pylist()], pa.large_binary())
    return keys


def key_list(columns: Mapping[str, pa.Array]) -> list[bytes]:
    """`key_array` as Python's bytes: whole numbers, of which requests read hundreds, without
    Arrow."""
    parts = [columns[name] for name in sorted(columns)]
    if not parts or not all(pa.types.is_integer(p.type) and not p.null_count for p in parts):
        keys: list[bytes] = key_array(columns).to_numpy(zero_copy_only=False).tolist()
        return keys
    rows = np.empty((len(parts[0]), len(parts)), _WHOLE)
    for column, part in enumerate(parts):
        whole = part if part.type == pa.int64() else part.cast(pa.int64())
        _put_integers(whole.to_numpy(), into=rows[:, column])
    keys = rows.view(f"V{9 * len(parts)}")[:, 0].tolist()
    if 9 * len(parts) <= LONGEST:
        return keys
    return [_short(key) for key in keys]


def integer_keys(values: np.ndarray) -> list[bytes]:
    """The keys of rows whose only join key is a whole number: int64 [n]."""
    return _integers(values).view("V9").tolist()


def text_keys(values: Sequence[str]) -> list[bytes]:
    """The keys of rows whose only join key is text."""
    return [_short(b"s" + value.encode()) for value in values]


def row_key(values: Mapping[str, int | str | bytes | None]) -> bytes:
    """The key of one row: what `key_array` gives for it.

    Raises InputError for nulls and for other types.
    """
    names, parts = sorted(values), []
    for name in names:
        value = values[name]
        if isinstance(value, int) and not isinstance(value, bool):
            parts.append(b"i" + (value + (1 << 63)).to_bytes(8, "big"))
            continue
        if not isinstance(value, str | bytes):
            raise InputError(
                f"join key {name!r} is {value!r}; expected a whole number, text or bytes"
            )
        content = value.encode() if isinstance(value, str) else value
        parts.append(
            (b"s" if isinstance(value, str) else b"b")
            + (b"" if name == names[-1] else len(content).to_bytes(4, "big"))
            + content
        )
    return _short(b"".join(parts) or b"s")  # a view without entities has one row


def key_part(key: bytes, place: int, count: int) -> bytes | None:
    """Of a key of `count` join keys, what `row_key` gives for that one at `place` alone; None where
    a hash stands for the key.
    """
    at = 0
    for number in range(count if key[:1] != b"#" else 0):
        if key[at : at + 1] == b"i":
            part, at = key[at : at + 9], at + 9
        elif number == count - 1:
            part, at = key[at:], len(key)
        else:
            end = at + 5 + int.from_bytes(key[at + 1 : at + 5], "big")
            part, at = key[at : at + 1] + key[at + 5 : end], end
        if number == place:
            return part
    return None


def _part(array: pa.Array, name: str, *, is_last: bool) -> pa.LargeBinaryArray:
    if array.null_count:
        raise InputError(
            f"{array.null_count} values of join key {name!r} are null; a row without its entity"
            " cannot be found again, drop these rows"
        )
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("s", tz=array.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_integer(array.type):
        rows = _integers(array.cast(pa.int64()).to_numpy())
        return of_numbers(rows)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        tag = b"s"
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        tag = b"b"
    else:
        raise InputError(
            f"join key {name!r} is of type {array.type}; expected whole numbers, text or bytes"
        )
    content = array.cast(pa.binary()).cast(pa.large_binary())
    pieces = [content]
    if not is_last:
        lengths = pc.binary_length(content).to_numpy().astype(">u4")
        pieces.insert(0, of_numbers(lengths))
    return joined(tag, *pieces)


def _integers(values: np.ndarray) -> np.ndarray:
    rows = np.empty(len(values), _WHOLE)
    _put_integers(values.astype(np.int64, copy=False), into=rows)
    return rows


def _put_integers(values: np.ndarray, *, into: np.ndarray) -> None:
    into["tag"], into["value"] = b"i", values.view(np.uint64) ^ _SIGN


def _short(key: bytes) -> bytes:
    return key if len(key) <= LONGEST else b"#" + hashlib.blake2b(key, digest_size=32).digest()
