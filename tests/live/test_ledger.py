"""What becomes of events, and that states and rows are those of the accepted ones."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_world import START, Clock, click, emptied, online, opened

from adc_features.errors import ArtifactError, NewerFormatError
from adc_features.live.decisions import Position
from adc_features.live.incoming import incoming
from adc_features.live.tables import META
from adc_features.live.verify import verify_online


def sent(live, events, **how):
    """Commit events as one request; its receipt."""
    return live.ledger.commit([incoming(live.ledger.streams["clicks"], events)], **how)[0]


def test_events_are_online_when_they_are_acknowledged(shop):
    """Counts, lists and pairs of keys hold the events of the receipt."""
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    receipt = sent(live, [click(0, 0), click(3, 1), click(1, 2)])
    assert (receipt.accepted, receipt.duplicates, receipt.faults) == (3, 0, ())
    served = online(
        shop,
        ["customer_activity:customer_events", "customer_activity:customer_recent"],
        customer_id=[0, 1, 7],
    )
    assert served["customer_events"] == [2, 1, None]
    assert served["customer_recent"] == [["s0", "s1"], ["s1"], None]
    pairs = online(shop, ["pair_activity:pair_events"], customer_id=[0, 0], sku=["s1", "s9"])
    assert pairs["pair_events"] == [1, None]


def test_a_repeated_event_counts_once(shop):
    """In one request, in a later one, and after the directory was opened again."""
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    first = sent(live, [click(0, 0), click(0, 0)])
    assert (first.accepted, first.duplicates) == (1, 1)
    again = opened(shop, Clock(START + timedelta(minutes=2)))
    second = sent(again, [click(0, 0)])
    assert (second.accepted, second.duplicates) == (0, 1)
    assert online(shop, ["product_profile:product_events"], sku=["s0"])["product_events"] == [1]


def test_another_event_of_the_same_id_is_refused(shop):
    """The first one holds."""
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    sent(live, [click(0, 0)])
    receipt = sent(live, [click(0, 0, label=1), click(0, 30)])
    assert receipt.accepted == 0
    assert [f.place for f in receipt.faults] == [0, 1]
    assert "another event of the same id" in receipt.faults[0].reason


def test_late_events_are_refused_and_kept_aside(shop):
    """The watermark is the newest accepted time less ten minutes; an event at it is not late."""
    live = opened(shop, Clock(START + timedelta(hours=1)))
    sent(live, [click(0, 1200)])
    receipt = sent(live, [click(1, 599), click(2, 600)])
    assert receipt.accepted == 1
    assert "older than the watermark, 2024-05-01T12:10:00+00:00" in receipt.faults[0].reason
    live.histories.drain()
    (letters,) = (shop / "data/live/dead_letters").iterdir()
    assert '"event_id":"e1"' in letters.read_text(encoding="utf-8")
    assert live.ledger.facts()["counts"]["clicks"]["late"] == 1


def test_an_event_of_the_near_future_counts_when_its_time_has_come(shop):
    """It is durable at once, no watermark moves by it, and it is known when it comes again."""
    clock = Clock(START)
    live = opened(shop, clock)
    receipt = sent(live, [click(0, 60), click(1, 301)])
    assert (receipt.accepted, receipt.held, len(receipt.faults)) == (0, 1, 1)
    assert "ahead of our clock" in receipt.faults[0].reason
    assert sent(live, [click(0, 60)]).duplicates == 1
    clock.now = START + timedelta(seconds=61)
    sent(live, [click(5, 0)])
    customers = online(shop, ["customer_activity:customer_events"], customer_id=[0, 2])
    assert customers["customer_events"] == [1, 1]
    assert verify_online(live.histories).different == 0


def test_publish_times_rise_though_the_clock_does_not(shop):
    """Rows of a later commit are newer, also when the clock is set back."""
    clock = Clock(START + timedelta(minutes=5))
    live = opened(shop, clock)
    first = sent(live, [click(0, 0)])
    clock.now = START + timedelta(minutes=1)
    second = sent(live, [click(3, 1)])
    assert second.published > first.published
    assert online(shop, ["customer_activity:customer_events"], customer_id=[0])[
        "customer_events"
    ] == [2]


def test_a_source_that_another_process_read_further_is_refused(shop):
    """A commit from a place that is not where the source stands changes nothing."""
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    sent(live, [click(0, 0)], position=Position("kafka", "0", None, "1"))
    with pytest.raises(ArtifactError, match="another process has read it to 1, this one started"):
        sent(live, [click(1, 0)], position=Position("kafka", "0", None, "1"))
    assert live.ledger.facts()["positions"] == {"kafka/0": "1"}
    assert live.ledger.facts()["counts"]["clicks"]["accepted"] == 1


EVENTS = st.builds(
    lambda number, seconds, customer, sku, label, rating: click(
        number, seconds, customer_id=customer, sku=f"s{sku}", label=label, rating=rating
    ),
    st.integers(0, 40),
    st.integers(0, 1500) | st.sampled_from([0, 600, 900, 1200]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0, 1, 0.3, True]),
    st.none() | st.floats(-10, 10),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(EVENTS, max_size=8), st.integers(0, 300), st.booleans()), max_size=8
    )
)
def test_what_is_served_equals_the_batch_of_what_was_accepted(made_shop, requests):
    """Whatever comes twice, late, early or in whatever batches, with files written and the
    directory opened again between; each event has exactly one outcome.
    """
    clock = Clock(START + timedelta(minutes=10))
    live = opened(emptied(made_shop), clock)
    total = 0
    for events, seconds, again in requests:
        clock.now += timedelta(seconds=seconds)
        receipt = sent(live, events)
        assert receipt.accepted + receipt.held + receipt.duplicates + len(receipt.faults) == len(
            events
        )
        total += len(events)
        if again:
            live.histories.drain()
            live = opened(made_shop, clock)
    counts = live.ledger.facts()["counts"].get("clicks", {})
    assert sum(counts.values()) == total
    report = verify_online(live.histories)
    assert report.different == 0, report.to_dict()
    held = counts.get("held", 0)
    assert (
        counts.get("accepted", 0)
        <= report.events.get("clicks", 0)
        <= counts.get("accepted", 0) + held
    )


def test_a_live_directory_of_a_newer_version_is_refused_and_left_as_it_is(shop):
    """Its number is written with the first commit; one without a number, or with ours, opens."""
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    sent(live, [click(0, 0)])
    environment = live.ledger.environment
    with environment.reading(META) as meta:
        assert bytes(meta.get(b"format")) == b"1"
    environment.write_tables([META], lambda tables: tables[META].delete(b"format"))
    sent(opened(shop, Clock(START + timedelta(minutes=2))), [click(0, 1)])
    for number, error in ((b"2", NewerFormatError), (b"x", ArtifactError)):
        environment.write_tables([META], lambda tables, n=number: tables[META].put(b"format", n))
        with pytest.raises(error, match="format"):
            opened(shop, Clock(START + timedelta(minutes=3)))
        with pytest.raises(error, match="format"):
            sent(live, [click(0, 2)])
    with environment.reading(META) as meta:
        assert bytes(meta.get(b"format")) == b"x"
