"""Events as they arrive. Reads: JSON objects. Writes: Incoming, columns of events that are well
formed, and what is wrong with each of the others.

An event is an object of `event_id` (text or a whole number), `event_time` (RFC 3339 text with a
zone, or whole microseconds since 1970 UTC), the keys of its stream, its attributes (text, or absent
where unknown) and its values (absent or null where the stream says that they may be). Other fields
are refused: a misspelt value would be missing in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic_core import from_json, to_json

from adc_features.aggregates.declaration import TIME, EventStream
from adc_features.aggregates.events import EVENT_ID, ID, event_ids
from adc_features.errors import RequestError
from adc_features.event_times import UTC_US

EVENT_TIME = "event_time"
LONGEST_ID = 200
"""Characters of an event's id at most."""
_MICROSECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = (
    (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).days * 86_400 * _MICROSECOND
    for year in (1900, 2200)
)
_INT64 = 1 << 63


class Fault(NamedTuple):
    """An event that cannot be read.

    place: which one of its request, from 0; reason: what was found and what was expected; event:
    what was sent.
    """

    place: int
    reason: str
    event: Any


@dataclass(frozen=True)
class Incoming:
    """Events of one stream in the order of their arrival, n of them well formed.

    stream: its name. sent: all events, as they were sent; places: int64 [n], which of them are well
    formed; faults: what is wrong with the others. times: int64 [n], microseconds; hashes: the 16
    bytes by which each id is known; digests: 8 bytes of each whole event, by which a repetition is
    told from another event of the same id. table: n rows, as `Events.of` takes them. size: bytes
    that were sent.
    """

    stream: str
    sent: Sequence[Any]
    places: np.ndarray
    faults: Sequence[Fault]
    times: np.ndarray
    hashes: Sequence[bytes]
    digests: Sequence[bytes]
    table: pa.Table
    size: int

    def __len__(self) -> int:
        return len(self.hashes)


def events_of(body: bytes) -> list[Any]:
    """The events of a request: a JSON array, or an object with the array `events`.

    Raises RequestError for what is no such JSON.
    """
    try:
        sent = from_json(body, cache_strings="keys")
    except ValueError as error:
        raise RequestError(f"the body is no JSON: {error}; send an array of events") from error
    if isinstance(sent, dict):
        if unknown := sorted(set(sent) - {"events"}):
            raise RequestError(f"unknown field {unknown[0]!r}; send {{'events': [...]}}")
        sent = sent.get("events")
    if not isinstance(sent, list):
        raise RequestError("expected an array of events, or an object with the array `events`")
    return sent


def incoming(stream: EventStream, events: Sequence[Any], *, size: int = 0) -> Incoming:
    """The well-formed events of a request as columns, and what is wrong with the others.

    Parameters
    ----------
    stream : EventStream
        Whose keys and values they have.
    events : sequence
        JSON values, in the order of their arrival.
    size : int
        How many bytes were sent.
    """
    fields = _Fields.of(stream)
    places: Sequence[int] = range(len(events))
    rows, faults = fields.rows(events), list[Fault]()
    if rows is None:
        places, rows = [], []
        for place, event in enumerate(events):
            try:
                rows.append(fields.row(event))
                places.append(place)
            except ValueError as error:
                faults.append(Fault(place, str(error), event))
    ids, times, *held = zip(*rows, strict=True) if rows else ((),) * (2 + len(fields.types))
    hashes = event_ids(ids, source=stream.name)
    columns = {
        EVENT_ID: place_ids(hashes, times),
        TIME: pa.array(times, pa.int64()).cast(UTC_US),
        **{n: pa.array(v, kind) for (n, kind), v in zip(fields.types.items(), held, strict=True)},
    }
    return Incoming(
        stream.name,
        events,
        np.array(places, np.int64),
        faults,
        np.array(times, np.int64),
        hashes,
        [hashlib.blake2b(repr(row).encode(), digest_size=8).digest() for row in rows],
        pa.table(columns),
        size,
    )


def place_ids(hashes: Sequence[bytes], times: Sequence[int]) -> pa.Array:
    """The ids of accepted events: of each id and its time.

    An id is remembered while its event could come again, so that another event may have it, with a
    later time, after that: both are accepted, and these ids differ.
    """
    made = [
        hashlib.blake2b(one + time.to_bytes(8, "big", signed=True), digest_size=16).digest()
        for one, time in zip(hashes, times, strict=True)
    ]
    return pa.array(made, ID)


def letter(fault: Fault, *, stream: str, outcome: str, arrived: datetime) -> bytes:
    """A line of the dead-letter file: when, of what stream, why, and what was sent."""
    return to_json(
        {
            "arrived": arrived,
            "stream": stream,
            "outcome": outcome,
            "reason": fault.reason,
            "event": fault.event,
        },
        inf_nan_mode="strings",
    )


