"""States and served rows of a stream as the batch engine makes them of its accepted events. Reads:
events. Writes: tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import EventStream
from adc_features.aggregates.events import Events
from adc_features.aggregates.incremental import batch_states, newest_rows
from adc_features.aggregates.keys import keys_of
from adc_features.aggregates.plans import columns_of_states
from adc_features.live.tables import ANONYMOUS, ServedView


class Recomputed(NamedTuple):
    """states: view or ledger -> key -> state. rows: view -> the newest row of each key."""

    states: dict[str, dict[bytes, bytes]]
    rows: dict[str, pa.Table]


def recomputed(views: Sequence[ServedView], events: Events, accepted: pa.Table) -> Recomputed:
    """What there is to be of some events, of one stream.

    accepted: those of them that were accepted, with the column that says of whom nothing is kept
    any longer.
    """
    stream = events.stream
    columns = {n: by for one in views for n, by in columns_of_states(one.declared).items()}
    states = {}
    for name, made in batch_states([one.declared for one in views], events).items():
        nobody = _anonymous_keys(stream, accepted, columns[name])
        states[name] = {key: state for key, state in made.items() if key not in nobody}
    rows = {}
    for one in views:
        of_view = newest_rows(one.declared, batch_rows(one.declared, events))
        if nobody := _anonymous_keys(stream, accepted, one.declared.key):
            keys = keys_of(stream, of_view, one.declared.key)
            of_view = of_view.filter(pa.array([key not in nobody for key in keys], pa.bool_()))
        rows[one.declared.name] = of_view
    return Recomputed(states, rows)


def _anonymous_keys(stream: EventStream, accepted: pa.Table, columns: Sequence[str]) -> set[bytes]:
    """Keys of random ids, which stand where somebody was forgotten: nothing is kept for them."""
    marks = accepted[ANONYMOUS]
    named = (pc.match_substring(marks, f"|{column}|") for column in columns)
    theirs = reduce(pc.or_kleene, named, pa.repeat(pa.scalar(False), len(marks)))
    events = accepted.filter(pc.fill_null(theirs, False))
    return set(keys_of(stream, events, columns)) if len(events) else set()
