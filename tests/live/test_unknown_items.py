"""What becomes of events of items that the published codes do not have."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest
from live_world import START, Clock, click, emptied, make_shop, online
from number_encoder import Encoder
from store_world import generation, snapshot
from test_ledger import sent

from adc_features import store
from adc_features.aggregates.declaration import EventStream
from adc_features.errors import InputError
from adc_features.live.corrections import correct
from adc_features.live.incoming import incoming
from adc_features.live.items import Items
from adc_features.live.items_incoming import incoming_items
from adc_features.live.repository import declared_views, open_live
from adc_features.live.verify import verify_online
from adc_features.live.writer import Writer
from adc_features.serving.live_metrics import LiveMetrics
from adc_features.store.repository import ItemKey

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def coded_shop(tmp_path_factory):
    """The shop, whose product s0 has codes from an hour before START."""
    repo = make_shop(tmp_path_factory.mktemp("coded") / "shop")
    served = START - timedelta(hours=1)
    store.publish(
        repo,
        generation(trained_through=served),
        [snapshot(served, 1, items=["s0"])],
        servable_at=[served],
        computed_at=served,
        key=ItemKey("product", "sku", "String"),
    )
    return repo


@pytest.fixture
def repo(coded_shop):
    """That shop, without events."""
    return emptied(coded_shop)


def opened(repo, clock, policy):
    """Its live directory, under a policy; the views that are applied need not change."""
    views = declared_views(repo).values()
    return open_live(
        repo,
        clock=clock,
        declared=[
            replace(one, stream=replace(one.stream, item="sku", unknown_items=policy))
            for one in views
        ],
    )


def add(repo, clock, sku):
    """The item, as POST /items adds it, a second later."""
    clock.now += SECOND
    items = Items(repo, Encoder(repo), clock=clock)
    items.commit(
        incoming_items(items.encoder.shape, [{"id": sku, "vectors": {"title": [1, 0]}}]).changes
    )


def products(repo):
    """How many events s0 and s1 have online."""
    return online(repo, ["product_profile:product_events"], sku=["s0", "s1"])["product_events"]


def test_held_events_count_at_their_own_time_when_their_item_has_come(repo):
    """They are durable and known by their id until then, and no watermark moves by them."""
    clock = Clock(START + 100 * SECOND)
    live = opened(repo, clock, "hold")
    receipt = sent(live, [click(0, 0), click(1, 60), click(3, 61)])
    assert (receipt.accepted, receipt.held, receipt.faults) == (1, 2, ())
    assert live.ledger.facts()["watermarks"]["clicks"] == str(
        int((START - timedelta(minutes=10)).timestamp() * 1e6)
    )
    assert sent(live, [click(1, 60)]).duplicates == 1
    live = opened(repo, clock, "hold")
    assert not live.ledger.due()
    live.ledger.commit([])
    assert products(repo) == [1, None]
    with Writer(live.ledger, live.histories) as writer:
        page = LiveMetrics(writer).page()
        assert b'adc_live_held_events{stream="clicks",until="item"} 2.0' in page
        assert b'adc_live_events_total{outcome="awaiting",stream="clicks"} 2.0' in page

    add(repo, clock, "s1")
    assert live.ledger.due()
    live.ledger.commit([])
    assert not live.ledger.due()
    assert products(repo) == [1, 2]
    last = online(repo, ["product_profile:product_last_time"], sku=["s1"])["product_last_time"]
    assert last == [int((START + 61 * SECOND).timestamp() * 1e6)]
    assert verify_online(live.histories).different == 0
    assert sent(live, [click(5, 62)]).accepted == 1


def test_a_running_writer_counts_held_events_soon_after_their_item_came(repo):
    """Without a further event."""
    clock = Clock(START + 100 * SECOND)
    live = opened(repo, clock, "hold")
    with Writer(live.ledger, live.histories) as writer:
        request = incoming(live.ledger.streams["clicks"], [click(1, 60)])
        assert writer.submit(request).result(timeout=60).held == 1
        add(repo, clock, "s1")
        until = time.monotonic() + 60
        while products(repo) != [None, 1]:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_held_event_is_late_when_the_watermark_passes_it(repo):
    """A correction counts it, once its item has come."""
    clock = Clock(START + timedelta(hours=1))
    live = opened(repo, clock, "hold")
    sent(live, [click(1, 0)])
    sent(live, [click(0, 1200)])
    assert live.ledger.facts()["counts"]["clicks"]["overdue"] == 0
    add(repo, clock, "s1")
    live.ledger.commit([])
    assert live.ledger.facts()["counts"]["clicks"]["overdue"] == 1
    assert products(repo) == [1, None]
    assert correct(live.histories, "clicks")["corrected"] == 1
    assert products(repo) == [1, 1]
    assert verify_online(live.histories).different == 0


def test_a_correction_leaves_out_what_the_stream_does_not_take(repo):
    """A late event of an unknown item waits for its item there, too."""
    clock = Clock(START + timedelta(hours=1))
    live = opened(repo, clock, "refuse")
    sent(live, [click(0, 1200)])
    sent(live, [click(1, 0), click(2, 0)])
    facts = correct(live.histories, "clicks")
    assert (facts["corrected"], facts["unknown"]) == (1, 1)
    add(repo, clock, "s1")
    assert correct(live.histories, "clicks")["corrected"] == 1
    assert products(repo) == [2, 1]
    assert verify_online(live.histories).different == 0


def test_a_held_event_may_lie_in_the_near_future_too(repo):
    """It counts when both its item and its time have come."""
    clock = Clock(START)
    live = opened(repo, clock, "hold")
    assert sent(live, [click(1, 60)]).held == 1
    add(repo, clock, "s1")
    live.ledger.commit([])
    assert products(repo) == [None, None]
    clock.now += 59 * SECOND
    assert live.ledger.due()
    live.ledger.commit([])
    assert products(repo) == [None, 1]
    assert verify_online(live.histories).different == 0


def test_events_of_unknown_items_may_be_refused(repo):
    """With the reason; they count when they are sent again after their item."""
    clock = Clock(START + 100 * SECOND)
    live = opened(repo, clock, "refuse")
    receipt = sent(live, [click(0, 0), click(1, 60)])
    assert (receipt.accepted, receipt.held) == (1, 0)
    assert "its item is in no published codes" in receipt.faults[0].reason
    assert live.ledger.facts()["counts"]["clicks"]["unknown"] == 1
    add(repo, clock, "s1")
    assert sent(live, [click(1, 60)]).accepted == 1
    assert products(repo) == [1, 1]


def test_by_default_an_event_makes_its_item_and_its_user_known(repo):
    """Both have rows from their first event on, whether they have codes or not; so have the items
    of events that were held when the policy changes to it.
    """
    clock = Clock(START + 100 * SECOND)
    sent(opened(repo, clock, "hold"), [click(1, 60)])
    live = opened(repo, clock, "create")
    assert sent(live, [click(2, 1, sku="s9", customer_id=77)]).accepted == 1
    assert online(repo, ["product_profile:product_events"], sku=["s9", "s1"]) == {
        "sku": ["s9", "s1"],
        "product_events": [1, 1],
    }
    asked = online(repo, ["customer_activity:customer_events"], customer_id=[77, 78])
    assert asked["customer_events"] == [1, None]


def test_what_tells_known_items_must_be_there(shop, repo):
    """A policy names the key of the items, and needs codes whose ids are of its type."""
    keys = {"customer_id": "int64", "sku": "string"}
    with pytest.raises(InputError, match="expected the key that holds the ids of items"):
        EventStream("clicks", keys, unknown_items="hold")
    with pytest.raises(InputError, match="expected one of create, hold, refuse"):
        EventStream("clicks", keys, item="sku", unknown_items="keep")
    with pytest.raises(InputError, match="has no published codes, so that every item is unknown"):
        opened(shop, Clock(START), "hold")
    views = [
        replace(one, stream=replace(one.stream, item="customer_id", unknown_items="hold"))
        for one in declared_views(repo).values()
    ]
    with pytest.raises(InputError, match="have ids of type string"):
        open_live(repo, declared=views)