@dataclass(frozen=True)
class _Fields:
    """keys: name -> whether text; values: name -> (largest magnitude, whether it may be absent)."""

    keys: Mapping[str, bool]
    attributes: Sequence[str]
    values: Mapping[str, tuple[float, bool]]
    types: Mapping[str, pa.DataType]
    known: frozenset[str]

    @classmethod
    def of(cls, stream: EventStream) -> _Fields:
        keys = {name: kind == "string" for name, kind in stream.keys.items()}
        values = {name: (float(g.bound), g.optional) for name, g in stream.values.items()}
        types = {
            **{name: pa.string() if text else pa.int64() for name, text in keys.items()},
            **dict.fromkeys(stream.attributes, pa.string()),
            **dict.fromkeys(values, pa.float64()),
        }
        known = frozenset({EVENT_ID, EVENT_TIME, *types})
        return cls(keys, stream.attributes, values, types, known)

    def rows(self, events: Sequence[Any]) -> list[tuple[Any, ...]] | None:
        """`row` of all events, a field of them at a time; None where one of them may be at
        fault."""
        if not set(map(type, events)) <= {dict} or not all(map(self.known.issuperset, events)):
            return None
        try:
            columns = [
                _ids([event.get(EVENT_ID) for event in events]),
                list(map(_time, [event.get(EVENT_TIME) for event in events])),
            ]
            for name, text in self.keys.items():
                columns.append(_keys(name, [event.get(name) for event in events], text=text))
            for name in self.attributes:
                columns.append([_attribute(name, event.get(name)) for event in events])
            for name, about in self.values.items():
                columns.append(_values(name, [event.get(name) for event in events], *about))
        except ValueError:
            return None
        return list(zip(*columns, strict=True))

    def row(self, event: Any) -> tuple[Any, ...]:
        """Raises ValueError saying what is wrong with the event."""
        if type(event) is not dict:
            raise ValueError(f"is {_shown(event)}; expected an object")
        if not event.keys() <= self.known:
            unknown = sorted(event.keys() - self.known)[0]
            raise ValueError(
                f"has a field {unknown!r}, which its stream does not declare; it has"
                f" {', '.join(sorted(self.known))}"
            )
        get = event.get
        return (
            _id(get(EVENT_ID)),
            _time(get(EVENT_TIME)),
            *(_key(name, get(name), text=text) for name, text in self.keys.items()),
            *(_attribute(name, get(name)) for name in self.attributes),
            *(_value(name, get(name), *about) for name, about in self.values.items()),
        )


def _id(value: Any) -> str:
    if type(value) is int and -_INT64 <= value < _INT64:
        return str(value)
    if type(value) is not str or not 0 < len(value) <= LONGEST_ID:
        raise ValueError(
            f"{EVENT_ID} is {_shown(value)}; expected text of 1 to {LONGEST_ID} characters or a"
            " whole number of 64 bits, by which a repetition is known"
        )
    return value


def _ids(values: list[Any]) -> list[Any]:
    return values if _are_texts(values) else list(map(_id, values))


def _are_texts(values: list[Any]) -> bool:
    """Whether all are text of 1 to LONGEST_ID characters."""
    return set(map(type, values)) == {str} and all(values) and max(map(len, values)) <= LONGEST_ID


def _time(value: Any) -> int:
    if type(value) is str:
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            read = None
        if read is None or read.tzinfo is None:
            raise ValueError(
                f"{EVENT_TIME} is {_shown(value)}; expected RFC 3339 with a zone, such as"
                " 2024-05-01T12:00:00Z"
            )
        since = read - _EPOCH
        value = (since.days * 86_400 + since.seconds) * _MICROSECOND + since.microseconds
    if type(value) is not int:
        raise ValueError(
            f"{EVENT_TIME} is {_shown(value)}; expected RFC 3339 text with a zone, or whole"
            " microseconds since 1970 UTC"
        )
    if not _FIRST <= value < _LAST:
        raise ValueError(
            f"{EVENT_TIME} is {value}; expected microseconds since 1970 UTC, between the years"
            " 1900 and 2200"
        )
    return value


def _key(name: str, value: Any, *, text: bool) -> str | int:
    if text:
        if type(value) is str and 0 < len(value) <= LONGEST_ID:
            return value
        raise ValueError(
            f"{name} is {_shown(value)}; expected text of 1 to {LONGEST_ID} characters, as the"
            " stream declares"
        )
    if type(value) is int and -_INT64 <= value < _INT64:
        return value
    raise ValueError(
        f"{name} is {_shown(value)}; expected a whole number of 64 bits, as the stream declares"
    )


def _keys(name: str, values: list[Any], *, text: bool) -> list[Any]:
    if text and _are_texts(values):
        return values
    return [_key(name, value, text=text) for value in values]


def _attribute(name: str, value: Any) -> str:
    if value is None:
        return ""
    if type(value) is not str or len(value) > LONGEST_ID:
        raise ValueError(
            f"{name} is {_shown(value)}; expected text of at most {LONGEST_ID} characters, or null"
        )
    return value


def _value(name: str, value: Any, bound: float, optional: bool) -> float | None:
    if value is None and optional:
        return None
    if type(value) is bool:
        return float(value)
    if type(value) not in (int, float) or not -bound <= value <= bound:  # NaN fails every bound
        raise ValueError(
            f"{name} is {_shown(value)}; expected a number in -{bound:g} to {bound:g}, true or"
            f" false{', or null' if optional else ''}, as the stream declares"
        )
    return float(value)


def _values(name: str, values: list[Any], bound: float, optional: bool) -> list[Any]:
    kinds = set(map(type, values))
    if kinds == {float} and (np.abs(np.array(values)) <= bound).all():  # none is NaN
        return values
    if kinds == {int} and -bound <= min(values) and max(values) <= bound:
        return list(map(float, values))
    return [_value(name, value, bound, optional) for value in values]


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
