"""Accepted events of a stream, on their grids, in one order. Reads: raw Arrow tables. Writes:
Events.

The order is (time, event id as bytes) everywhere: two engines, and any order of arrival, agree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.declaration import TIME, EventStream, Grid
from adc_features.aggregates.parts import TYPES
from adc_features.errors import InputError
from adc_features.event_times import microseconds

EVENT_ID = "event_id"
ID_BYTES = 16
ID = pa.binary(ID_BYTES)
MOST_TEXT = 60_000
FURTHEST = 1 << 61
"""Microseconds from 1970, so that cuts and windows stay within 64 bits."""


def event_id(text: str | bytes, *, source: str = "") -> bytes:
    """The 16 bytes under which an event is known, of the id that its source gave it."""
    return event_ids([text], source=source)[0]


def event_ids(texts: Iterable[str | bytes], *, source: str = "") -> list[bytes]:
    """`event_id` of each: the source is hashed once."""
    begun = blake2b(digest_size=ID_BYTES, key=source.encode()[:64])
    found = []
    for text in texts:
        hashed = begun.copy()
        hashed.update(text.encode() if isinstance(text, str) else text)
        found.append(hashed.digest())
    return found


def event_schema(stream: EventStream) -> pa.Schema:
    """The columns of accepted events; values are int64 multiples of 2^-bits."""
    return pa.schema(
        [
            pa.field(EVENT_ID, ID, nullable=False),
            pa.field(TIME, pa.int64(), nullable=False),
            *(pa.field(n, TYPES[kind], nullable=False) for n, kind in stream.keys.items()),
            *(pa.field(n, pa.string(), nullable=False) for n in stream.attributes),
            *(pa.field(n, pa.int64(), nullable=g.optional) for n, g in stream.values.items()),
        ]
    )


@dataclass(frozen=True)
class Events:
    """Events of `event_schema(stream)`, in the order of (time, event id), no id twice."""

    stream: EventStream
    table: pa.Table
    by_key: dict[tuple[str, ...], Any] = field(default_factory=dict, compare=False, repr=False)
    """The keys of some columns, once they are known."""
    columns: dict[str, pa.Array] = field(default_factory=dict, compare=False, repr=False)
    """Columns in one piece, once they were read."""

    @classmethod
    def of(cls, stream: EventStream, raw: pa.Table) -> Self:
        """Accepted events of a table of raw columns.

        `time`: timestamps. `event_id`: 16 bytes as they are, other bytes and text by their hash;
        without that column a row is known by its number, so that rows of one time keep their order
        (whole histories only). Raises InputError, by column, for what is missing, null, of another
        type, not a number, or outside of a value's bound.
        """
        lacking = [n for n in (TIME, *stream.keys, *stream.values) if n not in raw.column_names]
        if lacking:
            raise InputError(
                f"the events of {stream.name!r} lack the columns {', '.join(lacking)}; they have"
                f" {', '.join(raw.column_names)}"
            )
        times = microseconds(raw[TIME], name=TIME)
        if len(times) and max(int(times.max()), -int(times.min())) > FURTHEST:
            raise InputError(
                f"{TIME} holds times further from 1970 than 73,000 years; correct them"
            )
        columns = {
            EVENT_ID: _ids(raw),
            TIME: pa.array(times),
            **{n: _key(raw[n], kind, n) for n, kind in stream.keys.items()},
            **{n: _attribute(raw, n) for n in stream.attributes},
            **{n: on_grid(raw[n], grid, n) for n, grid in stream.values.items()},
        }
        return cls.accepted(stream, pa.table(columns, schema=event_schema(stream)))

    @classmethod
    def accepted(cls, stream: EventStream, table: pa.Table) -> Self:
        """Of columns that are as `event_schema` says, in any order of rows."""
        table = table.select(event_schema(stream).names).combine_chunks()
        order = in_order(table)
        if len(order) and (order[1:] <= order[:-1]).any():
            table = table.take(pa.array(order))
        refuse_repeated(*id_halves(table[EVENT_ID]))
        return cls(stream, table)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def times(self) -> np.ndarray:
        """int64 [N] microseconds since 1970, UTC, ascending."""
        return self.table[TIME].to_numpy()

    @cached_property
    def time_ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """(the different times, ascending; int64 [N], the place of each event's own in them)."""
        changes = self.times[1:] != self.times[:-1]
        rank = np.concatenate([[0], np.cumsum(changes)])[: len(self)]
        return self.times[np.flatnonzero(np.concatenate([[True], changes]))[: len(self)]], rank

    @cached_property
    def id_halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and last 8 bytes of each id as big-endian numbers, uint64 [N] each."""
        return id_halves(self.table[EVENT_ID])

    def column(self, name: str) -> pa.Array:
        """A column in one piece."""
        if name not in self.columns:
            column = self.table[name]
            self.columns[name] = (
                column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            )
        return self.columns[name]

    def value(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(int64 [N], 0 where null; valid: bool [N], None where each event has it)."""
        column = self.column(name)
        if not column.null_count:
            return column.to_numpy(), None
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        return column.fill_null(0).to_numpy(), valid

    def where(self, kept: np.ndarray) -> "Events":
        """The events at these places, ascending."""
        return Events(self.stream, self.table.take(pa.array(kept)))


def in_order(table: pa.Table) -> np.ndarray:
    """int64 [N]: the places of the events of a table in the order of (time, event id)."""
    high, low = id_halves(table[EVENT_ID])
    return np.lexsort((low, high, table[TIME].to_numpy()))


def refuse_repeated(high: np.ndarray, low: np.ndarray) -> None:
    """Raise InputError where an id, of which these are the halves, uint64 [N], stands twice."""
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    twice = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1]))
    if len(twice):
        first = f"{high[twice[0]]:016x}{low[twice[0]]:016x}"
        raise InputError(
            f"{len(twice)} events have the id of another one (first {first}); an event is counted"
            " once: drop the repeated ones"
        )


