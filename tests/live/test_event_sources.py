"""Files, Redis Streams and Kafka: each event counts once, and reading goes on where it was."""

import json
import shutil
import socket
from datetime import timedelta

import pytest
import start
from live_world import START, Clock, click, opened

from adc_features.errors import ArtifactError, InputError, NotWrittenError
from adc_features.live.sources.base import ingest
from adc_features.live.sources.kafka import KafkaTopic
from adc_features.live.sources.lines import Lines
from adc_features.live.sources.redis_streams import RedisStream
from adc_features.live.verify import verify_online


@pytest.fixture
def live(shop):
    """The live directory of the shop, an hour after its first event."""
    return opened(shop, Clock(START + timedelta(hours=1)))


def counted(live):
    return live.ledger.facts()["counts"]["clicks"]


def test_a_file_that_grows_is_read_on(live, tmp_path):
    """Lines that are no events are refused one by one; another file under the name is refused."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(click(i, i))}\n" for i in range(3)) + "nonsense\n\n")
    first = ingest(Lines(path), live.histories, stream="clicks")
    assert (first.accepted, first.refused) == (3, 1)
    with path.open("a") as file:
        file.write(json.dumps(click(3, 3)) + "\n")
    second = ingest(Lines(path), live.histories, stream="clicks")
    assert (second.accepted, second.duplicates) == (1, 0)
    path.write_text("".join(f"{json.dumps(click(i, i))}\n" for i in range(9, 19)))
    with pytest.raises(ArtifactError, match="was restarted or trimmed"):
        ingest(Lines(path), live.histories, stream="clicks")
    with pytest.raises(InputError, match="there is no file"):
        Lines(tmp_path / "absent.jsonl")
    assert verify_online(live.histories).different == 0


def test_every_line_of_a_long_file_is_read(live, tmp_path):
    """No line is lost where one delivery ends and the next begins."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(click(i, i % 9))}\n" for i in range(1_203)))
    found = ingest(Lines(path), live.histories, stream="clicks")
    assert (found.accepted, found.refused) == (1_203, 0)


def test_a_line_that_is_being_written_is_left_for_the_next_time(live, tmp_path):
    """Half an event is no fault, and it counts once it is whole."""
    path, line = tmp_path / "events.jsonl", json.dumps(click(1, 1))
    path.write_text(f"{json.dumps(click(0, 0))}\n{line[:20]}")
    first = ingest(Lines(path), live.histories, stream="clicks")
    assert (first.accepted, first.refused) == (1, 0)
    with path.open("a") as file:
        file.write(line[20:])  # without a line's end: a whole object all the same
    second = ingest(Lines(path), live.histories, stream="clicks")
    assert (second.accepted, second.refused) == (1, 0)


def test_of_a_huge_line_the_beginning_is_kept(live, tmp_path):
    """100 MB are no event; the lines beside it count, and the dead letter is short."""
    path = tmp_path / "events.jsonl"
    with path.open("w") as file:
        file.write(f"{json.dumps(click(0, 0))}\n")
        file.write('{"event_id": "' + "x" * 100_000_000 + '"}\n')
        file.write(f"{json.dumps(click(1, 1))}\n")
    found = ingest(Lines(path), live.histories, stream="clicks")
    assert (found.accepted, found.refused) == (2, 1)
    [letters] = (live.histories.place / "dead_letters").iterdir()
    assert "(100000017 bytes)" in letters.read_text()
    assert letters.stat().st_size < 1_000


class Stop:
    """Ends the reading when nothing came for some reads."""

    def __init__(self, source, empty=6):
        self.left, self.empty, read = empty, empty, source.read

        def counting():
            delivery = read()
            self.left = self.left - 1 if delivery is None else self.empty
            return delivery

        source.read = counting

    def __call__(self):
        return self.left <= 0


@pytest.fixture(scope="module")
def brokers():
    """The address of a Kafka cluster of one broker, in this process, and a producer."""
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer(
        {"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0}
    )
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}", producer
    producer.flush(5)


def test_a_kafka_topic_is_read_from_where_the_directory_says(live, brokers):
    """The broker's own offsets decide nothing; each partition goes on after its last event."""
    address, producer = brokers
    for i in range(20):
        producer.produce("clicks", json.dumps(click(i, i)).encode(), partition=i % 2)
    producer.flush(10)
    source = KafkaTopic(address, "clicks")
    first = ingest(source, live.histories, stream="clicks", stopped=Stop(source))
    assert (first.accepted, first.refused) == (20, 0)
    producer.produce("clicks", json.dumps(click(20, 20)).encode(), partition=0)
    producer.produce("clicks", b"nonsense", partition=0)
    producer.flush(10)
    again = KafkaTopic(address, "clicks")
    second = ingest(again, live.histories, stream="clicks", stopped=Stop(again))
    assert (second.accepted, second.duplicates, second.refused) == (1, 0, 1)
    assert live.ledger.facts()["positions"][f"{again.name}/0"] == "12"
    assert verify_online(live.histories).different == 0


