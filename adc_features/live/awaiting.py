"""Events that wait for their item, where a stream holds them. Reads, writes: the table of them.

What is known is asked before a commit, whose transaction then goes by the answer: an item that
comes between is found at the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json, to_json

from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import EVENT_ID
from adc_features.live.incoming import Incoming
from adc_features.live.known_items import ItemId, Known
from adc_features.live.tables import signed_key, signed_time


class Looked(NamedTuple):
    """What was asked. known: the items that are; None: every item counts as known. awaiting:
    whether those that events wait for were asked about.
    """

    known: set[ItemId] | None = None
    awaiting: bool = True

    def lacks(self, request: Incoming, stream: EventStream) -> np.ndarray:
        """Which well-formed events of a request are of unknown items: bool [n]."""
        if self.known is None:
            return np.zeros(len(request), bool)
        items = request.table[str(stream.item)].to_pylist()
        return np.array([one not in self.known for one in items], bool)


def look(
    stream: EventStream,
    items: Known | None,
    requests: Sequence[Incoming],
    awaiting: Sequence[bytes] | None = None,
) -> Looked:
    """Ask about the items of requests and, where they are given, of the events that wait.

    items: None where the stream takes events of any item.
    """
    if items is None:
        return Looked()
    name = str(stream.item)
    mine = [one.table[name].to_pylist() for one in requests if one.stream == stream.name]
    asked = {item for each in mine for item in each}
    asked.update(from_json(event)[name] for event in awaiting or ())
    return Looked(items.among(asked), awaiting=awaiting is not None)


def put(table: Any, request: Incoming, rows: np.ndarray) -> None:
    """Let some events of a request wait."""
    ids = request.table[EVENT_ID]
    for row in np.flatnonzero(rows).tolist():
        key = signed_key(int(request.times[row]), ids[row].as_py())
        table.put(key, to_json(request.sent[int(request.places[row])]))


def take(
    table: Any, stream: EventStream, looked: Looked, watermark: int | None
) -> tuple[list[Any], list[Any]]:
    """Events, as they were sent, that wait no longer: (those whose item has come, late ones)."""
    come: list[Any] = []
    late: list[Any] = []
    taken = []
    for key, value in table.cursor():
        is_late = watermark is not None and signed_time(key) < watermark
        if not (is_late or looked.awaiting):
            break
        event = from_json(value)
        if is_late or looked.known is None or event[str(stream.item)] in looked.known:
            (late if is_late else come).append(event)
            taken.append(key)
    for key in taken:
        table.delete(key)
    return come, late
