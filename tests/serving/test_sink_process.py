"""Events are taken by a process of their own, which may die."""

import json
import multiprocessing
import os
import signal
import threading
import time
from datetime import UTC, datetime

import pytest
from live_world import make_shop

from adc_features.errors import AdcError
from adc_features.live.repository import open_live
from adc_features.live.verify import verify_online
from adc_features.live.writer import BusyError
from adc_features.serving.sink_process import ProcessSink, sink_process


@pytest.fixture
def own_sigterm():
    """The handler of SIGTERM, put back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow  # starts a process four times
def test_kills_of_the_process_lose_and_double_nothing(tmp_path, own_sigterm):
    """Each request is sent until it is answered; whatever was answered counts once, and what is
    online is what the events say. The process leaves the core to whoever ranks.
    """
    repo, kills, again = make_shop(tmp_path / "shop"), 3, 0
    asked = iter(range(1_000_000))
    until = time.monotonic() + 120

    def kill_now_and_then():
        for _ in range(kills):
            time.sleep(0.3)
            [process] = multiprocessing.active_children()
            process.kill()
            process.join()
            while not [p for p in multiprocessing.active_children() if p.is_alive()]:
                time.sleep(0.05)
            sink.wait()

    with sink_process(repo) as told:
        sink = ProcessSink(*told).wait()
        [taking] = multiprocessing.active_children()
        assert os.getpriority(os.PRIO_PROCESS, taking.pid) > os.getpriority(os.PRIO_PROCESS, 0)
        killing = threading.Thread(target=kill_now_and_then)
        killing.start()
        sent = 0
        while killing.is_alive() or not sent:
            body = json.dumps([event(next(asked)) for _ in range(7)]).encode()
            while True:
                assert time.monotonic() < until
                try:
                    receipt = sink.take("clicks", body).result(30)
                    break
                except BusyError:
                    again += 1
                    time.sleep(0.02)
            assert receipt.accepted + receipt.duplicates == 7
            sent += 7
        killing.join()
        sink.close()
    assert again  # some were told to come again
    live = open_live(repo)
    [stream] = live.ledger.streams.values()
    assert live.ledger.facts()["counts"]["clicks"]["accepted"] == sent
    assert len(live.histories.accepted(stream)) == sent
    assert verify_online(live.histories).different == 0


def event(number: int) -> dict[str, object]:
    """Of this moment."""
    return {
        "event_id": f"e{number}",
        "event_time": datetime.now(UTC).isoformat(),
        "customer_id": number % 11,
        "sku": f"s{number % 5}",
        "label": number % 2,
    }


def test_a_repository_without_live_views_starts_no_process(tmp_path):
    """Its fault is told by the one who asked."""
    (tmp_path / "feature_store.yaml").write_text("project: p\nprovider: local\n")
    with pytest.raises(AdcError), sink_process(tmp_path):
        pass
    assert not multiprocessing.active_children()
