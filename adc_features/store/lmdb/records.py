"""Feature rows as packed bytes, and back, by columns. Reads, writes: Arrow and numpy arrays; no
feast, no files here.

One record, little endian, without padding:

    version u8 | schema u32 | event time i64 | created time i64 | null bits
    | one value or end offset a feature | bodies

Times are microseconds since 1970 (created may be absent). Numbers stand in their own width; a
feature of variable length has the u32 offset where its body ends, and the bodies follow one
another. A list of texts is its u32 length, the u32 length of each, and their bytes. The schema
(names and kinds) is named by a hash of itself, so a record says how it is to be read even after the
declaration has changed. Kinds are Feast's names of value types; what is not in KINDS is `opaque`:
bytes that the caller knows how to read.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import ArtifactError, InputError
from adc_features.formats import refuse_newer
from adc_features.store.lmdb.columns import BYTE, KINDS, TEXT_LISTS, Column, plain_numbers
from adc_features.store.lmdb.slices import Texts, gathered, heads

VERSION = 1
FIRST_TIME, LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The event times that there are, microseconds since 1970: from the year 1 to the year 9999."""
NO_CREATED = np.iinfo(np.int64).min
_FRONT = np.dtype([("version", "u1"), ("schema", "<u4"), ("event", "<i8"), ("created", "<i8")])
"""What records of all schemas begin with."""
_WISHES = 16
"""How many choices of features are kept of a schema: a service reads a view in one or two."""


def schema_id(text: bytes) -> int:
    """u32: the id of the schema that has this text."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


@dataclass(frozen=True)
class Schema:
    """The features of a record, in order: (name, kind)."""

    features: tuple[tuple[str, str], ...]

    def to_json(self) -> bytes:
        return json.dumps(self.features, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Schema:
        return cls(tuple((name, kind) for name, kind in json.loads(text)))

    @functools.cached_property
    def id(self) -> int:
        """u32 hash of the content: equal schemas have equal ids in every table and process."""
        return schema_id(self.to_json())

    @functools.cached_property
    def head(self) -> np.dtype:
        """The fixed part of a record; feature i is field `f{i}`."""
        values = [
            (f"f{i}", "<u4" if KINDS[kind].varies else KINDS[kind].element)
            for i, (_, kind) in enumerate(self.features)
        ]
        return np.dtype([*_FRONT.descr, ("nulls", "u1", (-(-len(values) // 8),)), *values])

    @functools.cached_property
    def place(self) -> dict[str, int]:
        return {name: i for i, (name, _) in enumerate(self.features)}

    def only(self, wanted: Sequence[str] | None) -> Schema:
        """With these features alone, in this order; without any said, all. The same object for
        the same wish."""
        if wanted is None:
            return self
        known = self._parts.get(key := tuple(wanted))
        if known is None:
            if len(self._parts) >= _WISHES:
                self._parts.clear()
            kept = tuple(feature for feature in self.features if feature[0] in wanted)
            known = self._parts[key] = self if len(kept) == len(self.features) else Schema(kept)
        return known

    @functools.cached_property
    def _parts(self) -> dict[tuple[str, ...], Schema]:
        return {}


@dataclass(frozen=True)
class Records:
    """Decoded records of one schema.

    event, created: int64 [n], microseconds since 1970 (NO_CREATED: absent).
    """

    schema: Schema
    event: np.ndarray
    created: np.ndarray
    columns: tuple[Column | Texts, ...]

    def column(self, name: str) -> Column | None:
        """A feature's values; None when these records were written without it."""
        place = self.schema.place.get(name)
        if place is None:
            return None
        column = self.columns[place]
        return column.gathered() if isinstance(column, Texts) else column


