"""Live views that another online store serves. Reads, writes: shops on SQLite and Redis."""

import contextlib
import json
import shutil
import sqlite3
import time
from datetime import timedelta

import pyarrow as pa
import pytest
import start  # docs/servers
from feast import FeatureStore
from live_world import OURS, START, Clock, click, emptied, make_shop, online, opened

from adc_features.live.incoming import incoming
from adc_features.live.sources.base import ingest
from adc_features.live.sources.lines import Lines
from adc_features.live.verify import verify_online
from adc_features.live.writer import BusyError, Writer
from adc_features.serving.live_metrics import LiveMetrics
from adc_features.store.services.plan import ServicePlan, StoredView
from adc_features.store.services.publish_time import PublishTime

SQLITE = "{type: sqlite, path: data/online.db}"
DELEGATE = (
    f"{OURS[:-1]}, delegate: {{type: sqlite, path: data/other.db}}, delegate_views:"
    " [product_profile]}"
)
COUNT = ["product_profile:product_events"]


class Killed(BaseException):
    """In place of a kill."""


def counts(repo):
    """What Feast serves of s0 and s1."""
    return online(repo, COUNT, sku=["s0", "s1"])["product_events"]


def commit(live, *numbers):
    """Accept clicks; s0 gets the even ones."""
    stream = live.ledger.streams["clicks"]
    live.ledger.commit([incoming(stream, [click(i, i) for i in numbers])])


@pytest.fixture(scope="module")
def sqlite_shop(tmp_path_factory):
    """An applied repository whose online store is Feast's SQLite."""
    return make_shop(tmp_path_factory.mktemp("elsewhere") / "shop", store=SQLITE)


@pytest.fixture
def live(sqlite_shop):
    """Its live directory, empty, as the store is; rows may wait for a minute."""
    with contextlib.closing(sqlite3.connect(sqlite_shop / "data/online.db")) as rows, rows:
        rows.execute("DELETE FROM shop_product_profile")
    clock = Clock(START + timedelta(minutes=1))
    return opened(emptied(sqlite_shop), clock, online_lag=timedelta(minutes=1))


@pytest.mark.parametrize(
    "kind", ["sqlite", "delegate", pytest.param("redis", marks=pytest.mark.servers)]
)
def test_rows_are_repeated_after_a_kill_and_the_newest_stays(tmp_path, kind, monkeypatch):
    """Killed after the store took rows and before they left the outbox; the store then has what
    the events say, in every view, and a row that somebody else wrote is named. When the store took
    a row is not known to requests.
    """
    with contextlib.ExitStack() as stack:
        store = {"sqlite": SQLITE, "delegate": DELEGATE}.get(kind)
        if store is None:
            if shutil.which("redis-server") is None:
                pytest.skip("needs a Redis server (apt-get install redis-server)")
            at = stack.enter_context(start.redis())
            address = f"{at['ADC_REDIS_HOST']}:{at['ADC_REDIS_PORT']}"
            store = f'{{type: redis, connection_string: "{address}"}}'
        repo = make_shop(tmp_path / "shop", store=store)
        live = opened(repo, Clock(START + timedelta(minutes=1)))
        elsewhere = live.histories.elsewhere
        names = {"product_profile"} if kind == "delegate" else set(elsewhere.waiting())
        assert {view.declared.name for view in elsewhere.views} == names
        plan = ServicePlan([StoredView(one.view, None, {}, 0.0) for one in elsewhere.views])
        assert not PublishTime(FeatureStore(str(repo)), plan).is_read
        commit(live, 0, 1)
        commit(live, 2)
        assert counts(repo) == [None, None]
        put = elsewhere._online.online_write_batch

        def killed(*rows):
            put(*rows)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(elsewhere._online, "online_write_batch", killed)
            with pytest.raises(Killed):
                elsewhere.deliver()
        commit(live, 4)
        assert elsewhere.waiting()["product_profile"] == 3
        elsewhere.deliver()
        assert counts(repo) == [3, 1]
        assert not any(elsewhere.waiting().values())
        assert elsewhere.lag() == timedelta(0)
        report = verify_online(live.histories)
        assert (report.different, set(report.behind.values())) == (0, {0})
        assert sum(one.keys for one in report.features if one.view == "product_profile") == 6
        row = {"product_label_mean": pa.array([0.5], pa.float32()), "product_last_time": [0]}
        at = [START + timedelta(days=1)]
        wrong = pa.table({"sku": ["s1"], "product_events": [9], **row, "event_timestamp": at})
        FeatureStore(str(repo)).write_to_online_store("product_profile", wrong.to_pandas())
        different = {one.feature for one in verify_online(live.histories).features if one.different}
        assert different == {"product_events", "product_label_mean", "product_last_time"}


def test_a_store_that_is_away_for_a_minute_is_waited_for(live, sqlite_shop, monkeypatch, tmp_path):
    """Events are accepted while rows wait for less than the stated time, then refused with a
    reason and read from no source; when the store is back it gets everything.
    """
    clock, elsewhere = live.ledger.clock, live.histories.elsewhere
    stream, put, away = live.ledger.streams["clicks"], elsewhere._online.online_write_batch, [True]

    def sometimes(*rows):
        if away:
            raise ConnectionError("refused")
        put(*rows)

    monkeypatch.setattr(elsewhere._online, "online_write_batch", sometimes)
    with Writer(live.ledger, live.histories) as writer:
        assert writer.submit(incoming(stream, [click(0, 0)])).result(10).accepted == 1
        clock.now += timedelta(seconds=59)
        assert writer.submit(incoming(stream, [click(2, 2)])).result(10).accepted == 1
        until = time.monotonic() + 10
        while elsewhere.error is None and time.monotonic() < until:
            time.sleep(0.01)
        clock.now += timedelta(seconds=2)
        with pytest.raises(BusyError, match=r"online store \(sqlite\) for 61 s"):
            writer.submit(incoming(stream, [click(4, 4)]))
        metrics = LiveMetrics(writer)
        told = metrics.facts()["online_store"]
        assert (told["kind"], told["lag_s"], told["error"]) == ("sqlite", 61.0, "not written")
        assert told["waiting"]["product_profile"] == 2
        assert 'adc_live_online_waiting{view="product_profile"} 2.0' in metrics.page().decode()
        path, slept = tmp_path / "clicks.jsonl", []
        path.write_text(json.dumps(click(4, 4)) + "\n")
        ingest(
            Lines(path),
            live.histories,
            stream="clicks",
            sleep=slept.append,
            stopped=lambda: len(slept) > 1,
        )
        assert len(slept) == 2
        assert counts(sqlite_shop) == [None, None]
        away.clear()
        while elsewhere.overdue and time.monotonic() < until:
            time.sleep(0.01)
        assert writer.submit(incoming(stream, [click(4, 4)])).result(10).accepted == 1
    assert counts(sqlite_shop) == [3, None]
    assert verify_online(live.histories).different == 0


def test_a_moment_s_rows_on_their_way_are_not_taken_for_differences(live, monkeypatch):
    """Keys that wait for the store are counted as behind; the others are compared."""
    commit(live, 0, 1)
    live.histories.elsewhere.deliver()
    commit(live, 2)
    monkeypatch.setattr(live.histories.elsewhere, "deliver", lambda: 0)
    report = verify_online(live.histories)
    assert (report.different, report.behind["product_profile"]) == (0, 1)
    of_product = [one.keys for one in report.features if one.view == "product_profile"]
    assert of_product == [1, 1, 1]
