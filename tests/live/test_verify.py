"""A difference between what is served and what the events say is found and named."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from live_world import START, Clock, click, online, opened
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.live.beginnings import begin
from adc_features.live.incoming import incoming
from adc_features.live.verify import verify_online


def test_a_row_that_was_written_by_hand_is_named(shop):
    """View, feature, key, and both values; the command exits with 10."""
    from feast import FeatureStore

    live = opened(shop, Clock(START + timedelta(minutes=1)))
    live.ledger.commit([incoming(live.ledger.streams["clicks"], [click(i, i) for i in range(6)])])
    assert verify_online(live.histories).different == 0
    row = pa.table(
        {
            "sku": ["s1"],
            "product_events": [9],
            "product_label_mean": pa.array([0.5], pa.float32()),
            "product_last_time": [0],
            "event_timestamp": [START + timedelta(days=1)],
        }
    ).to_pandas()
    FeatureStore(str(shop)).write_to_online_store("product_profile", row)
    report = verify_online(live.histories)
    wrong = {one.feature: one for one in report.features if one.different}
    assert set(wrong) == {"product_events", "product_label_mean", "product_last_time"}
    assert wrong["product_events"].examples == [{"key": {"sku": "s1"}, "served": 9, "computed": 3}]
    asked = ["verify", "online", "--repo", str(shop)]
    assert CliRunner().invoke(application(), asked).exit_code == 10


def test_a_history_is_taken_over_and_events_go_on_from_it(shop, tmp_path):
    """Online it is what the whole history says; offline a row holds from when it was known, and
    from the take-over on it is the live one. An event of the history that comes again is known.
    """
    events = [click(i, i) for i in range(6)]
    path = tmp_path / "history.parquet"
    table = pa.Table.from_pylist([{**e, "brand": None, "rating": None} for e in events])
    times = pa.array([START + timedelta(seconds=i) for i in range(6)])
    table = table.set_column(table.column_names.index("event_time"), "event_time", times)
    table = table.set_column(
        table.column_names.index("rating"), "rating", pa.nulls(6, pa.float64())
    )
    table = table.set_column(table.column_names.index("brand"), "brand", pa.nulls(6, pa.string()))
    pq.write_table(table, path)
    clock = Clock(START + timedelta(minutes=1))
    live = opened(shop, clock)
    facts = begin(live, "clicks", path)
    assert facts["events"] == 6
    assert online(shop, ["product_profile:product_events"], sku=["s0"])["product_events"] == [3]
    again = live.ledger.commit([incoming(live.ledger.streams["clicks"], [events[5], click(6, 6)])])
    assert (again[0].accepted, again[0].duplicates) == (1, 1)
    assert online(shop, ["product_profile:product_events"], sku=["s0"])["product_events"] == [4]
    assert verify_online(live.histories).different == 0
    live.histories.drain()

    def joined(seconds):
        from feast import FeatureStore

        at = START + timedelta(seconds=seconds)
        rows = pa.table({"sku": ["s0"], "event_timestamp": [at]}).to_pandas()
        job = FeatureStore(str(shop)).get_historical_features(
            rows, ["product_profile:product_events"]
        )
        return job.to_df()["product_events"].tolist()

    assert joined(0) != [1.0]  # the event of that microsecond is not known to its own row
    assert joined(3) == [2]
    assert joined(59) == [3]
    assert joined(61) == [4]
