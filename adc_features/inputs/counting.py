"""Values that are ids, and how often each occurs. Reads: Arrow arrays. Writes: Counted.

Legend: n values.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.inputs.hashing import ValueType

_PENDING = 1 << 20
"""Counted values that are added up at once."""
_MANY, _SAMPLE, _SHARES = 1 << 21, 1 << 16, 16
"""From so many values on, a sample of the first tells whether they are counted in shares."""


class Counted(NamedTuple):
    """Distinct values, and how often each occurs: whole numbers [n]. absent: nulls."""

    values: pa.Array
    counts: np.ndarray
    absent: int = 0


class Tally:
    """Values that are counted a piece at a time; the distinct ones are in memory.

    Examples
    --------
    >>> tally = Tally()
    >>> for piece in ([7, 7, None], [8, 7]):
    ...     tally.add(pa.chunked_array([pa.array(piece, pa.int64())]))
    >>> found = tally.counted()
    >>> dict(zip(found.values.to_pylist(), found.counts.tolist())), found.absent
    ({7: 3, 8: 1}, 1)
    """

    def __init__(self) -> None:
        self._found: list[Counted] = []
        self._absent = self._pending = 0

    def add(self, values: pa.Array | pa.ChunkedArray, *, of: str = "the column") -> None:
        """Count these too. Raises InputError for values of a type that has no ids."""
        counted = counted_values(values, of=of)
        self._absent += counted.absent
        self._found.append(counted._replace(absent=0))
        self._pending += len(counted.values)
        if self._pending > max(_PENDING, len(self._found[0].values)):
            self._found, self._pending = [_summed(self._found)], 0

    def counted(self) -> Counted:
        """All that were added."""
        if not self._found:
            return Counted(pa.nulls(0), np.zeros(0, np.int64))
        return _summed(self._found)._replace(absent=self._absent)


def _summed(found: list[Counted]) -> Counted:
    """Counts of the same values, added up."""
    if len(found) == 1:
        return found[0]
    kind = next((t for t in (c.values.type for c in found) if not pa.types.is_null(t)), pa.null())
    if pa.types.is_null(kind):
        return found[0]
    values = pa.chunked_array([c.values.cast(kind) for c in found], kind)
    counts = pa.chunked_array([pa.array(c.counts.astype(np.int64)) for c in found], pa.int64())
    table = pa.table({"value": values, "count": counts}).group_by("value")
    summed = table.aggregate([("count", "sum")])
    return Counted(id_values(summed["value"]), summed["count_sum"].to_numpy())


def id_values(values: pa.Array | pa.ChunkedArray, *, of: str = "the column") -> pa.Array:
    """The values as int64, string or binary, in one array. Raises InputError for other types."""
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)
    type_ = values.type
    if type_ in (pa.int64(), pa.string(), pa.binary()) or pa.types.is_null(type_):
        return values
    if pa.types.is_dictionary(type_):
        return id_values(values.dictionary_decode(), of=of)
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{of} holds an id outside of 64 bits ({error})") from error
    if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_):
        return values
    if pa.types.is_fixed_size_binary(type_):
        return values.cast(pa.binary())
    raise InputError(
        f"{of} holds values of type {type_}, which are no ids; expected integers, text or UUIDs:"
        " declare it as number(bins=...) or time(), or convert the column"
    )


def counted_values(values: pa.Array | pa.ChunkedArray, *, of: str = "the column") -> Counted:
    """Distinct values with their counts."""
    if isinstance(values, pa.ChunkedArray) and values.num_chunks != 1:
        values = pa.chunked_array([id_values(c, of=of) for c in values.chunks], values.type)
    else:
        values = id_values(values, of=of)
    if mostly_distinct(values):
        return _counted_in_shares(values)
    return _known(pc.value_counts(values))


def _known(found: pa.StructArray) -> Counted:
    """Arrow's counts, with nulls apart."""
    distinct, counts = found.field("values"), found.field("counts").to_numpy()
    if not distinct.null_count:
        return Counted(distinct, counts)
    known = distinct.is_valid()
    absent = counts[~known.to_numpy(zero_copy_only=False)]
    kept = counts[known.to_numpy(zero_copy_only=False)]
    return Counted(distinct.filter(known), kept, int(absent.sum()))


def value_type(type_: pa.DataType) -> ValueType:
    """What values of an Arrow type that `id_values` returns are; nulls alone pass for text."""
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_null(type_):
        return "string"
    return "int64" if pa.types.is_integer(type_) else "binary"


def mostly_distinct(values: pa.Array | pa.ChunkedArray) -> bool:
    """Are there many values, of which a sample says that they are different ones?"""
    return len(values) > _MANY and len(values[:_SAMPLE].unique()) > _SAMPLE // 2


def _counted_in_shares(values: pa.Array | pa.ChunkedArray) -> Counted:
    """The counts of values of which most are distinct: a share at a time, by the last byte, as
    the table in which Arrow counts takes several times the memory of its values."""
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    share_of = [_last_bytes(chunk) % _SHARES for chunk in chunks]
    found = []
    for share in range(_SHARES):
        picked = [
            chunk.filter(pa.array(of == share)) for chunk, of in zip(chunks, share_of, strict=True)
        ]
        counted = _known(pc.value_counts(pa.chunked_array(picked, values.type)))
        # a copy: else the share's wider counts stay as long as these
        found.append(counted._replace(counts=counted.counts.astype(np.uint32)))
        del picked, counted
    counts = np.concatenate([each.counts for each in found])
    distinct, absent = pa.concat_arrays([each.values for each in found]), [c.absent for c in found]
    del found
    pa.default_memory_pool().release_unused()
    return Counted(distinct, counts, sum(absent))


def _last_bytes(values: pa.Array) -> np.ndarray:
    """uint8 [n]: the last byte of each value's text, the lowest of an integer, 0 for nothing."""
    if pa.types.is_integer(values.type):
        return values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint8)
    large = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    _, offsets, content = values.buffers()
    if content is None or not content.size:
        return np.zeros(len(values), np.uint8)
    ends: np.ndarray = np.frombuffer(offsets, np.int64 if large else np.int32)
    ends = ends[values.offset : values.offset + len(values) + 1]
    last = np.frombuffer(content, np.uint8).take(np.maximum(ends[1:], 1) - 1)
    return np.where(ends[1:] > ends[:-1], last, 0)
