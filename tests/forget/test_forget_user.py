"""A user who is forgotten is gone from the live directory, and comes back by no replay."""

import json
from datetime import timedelta
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_world import START, Clock, click, emptied, online, opened
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.forget import live as module
from adc_features.forget.live import forget_live
from adc_features.forget.subject import Subject
from adc_features.live.beginnings import begin
from adc_features.live.incoming import incoming
from adc_features.live.tombstones import TOMBSTONES
from adc_features.live.verify import verify_online
from adc_features.store.lmdb.arrow_values import table_of

ONE = Subject("customer_id", ("1",))
PRODUCTS = ["product_profile:product_events", "product_profile:product_label_mean"]


def sent(live, events, stream="clicks"):
    """Commit events as one request; its receipt."""
    return live.ledger.commit([incoming(live.ledger.streams[stream], events)])[0]


def visit(number, customer, sku="s0"):
    """A visit, a second after the one before."""
    at = (START + timedelta(seconds=number)).isoformat()
    label = int(number) % 2
    keys = {"customer_id": customer, "sku": sku}
    return {"event_id": f"v{number}", "event_time": at, "label": label, **keys}


def filled(shop, clock):
    """Customers 0, 1 and 2 have events in files, in the directory, held, and refused."""
    live = opened(shop, clock)
    sent(live, [click(i, i) for i in range(6)])
    sent(live, [visit(i, i % 3) for i in range(6)], "visits")
    live.histories.drain()
    held = (clock.now - START).total_seconds() + 60
    sent(live, [click(i, i) for i in range(6, 12)] + [click(13, held), click(16, -5000)])
    sent(live, [visit(i, i % 3) for i in range(6, 9)], "visits")
    return live


def holds(live, customer):
    """Where a customer's id stands still: tables and files of a live directory."""
    found = []
    for stream in live.ledger.streams:
        for kind in ("accepted", "held"):
            with live.ledger.environment.reading(f"{kind}/{stream}") as txn:
                for _, value in txn.cursor() if txn is not None else ():
                    if customer in table_of(value)["customer_id"].to_pylist():
                        found.append(f"{kind}/{stream}")
    with live.ledger.environment.reading("letters") as txn:
        found += [line for _, line in txn.cursor() if f'"customer_id":{customer}' in str(line)]
    for path in live.histories.place.rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            listed = row.get("product_newest_visitors") or []
            if customer in (row.get("customer_id"), *listed):
                found.append(path.parent.name)
    for path in live.histories.place.glob("dead_letters/*.jsonl"):
        for line in path.read_text().splitlines():
            if (json.loads(line)["event"] or {}).get("customer_id") == customer:
                found.append(path.name)
    return found


def test_a_forgotten_user_is_gone_and_all_else_is_as_it_was(shop):
    """States, rows, files, held and refused events; counts of items stay, and are verified. A
    replay changes nothing, and an event of later begins anew.
    """
    clock = Clock(START + timedelta(minutes=1))
    live = filled(shop, clock)
    before = online(shop, PRODUCTS, sku=["s0", "s1"])
    assert {"accepted/clicks", "held/clicks", "clicks", "visits"} <= set(holds(live, 1))
    planned = forget_live(live, ONE, dry_run=True)
    assert holds(live, 1)
    assert forget_live(live, ONE) == planned
    assert planned == {
        "events": 7,
        "held_events": 1,
        "states": 4,
        "rows": 3,
        "history": 8,
        "dead_letters": 1,
    }
    assert holds(live, 1) == []
    assert verify_online(live.histories).different == 0
    assert online(shop, PRODUCTS, sku=["s0", "s1"]) == before
    served = online(shop, ["customer_activity:customer_events"], customer_id=[0, 1])
    assert served["customer_events"] == [4, None]
    again = opened(shop, clock)
    receipt = sent(again, [click(i, i) for i in range(12)] + [click(13, 120)])
    assert (receipt.accepted, receipt.duplicates, len(receipt.faults)) == (0, 8, 5)
    assert "was forgotten" in receipt.faults[0].reason
    assert again.ledger.facts()["counts"]["clicks"]["forgotten"] == 5
    clock.now += timedelta(minutes=5)
    assert sent(again, [click(19, 200), {**click(22, 0), "event_time": "x"}]).accepted == 1
    again.histories.drain()
    assert set(holds(again, 1)) == {"clicks", "customer_activity", "pair_activity"}
    served = online(shop, ["customer_activity:customer_events"], customer_id=[0, 1])
    assert served["customer_events"] == [4, 1]
    assert verify_online(again.histories).different == 0


