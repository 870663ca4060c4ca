"""A stream whose events are stamped by day."""

from datetime import datetime, timedelta

import live_world
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from live_world import START, Clock, click, make_shop, online, opened

from adc_features.live.beginnings import begin
from adc_features.live.incoming import incoming
from adc_features.live.verify import verify_online

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def made_shop(tmp_path_factory):
    """An applied repository whose events are stamped by day; not to be written."""
    daily = live_world.VIEWS.replace(
        '    "clicks",\n', '    "clicks",\n    resolution=timedelta(days=1),\n', 1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_world, "VIEWS", daily)
        return make_shop(tmp_path_factory.mktemp("daily") / "shop")


def test_an_event_of_today_is_online_today_and_so_in_history(shop):
    """It holds from its publish time on, online and in a join, and not before: a row's own event
    is excluded until then. The day's end is waited for on neither side.
    """
    midnight = START.replace(hour=0).isoformat()
    live = opened(shop, Clock(START))
    stream = live.ledger.streams["clicks"]
    assert stream.resolution == DAY
    events = [click(0, 0, event_time=midnight), click(3, 0, event_time=midnight)]
    (receipt,) = live.ledger.commit([incoming(stream, events)])
    assert receipt.accepted == 2
    feature = "customer_activity:customer_events"
    assert online(shop, [feature], customer_id=[0])["customer_events"] == [2]
    live.histories.drain()
    assert joined(shop, feature, [START - timedelta(seconds=1), START]) == [None, 2]
    assert verify_online(live.histories).different == 0


def test_a_history_keeps_its_days_and_what_follows_it_is_not_hidden(shop, tmp_path):
    """Rows of a history that ends today hold from the next day on, as batch statistics do; that of
    today would, and must not replace at midnight what an event of today made of it since.
    """
    clock = Clock(START)
    live, today = opened(shop, clock), START.replace(hour=0)
    past = [click(n, 0, customer_id=0, event_time=today - n * DAY) for n in (1, 0)]
    table = pa.Table.from_pylist(past).append_column("brand", pa.nulls(2, pa.string()))
    table = table.append_column("rating", pa.nulls(2, pa.float64()))
    pq.write_table(table, tmp_path / "history.parquet")
    assert begin(live, "clicks", tmp_path / "history.parquet")["events"] == 2
    clock.now += timedelta(hours=1)
    stream = live.ledger.streams["clicks"]
    event = click(2, 0, customer_id=0, event_time=today.isoformat())
    assert live.ledger.commit([incoming(stream, [event])])[0].accepted == 1
    live.histories.drain()
    feature, second = "customer_activity:customer_events", timedelta(seconds=1)
    times = [today - second, today, START - second, START, clock.now, today + DAY, today + 2 * DAY]
    assert joined(shop, feature, times) == [None, 1, 1, 2, 3, 3, 3]
    assert online(shop, [feature], customer_id=[0])["customer_events"] == [3]
    assert verify_online(live.histories).different == 0


def joined(shop, feature: str, times: list[datetime]) -> list[int | None]:
    """What customer 0's rows of these times read of history."""
    rows = pa.table({"customer_id": [0] * len(times), "event_timestamp": times}).to_pandas()
    found = FeatureStore(str(shop)).get_historical_features(rows, [feature]).to_df()
    values = found.sort_values("event_timestamp")[feature.split(":")[1]]
    return [None if value != value or value is None else int(value) for value in values]
