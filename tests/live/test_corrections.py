"""Late events are on neither side until a correction, and on both after it."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_world import START, Clock, click, emptied, online, opened
from test_ledger import EVENTS, sent
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.live import corrections
from adc_features.live.commit import Commit
from adc_features.live.corrections import correct
from adc_features.live.history import Histories
from adc_features.live.verify import verify_online

ROOT = Path(__file__).parents[2]
HOUR = timedelta(hours=1)
LATE = click(4, 30, rating=5, label=1)
"""Of customer 1 and the product s0."""


def with_late_event(shop):
    """Customers 0 and 1 have two and one events, and a late one of customer 1 was refused."""
    live = opened(shop, Clock(START + HOUR))
    sent(live, [click(0, 0), click(3, 1200), click(1, 1200, rating=3)])
    receipt = sent(live, [LATE])
    assert [fault.place for fault in receipt.faults] == [0]
    return live


def counted(shop):
    """How many events customers 0 and 1 have online."""
    served = online(shop, ["customer_activity:customer_events"], customer_id=[0, 1])
    return served["customer_events"]


def rows_of(live, view, **key):
    """The history of one key: (publish time, events) of each row."""
    live.histories.drain()
    ((name, value),) = key.items()
    tables = [pq.read_table(path) for path in sorted(live.histories.history(view).iterdir())]
    table = pa.concat_tables(tables)
    return [
        (row["event_timestamp"], row["customer_events"])
        for row in table.to_pylist()
        if row[name] == value
    ]


def test_a_late_event_changes_neither_side_and_a_correction_both(shop):
    """The counter tells it; afterwards it is in the state, the served row, the history and the log,
    under a number that each side has; what was served before stays in the history.
    """
    live = with_late_event(shop)
    assert counted(shop) == [2, 1]
    assert live.ledger.facts()["counts"]["clicks"]["late"] == 1
    assert len(rows_of(live, "customer_activity", customer_id=1)) == 1
    assert verify_online(live.histories).different == 0

    asked = ["ingest", "--repo", str(shop), "--correct", "--json", "-"]
    done = CliRunner().invoke(application(), asked, catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert (facts["corrected"], facts["correction"]) == (1, 1)
    # the mean over everybody is in each row of the other views
    assert facts["rows"] == {"customer_activity": 2, "product_profile": 2, "pair_activity": 1}
    assert counted(shop) == [2, 2]
    (_, first), (published, second) = rows_of(live, "customer_activity", customer_id=1)
    assert (first, second) == (1, 2)
    assert published.isoformat() == facts["published"]
    assert [n for _, n in rows_of(live, "customer_activity", customer_id=0)] == [2, 2]
    assert live.ledger.facts()["corrections"] == {"clicks": "1"}
    assert live.ledger.facts()["counts"]["clicks"]["corrected"] == 1
    (written,) = (shop / "data/live/corrections").iterdir()
    assert json.loads(written.read_text(encoding="utf-8")) == facts
    report = verify_online(live.histories)
    assert (report.different, report.events) == (0, {"clicks": 4})


def test_what_the_log_holds_is_not_folded_again(shop):
    """Neither a late event that was corrected, nor one that was accepted and came again when its id
    had been forgotten; nor one that was refused twice.
    """
    live = with_late_event(shop)
    again = sent(live, [click(0, 0), LATE])
    assert "older than the watermark" in again.faults[0].reason
    first = correct(live.histories, "clicks")
    assert (first["corrected"], first["known"]) == (1, 2)
    sent(live, [LATE])
    second = correct(live.histories, "clicks")
    assert (second["corrected"], second["known"], second["correction"]) == (0, 4, 1)
    assert counted(shop) == [2, 2]
    assert verify_online(live.histories).different == 0


@pytest.mark.parametrize(
    ("owner", "step", "expected"),
    [
        (corrections, "_changed", [2, 1]),
        (Commit, "close", [2, 1]),
        (Histories, "drain", [2, 2]),
    ],
)
def test_a_correction_that_dies_is_whole_or_not_there(shop, monkeypatch, owner, step, expected):
    """While it folds, inside its transaction, or before its files: the next call ends it."""
    live = with_late_event(shop)
    calls, real = [], getattr(owner, step)

    def dies(*given, **named):
        calls.append(step)
        if step != "drain" or len(calls) > 1:
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, dies)
        with pytest.raises(KeyboardInterrupt):
            correct(live.histories, "clicks")
    live = opened(shop, Clock(START + HOUR))
    assert counted(shop) == expected
    assert verify_online(live.histories).different == 0
    assert correct(live.histories, "clicks")["correction"] == 1
    assert counted(shop) == [2, 2]
    assert [n for _, n in rows_of(live, "customer_activity", customer_id=1)] == [1, 2]
    assert live.ledger.facts()["counts"]["clicks"]["corrected"] == 1


def test_what_is_accepted_meanwhile_counts_too(shop, monkeypatch):
    """Events of a corrected key, of a new one and of the next, while the correction folds."""
    live, real = with_late_event(shop), corrections._changed

    def slow(*given):
        found = real(*given)
        sent(live, [click(7, 1300), click(5, 1300)])
        live.histories.drain()
        sent(live, [click(6, 1301)])
        return found

    monkeypatch.setattr(corrections, "_changed", slow)
    assert correct(live.histories, "clicks")["corrected"] == 1
    assert counted(shop) == [3, 3]
    report = verify_online(live.histories)
    assert (report.different, report.events) == (0, {"clicks": 7})


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=8), min_size=2, max_size=6))
def test_after_corrections_what_is_served_equals_the_batch(made_shop, requests):
    """Whatever was late, and whatever comes after; no event of an id and time is left out."""
    clock = Clock(START + HOUR)
    live = opened(emptied(made_shop), clock)
    for events in requests:
        sent(live, events)
        correct(live.histories, "clicks")
        assert verify_online(live.histories).different == 0
    counts = live.ledger.facts()["counts"].get("clicks", {})
    held = verify_online(live.histories).events.get("clicks", 0)
    assert held == counts.get("accepted", 0) + counts.get("corrected", 0)


KILLED = """
import os, signal, sys
from datetime import timedelta
sys.path.insert(0, sys.argv[3])
from live_world import START, Clock, opened
from pathlib import Path
from adc_features.live import commit, corrections, history
def dies(*given, **named):
    calls.append(1)
    if len(calls) > int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **named)
owner, calls = {"close": commit.Commit, "drain": history.Histories}[sys.argv[2]], []
real = getattr(owner, sys.argv[2])
setattr(owner, sys.argv[2], dies)
live = opened(Path(sys.argv[1]), Clock(START + timedelta(hours=1)))
corrections.correct(live.histories, "clicks")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "after", "expected"), [("close", 0, [2, 1]), ("drain", 1, [2, 2])]
)
def test_a_killed_correction_is_whole_or_not_there(shop, step, after, expected):
    """By SIGKILL, inside its transaction and after it."""
    with_late_event(shop)
    worlds = str(ROOT / "tests/worlds")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(shop), step, worlds, str(after)], cwd=ROOT, check=False
    )
    assert killed.returncode == -9
    assert counted(shop) == expected
    live = opened(shop, Clock(START + HOUR))
    assert verify_online(live.histories).different == 0
    correct(live.histories, "clicks")
    assert counted(shop) == [2, 2]
    assert verify_online(live.histories).different == 0
