"""A stream whose events are stamped by day."""

from datetime import datetime, timedelta

import live_world
import pyarrow as pa
from feast import FeatureStore
from live_world import START, Clock, click, make_shop, online, opened

from adc_features.live.incoming import incoming
from adc_features.live.verify import verify_online

DAY = timedelta(days=1)


def test_an_event_of_today_is_online_today_and_so_in_history(tmp_path, monkeypatch):
    """It holds from its publish time on, online and in a join, and not before: a row's own event
    is excluded until then. The day's end is waited for on neither side.
    """
    daily = live_world.VIEWS.replace(
        '    "clicks",\n', '    "clicks",\n    resolution=timedelta(days=1),\n', 1
    )
    monkeypatch.setattr(live_world, "VIEWS", daily)
    shop = make_shop(tmp_path / "shop")
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


def joined(shop, feature: str, times: list[datetime]) -> list[int | None]:
    """What customer 0's rows of these times read of history."""
    rows = pa.table({"customer_id": [0] * len(times), "event_timestamp": times}).to_pandas()
    found = FeatureStore(str(shop)).get_historical_features(rows, [feature]).to_df()
    values = found.sort_values("event_timestamp")[feature.split(":")[1]]
    return [None if value != value or value is None else int(value) for value in values]
