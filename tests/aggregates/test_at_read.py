"""Windows that end at the time of the request: tiles in the row, read by both sides alike."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from aggregate_oracle import Oracle
from aggregate_shop import AT_READ, SECOND, STREAM, events, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_incremental import arrivals, assert_stream_equals_history

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import (
    AggregateView,
    count,
    last_time,
    mean,
    residual_mean,
    smoothed_mean,
    total,
)
from adc_features.aggregates.finalise import read_rows
from adc_features.aggregates.incremental import newest_rows

FEATURES = {
    "n": count(**AT_READ),
    "n_rated": count("rating", **AT_READ),
    "cents": total("cents", **AT_READ),
    "label": total("label", **AT_READ),
    "rating": mean("rating", **AT_READ),
    "smoothed": smoothed_mean("rating", initial=3.0, **AT_READ),
    "residual": residual_mean("rating", against="item_id", **AT_READ),
    "n_at_row": count(window=AT_READ["window"], hop=AT_READ["hop"]),
    "last_time": last_time(),
}
VIEW = AggregateView("recent", STREAM, ("user_id",), FEATURES)


class AtRead(Oracle):
    """The windows end at the reading; what is known of everybody is as of the row."""

    def at(self, key: tuple, read: int) -> dict:
        own = self.of_key(self.view.key, key)
        newest = own[-1]["time"]
        return {
            name: self.feature(one, own, read if one.at == "read" else newest)
            for name, one in self.view.features.items()
            if one.kind != "smoothed_mean"
        }


@given(arrivals(), st.lists(st.integers(0, 90_000), min_size=3, max_size=3))
@settings(max_examples=examples(40), deadline=None)
def test_a_window_read_later_equals_the_oracle_at_that_time(batches, later):
    """What is older than the window at the request has left it, without a write."""
    raw = [r for batch in batches for r in batch]
    rows = newest_rows(VIEW, batch_rows(VIEW, events(raw)))
    oracle = AtRead(VIEW, raw)
    for wait in later:
        times = rows["last_time"].to_numpy() + wait * SECOND
        for got, time in zip(read_rows(VIEW, rows, times).to_pylist(), times.tolist(), strict=True):
            wanted = oracle.at((got["user_id"],), time)
            assert {name: got[name] for name in wanted} == wanted


@given(arrivals())
@settings(max_examples=examples(25), deadline=None)
def test_tiles_over_a_stream_equal_those_of_history(batches):
    """Rows with tiles, too, are equal bit for bit."""
    assert_stream_equals_history(batches, [VIEW])


@given(arrivals())
@settings(max_examples=examples(20), deadline=None)
def test_read_at_the_row_a_window_is_that_of_the_row(batches):
    """At the newest event's time both readings agree; a key without a row has null features."""
    rows = batch_rows(VIEW, events([r for batch in batches for r in batch]))
    at_row = {n: a for n, a in FEATURES.items() if n not in ("n_at_row", "last_time")}
    plain = {n: replace(a, at="row") for n, a in at_row.items()}
    view = AggregateView("recent", STREAM, ("user_id",), plain | {"last_time": last_time()})
    wanted = batch_rows(view, events([r for batch in batches for r in batch]))
    got = read_rows(VIEW, rows, rows["last_time"].to_numpy())
    assert got.select(wanted.column_names).equals(wanted)
    missing = pa.table(
        {name: pa.nulls(1, rows.schema.field(name).type) for name in rows.schema.names}
    )
    both = pa.concat_tables([missing, rows.slice(0, 1)])
    read = read_rows(VIEW, both, np.zeros(2, np.int64)).to_pylist()
    assert all(read[0][name] is None for name in FEATURES)
    assert read[1]["n"] is not None
