"""The tables of the live directory. Reads: bytes. Writes: names, keys, bytes.

meta                format number, publish time, watermarks, positions of sources, counts,
                    freshness, declarations, numbers of corrections
accepted/<stream>   publish time -> the events that a commit accepted, until a segment has them
states/<stream>     view or ledger, key -> state
ids/<stream>        id of an event -> digest of it, while it might come again
minutes/<stream>    minute of event time, publish time -> ids, to be forgotten together
held/<stream>       event time, id -> an event of the near future
awaiting/<stream>   event time, id -> an event of an item that is to come, as it was sent
history/<view>      publish time -> the rows that a commit served, until a segment has them
letters             publish time -> refused events, until a file has them
forgotten           hash of an id -> until when its events are refused
corrections         publish time -> what a correction changed, until a file has it
<project>/<view>    the rows that are served, as the online store has them
online/<view>       publish time, number -> rows on their way into another online store
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from adc_features.aggregates.declaration import AggregateView
from adc_features.event_times import UTC_US
from adc_features.formats import FORMATS, KEY, refuse_newer
from adc_features.store.lmdb.entity_keys import LONGEST
from adc_features.store.lmdb.files import values_of

META, LETTERS, CORRECTIONS = "meta", "letters", "corrections"
PUBLISHED = "published"
"""The column of accepted events that says when they became visible."""
ANONYMOUS = "anonymous"
"""The column of accepted events that says which keys were replaced, each between bars; null where
none was. Files in which none was may lack it."""
_SHIFT = 1 << 62
_FORMAT = KEY.encode()


def check_format(meta: Any, place: object) -> None:
    """Raise NewerFormatError when a newer version wrote the live directory at `place`, and
    ArtifactError where its number is none. meta: the table; None before the first commit.
    """
    stored = None if meta is None else meta.get(_FORMAT)
    text = None if stored is None else bytes(stored).decode("ascii", "replace")
    found = int(text) if text is not None and text.isdecimal() else text
    refuse_newer(found, reads=FORMATS["live"], of=place)


def keep_format(meta: Any) -> None:
    """Say in the table of which format the directory is. Raises as `check_format`."""
    check_format(meta, "the live directory")
    meta.put(_FORMAT, str(FORMATS["live"]).encode())


def time_key(time: int) -> bytes:
    """A time (microseconds since 1970) that is not negative as a key: keys sort as times do."""
    return time.to_bytes(8, "big")


def signed_key(time: int, rest: bytes) -> bytes:
    """The key of a time that may lie before 1970, and something beside it."""
    return time_key(time + _SHIFT) + rest


def signed_time(key: bytes) -> int:
    """The time of a `signed_key`."""
    return int.from_bytes(key[:8], "big") - _SHIFT


@dataclass(frozen=True)
class ServedView:
    """A declared view, the Feast view of its rows and the table in which they are served.

    elsewhere: another online store serves them, and they only pass through the live directory.
    """

    declared: AggregateView
    view: Any
    table: str
    elsewhere: bool = False

    @property
    def history(self) -> str:
        """The table of rows that are not yet in the view's history."""
        return f"history/{self.declared.name}"

    @property
    def outbox(self) -> str:
        """The table of rows that another online store has not taken yet."""
        return f"online/{self.declared.name}"

    @property
    def declaration(self) -> bytes:
        """Where `meta` holds the declaration by which the view's states were made."""
        return f"declaration/{self.declared.name}".encode()


def accepted_table(stream: str) -> str:
    """The table of accepted events, a batch for each publish time, that are in no segment yet."""
    return f"accepted/{stream}"


def ids_table(stream: str) -> str:
    """The table of the ids of events that may come again."""
    return f"ids/{stream}"


def held_table(stream: str) -> str:
    """The table of events whose time has not come."""
    return f"held/{stream}"


def awaiting_table(stream: str) -> str:
    """The table of events whose item has not come."""
    return f"awaiting/{stream}"


def minutes_table(stream: str) -> str:
    """The table of these ids by the minute of their event."""
    return f"minutes/{stream}"


def states_table(stream: str) -> str:
    """The table of the states of every view of a stream."""
    return f"states/{stream}"


OF_STREAM = (
    accepted_table,
    states_table,
    ids_table,
    minutes_table,
    held_table,
    awaiting_table,
)


class States:
    """States of keys in a table of a transaction."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def states(self, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The state of each key under a name; None of a key without one."""
        return values_of(self._table, state_keys(name, keys))

    def put(self, states: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Keep states, by name and key."""
        pairs: list[tuple[bytes, bytes]] = []
        for name, of_keys in states.items():
            pairs += zip(state_keys(name, of_keys), of_keys.values(), strict=True)
        self._table.cursor().putmulti(sorted(pairs))


def state_key(name: str, key: bytes) -> bytes:
    """Where a state lies in its table."""
    return state_keys(name, [key])[0]


def state_keys(name: str, keys: Collection[bytes]) -> list[bytes]:
    """Where the states of keys lie, all of one name."""
    front = name.encode() + b"\0"
    room = LONGEST - len(front)
    if max(map(len, keys), default=0) <= room:
        return [front + key for key in keys]
    return [front + key if len(key) <= room else _hashed(front + key) for key in keys]


def _hashed(whole: bytes) -> bytes:
    return b"#" + hashlib.blake2b(whole, digest_size=32).digest()


def published_at(events: pa.Table, published: int) -> pa.Table:
    """Events with the publish time of the commit that accepted them."""
    return events.append_column(PUBLISHED, pa.repeat(pa.scalar(published, UTC_US), len(events)))
