"""Every public entry that takes a time refuses one without a zone,
by the one function of `adc_features.clock`.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_world import day, published_world, snapshot

from adc_features import store
from adc_features.clock import instant
from adc_features.data.dataset import Windows
from adc_features.errors import InputError
from adc_features.event_times import time_bounds
from adc_features.pipeline.snapshots import backfill_times, refuse_after_window
from adc_features.serving.promotion import Promotion
from adc_features.store import open_join

NAIVE = datetime(2024, 1, 5)
AWARE = datetime(2024, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
US = pa.timestamp("us", "UTC")

PLAIN = {
    "an instant": instant,
    "windows": lambda time: Windows(time, AWARE + DAY, AWARE + 2 * DAY),
    "the end of windows": lambda time: Windows(AWARE - 2 * DAY, AWARE - DAY, time),
    "the start of a backfill": lambda time: backfill_times(time, AWARE + DAY, "1d"),
    "the end of a backfill": lambda time: backfill_times(AWARE - DAY, time, "1d"),
    "a cut-off after the window": lambda time: refuse_after_window(time, AWARE + DAY),
    "a scan's start": lambda time: time_bounds(US, "time", start=time, end=None),
    "a scan's end": lambda time: time_bounds(US, "time", start=None, end=time),
    "codes as of": lambda time: snapshot(time, 1),
    "a promotion": lambda time: Promotion(Path(), "11" * 32, Path(), None, None, time),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_time_without_a_zone_is_refused(name):
    """The same call takes the time with its zone."""
    with pytest.raises(InputError, match="without a time zone"):
        PLAIN[name](NAIVE)
    PLAIN[name](AWARE)


@pytest.mark.parametrize("way", ["pull_all", "pull_latest", "history"])
@pytest.mark.parametrize("bound", ["start_date", "end_date"])
def test_the_offline_stores_bounds_need_their_zone(tmp_path, way, bound):
    """Pulls and retrieval without entity rows refuse a bound
    without a zone, and take one of any zone.
    """
    import feast

    from adc_features.store.offline_store import AsofOfflineStore, AsofOfflineStoreConfig

    pq.write_table(
        pa.table({"id": [1], "value": [1], "event_timestamp": pa.array([AWARE], US)}),
        tmp_path / "rows.parquet",
    )
    source = feast.FileSource(
        name="rows", path=str(tmp_path / "rows.parquet"), timestamp_field="event_timestamp"
    )
    entity = feast.Entity(name="id", join_keys=["id"], value_type=feast.ValueType.INT64)
    fields = [feast.Field(name=name, dtype=feast.types.Int64) for name in ("id", "value")]
    view = feast.FeatureView(
        name="v", entities=[entity], schema=fields, source=source, ttl=timedelta(0)
    )
    config = feast.RepoConfig(
        project="p",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        offline_store=AsofOfflineStoreConfig().model_dump(),
        online_store=None,
        entity_key_serialization_version=3,
    )
    repository = feast.FeatureStore(config=config)
    repository.apply([entity, view])

    def rows(**bounds: datetime) -> int:
        if way == "history":
            found = AsofOfflineStore.get_historical_features(
                repository.config,
                [repository.get_feature_view("v")],
                ["v:value"],
                None,
                repository.registry,
                "p",
                **bounds,
            )
        else:
            pull = getattr(AsofOfflineStore, f"{way}_from_table_or_query")
            found = pull(
                repository.config, source, ["id"], ["value"], "event_timestamp", None, **bounds
            )
        return len(found.to_arrow())

    bounds = {"start_date": AWARE - DAY, "end_date": AWARE + DAY}
    assert rows(**bounds) == 1
    with pytest.raises(InputError, match=f"{bound} is 2024-01-05T00:00:00 without a time zone"):
        rows(**bounds | {bound: NAIVE})


STORES = {
    "join": lambda place, time: open_join(place, store.service_name(None), until=time),
    "materialize": lambda place, time: store.materialize(place, now=time),
    "lookup": lambda place, time: store.lookup(place, "g1", np.array(["a"]), now=time),
    "parity": lambda place, time: store.parity(
        place,
        service=store.service_name(None),
        item_ids=np.array(["a"]),
        user_ids=np.array(["u"]),
        now=time,
    ),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    place = published_world(tmp_path_factory.mktemp("naive") / "repository")
    store.materialize(place, now=day(40))
    return place


@pytest.mark.parametrize("name", STORES)
def test_the_stores_times_need_their_zone(repository, name):
    """Materializing, looking up, joining and comparing refuse a time without a zone before any
    work, and take one with it.
    """
    with pytest.raises(InputError, match="without a time zone"):
        STORES[name](repository, day(40).replace(tzinfo=None))
    STORES[name](repository, day(40))
