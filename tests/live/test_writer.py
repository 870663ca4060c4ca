"""Requests share commits, wait within bounds, and are told what became of them."""

import threading
import time
from datetime import timedelta

import pytest
from live_world import START, Clock, click, online, opened

from adc_features.errors import ArtifactError
from adc_features.live import writer as module
from adc_features.live.incoming import incoming
from adc_features.live.writer import BusyError, Writer


def test_requests_share_a_commit_and_each_gets_its_receipt(shop, monkeypatch):
    """Those that come within the wait are one transaction; what waits at the end is committed."""
    live = opened(shop, Clock(START + timedelta(minutes=1)), commit_after=timedelta(seconds=0.2))
    commits = []
    commit = live.ledger.commit
    monkeypatch.setattr(
        live.ledger, "commit", lambda r, **k: commits.append(len(r)) or commit(r, **k)
    )
    stream = live.ledger.streams["clicks"]
    with Writer(live.ledger, live.histories) as writer:
        receipts = [writer.submit(incoming(stream, [click(i, i), click(i, i)])) for i in range(5)]
    assert [(r.result().accepted, r.result().duplicates) for r in receipts] == [(1, 1)] * 5
    assert sum(commits) == 5
    assert len(commits) < 5
    with pytest.raises(BusyError, match="the service ends"):
        writer.submit(incoming(stream, [click(9, 9)]))


def test_a_held_event_counts_when_its_time_has_come_though_nothing_else_comes(shop, monkeypatch):
    """The writer looks at held events while it is idle."""
    monkeypatch.setattr(module, "_IDLE_S", 0.05)
    clock = Clock(START)
    live = opened(shop, clock)
    stream = live.ledger.streams["clicks"]
    with Writer(live.ledger, live.histories) as writer:
        assert writer.submit(incoming(stream, [click(0, 60)])).result(10).held == 1
        assert not live.ledger.due()
        clock.now = START + timedelta(seconds=60)
        until = time.monotonic() + 10
        while live.ledger.due() and time.monotonic() < until:
            time.sleep(0.01)
    served = online(shop, ["product_profile:product_events"], sku=["s0"])
    assert served["product_events"] == [1]


def test_more_than_may_wait_is_refused_and_the_rest_kept(shop, monkeypatch):
    """Until there is room again."""
    live = opened(shop, Clock(START + timedelta(minutes=1)), max_waiting=3)
    stream, commit, go = live.ledger.streams["clicks"], live.ledger.commit, threading.Event()
    monkeypatch.setattr(live.ledger, "commit", lambda r, **k: go.wait() and commit(r, **k))
    with Writer(live.ledger, live.histories) as writer:
        first = writer.submit(incoming(stream, [click(0, 0), click(1, 1)]))
        with pytest.raises(BusyError, match="2 events wait to be written"):
            writer.submit(incoming(stream, [click(2, 2), click(3, 3)]))
        go.set()
        assert first.result(10).accepted == 2
        assert writer.submit(incoming(stream, [click(2, 2), click(3, 3)])).result(10).accepted == 2


def test_who_gives_up_disturbs_nobody(shop, monkeypatch):
    """A request that is cancelled while it waits is not kept; cancelled during its commit it is.
    Those beside it get their receipts, and its events are new when they come again.
    """
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    stream, commit, go = live.ledger.streams["clicks"], live.ledger.commit, threading.Event()
    committing = threading.Event()

    def slow(requests, **how):
        committing.set()
        return go.wait() and commit(requests, **how)

    monkeypatch.setattr(live.ledger, "commit", slow)
    with Writer(live.ledger, live.histories) as writer:
        late = writer.submit(incoming(stream, [click(0, 0)]))
        assert committing.wait(10)
        gone, beside = (writer.submit(incoming(stream, [click(n, n)])) for n in (1, 2))
        assert gone.cancel()
        assert not late.cancel()
        go.set()
        assert late.result(10).accepted == 1
        assert beside.result(10).accepted == 1
        again = writer.submit(incoming(stream, [click(n, n) for n in (0, 1, 2)])).result(10)
        assert (again.accepted, again.duplicates) == (1, 2)
    assert writer.waiting == 0


def test_a_directory_that_cannot_be_written_is_told_to_everybody(shop, monkeypatch):
    """And the next request finds the writer alive."""
    live = opened(shop, Clock(START + timedelta(minutes=1)))
    stream, commit, full = live.ledger.streams["clicks"], live.ledger.commit, [True]

    def sometimes(requests, **how):
        if full:
            raise ArtifactError("disk full")
        return commit(requests, **how)

    monkeypatch.setattr(live.ledger, "commit", sometimes)
    with Writer(live.ledger, live.histories) as writer:
        with pytest.raises(ArtifactError, match="disk full"):
            writer.submit(incoming(stream, [click(0, 0)])).result(10)
        full.clear()
        assert writer.submit(incoming(stream, [click(0, 0)])).result(10).accepted == 1
        assert writer.waiting == 0
