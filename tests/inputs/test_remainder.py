"""What a stored total says of events that are not recent, against plain loops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lists_world import NOW, assert_same, fitted, joined, restored, spec
from ranking_world import frame, interactions

from adc_features.data.statistics import SMOOTHING
from adc_features.errors import LeakError
from adc_features.inputs.declaration import Remainder, remainder
from adc_features.inputs.encoders.remainder import RemainderEncoder
from adc_features.ranking.legacy.features import SETTLED_DAYS, settled_features

DAY = np.timedelta64(1, "D")
COUNT = {"source": "count", "times": "times"}
MEAN = {"source": "mean", "times": "times", "values": "values", "count": "count"}


def rows(count, mean, days, values):
    """days: how old each recent event is."""
    times = [
        None if d is None else [(NOW - int(x * 86_400) * np.timedelta64(1, "s")) for x in d]
        for d in days
    ]
    micros = [None if t is None else [int(x.astype(np.int64)) for x in t] for t in times]
    return joined(
        {
            "count": pa.array(count, pa.int64()),
            "mean": pa.array(mean, pa.float64()),
            "times": pa.array(micros, pa.list_(pa.int64())),
            "values": pa.array(values, pa.list_(pa.float32())),
        }
    )


def raw(encoder: RemainderEncoder, parts) -> np.ndarray:
    """Before scaling, NaN where absent."""
    dense = encoder.encode(parts).dense.astype(np.float64)
    values = dense[:, 0] * encoder.scale.scale + encoder.scale.mean
    return np.where(dense[:, 1] > 0, np.nan, values)


PARTS = rows(
    [5, 2, 3, None, 1],
    [0.5, 1.0, 0.0, None, 2.0],
    [[90, 60, 59.99, 1], [3, 2], [], None, None],
    [[1.0, 1.0, 2.0, -1.0], [1.0, 1.0], [], None, None],
)


def test_young_events_are_taken_from_a_number():
    """An event of just 60 days is no longer young; without a list none is; no total is absent."""
    encoder = fitted(RemainderEncoder, spec("r", remainder(days=60), **COUNT), PARTS)
    np.testing.assert_allclose(raw(encoder, PARTS), [3, 0, 3, np.nan, 1], atol=1e-6)
    logged = fitted(RemainderEncoder, spec("r", remainder(days=60, log=True), **COUNT), PARTS)
    np.testing.assert_allclose(raw(logged, PARTS), np.log1p([3, 0, 3, np.nan, 1]), atol=1e-6)
    assert_same(restored(encoder).encode(PARTS), encoder.encode(PARTS))
    assert encoder.counts(PARTS) == {
        "absent": 1,
        "unknown": 0,
        "present": 4,
        "null_elements": 0,
    }


def test_young_events_are_taken_from_a_mean():
    """(0.5 * (5 + 2) - (2 - 1)) / (3 + 2); a user without older events is absent."""
    kind = remainder(days=60, values="values", count="count", smoothing=2.0)
    encoder = fitted(RemainderEncoder, spec("r", kind, **MEAN), PARTS)
    np.testing.assert_allclose(raw(encoder, PARTS), [0.5, np.nan, 0, np.nan, 2], atol=1e-6)


def test_an_event_after_its_row_is_refused():
    """A list that holds an event of tomorrow is a leak, whatever the total says."""
    parts = rows([3], [0.5], [[-1.0]], [[1.0]])
    with pytest.raises(LeakError, match="ends before its row"):
        fitted(RemainderEncoder, spec("r", remainder(), **COUNT), parts)


@settings(max_examples=25, deadline=None)
@given(
    ages=st.lists(
        st.lists(st.tuples(st.integers(0, 200), st.integers(-3, 3)), max_size=8),
        min_size=1,
        max_size=8,
    ),
    more=st.integers(0, 4),
    days=st.integers(1, 150),
)
def test_a_remainder_is_the_total_of_older_events(ages, more, days):
    """A total over events of a list, with some older ones, less its young events is the total of
    the others."""
    whole = [[*user, *((300, 1) for _ in range(more))] for user in ages]
    count = [len(user) for user in whole]
    mean = [sum(v for _, v in user) / (len(user) + 2.0) for user in whole]
    parts = rows(
        count,
        mean,
        [[a for a, _ in user] for user in ages],
        [[v for _, v in user] for user in ages],
    )
    older = [[v for a, v in user if a >= days] for user in whole]
    counted = fitted(RemainderEncoder, spec("r", remainder(days=days), **COUNT), parts)
    np.testing.assert_allclose(raw(counted, parts), [len(v) for v in older], atol=1e-4)
    if not any(older):
        return
    kind = remainder(days=days, values="values", count="count", smoothing=2.0)
    encoder = fitted(RemainderEncoder, spec("r", kind, **MEAN), parts)
    wanted = [sum(v) / (len(v) + 2.0) if v else np.nan for v in older]
    np.testing.assert_allclose(raw(encoder, parts), wanted, atol=1e-4)


def test_the_settled_state_is_two_remainders():
    """What the run's rankers call settled is two declarations, a user without older events apart:
    absent, and not a mean of 0."""
    whole = frame(interactions(400, seed=0))
    expected = settled_features(whole)
    parts = joined(whole.table, times=whole.times)
    user = {n: f"user_{n}" for n in ("event_count", "residual_mean")}
    count = spec(
        "count",
        Remainder(days=SETTLED_DAYS, log=True),
        source=user["event_count"],
        times="user_recent_times",
    )
    mean = spec(
        "mean",
        Remainder(days=SETTLED_DAYS, values="v", count="c", smoothing=SMOOTHING),
        source=user["residual_mean"],
        times="user_recent_times",
        values="user_recent_residuals",
        count=user["event_count"],
    )
    found = np.stack([raw(fitted(RemainderEncoder, s, parts), parts) for s in (count, mean)], 1)
    known = np.isfinite(found)
    np.testing.assert_allclose(found[known], expected[known], atol=1e-5)
    assert not expected[~known].any()
    assert known.all(1).any()
