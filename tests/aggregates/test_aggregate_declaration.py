"""What a declaration says, keeps and refuses."""

from datetime import timedelta

import pytest
from aggregate_shop import FEATURES, STREAM, view
from hypothesis import given
from hypothesis import strategies as st

from adc_features.aggregates.declaration import (
    AggregateView,
    EventStream,
    Grid,
    count,
    distinct,
    last,
    last_time,
    maximum,
    residual_mean,
    smoothed_mean,
    total,
)
from adc_features.aggregates.keys import keys_of
from adc_features.aggregates.record import declaration_hash, to_json
from adc_features.errors import ArtifactError, InputError, NewerFormatError

HOUR = timedelta(hours=1)


def test_a_declaration_has_one_text():
    """Live directories compare it: durations are microseconds, features stand in their order."""
    stream = EventStream("clicks", {"user": "string"}, {"stars": Grid(0, 5.0)})
    features = {"n": count(window=HOUR, hop=HOUR), "newest": last_time()}
    rest = ', "of": null, "n": null, "smoothing": 0.0, "initial": 0.0, "by": null'
    assert to_json(AggregateView("users", stream, ("user",), features)) == (
        '{"format": 1, "name": "users", "stream": {"name": "clicks", "keys": {"user": "string"},'
        ' "values": {"stars": {"bits": 0, "bound": 5.0, "optional": false}}, "attributes": [],'
        ' "lateness": 600000000, "tick": 60000000, "resolution": 1}, "key": ["user"],'
        f' "features": {{"n": {{"kind": "count"{rest},'
        ' "window": 3600000000, "hop": 3600000000, "at": "row"},'
        f' "newest": {{"kind": "last_time"{rest},'
        ' "window": null, "hop": null, "at": "row"}}, "known": "sealed"}'
    )


def test_every_change_of_a_declaration_changes_its_hash():
    """Names, order, windows and grids are pinned."""
    views = [view("user_id"), view("item_id"), view("item_id", known="resolution")]
    turned = dict(reversed(FEATURES.items()))
    views.append(AggregateView("user_id", STREAM, ("user_id",), turned))
    assert len({declaration_hash(one) for one in views}) == 4


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (total("price"), "reads the value 'price'"),
        (total("user_id"), "reads the value 'user_id'"),
        (last(0, "item_id"), "keeps 0 values"),
        (last(3, "price"), "'price'"),
        (distinct("label"), "'label'"),
        (count(window=HOUR), "a window or a hop alone"),
        (count(window=HOUR, hop=timedelta(minutes=7)), "divides a day"),
        (count(window=HOUR, hop=2 * HOUR), "expected 1 to"),
        (count(window=HOUR, hop=timedelta(milliseconds=1)), "expected 1 to"),
        (count(at="read"), "without a window"),
        (maximum("label", window=HOUR, hop=HOUR, at="read"), "not read at the time"),
        (count(by="shop"), "names the column 'shop'"),
        (count(by="brand", window=HOUR, hop=HOUR), "`by` and a window"),
        (smoothed_mean("label", smoothing=0), "smoothing"),
        (smoothed_mean("label", initial=None), "first event"),
        (residual_mean("rating", against="shop"), "names the column 'shop'"),
        (residual_mean("rating", against="item_id", initial=99.0), "begins with 99.0"),
        (residual_mean("rating", against="item_id", bits=60), "60 bits"),
        (residual_mean("price", against="item_id"), "'price'"),
    ],
)
def test_an_aggregate_that_cannot_be_computed_is_refused(one, message):
    """The message names the view, the feature and what would do."""
    with pytest.raises(InputError, match=message):
        AggregateView("v", STREAM, ("user_id",), {"f": one, "last_time": last_time()})


def test_a_view_needs_a_key_a_time_and_its_own_names():
    """Keys are columns of the stream; one feature is the newest event's time."""
    for key, features, message in [
        ((), {"t": last_time()}, "has the key"),
        (("shop",), {"t": last_time()}, "names the column 'shop'"),
        (("user_id",), {"n": count()}, "last_time"),
        (("user_id",), {"user_id": last_time()}, "taken"),
    ]:
        with pytest.raises(InputError, match=message):
            AggregateView("v", STREAM, key, features)


def test_a_stream_and_its_grids_check_themselves():
    """Bits and bounds fit in 64 bits; columns have one meaning each."""
    for bits, bound in [(-1, 1.0), (53, 1.0), (40, 2.0**30), (3, 0.0), (3, float("nan"))]:
        with pytest.raises(InputError):
            Grid(bits, bound)
    for keys, values in [
        ({}, {}),
        ({"time": "string"}, {}),
        ({"a": "string"}, {"a": Grid(1, 1)}),
        ({"a": "double"}, {}),
    ]:
        with pytest.raises(InputError):
            EventStream("s", keys, values)


@given(st.lists(st.tuples(st.text(), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_different_keys_have_different_bytes(rows):
    """One column or several, text or numbers: a key's bytes are its own, and numbers sort."""
    import pyarrow as pa

    table = pa.table({"user_id": [r[0] for r in rows], "item_id": [r[1] for r in rows]})
    columns = ("user_id", "item_id")
    keys = keys_of(STREAM, table, columns)
    assert len(set(keys)) == len(set(zip(keys, rows, strict=True))) == len(set(rows))
    single = keys_of(STREAM, table, ("item_id",))
    assert len(set(single)) == len({row[1] for row in rows})
    assert sorted(single) == keys_of(STREAM, table.sort_by("item_id"), ("item_id",))


def test_states_of_another_declaration_or_damaged_ones_are_refused():
    """Bytes are read only by the declaration that wrote them; a newer format says so."""
    from adc_features.aggregates.states import Layout, Section

    layout = Layout("views: one", (0, 7), (Section(2, 1), Section(1)))
    fixed, entries = layout.decode([None, None])
    states = layout.encode(fixed, entries)
    assert len(states) == 2
    assert layout.decode(states)[0].tolist() == [[0, 7], [0, 7]]
    other = Layout("views: another", (0, 7), (Section(2, 1), Section(1)))
    with pytest.raises(ArtifactError, match="another declaration"):
        other.decode(states)
    for damaged in (states[0][:-1], states[0][:-8], states[0] + bytes(8), b""):
        with pytest.raises(ArtifactError, match="damaged"):
            layout.decode([states[1], damaged])
    newer = (int.from_bytes(states[0][:8], "little") + (1 << 32)).to_bytes(8, "little")
    with pytest.raises(NewerFormatError, match="format 2"):
        layout.decode([newer + states[0][8:]])
