"""The stream's states and rows against those of history, over any cut into batches."""

from itertools import pairwise

import pytest
from aggregate_shop import SECOND, STREAM, VIEWS, events, examples, row, with_times
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import microseconds_of
from adc_features.aggregates.incremental import (
    Incremental,
    MemoryStates,
    batch_states,
    newest_rows,
)
from adc_features.aggregates.keys import keys_of

BASE = 1_700_000_000 * SECOND // (86_400 * SECOND) * 86_400 * SECOND
LATENESS = microseconds_of(STREAM.lateness)


@st.composite
def arrivals(draw):
    """Batches of accepted rows in an order of arrival: none is older than the newest one before its
    batch less the lateness, and many have the same time.
    """
    rows = draw(st.lists(row, min_size=1, max_size=16))
    ids = draw(st.permutations(range(len(rows))))
    cuts = sorted(draw(st.sets(st.integers(1, len(rows))))) or [len(rows)]
    steps = st.sampled_from([-7_200, -600, -599, -60, -1, 0, 0, 1, 59, 601, 3_599, 21_600, 90_000])
    newest = watermark = BASE
    times = []
    for place in range(len(rows)):
        if place in cuts:
            watermark = newest - LATENESS
        times.append(max(watermark, newest + draw(steps) * SECOND))
        newest = max(newest, times[-1])
    whole = with_times(rows, times, ids=list(ids))
    return [whole[a:b] for a, b in pairwise([0, *cuts, len(rows)]) if a < b]


def assert_stream_equals_history(batches, views):
    memory, engine = MemoryStates(), Incremental(views)
    online = {view.name: {} for view in views}
    for batch in batches:
        accepted = events(batch)
        step = engine.advance(memory, accepted)
        memory.keep(step, accepted)
        for name, rows in step.rows.items():
            online[name] |= dict(zip(step.row_keys[name], rows.to_pylist(), strict=True))
    whole = events([r for batch in batches for r in batch])
    assert dict(memory.kept) == dict(batch_states(views, whole))
    for view in views:
        rows = newest_rows(view, batch_rows(view, whole))
        keys = keys_of(STREAM, rows, view.key)
        assert online[view.name] == dict(zip(keys, rows.to_pylist(), strict=True))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@given(batches=arrivals())
@settings(max_examples=examples(25), deadline=None)
def test_states_and_rows_after_any_batches_equal_those_of_history(view, batches):
    """Late events, ties and cuts change nothing: states and newest rows are equal bit for bit."""
    assert_stream_equals_history(batches, [view])