def numbered_ids(first: int, count: int) -> pa.Array:
    """The ids of rows that are known by their numbers, from `first` on."""
    numbers = np.zeros((count, 2), ">u8")
    numbers[:, 1] = np.arange(first, first + count)
    return pa.FixedSizeBinaryArray.from_buffers(ID, count, [None, pa.py_buffer(numbers)])


def codes_of(
    stream: EventStream, table: pa.Table, columns: Sequence[str], *, ordered: bool = True
) -> tuple[np.ndarray, int]:
    """(int64 [N]: the number of each row's key among the keys of these columns, in the order of the
    keys, or else in any; -1 where an attribute is unknown. How many numbers there are). Without
    columns all is of key 0.
    """
    whole, known = np.zeros(len(table), np.int64), np.ones(len(table), bool)
    for name in columns:
        encoded = table[name].combine_chunks().dictionary_encode()
        code, values = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary
        if name in stream.attributes:
            known &= code != pc.index(values, "").as_py()
        if ordered:
            rank = np.empty(len(values), np.int64)
            rank[pc.sort_indices(values).to_numpy()] = np.arange(len(values))
            code = rank[code]
        whole = whole * max(1, len(values)) + code if len(columns) > 1 else code
        if len(columns) > 1:
            whole = np.unique(whole, return_inverse=True)[1].astype(np.int64)
    size = int(whole.max()) + 1 if len(whole) else 0
    return np.where(known, whole, -1), size if columns else 1


def together(first: Events, *others: Events) -> Events:
    """The events of several, of one stream."""
    tables = [first.table, *(one.table for one in others)]
    return Events.accepted(first.stream, pa.concat_tables(tables))


def on_grid(values: pa.ChunkedArray, grid: Grid, name: str) -> pa.Array:
    """A column of numbers as int64 multiples of 2^-bits, ties to even; null stays null."""
    column = values.combine_chunks()
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(f"{name} is of type {kind}; expected numbers, cast the column")
    if column.null_count and not grid.optional:
        raise InputError(
            f"{name} holds {column.null_count} nulls; drop these rows, or declare the value with"
            " Grid(optional=True)"
        )
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    scaled = _integers(numbers, grid, name)
    return pa.array(scaled, pa.int64(), mask=None if valid.all() else ~valid)


def _integers(numbers: np.ndarray, grid: Grid, name: str) -> np.ndarray:
    if numbers.dtype.kind == "f":
        numbers = numbers.astype(np.float64)
        if np.isnan(numbers).any():
            raise InputError(
                f"{name} holds {int(np.isnan(numbers).sum())} values that are not numbers (NaN);"
                " drop these rows, or write null where the value is unknown"
            )
        outside = np.abs(numbers) > grid.bound
    else:
        outside = (numbers > grid.bound) | (numbers.astype(np.float64) < -grid.bound)
    if outside.any():
        raise InputError(
            f"{name} holds {int(outside.sum())} values outside of +-{grid.bound:g} (first"
            f" {numbers[outside][0]}); correct these rows, or declare a larger bound"
        )
    if numbers.dtype.kind == "f":
        return np.rint(numbers * 2.0**grid.bits).astype(np.int64)
    return numbers.astype(np.int64) << grid.bits


def _key(column: pa.ChunkedArray, kind: str, name: str) -> pa.Array:
    array = column.combine_chunks()
    if array.null_count:
        raise InputError(f"{name} holds {array.null_count} nulls; drop these rows: it is a key")
    found = array.type
    if pa.types.is_dictionary(found):
        array = array.dictionary_decode()
        found = array.type
    fits = pa.types.is_integer if kind == "int64" else _is_text
    if not fits(found):
        raise InputError(f"{name} is of type {found}; the stream declares {kind}, cast the column")
    if kind == "int64":
        return array.cast(pa.int64())
    return _short(array.cast(pa.string()), name)


def _attribute(raw: pa.Table, name: str) -> pa.Array:
    if name not in raw.column_names:
        raise InputError(f"the events lack the attribute {name}; add the column, null for unknown")
    column = raw[name].combine_chunks()
    if not (_is_text(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"{name} is of type {column.type}; an attribute is text, cast the column")
    return _short(column.cast(pa.string()).fill_null(""), name)


def _short(texts: pa.Array, name: str) -> pa.Array:
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest > MOST_TEXT:
        raise InputError(
            f"{name} holds a text of {longest:,} bytes; expected at most {MOST_TEXT:,}"
        )
    return texts


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _ids(raw: pa.Table) -> pa.Array:
    if EVENT_ID not in raw.column_names:
        return numbered_ids(0, len(raw))
    column = raw[EVENT_ID].combine_chunks()
    if column.null_count:
        raise InputError(f"{EVENT_ID} holds {column.null_count} nulls; each event needs its id")
    if column.type == ID:
        return column
    if not (_is_text(column.type) or pa.types.is_binary(column.type)):
        raise InputError(f"{EVENT_ID} is of type {column.type}; expected text or bytes")
    return pa.array([event_id(one) for one in column.to_pylist()], ID)


def id_halves(ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The first and last 8 bytes of each id as big-endian numbers, uint64 [N] each."""
    array = ids.combine_chunks()
    start = array.offset * ID_BYTES
    raw = np.frombuffer(array.buffers()[1] or b"", np.uint8)[start : start + len(array) * ID_BYTES]
    both = raw.view(">u8").reshape(-1, 2).astype(np.uint64)
    return both[:, 0], both[:, 1]
