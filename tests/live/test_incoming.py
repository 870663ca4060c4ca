"""Which events can be read, and what is said of the others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_world import START, click

from adc_features.aggregates.declaration import EventStream, Grid
from adc_features.errors import RequestError
from adc_features.live.incoming import events_of, incoming, letter

CLICKS = EventStream(
    "clicks",
    keys={"customer_id": "int64", "sku": "string"},
    attributes=("brand",),
    values={"label": Grid(20, 1.0), "rating": Grid(20, 10.0, optional=True)},
)


def reason(event):
    """Why an event is refused; None when it is not."""
    found = incoming(CLICKS, [event])
    assert len(found) + len(found.faults) == 1
    return found.faults[0].reason if found.faults else None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"event_id": None}, "event_id is absent"),
        ({"event_id": ""}, "expected text of 1 to 200 characters"),
        ({"event_id": "x" * 201}, "expected text of 1 to 200 characters"),
        ({"event_id": 1.5}, "event_id is 1.5"),
        ({"event_time": "2024-05-01T12:00:00"}, "expected RFC 3339 with a zone"),
        ({"event_time": "yesterday"}, "expected RFC 3339 with a zone"),
        ({"event_time": 1.7e9}, "event_time is 1700000000.0"),
        ({"event_time": 1_714_564_800}, None),  # microseconds: minutes after 1970, late later on
        ({"event_time": -(2**62)}, "between the years 1900 and 2200"),
        ({"customer_id": "7"}, "customer_id is '7'; expected a whole number"),
        ({"customer_id": True}, "customer_id is True"),
        ({"customer_id": 2**63}, "a whole number of 64 bits"),
        ({"sku": 7}, "sku is 7; expected text"),
        ({"sku": None}, "sku is absent"),
        ({"brand": 5}, "brand is 5; expected text"),
        ({"label": None}, "label is absent"),
        ({"label": 2}, "label is 2; expected a number in -1 to 1"),
        ({"label": float("nan")}, "label is nan"),
        ({"label": "1"}, "label is '1'"),
        ({"rating": 10.5}, "or null, as the stream declares"),
        ({"lable": 1}, "has a field 'lable', which its stream does not declare"),
        ({"rating": None, "brand": None, "label": True}, None),
    ],
)
def test_each_fault_is_named(change, told):
    """The field, its value, and what was expected."""
    found = reason({**click(1, 0), **change})
    assert (found is None) if told is None else (found is not None and told in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(JSON, st.dictionaries(st.sampled_from(sorted(click(1, 0))), JSON, max_size=2))
def test_whatever_is_sent_is_an_event_or_has_a_reason(value, changes):
    """Never an error; and its line of the dead-letter file is JSON."""
    found = incoming(CLICKS, [value, {**click(1, 0), **changes}])
    assert len(found) + len(found.faults) == 2
    assert found.table.num_rows == len(found)
    for fault in found.faults:
        line = letter(fault, stream="clicks", outcome="unreadable", arrived=START)
        assert json.loads(line)["reason"] == fault.reason


CHANGE = st.fixed_dictionaries(
    {},
    optional={
        "event_id": st.text(max_size=3) | st.integers(-(2**63), 2**63),
        "customer_id": st.integers(-(2**63), 2**63) | st.booleans(),
        "sku": st.text(max_size=3) | st.none(),
        "brand": st.text(max_size=3) | st.none(),
        "label": st.sampled_from([0, 1, -1.0, 0.5, True, 2, 10**400, float("nan")]),
        "rating": st.none() | st.floats(-11, 11) | st.integers(-11, 11) | st.just(2**60),
    },
)


@given(st.lists(CHANGE, max_size=5), st.booleans())
def test_events_that_are_read_together_are_those_that_are_read_one_by_one(changes, same_kind):
    """Beside an event that cannot be read each is looked at alone: ids, digests, rows and faults
    are the same."""
    changes = changes[:1] * len(changes) if same_kind else changes
    events = [{**click(place, 0), **change} for place, change in enumerate(changes)]
    together, alone = incoming(CLICKS, events), incoming(CLICKS, [*events, {"lable": 1}])
    assert together.table.equals(alone.table)
    assert together.hashes == alone.hashes
    assert together.digests == alone.digests
    assert together.places.tolist() == alone.places.tolist()
    assert repr(together.faults) == repr(alone.faults[:-1])


def test_a_request_is_a_list_of_events():
    """As it is, or under `events`; anything else is refused whole."""
    assert events_of(b'[{"a": 1}]') == events_of(b'{"events": [{"a": 1}]}') == [{"a": 1}]
    for body in (b"{", b'"x"', b"{}", b'{"event": []}', b"\xff"):
        with pytest.raises(RequestError, match=r"array of events|unknown field"):
            events_of(body)