def test_who_is_counted_among_an_item_s_visitors_is_counted_and_not_named(shop):
    """The number of different visitors stays; in the list of the newest ones a random id stands,
    the same in the row that is served, in its history and in the events.
    """
    clock = Clock(START + timedelta(minutes=1))
    live = filled(shop, clock)
    names = ["product_audience:product_visitors", "product_audience:product_newest_visitors"]
    before = online(shop, names, sku=["s0"])
    assert before["product_newest_visitors"] == [[0, 1, 2]]
    forget_live(live, ONE)
    after = online(shop, names, sku=["s0"])
    assert after["product_visitors"] == before["product_visitors"] == [3]
    zero, somebody, two = after["product_newest_visitors"][0]
    assert (zero, two) == (0, 2)
    assert somebody not in (0, 1, 2)
    assert sent(live, [visit(10, 1)], "visits").accepted == 0
    clock.now += timedelta(minutes=1)
    sent(live, [visit(100, 2)], "visits")
    assert verify_online(live.histories).different == 0
    live.histories.drain()
    listed = pq.read_table(live.histories.history("product_audience"))["product_newest_visitors"]
    assert {one for row in listed.to_pylist() for one in row} == {0, 2, somebody}


class Killed(BaseException):
    """In place of a kill."""


@pytest.mark.slow
def test_a_command_that_was_killed_anywhere_is_ended_by_the_next(shop, monkeypatch):
    """Before and after every file and transaction; in the end nothing holds the user."""
    for point in count():
        clock = Clock(START + timedelta(minutes=1))
        live = filled(emptied(shop), clock)
        calls = count()

        def killing(act, point=point, calls=calls):
            def acted(*arguments):
                if next(calls) == point:
                    raise Killed
                done = act(*arguments)
                if next(calls) == point:
                    raise Killed
                return done

            return acted

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_atomically", killing(module.write_atomically))
            written = live.ledger.environment.write_tables
            patch.setattr(live.ledger.environment, "write_tables", killing(written))
            try:
                forget_live(live, ONE)
            except Killed:
                ended = False
            else:
                ended = True
        assert sent(live, [click(1, 1)]).accepted == 0
        forget_live(opened(shop, clock), ONE)
        assert holds(live, 1) == []
        assert verify_online(live.histories).different == 0
        assert sent(live, [click(1, 1)]).accepted == 0
        with live.ledger.environment.reading(TOMBSTONES) as txn:
            assert all(b'"secret": null' in v for k, v in txn.cursor() if len(k) == 32)
        if ended:
            break
    assert point > 10


