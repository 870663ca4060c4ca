"""Histories whose segments are merged are read as before."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from live_world import START, Clock, click, opened

from adc_features.live.history import Histories
from adc_features.live.incoming import incoming
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
    live = opened(shop, clock, segments=5, merged_after=timedelta(hours=1))
    place = live.histories.history("product_profile")
    patient = Histories(live.ledger, live.histories.place)

    def commit(number):
        clock.now += timedelta(seconds=1)
        stream = live.ledger.streams["clicks"]
        live.ledger.commit([incoming(stream, [click(number, number)])])

    def rows():
        source = open_source(str(place))
        return source.table(source.names).sort_by("event_timestamp").to_pylist()

    live.ledger.settings = type(live.ledger.settings)(segments=100)
    for number in range(10):
        commit(number)
        live.histories.drain()
    before, said = rows(), joined(shop)
    assert len(before) == 10
    live.ledger.settings = type(live.ledger.settings)(segments=5)
    patient.drain()
    assert len(list(place.glob("*.parquet"))) == 12
    assert (rows(), joined(shop)) == (before, said)
    assert verify_online(live.histories).different == 0
    gone = type(live.ledger.settings)(segments=5, merged_after=timedelta(microseconds=1))
    live.ledger.settings = gone
    patient.drain()
    assert len(list(place.glob("*.parquet"))) == 2
    assert (rows(), joined(shop)) == (before, said)
    events = live.histories.accepted(live.ledger.streams["clicks"])
    assert len(events) == 10
    for number in range(10, 16):
        commit(number)
        patient.drain()
    patient.drain()
    assert len(pq.read_table(place)) == 16
    assert len(list(place.glob("*.parquet"))) <= 3
    assert verify_online(live.histories).different == 0
