"""Sums at the edges of 64 bits, windows at their edges, late events, and what is refused."""

from datetime import timedelta
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from aggregate_shop import SECOND, STREAM, VIEWS, events, view, with_times

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.declaration import (
    AggregateView,
    EventStream,
    Grid,
    count,
    last_time,
    mean,
    total,
)
from adc_features.aggregates.events import Events
from adc_features.aggregates.incremental import Incremental, MemoryStates
from adc_features.errors import InputError

BASE = 1_700_006_400 * SECOND  # midnight
HOUR = timedelta(hours=1)
PLAIN = {
    "user_id": "u",
    "item_id": 1,
    "brand": "x",
    "label": 1.0,
    "rating": 2.5,
    "cents": 7,
}


def raw(users: list[str], values: list, *, seconds: list[int] | None = None) -> pa.Table:
    seconds = list(range(len(users))) if seconds is None else seconds
    times = pa.array([BASE + s * SECOND for s in seconds], pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": users, "value": values, "time": times})


def stream_of(grid: Grid) -> EventStream:
    return EventStream("payments", keys={"user_id": "string"}, values={"value": grid})


def view_of(grid: Grid) -> AggregateView:
    features = {
        "n": count(),
        "total": total("value"),
        "mean": mean("value"),
        "total_6h": total("value", window=6 * HOUR, hop=HOUR),
        "n_6h": count(window=6 * HOUR, hop=HOUR),
        "last_time": last_time(),
    }
    return AggregateView("payments", stream_of(grid), ("user_id",), features)


def after(one: AggregateView, table: pa.Table, *, step: int) -> dict[str, dict]:
    """The stream's rows after batches of `step` events."""
    engine, memory, rows = Incremental([one]), MemoryStates(), {}
    whole = Events.of(one.stream, table)
    for start in range(0, len(whole), step):
        batch = Events(one.stream, whole.table.slice(start, step))
        changed = engine.advance(memory, batch)
        memory.keep(changed, batch)
        rows |= {r["user_id"]: r for r in changed.rows[one.name].to_pylist()}
    return rows


def test_adversarial_values_sum_exactly_while_the_prefix_of_all_keys_wraps():
    """Sums of large values that cancel are exact in both engines, even where the running sum over
    all keys does not fit in 64 bits.
    """
    grid = Grid(bits=0, bound=2.0**60)
    one, rng = view_of(grid), np.random.default_rng(1)
    users = [f"u{k}" for k in range(40) for _ in range(4)]
    values = [v for _ in range(40) for v in (2**60, 1, int(rng.integers(-9, 9)), 2**60)]
    assert sum(values) > 2**63
    history = {
        r["user_id"]: r
        for r in batch_rows(one, Events.of(one.stream, raw(users, values))).to_pylist()
    }
    for user in set(users):
        mine = [Fraction(v) for u, v in zip(users, values, strict=True) if u == user]
        assert history[user]["total"] == history[user]["total_6h"] == sum(mine)
        assert history[user]["mean"] == float(np.float32(float(sum(mine)) / len(mine)))
    assert after(one, raw(users, values), step=7) == history


def test_more_events_than_a_sum_holds_are_refused_not_wrapped():
    """Neither engine wraps a key's sum round: eight values of 2^60 are one too many for it."""
    one = view_of(Grid(bits=0, bound=2.0**60))
    table = raw(["u"] * 8, [2**60] * 8)
    with pytest.raises(InputError, match="8 events"):
        batch_rows(one, Events.of(one.stream, table))
    with pytest.raises(InputError, match="8 events"):
        after(one, table, step=3)


def test_values_are_the_nearest_point_of_the_grid_ties_to_even():
    """Half a step goes to the even neighbour; whole numbers above 2^53 are kept."""
    column = Events.of(stream_of(Grid(1, 10.0)), raw(["u"] * 4, [0.25, 0.75, -0.25, 1.3]))
    assert column.table["value"].to_pylist() == [0, 2, 0, 3]
    large = Events.of(stream_of(Grid(0, 2.0**60)), raw(["u"], [2**53 + 1]))
    assert large.table["value"].to_pylist() == [2**53 + 1]


def test_an_event_exactly_a_window_old_is_outside_and_hops_are_half_open_to_the_left():
    """A window of 6 h in hops of 1 h, read at noon, begins after 06:00:00.000000."""
    one = view_of(Grid(0, 10.0))
    seconds = [6 * 3600 - 1, 6 * 3600, 6 * 3600 + 1, 12 * 3600]
    table = raw(["u"] * 4, [1, 2, 4, 8], seconds=seconds)
    row = batch_rows(one, Events.of(one.stream, table)).to_pylist()[-1]
    assert (row["n_6h"], row["total_6h"]) == (2, 12)
    later = raw(["u"] * 4, [1, 2, 4, 8], seconds=[*seconds[:3], 12 * 3600 + 1])
    row = batch_rows(one, Events.of(one.stream, later)).to_pylist()[-1]
    assert (row["n_6h"], row["total_6h"]) == (2, 12)  # the hop of the reading began at 12:00
    for one_table in (table, later):
        history = batch_rows(one, Events.of(one.stream, one_table)).to_pylist()[-1]
        assert after(one, one_table, step=1) == {"u": history}


def test_a_late_event_writes_the_rows_of_its_own_keys_only():
    """Sealed, an event within the lateness changes one row a view, and the states of its keys."""
    engine, memory = Incremental(VIEWS), MemoryStates()
    many = [
        PLAIN | {"user_id": f"u{k}", "item_id": k % 5, "brand": "xyz"[k % 3]} for k in range(30)
    ]
    times = [BASE + k * SECOND for k in range(30)]
    first = events(with_times(many, times))
    memory.keep(engine.advance(memory, first), first)
    late = PLAIN | {"user_id": "u3", "item_id": 3, "brand": "x", "rating": -8.0}
    step = engine.advance(memory, events(with_times([late], [BASE - 300 * SECOND], ids=[99])))
    assert {name: len(rows) for name, rows in step.rows.items()} == dict.fromkeys(step.rows, 1)
    assert all(len(states) == 1 for states in step.states.values())


def test_an_event_older_than_the_lateness_permits_is_refused():
    """What would read other keys before their seal is refused by name; nothing is guessed."""
    engine, memory = Incremental(VIEWS[:1]), MemoryStates()
    first = events(with_times([PLAIN], [BASE]))
    memory.keep(engine.advance(memory, first), first)
    late = events(with_times([PLAIN], [BASE - 3600 * SECOND], ids=[1]))
    with pytest.raises(InputError, match="older than the stream's lateness permits"):
        engine.advance(memory, late)


def test_known_by_resolution_a_late_event_computes_the_suffix_again():
    """A view with known="resolution" gives the rows of every key with an event since the late one,
    as history has them.
    """
    one = view("item_id", known="resolution")
    rows = with_times(
        [PLAIN | {"item_id": k, "rating": float(k)} for k in range(6)],
        [BASE + k * 60 * SECOND for k in range(6)],
    )
    engine, memory = Incremental([one]), MemoryStates()
    late = rows.pop(3)
    first, second = events(rows), events([late])
    memory.keep(engine.advance(memory, first), first)
    step = engine.advance(memory, second)
    assert [r["item_id"] for r in step.rows["item_id"].to_pylist()] == [3, 4, 5]
    history = batch_rows(one, events([*rows, late])).to_pylist()
    assert step.rows["item_id"].to_pylist() == history[3:]
    assert step.states == {}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("value", [1.0, float("nan")], "value holds 1 values that are not numbers"),
        ("value", [1.0, 11.0], r"value holds 1 values outside of \+-10 \(first 11.0\)"),
        ("value", [1, -11], r"outside of \+-10"),
        ("value", [1.0, float("inf")], "outside of"),
        ("value", [1.0, None], "value holds 1 nulls"),
        ("value", ["1", "2"], "value is of type string"),
        ("user_id", ["u", None], "user_id holds 1 nulls"),
        ("user_id", [1, 2], "user_id is of type int64"),
        ("user_id", ["u", "v" * 70_000], "a text of 70,000 bytes"),
        ("time", ["now", "then"], "time is of type string"),
        ("event_id", ["same", "same"], "1 events have the id of another one"),
        ("event_id", ["same", None], "event_id holds 1 nulls"),
        ("event_id", [1, 2], "event_id is of type int64"),
    ],
)
def test_events_that_cannot_be_counted_are_refused_by_column(column, values, message):
    """The message names the column, how many rows, and the first value."""
    table = raw(["u", "v"], [1.0, 2.0])
    if column in table.column_names:
        table = table.drop_columns([column])
    with pytest.raises(InputError, match=message):
        Events.of(stream_of(Grid(20, 10.0)), table.append_column(column, pa.array(values)))


def test_no_events_are_no_rows_and_no_states():
    """An empty history, and an empty batch, give nothing."""
    none = Events(STREAM, events(with_times([PLAIN], [BASE])).table.slice(0, 0))
    for one in VIEWS:
        assert len(batch_rows(one, none)) == 0
    step = Incremental(VIEWS).advance(MemoryStates(), none)
    assert (step.rows, step.states) == ({}, {})
