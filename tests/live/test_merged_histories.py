"""Histories whose segments are merged are read as before."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from live_world import START, Clock, click, opened

from adc_features.live.incoming import incoming
from adc_features.live.settings import LiveSettings
from adc_features.live.verify import verify_online
from adc_features.store.parquet.opening import open_source


def joined(repo):
    """What a point-in-time join reads of s0 at every second."""
    from feast import FeatureStore

    times = [START + timedelta(seconds=second) for second in range(59, 75)]
    rows = pa.table({"sku": ["s0"] * len(times), "event_timestamp": times}).to_pandas()
    asked = ["product_profile:product_events", "product_profile:product_label_mean"]
    found = FeatureStore(str(repo)).get_historical_features(rows, asked).to_df()
    return found.sort_values("event_timestamp").to_csv()


def test_rows_in_are_rows_out(shop):
    """Ten commits in ten files, then in one: the same rows, joins and accepted events, while the
    small ones lie beside it and when they are gone; what comes later is merged as well.
    """
    clock = Clock(START + timedelta(minutes=1))
    live = opened(shop, clock)
    place = live.histories.history("product_profile")

    def commit(number):
        clock.now += timedelta(seconds=1)
        stream = live.ledger.streams["clicks"]
        live.ledger.commit([incoming(stream, [click(number, number)])])

    def drained(segments, merged_after=timedelta(hours=1)):
        live.ledger.settings = LiveSettings(segments=segments, merged_after=merged_after)
        live.histories.drain()
        return len(list(place.glob("*.parquet")))

    def rows():
        source = open_source(str(place))
        return source.table(source.names).sort_by("event_timestamp").to_pylist()

    for number in range(10):
        commit(number)
        files = drained(100)
    before, said = rows(), joined(shop)
    assert (len(before), files) == (10, 11)  # and the empty beginning
    assert drained(5) == 12
    assert (rows(), joined(shop)) == (before, said)
    assert verify_online(live.histories).different == 0
    at_once = timedelta(microseconds=1)
    assert drained(5, at_once) == 2
    assert (rows(), joined(shop)) == (before, said)
    assert len(live.histories.accepted(live.ledger.streams["clicks"])) == 10
    for number in range(10, 16):
        commit(number)
        drained(5, at_once)
    assert drained(5, at_once) <= 4
    assert len(pq.read_table(place)) == 16
    assert verify_online(live.histories).different == 0