def test_a_history_that_is_taken_over_brings_nobody_back(shop, tmp_path):
    """Events of before the tombstone are left out and counted."""
    clock = Clock(START + timedelta(minutes=1))
    live = opened(shop, clock)
    forget_live(live, ONE)
    events = [visit(i, i % 3) for i in range(6)]
    times = pa.array([START + timedelta(seconds=i) for i in range(6)])
    table = pa.Table.from_pylist(events).set_column(1, "event_time", times)
    pq.write_table(table, tmp_path / "history.parquet")
    facts = begin(live, "visits", tmp_path / "history.parquet")
    assert (facts["events"], facts["forgotten"]) == (4, 2)
    assert holds(live, 1) == []
    assert verify_online(live.histories).different == 0


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=6),
            st.sampled_from(["", "", "1", "2"]),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_whoever_is_forgotten_whenever_what_is_served_is_what_events_say(made_shop, steps):
    """Events and forgetting in any order, with files written between; items keep their rows."""
    clock = Clock(START + timedelta(minutes=5))
    live = opened(emptied(made_shop), clock)
    for events, user, drained in steps:
        clock.now += timedelta(seconds=20)
        late = (clock.now - START).total_seconds()
        sent(live, [click(n, late - n, customer_id=c, sku=f"s{n % 2}") for n, c in events])
        sent(live, [visit(late - n, c) | {"event_id": f"v{n}"} for n, c in events], "visits")
        if drained:
            live.histories.drain()
        if user:
            before = online(made_shop, PRODUCTS, sku=["s0", "s1"])
            forget_live(live, Subject("customer_id", (user,)))
            assert holds(live, int(user)) == []
            assert online(made_shop, PRODUCTS, sku=["s0", "s1"]) == before
        report = verify_online(live.histories)
        assert report.different == 0, report.to_dict()


def adc(*words):
    """Run a command in this process."""
    return CliRunner().invoke(application(), list(words))


def test_the_command_tells_what_it_deletes_and_refuses_what_it_cannot_read(shop, tmp_path):
    """A user who is nowhere is refused from then on all the same; a key or id that the repository
    does not have is told before any work.
    """
    clock = Clock(START + timedelta(minutes=1))
    live = filled(shop, clock)
    repo = ["forget", "--repo", str(shop), "--key", "customer_id"]
    done = adc(*repo, "--user", "1", "--json", "-")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (told["deleted"]["events"], told["left"]) == (7, [])
    (tmp_path / "ids.txt").write_text("77\n78\n")
    done = adc(*repo, "--users", str(tmp_path / "ids.txt"))
    assert (done.exit_code, done.stdout.startswith("found nowhere; ")) == (0, True)
    assert sent(live, [click(30, 30, customer_id=78)]).accepted == 0
    for words, reason in {
        ("--user", "x"): "customer_id is a whole number",
        ("--user", "1", "--key", "who"): "has no join key 'who'",
        ("--user", "1", "--log", str(tmp_path)): "is no served log",
        ("--users", str(tmp_path / "none")): "cannot be read",
        ("--older-than", "letters=1d"): "each kind once: dead_letters, history,",
        ("--older-than", "served_log=1d"): "name the log as well",
    }.items():
        done = adc(*repo, *words)
        assert done.exit_code == 1, words
        assert reason in str(done.exception), words
    assert adc(*repo).exit_code == 2


@pytest.mark.parametrize("old", [30, 90])
def test_a_history_without_what_is_old_answers_every_later_join_alike(shop, old):
    """Each key keeps its newest row of before; dead letters of before go."""
    from feast import FeatureStore

    from adc_features.forget.retention import expire

    clock = Clock(START + timedelta(seconds=10))
    live = opened(shop, clock)
    for second in range(0, 120, 10):
        clock.now = START + timedelta(seconds=second + 5)
        sent(live, [click(second, second), click(second + 1, -9000)])
        if second % 40 == 0:
            live.histories.drain()
    now = START + timedelta(days=30)
    ages = dict.fromkeys(("history", "dead_letters"), now - START - timedelta(seconds=old))
    asked = pa.table(
        {
            "customer_id": [i % 3 for i in range(9)],
            "event_timestamp": [START + timedelta(seconds=old + 12 * i) for i in range(9)],
        }
    ).to_pandas()

    def joined():
        job = FeatureStore(str(shop)).get_historical_features(
            asked, ["customer_activity:customer_events"]
        )
        return job.to_df()["customer_events"].tolist()

    live.histories.drain()
    before = joined()
    planned = expire(shop, ages, now=now, live=live, dry_run=True)
    assert planned["dead_letters"] == old // 10 - 1
    assert planned["history"] > 0
    assert expire(shop, ages, now=now, live=live) == planned
    assert expire(shop, ages, now=now, live=live) == {"history": 0, "dead_letters": 0}
    assert joined() == before
    assert verify_online(live.histories).different == 0
