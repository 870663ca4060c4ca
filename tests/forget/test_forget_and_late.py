"""A user who is forgotten does not come back by a correction, and is gone from replaced files."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from live_world import START, Clock, click, online, opened
from test_forget_user import ONE, holds, sent

from adc_features.forget.live import forget_live
from adc_features.forget.retention import expire
from adc_features.live.corrections import correct
from adc_features.live.verify import verify_online
from adc_features.store.parquet.segments import uncovered

HOUR = timedelta(hours=1)


def events_of(shop, customer):
    """How many events of a customer are online."""
    served = online(shop, ["customer_activity:customer_events"], customer_id=[customer])
    return served["customer_events"][0]


def test_a_correction_leaves_out_whom_nobody_knows_any_longer(shop):
    """The late event of another customer counts, the forgotten one's does not, nor do states or
    rows of the ids that stand in the forgotten one's place.
    """
    live = opened(shop, Clock(START + HOUR))
    sent(live, [click(0, 0), click(1, 1200, rating=3), click(3, 1200)])
    sent(live, [click(4, 30, label=1), click(6, 40)])  # late, of customers 1 and 0
    forget_live(live, ONE)
    again = sent(live, [click(7, 50)])  # of customer 1, late besides
    assert "forgotten" in again.faults[0].reason
    told = correct(live.histories, "clicks")
    assert (told["corrected"], told["rows"]["customer_activity"]) == (1, 1)
    assert (events_of(shop, 0), events_of(shop, 1)) == (3, None)
    assert holds(live, 1) == []
    assert verify_online(live.histories).different == 0


def test_files_that_a_merged_one_has_replaced_are_rewritten_too(shop):
    """They stay a while for those who read them; each event is counted once."""
    live = opened(shop, Clock(START + HOUR), segments=1)
    for number in range(6):
        sent(live, [click(number, number)])
        live.histories.drain()
    files = list(live.histories.accepted_place("clicks").glob("[!.]*.parquet"))
    assert len(files) > len(live.histories.events(live.ledger.streams["clicks"].name).segments())
    counts = forget_live(live, ONE)
    assert (counts["events"], holds(live, 1)) == (2, [])
    assert verify_online(live.histories).different == 0


def test_retention_keeps_the_newest_row_of_merged_files_and_revives_nothing(shop):
    """What a merged file has replaced is no row of its own, and is not read again."""
    clock = Clock(START + HOUR)
    live = opened(shop, clock, segments=1)
    for number in range(6):
        late = click(number + 20, -5000)
        sent(live, [click(number, number), late])
        live.histories.drain()
    clock.now += 30 * HOUR
    counts = expire(shop, {"history": HOUR, "dead_letters": HOUR}, now=clock.now, live=live)
    files = live.histories.history("customer_activity").glob("[!.]*")
    rows = pa.concat_tables(map(pq.read_table, uncovered(map(str, files)))).to_pylist()
    assert sorted((row["customer_id"], row["customer_events"]) for row in rows) == [
        (0, 2),
        (1, 2),
        (2, 3),  # before the first event nothing is late
    ]
    assert counts["dead_letters"] == 5
    letters = live.histories.letters().segments()
    assert b"".join(path.read_bytes() for _, _, path in letters) == b""
