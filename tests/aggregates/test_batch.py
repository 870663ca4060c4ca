"""Rows of history against the oracle, an event at a time."""

import pytest
from aggregate_oracle import Oracle
from aggregate_shop import SECOND, VIEWS, events, examples, row, view, with_times
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.aggregates.batch import batch_rows

BASE = 1_700_000_000 * SECOND // (86_400 * SECOND) * 86_400 * SECOND
TIMES = [0, 1, 60, 600, 660, 661, 3_600, 3_601, 7_200, 21_600, 21_601, 25_200, 90_000]


@st.composite
def histories(draw, most=14):
    rows = draw(st.lists(row, min_size=1, max_size=most))
    moments = st.sampled_from([BASE + s * SECOND for s in TIMES])
    times = draw(st.lists(moments, min_size=len(rows), max_size=len(rows)))
    ids = draw(st.permutations(range(len(rows))))
    return with_times(rows, times, ids=list(ids))


@pytest.mark.parametrize("one", [*VIEWS, view("item_id", known="resolution")])
@given(rows=histories())
@settings(max_examples=examples(25), deadline=None)
def test_every_row_equals_the_oracle_bit_for_bit(one, rows):
    """Each key has one row after each distinct time, and every feature of it is exact."""
    oracle = Oracle(one, rows)
    got = batch_rows(one, events(rows)).to_pylist()
    wanted = [
        {**dict(zip(one.key, key, strict=True)), **oracle.features(key, time)}
        for key in oracle.every_key()
        for time in sorted({r["time"] for r in oracle.of_key(one.key, key)})
    ]
    place = lambda r: (r["last_time"], *(r[c] for c in one.key))  # noqa: E731
    assert [{n: v for n, v in r.items() if n != "event_timestamp"} for r in got] == sorted(
        wanted, key=place
    )
