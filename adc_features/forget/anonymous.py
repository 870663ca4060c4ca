"""Random ids in the place of those that are forgotten. Reads, writes: tables of events and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.declaration import AggregateView, EventStream, Residual
from adc_features.aggregates.events import EVENT_ID
from adc_features.live.tables import ANONYMOUS


def reads_ids(view: AggregateView, key: str) -> bool:
    """Whether what a view says of its keys depends on which of them are of one id of `key`: it
    lists or counts these ids, or reads sums of them.
    """
    read = set[Any]()
    for one in view.features.values():
        read |= {one.of, *(one.by or ())}
        if isinstance(one.of, Residual):
            read |= set(one.of.against)
    return key in read


@dataclass(frozen=True)
class Anonymous:
    """What replaces ids of one key of a stream.

    secrets: forgotten id -> bytes that nobody else knows. views: all of the stream.
    """

    stream: EventStream
    key: str
    secrets: Mapping[Any, bytes]
    views: Sequence[AggregateView]

    @cached_property
    def linked(self) -> bool:
        """Whether the events of an id still share one: a view's values depend on that."""
        return any(reads_ids(view, self.key) for view in self.views)

    def events(self, events: pa.Table) -> tuple[pa.Table, int]:
        """Accepted events without the ids, marked as such; how many were replaced."""
        ids = events[self.key].combine_chunks()
        theirs = pc.is_in(ids, value_set=pa.array(list(self.secrets), ids.type))
        places = np.flatnonzero(theirs.to_numpy(zero_copy_only=False))
        if not len(places):
            return events, 0
        whose = ids.take(pa.array(places)).to_pylist()
        which = events[EVENT_ID].take(pa.array(places)).to_pylist()
        new = [self._id(one, event) for one, event in zip(whose, which, strict=True)]
        column = pc.replace_with_mask(ids, theirs, pa.array(new, ids.type))
        mark = pa.nulls(len(events), pa.string())
        if ANONYMOUS in events.column_names:
            mark = events[ANONYMOUS].combine_chunks()
            events = events.drop_columns(ANONYMOUS)
        marked = pc.binary_join_element_wise(pc.fill_null(mark, ""), f"|{self.key}|", "")
        place = events.column_names.index(self.key)
        events = events.set_column(place, events.schema.field(place), column)
        return events.append_column(ANONYMOUS, pc.if_else(theirs, marked, mark)), len(places)

    def rows(self, view: AggregateView, rows: pa.Table) -> tuple[pa.Table, int]:
        """Rows of a view of another key, without the ids that they list; how many of them."""
        listed = [
            name
            for name, one in view.features.items()
            if one.of == self.key and one.kind in ("last", "newest", "last_distinct")
        ]
        changed = np.zeros(len(rows), bool)
        for name in listed:
            column = rows[name].combine_chunks()
            new = pa.array([self._listed(value) for value in column.to_pylist()], column.type)
            changed |= np.array(
                [a != b for a, b in zip(column.to_pylist(), new.to_pylist(), strict=True)], bool
            )
            rows = rows.set_column(rows.column_names.index(name), name, new)
        return rows, int(changed.sum())

    def _listed(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._listed(one) for one in value]
        return self._id(value, b"") if value in self.secrets else value

    def _id(self, one: Any, event: bytes) -> Any:
        digest = blake2b(
            b"" if self.linked else event, key=self.secrets[one], digest_size=16
        ).digest()
        if self.stream.keys[self.key] == "int64":
            return int.from_bytes(digest[:8], "big", signed=True)
        return f"forgotten-{digest.hex()}"
