"""Statistics as declared aggregates against the functions that `adc run` calls."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.events import Events
from adc_features.aggregates.incremental import Incremental, MemoryStates, newest_rows
from adc_features.data.attributes import ATTRIBUTES, attribute_text
from adc_features.data.statistics import (
    ITEM_PROFILE_SCHEMA,
    USER_ACTIVITY_SCHEMA,
    item_profile,
    user_activity,
)
from adc_features.data.statistics_views import (
    interaction_stream,
    item_profile_view,
    user_activity_view,
)

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)


def events_of(log: pa.Table, items: pa.Table, *, resolution: timedelta) -> Events:
    """Interactions with their items' attributes, as accepted events."""
    row = pc.index_in(log["item_id"], items["item_id"].combine_chunks())
    texts = {name: attribute_text(items, name).take(row) for name in ATTRIBUTES}
    columns = {n: log[n] for n in ("user_id", "item_id", "time", "label")}
    columns["rating"] = log["rating"]
    stream = interaction_stream(resolution=resolution, rating=10.0)
    return Events.of(stream, pa.table(columns | texts))


def declared(
    log: pa.Table, items: pa.Table, *, resolution: timedelta, refresh_at: list[datetime]
) -> tuple[pa.Table, pa.Table]:
    """Both views' rows as the declarations give them."""
    events = events_of(log, items, resolution=resolution)
    user = user_activity_view(events.stream, known="resolution")
    item = item_profile_view(events.stream, known="resolution")
    texts = {name: attribute_text(items, name) for name in ATTRIBUTES}
    moments = [t - resolution for t in refresh_at for _ in range(len(items))]
    every = pa.table({"item_id": items["item_id"], **texts})
    at = pa.concat_tables([every] * len(refresh_at)).append_column(
        "time", pa.array(moments, pa.timestamp("us", tz="UTC"))
    )
    return batch_rows(user, events), batch_rows(item, events, at=at)


def assert_same(got: pa.Table, wanted: pa.Table) -> float:
    """Every column is equal bit for bit, residuals within a multiple of 2^-30; the largest
    difference of these.
    """
    assert got.column_names == wanted.column_names
    assert len(got) == len(wanted)
    apart = 0.0
    for name in got.column_names:
        one, other = got[name].combine_chunks(), wanted[name].combine_chunks()
        if "residual" not in name:
            assert one.equals(other.cast(one.type)), name
            continue
        if pa.types.is_list(one.type):
            assert one.offsets.equals(other.offsets)
            one, other = one.flatten(), other.flatten()
        a, b = one.to_numpy().astype(np.float64), other.to_numpy().astype(np.float64)
        ulp = np.spacing(np.abs(b).astype(np.float32)).astype(np.float64)
        assert (np.abs(a - b) <= ulp + 2.0**-30).all(), name
        apart = max(apart, float(np.abs(a - b).max(initial=0)))
    return apart


rows = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from("abc"),
        st.sampled_from([0, 1, 2, 3, 4, 40, 160]),
        st.integers(0, 1),
        st.integers(1, 10),
    ),
    min_size=1,
    max_size=25,
)


def world(drawn: list[tuple[str, str, int, int, int]]) -> tuple[pa.Table, pa.Table]:
    drawn = sorted(drawn, key=lambda r: r[2])
    user, item, day, label, rating = zip(*drawn, strict=True)
    log = {
        "user_id": pa.array(user),
        "item_id": pa.array(item),
        "time": pa.array([START + d * DAY for d in day], pa.timestamp("us", tz="UTC")),
        "label": pa.array(label, pa.float32()),
        "rating": pa.array(rating, pa.float32()),
    }
    items = {
        "item_id": ["a", "b", "c", "d"],
        "brand": ["x", "x", None, "y"],
        "category": ["p", "p", "p", "r"],
        "category_path": ["p > q", "p", "p", "r"],
    }
    return pa.table(log), pa.table(items)


@given(rows)
@settings(max_examples=40, deadline=None)
def test_declared_statistics_equal_those_of_a_run(drawn):
    """Columns, rows, counts, means, windows, groups, lists and refreshes are the same."""
    log, items = world(drawn)
    refresh_at = [START + 2 * DAY, START + 30 * DAY]
    user, item = declared(log, items, resolution=DAY, refresh_at=refresh_at)
    assert user.column_names == USER_ACTIVITY_SCHEMA.names
    assert item.column_names == ITEM_PROFILE_SCHEMA.names
    assert_same(user, user_activity(log, items, resolution=DAY))
    wanted = item_profile(log, items, resolution=DAY, refresh_at=refresh_at)
    assert_same(item, wanted)


@given(rows, st.integers(1, 24))
@settings(max_examples=15, deadline=None)
def test_statistics_over_a_stream_equal_their_history(drawn, cut):
    """Sealed, the newest rows after two batches are those of the history."""
    events = events_of(*world(drawn), resolution=timedelta(microseconds=1))
    views = [user_activity_view(events.stream), item_profile_view(events.stream)]
    engine, memory = Incremental(views), MemoryStates()
    online: dict[str, dict] = {view.name: {} for view in views}
    for part in (events.table[:cut], events.table[cut:]):
        batch = Events(events.stream, part)
        step = engine.advance(memory, batch)
        memory.keep(step, batch)
        for name, table in step.rows.items():
            online[name] |= dict(zip(step.row_keys[name], table.to_pylist(), strict=True))
    for view in views:
        history = newest_rows(view, batch_rows(view, events)).to_pylist()
        assert [online[view.name][key] for key in sorted(online[view.name])] == history