def test_a_kafka_topic_that_began_anew_is_refused(live, brokers):
    """Older offsets than the directory's are no continuation."""
    address, producer = brokers
    producer.produce("restarted", json.dumps(click(0, 0)).encode(), partition=0)
    producer.flush(10)
    source = KafkaTopic(address, "restarted")
    ingest(source, live.histories, stream="clicks", stopped=Stop(source))
    other = KafkaTopic(address, "restarted")
    with pytest.raises(ArtifactError, match="was read to 99, and now the broker holds 0 to"):
        other.start({"0": "99"})


@pytest.mark.servers
def test_redis_entries_that_were_not_acknowledged_come_again(live):
    """To the same consumer after a crash between commit and acknowledgement, and count once."""
    if shutil.which("redis-server") is None:
        pytest.skip("needs a Redis server (apt-get install redis-server)")
    import redis

    with start.redis() as variables:
        url = f"redis://{variables['ADC_REDIS_HOST']}:{variables['ADC_REDIS_PORT']}/0"
        client, stream = redis.Redis.from_url(url), live.ledger.streams["clicks"]
        for i in range(5):
            client.xadd("events", {"event": json.dumps(click(i, i))})
        client.xadd("events", {k: str(v) for k, v in click(5, 5).items()})
        crashed = RedisStream(url, "events", stream)
        crashed.done = lambda delivery: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            ingest(crashed, live.histories, stream="clicks")
        assert counted(live)["accepted"] == 6
        source = RedisStream(url, "events", stream)
        totals = ingest(source, live.histories, stream="clicks", stopped=Stop(source))
        assert (totals.accepted, totals.duplicates, totals.refused) == (0, 6, 0)
        assert client.xpending("events", "adc-features")["pending"] == 0
        dead = RedisStream(url, "events", stream, consumer="2", idle_ms=1)
        client.xadd("events", {"event": json.dumps(click(6, 6))})
        dead.start({})
        dead.read()  # given, and never acknowledged
        heir = RedisStream(url, "events", stream, consumer="3", idle_ms=1)
        totals = ingest(heir, live.histories, stream="clicks", stopped=Stop(heir))
        assert totals.accepted == 1
        assert verify_online(live.histories).different == 0


@pytest.mark.servers
def test_a_redis_server_may_come_late_go_and_come_back_with_less(live):
    """It is waited for at the start; an entry that it could not be told of comes again; and where
    it was restored from an older state, what is added anew counts beside what comes again.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("needs a Redis server (apt-get install redis-server)")
    import redis

    stream, pauses = live.ledger.streams["clicks"], []
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        away = RedisStream(f"redis://127.0.0.1:{taken.getsockname()[1]}/0", "events", stream)
        stop = {"stream": "clicks", "sleep": pauses.append, "stopped": lambda: len(pauses) == 3}
        ingest(away, live.histories, **stop)
    assert pauses == [0.5, 1.0, 2.0]
    with start.redis() as variables:
        url = f"redis://{variables['ADC_REDIS_HOST']}:{variables['ADC_REDIS_PORT']}/0"
        client = redis.Redis.from_url(url)

        def add(*numbers):
            for i in numbers:
                client.xadd("events", {"event": json.dumps(click(i, i))})

        add(0, 1, 2)
        client.xadd("events", {k: str(v) for k, v in click(3, 3, sku="s" * (2 << 20)).items()})
        source = RedisStream(url, "events", stream)
        acknowledge = source.done

        def gone(delivery):
            source.done = acknowledge
            raise ConnectionError("went away")

        source.done = gone
        how = {"stream": "clicks", "sleep": lambda seconds: None}
        first = ingest(source, live.histories, stopped=Stop(source), **how)
        assert (first.accepted, first.duplicates, first.refused) == (3, 3, 2)  # the huge one twice
        client.flushall()
        add(2, 4)
        second = ingest(source, live.histories, stopped=Stop(source), **how)
        assert (second.accepted, second.duplicates, second.refused) == (1, 1, 0)
    letters = (live.histories.place / "dead_letters").iterdir()
    assert sum(path.stat().st_size for path in letters) < 2_000
    assert verify_online(live.histories).different == 0


def test_a_full_disk_is_waited_for_and_what_was_read_counts_once(live, tmp_path, monkeypatch):
    """Nothing is acknowledged meanwhile; when there is room, the same events are read again."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(click(i, i))}\n" for i in range(3)))
    commit, pauses = live.ledger.commit, []

    def full(requests, **how):
        if len(pauses) < 2:
            raise NotWrittenError("no space")
        return commit(requests, **how)

    monkeypatch.setattr(live.ledger, "commit", full)
    totals = ingest(Lines(path), live.histories, stream="clicks", sleep=pauses.append)
    assert (totals.accepted, totals.duplicates, pauses) == (3, 0, [0.5, 1.0])


def test_a_source_that_is_away_is_waited_for(live):
    """With growing pauses; nothing is lost."""

    class Away(Lines):
        tries = 0

        def start(self, positions):
            Away.tries += 1
            if Away.tries < 3:
                raise ConnectionError("refused")
            super().start(positions)

    path = live.histories.place / "away.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(click(1, 1)) + "\n")
    pauses = []
    totals = ingest(Away(path), live.histories, stream="clicks", sleep=pauses.append)
    path.unlink()
    assert (totals.accepted, pauses) == (1, [0.5, 1.0])