def encode(
    schema: Schema, columns: Mapping[str, pa.Array], *, event: np.ndarray, created: np.ndarray
) -> pa.LargeBinaryArray:
    """n records.

    columns: per feature an Arrow array of its kind's type (opaque: binary); event, created: int64
    [n], microseconds.

    Raises InputError when a list holds a null, which numbers in a row cannot show.
    """
    if not (n := len(event)):
        return pa.array([], pa.large_binary())
    head = np.zeros(n, schema.head)
    head["version"], head["schema"] = VERSION, schema.id
    head["event"], head["created"] = event, created
    nulls = np.zeros((n, len(schema.features)), bool)
    bodies, end = [], np.zeros(n, np.int64)
    for i, (name, kind) in enumerate(schema.features):
        array = columns[name]
        if array.null_count:
            nulls[:, i] = array.is_null().to_numpy(zero_copy_only=False)
        if KINDS[kind].varies:
            body = _body(array, name)
            end = end + np.where(nulls[:, i], 0, np.diff(_offsets(body)))
            head[f"f{i}"] = end
            bodies.append(body)
        else:
            head[f"f{i}"] = plain_numbers(
                array.fill_null(False if kind == "bool_val" else 0) if array.null_count else array
            )
    if (end > np.iinfo(np.uint32).max).any():
        raise InputError(
            "a row is larger than 4 GiB; expected feature rows of at most a few megabytes"
        )
    head["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
    heads = _binary(head.view(np.uint8).reshape(-1), np.arange(n + 1) * schema.head.itemsize)
    if not bodies:
        return heads
    nothing = pa.scalar(b"", pa.large_binary())
    return pc.binary_join_element_wise(
        heads, *bodies, nothing, null_handling="replace", null_replacement=b""
    )


def refuse_newer_records(records: Iterable[bytes]) -> None:
    """Raise NewerFormatError when one of the records is of a format that this version does not
    know; it may then not be replaced.
    """
    _refuse_newer(max(b"".join(record[:1] for record in records), default=None))


def _refuse_newer(version: int | None) -> None:
    refuse_newer(version, reads=VERSION, of="a row of the online store")


def _of_another_version(versions: np.ndarray) -> ArtifactError:
    """What rows are, some of which are not of this version. Raises NewerFormatError for newer."""
    _refuse_newer(int(versions.max()))
    return ArtifactError(
        f"the online store holds rows of format {versions.min()}, this version reads"
        f" {VERSION}; they are damaged, materialize the view again"
    )


def _cut_short() -> ArtifactError:
    return ArtifactError(
        "the online store holds a row that is cut short; materialize the view again"
    )


def times(records: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Event and created time of records of any schemas, int64 microseconds [n] each.

    Raises ArtifactError for an event time that no calendar has: none is written.
    """
    both = np.frombuffer(b"".join([record[5:21] for record in records]), "<i8").reshape(-1, 2)
    if len(both) and (both[:, 0].min() < FIRST_TIME or both[:, 0].max() > LAST_TIME):
        raise ArtifactError(
            "the online store holds a row whose event time is no time between the years 1 and 9999;"
            " it is damaged, materialize the view again"
        )
    return both[:, 0], both[:, 1]


class Joined(NamedTuple):
    """Records one after another. whole: their bytes; begins, lengths: int64 [n]."""

    whole: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, records: Sequence[bytes]) -> Joined:
        lengths = np.fromiter(map(len, records), np.int64, len(records))
        begins = np.cumsum(lengths) - lengths
        return cls(np.frombuffer(b"".join(records), np.uint8), begins, lengths)

    def fronts(self) -> np.ndarray:
        """Version, schema, event and created time of each, of any schemas: structured [n].

        Raises ArtifactError for bytes that are no record of ours, NewerFormatError for those of a
        newer version.
        """
        if len(self.lengths) and self.lengths.min() < _FRONT.itemsize:
            raise _cut_short()
        fronts = heads(self.whole, self.begins, _FRONT)
        if (fronts["version"] != VERSION).any():
            raise _of_another_version(fronts["version"])
        return fronts


def decode(
    schema: Schema, records: Sequence[bytes] | Joined, wanted: Sequence[str] | None = None
) -> Records:
    """Records of one schema as columns; with `wanted`, only these features (in the schema's order).

    Raises ArtifactError when a record is shorter or longer than its own offsets say.
    """
    whole, begins, lengths = records if isinstance(records, Joined) else Joined.of(records)
    n, size = len(lengths), schema.head.itemsize
    if n and lengths.min() < size:
        raise _cut_short()
    head = heads(whole, begins, schema.head)
    varying = [i for i, (_, kind) in enumerate(schema.features) if KINDS[kind].varies]
    ends = np.zeros((1 + len(varying), n), np.int64)
    for row, i in enumerate(varying):
        ends[1 + row] = head[f"f{i}"]
    _check_ends(ends, lengths - size)
    ends += begins + size
    bounds = {i: (ends[row], ends[row + 1]) for row, i in enumerate(varying)}
    valid = np.ones((0, n), bool)
    if schema.features:
        nulls = np.unpackbits(head["nulls"], axis=1, bitorder="little", count=len(schema.features))
        valid = np.ascontiguousarray(nulls.T) == 0
    columns: list[Column | Texts] = []
    shown = schema.only(wanted)
    for name, kind in shown.features:
        i = schema.place[name]
        if i not in bounds:
            columns.append(Column(kind, np.ascontiguousarray(head[f"f{i}"]), None, valid[i]))
        elif kind in TEXT_LISTS:
            columns.append(_text_lists(kind, whole, *bounds[i], valid[i]))
        elif KINDS[kind].element == BYTE:
            columns.append(Texts(kind, whole, *bounds[i], valid[i]))
        else:
            found = gathered(whole, *bounds[i], KINDS[kind].element)
            columns.append(Column(kind, *found, valid[i]))
    return Records(shown, head["event"], head["created"], tuple(columns))


def _check_ends(ends: np.ndarray, lengths: np.ndarray) -> None:
    """ends: int64 [features that vary + 1, n], from 0; lengths: of the bodies."""
    if (ends[1:] < ends[:-1]).any() or (ends[-1] != lengths).any():
        raise ArtifactError(
            "the online store holds a row whose length is not what it says; it is damaged,"
            " materialize the view again"
        )


def _text_lists(
    kind: str, body: np.ndarray, starts: np.ndarray, stops: np.ndarray, valid: np.ndarray
) -> Column:
    written = np.flatnonzero(valid)
    counts = np.zeros(len(valid), np.int64)
    head, end = starts[written], stops[written]
    _require(head + 4 <= end)
    counts[written] = gathered(body, head, head + 4, np.dtype("<u4"))[0]
    content = head + 4 + 4 * counts[written]
    _require(content <= end)
    lengths, _ = gathered(body, head + 4, content, np.dtype("<u4"))
    values, _ = gathered(body, content, end, BYTE)
    texts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    _require(np.diff(texts[offsets])[written] == end - content)
    return Column(kind, values, offsets, valid, texts)


def _require(sound: np.ndarray) -> None:
    """Raise ArtifactError unless every row says of itself what can be."""
    if not sound.all():
        raise ArtifactError(
            "the online store holds a row whose lengths are not what it says; it is damaged,"
            " materialize the view again"
        )


def _text_bodies(array: pa.Array) -> pa.LargeBinaryArray:
    counts, texts = pc.list_value_length(array), array.flatten().cast(pa.large_binary())
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("<u4")
    counted = counts.fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(counted, dtype=np.int64)])
    bytes_before = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    content = texts.buffers()[2]
    data = np.empty(0, np.uint8)
    if content is not None:
        data = np.frombuffer(content, np.uint8)[_offsets(texts)[0] :]
    heads = _binary(
        counted.astype("<u4").view(np.uint8), np.arange(len(array) + 1) * 4, _validity(array)
    )
    parts = heads, _binary(lengths.view(np.uint8), ends * 4), _binary(data, bytes_before[ends])
    # null where the list is null
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def _body(array: pa.Array, name: str) -> pa.LargeBinaryArray:
    """Text or lists as their raw bytes, numbers without a copy; nulls stay null."""
    if not pa.types.is_list(array.type):
        return array.cast(pa.binary()).cast(pa.large_binary())
    if (inner := array.flatten()).null_count:
        raise InputError(
            f"lists of feature {name!r} hold {inner.null_count} nulls, which would be served as 0;"
            " fill or drop them at the source"
        )
    if not pa.types.is_primitive(array.type.value_type):
        return _text_bodies(array)
    numbers = np.ascontiguousarray(plain_numbers(inner))
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return _binary(numbers.view(np.uint8), ends * numbers.itemsize, _validity(array))


def _validity(array: pa.Array) -> pa.Buffer | None:
    if not array.null_count:
        return None
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _binary(
    data: np.ndarray, offsets: np.ndarray, validity: pa.Buffer | None = None
) -> pa.LargeBinaryArray:
    buffers = [validity, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _offsets(array: pa.LargeBinaryArray) -> np.ndarray:
    """int64 [n + 1] of a binary array, slices included."""
    return np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, array.offset * 8)
