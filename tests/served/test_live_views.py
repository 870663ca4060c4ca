"""As of when live views were read. Reads: a shop whose clicks are aggregated live."""

import threading
from datetime import timedelta

import pyarrow as pa
import pytest
from live_world import START, Clock, click, make_shop, opened

from adc_features.live import commit, tables
from adc_features.live.incoming import incoming
from adc_features.store.services import publish_time
from adc_features.store.services.parity import differing
from adc_features.store.services.publish_time import PublishTime
from adc_features.store.services.reading import open_service_reader
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service

SKUS = ["s0", "s1", "s9"]


@pytest.fixture
def live(tmp_path):
    """A shop, its live directory, and its service open for requests."""
    repo = make_shop(tmp_path / "shop")
    clock = Clock(START + timedelta(minutes=1))
    directory = opened(repo, clock)
    schema = service_schema(repo, "feed")
    features = [feature.key for feature in schema.features]
    reader = open_service_reader(
        repo, schema, features=features, user=["customer_id"], item=["sku"]
    )
    return repo, clock, directory, schema, reader


def committed(directory, numbers):
    stream = directory.ledger.streams["clicks"]
    directory.ledger.commit([incoming(stream, [click(n, n) for n in numbers])])


def read(reader, now):
    return reader.read({"customer_id": 0}, {"sku": SKUS}, request={}, now=now)


def test_the_names_of_a_commit_are_those_that_the_live_directory_uses():
    """The store stands below the engine and names its table and key by itself."""
    assert (publish_time.META, publish_time.PUBLISHED) == (tables.META, commit.LAST_COMMIT)


def test_what_was_read_is_what_history_says_as_of_its_time(live):
    """A commit that became visible after `now` moves the time; one before it does not."""
    repo, clock, directory, schema, reader = live
    early = clock.now - timedelta(seconds=10)
    assert read(reader, early).as_of == early
    committed(directory, range(4))
    for now, expected in (
        (early, clock.now),
        (clock.now + timedelta(seconds=5), clock.now + timedelta(seconds=5)),
    ):
        found = read(reader, now)
        assert (found.as_of, found.torn) == (expected, False)
        directory.histories.drain()
        rows = pa.table(
            {
                "customer_id": pa.array([0] * 3, pa.int64()),
                "sku": SKUS,
                "event_timestamp": pa.array([found.as_of] * 3, pa.timestamp("us", "UTC")),
            }
        )
        joined = join_service(repo, schema, rows, features=[f.key for f in schema.features])
        for feature in schema.features:
            side = "item" if feature.key in found.parts["item"].table.column_names else "user"
            served = found.parts[side].column(feature.key)
            history = joined[feature.key].combine_chunks()[: len(served)]
            assert not differing(history, served, feature.dtype).any(), feature.key


def test_a_commit_during_a_read_is_read_again_and_one_during_each_is_told(live, monkeypatch):
    """Two looks at different publish times: the second read counts, and a third is not made."""
    _, clock, directory, _, reader = live
    committed(directory, [0])
    last, looks = PublishTime.last, []

    def once(self):
        looks.append(1)
        return last(self) + (len(looks) == 1)

    monkeypatch.setattr(PublishTime, "last", once)
    found = read(reader, clock.now)
    assert (found.torn, len(looks)) == (False, 4)
    monkeypatch.setattr(PublishTime, "last", lambda self: looks.append(1) or len(looks))
    found = read(reader, clock.now)
    assert (found.torn, found.as_of) == (True, None)


def test_reads_beside_commits_are_as_of_a_time_or_torn(live):
    """With a thread that commits, each untorn read equals history as of its time."""
    _, clock, directory, _, reader = live
    stop = threading.Event()

    def commits():
        for number in range(200):
            if stop.is_set():
                return
            clock.now += timedelta(milliseconds=10)
            committed(directory, [number])

    thread = threading.Thread(target=commits)
    thread.start()
    try:
        found = [read(reader, START) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    for reading in found:
        assert reading.torn == (reading.as_of is None)
    counts = [
        r.parts["user"].column("customer_activity__customer_events").to_pylist()[0] or 0
        for r in found
    ]
    assert counts == sorted(counts)
