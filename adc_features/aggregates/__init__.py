"""Aggregates of events, declared once and computed two ways: over history and over a stream."""

from adc_features.aggregates.batch import batch_rows, row_schema
from adc_features.aggregates.declaration import (
    Aggregate,
    AggregateView,
    EventStream,
    Grid,
    Residual,
    count,
    distinct,
    first_time,
    last,
    last_distinct,
    last_time,
    maximum,
    mean,
    minimum,
    newest,
    residual_mean,
    smoothed_mean,
    total,
)
from adc_features.aggregates.events import Events, event_id, event_schema, together
from adc_features.aggregates.finalise import read_rows
from adc_features.aggregates.incremental import (
    Advance,
    Incremental,
    MemoryStates,
    advance,
    batch_states,
    newest_rows,
)
from adc_features.aggregates.keys import decode_key, keys_of
from adc_features.aggregates.ledgers import StateReader
from adc_features.aggregates.record import declaration_hash, from_json, to_json

__all__ = [
    "Advance",
    "Aggregate",
    "AggregateView",
    "EventStream",
    "Events",
    "Grid",
    "Incremental",
    "MemoryStates",
    "Residual",
    "StateReader",
    "advance",
    "batch_rows",
    "batch_states",
    "count",
    "declaration_hash",
    "decode_key",
    "distinct",
    "event_id",
    "event_schema",
    "first_time",
    "from_json",
    "keys_of",
    "last",
    "last_distinct",
    "last_time",
    "maximum",
    "mean",
    "minimum",
    "newest",
    "newest_rows",
    "read_rows",
    "residual_mean",
    "row_schema",
    "smoothed_mean",
    "to_json",
    "together",
    "total",
]
