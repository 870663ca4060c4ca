"""Windows that end at the request: the same online, in a join and counted by hand."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from live_world import OURS, START, STORE, Clock, click, opened
from test_ledger import sent

from adc_features.aggregates.declaration import AggregateView, EventStream, count, last_time
from adc_features.errors import InputError
from adc_features.live.verify import verify_online
from adc_features.store.live_views import live_view, read_view
from adc_features.store.services.reading import open_service_reader
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service

VIEWS = """\
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, ValueType

from adc_features.aggregates.declaration import (
    AggregateView, EventStream, Grid, count, last_time, mean, smoothed_mean,
)
from adc_features.store.live_views import live_view, read_view

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
clicks = EventStream(
    "clicks",
    keys={"customer_id": "int64", "sku": "string"},
    attributes=("brand",),
    values={"label": Grid(20, 1.0), "rating": Grid(20, 10.0, optional=True)},
)
HOUR = {"window": timedelta(hours=1), "hop": timedelta(minutes=5), "at": "read"}
recent = AggregateView(
    "recent",
    clicks,
    key=("customer_id",),
    features={
        "events": count(**HOUR),
        "label": mean("label", **HOUR),
        "smoothed": smoothed_mean("label", **HOUR),
        "last_time": last_time(),
    },
)
live = live_view(recent, entities=[customer], repo=Path(__file__).parent)
at_read = read_view(recent, live)
service = FeatureService(name="feed", features=[live[["last_time"]], at_read])
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """An applied repository with a view of the last hour before each request."""
    from coded_feed import feast_apply

    folder = tmp_path_factory.mktemp("recent") / "shop"
    (folder / "data").mkdir(parents=True)
    text = f"{STORE}online_store: {OURS}\n"
    (folder / "feature_store.yaml").write_text(text, encoding="utf-8")
    (folder / "shop_views.py").write_text(VIEWS, encoding="utf-8")
    feast_apply(folder)
    return folder


def counted(events, customer, seconds):
    """Events of the tiles of five minutes above floor((t - an hour) / five minutes)."""
    oldest = (seconds - 3600) // 300
    times = [s for n, s in events if n % 3 == customer]
    return sum(-(-s // 300) > oldest for s in times) if times else None


def test_a_window_at_the_request_is_the_same_online_and_in_a_join(repo):
    """At random times, without a further event: bit for bit, and the count is that of the hour."""
    random = np.random.default_rng(0)
    events = [(n, int(s)) for n, s in enumerate(np.sort(random.integers(0, 1800, 40)))]
    live = opened(repo, Clock(START + timedelta(seconds=1800)))
    sent(live, [click(n, s) for n, s in events])
    live.histories.drain()
    assert verify_online(live.histories).different == 0

    names = [f"recent_at_read__{name}" for name in ("events", "label", "smoothed")]
    schema = service_schema(repo, "feed")
    reader = open_service_reader(repo, schema, features=names, user=["customer_id"], item=[])
    assert (schema.request_fields, reader.required_fields) == ({}, frozenset())
    seconds = [*random.uniform(1801, 6000, 12).tolist(), 3600, 3900.0, 5400]
    asked = [(customer, s) for s in seconds for customer in (0, 1, 2, 9)]
    times = [START + timedelta(seconds=s) for _, s in asked]
    rows = pa.table(
        {
            "customer_id": [customer for customer, _ in asked],
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    joined = join_service(repo, schema, rows, features=names)
    for place, ((customer, second), time) in enumerate(zip(asked, times, strict=True)):
        read = reader.read({"customer_id": customer}, {}, request={}, now=time)
        online = [read.parts["user"].column(name)[0].as_py() for name in names]
        assert online == [joined[name][place].as_py() for name in names]
        assert online[0] == counted(events, customer, second)
    assert len(set(joined[names[0]].to_pylist())) > 5


def test_a_logged_request_is_joined_as_of_its_rows_and_read_as_of_its_time(repo):
    """A commit after `now` may have been read; the window ended at `now` all the same."""
    live = opened(repo, Clock(START + timedelta(hours=5)))
    sent(live, [click(8_000, 17_000, customer_id=55), click(8_001, 17_900, customer_id=55)])
    live.histories.drain()
    feature = "recent_at_read__events"
    schema = service_schema(repo, "feed")
    reader = open_service_reader(repo, schema, features=[feature], user=["customer_id"], item=[])
    now = START + timedelta(seconds=17_500)
    read = reader.read({"customer_id": 55}, {}, request={}, now=now)
    assert read.as_of == START + timedelta(hours=5)
    later = START + timedelta(hours=9)
    for as_of, read_at, expected in ((read.as_of, now, 2), (later, now, 2), (later, later, 0)):
        row = {
            "customer_id": [55],
            "event_timestamp": pa.array([as_of], pa.timestamp("us", "UTC")),
            "adc_read_at": [int(read_at.timestamp() * 1e6)],
        }
        assert join_service(repo, schema, pa.table(row), features=[feature])[
            feature
        ].to_pylist() == [expected]
    assert read.parts["user"].column(feature).to_pylist() == [2]


def test_feast_itself_is_told_the_time(repo):
    """A request to the store, and the rows of a join, carry `adc_read_at`."""
    from feast import FeatureStore

    live = opened(repo, Clock(START + timedelta(hours=9)))
    sent(live, [click(9_999, 30_000, customer_id=77)])
    live.histories.drain()
    at = START + timedelta(seconds=33_900)
    micros = int(at.timestamp() * 1e6)
    row = {"customer_id": 77, "adc_read_at": micros}
    feature = "recent_at_read:events"
    served = FeatureStore(str(repo)).get_online_features([feature], [row]).to_dict()
    assert served["events"] == [0]
    frame = pa.table({**{k: [v] for k, v in row.items()}, "event_timestamp": [at]}).to_pandas()
    joined = FeatureStore(str(repo)).get_historical_features(frame, [feature]).to_df()
    assert joined["events"].tolist() == [0]


def test_a_view_without_such_windows_has_nothing_to_read(tmp_path):
    """`read_view` names the view."""
    from feast import Entity, ValueType

    stream = EventStream("clicks", {"customer_id": "int64"})
    features = {"n": count(), "last_time": last_time()}
    declared = AggregateView("plain", stream, ("customer_id",), features)
    customer = Entity(name="c", join_keys=["customer_id"], value_type=ValueType.INT64)
    view = live_view(declared, entities=[customer], repo=tmp_path)
    with pytest.raises(InputError, match="no feature of 'plain' is declared with at='read'"):
        read_view(declared, view)
