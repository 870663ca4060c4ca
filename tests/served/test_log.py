"""What `adc serve --log` keeps. Reads: answers of a service. Writes: logs."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_world import outcomes
from starlette.testclient import TestClient

from adc_features.errors import ArtifactError, InputError, NewerFormatError
from adc_features.served.audit import served_skew
from adc_features.served.dataset import served_dataset
from adc_features.served.dataset_settings import DatasetSettings
from adc_features.served.log import LogSettings, ServedLog, gaps
from adc_features.served.outcomes import Target
from adc_features.served.record import ABOUT, About, Served, share_of
from adc_features.served.segments import OpenSegment, made_log, sealed_segments
from adc_features.serving.app import application
from adc_features.serving.protocol import ServiceSettings
from adc_features.serving.service import Service

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ABOUT_TOYS = About(
    "feed", "toys", ("customer",), ("sku",), (("stock__price", "Float32"),), (), ("click",)
)


def record(request_id="r1", *, prices=(1.0, 2.0), about=ABOUT_TOYS):
    """An answer with a candidate for each price; the last is the best."""
    n = len(prices)
    return Served(
        about=about,
        request_id=request_id,
        received=NOON,
        now=NOON,
        served_as_of=None,
        version="v1",
        pair="v1@none",
        generation=None,
        variant=None,
        answered=n,
        user_known=True,
        one=pa.table({"customer": ["c1"]}),
        each=pa.table(
            {"sku": pa.array(range(n), pa.int64()), "stock__price": pa.array(prices, pa.float32())}
        ),
        score=np.arange(n, dtype=np.float32),
        tasks={"click": np.linspace(0.1, 0.9, n)},
        known=np.ones(n, bool),
    )


def kept(directory):
    """The rows of all segments: requests, candidates."""
    segments = sealed_segments(directory)
    return tuple(
        pa.concat_tables(rows).to_pylist()
        for rows in (
            [s.request_rows() for s in segments],
            [s.candidate_rows() for s in segments],
        )
    )


def test_requests_and_candidates_are_kept_as_they_were_scored(tmp_path):
    """A closed log holds each request once, and each candidate with values, place and rank."""
    log = ServedLog(tmp_path)
    assert log.offer(record("r1"))
    assert log.offer(record("r2", prices=[5.0]))
    log.close()
    requests, candidates = kept(tmp_path)
    assert [(r["request_id"], r["candidates"], r["user.customer"]) for r in requests] == [
        ("r1", 2, "c1"),
        ("r2", 1, "c1"),
    ]
    assert [
        (c["request_id"], c["place"], c["rank"], c["item.sku"], c["feature.stock__price"])
        for c in candidates
    ] == [("r1", 0, 2, 0, 1.0), ("r1", 1, 1, 1, 2.0), ("r2", 0, 1, 0, 5.0)]
    assert candidates[0]["p.click"] == 0.1
    assert (log.counts.offered, log.counts.sealed, log.counts.dropped) == (2, 2, 0)
    assert sealed_segments(tmp_path)[0].about == ABOUT_TOYS


def test_what_finds_the_ring_full_is_dropped_counted_and_noted(tmp_path, monkeypatch):
    """The thread that answers never waits: a record beyond the ring's bytes leaves a note."""
    held, go = threading.Event(), threading.Event()
    written = ServedLog._written

    def slow(self, records):
        held.set()
        assert go.wait(20)
        written(self, records)

    monkeypatch.setattr(ServedLog, "_written", slow)
    size = record().size
    log = ServedLog(tmp_path, LogSettings(ring=2 * size, write_after=0.01), clock=lambda: NOON)
    held.wait(20)
    assert [log.offer(record(f"r{n}")) for n in range(4)] == [True, True, False, False]
    go.set()
    log.close()
    assert not log.offer(record("late"))
    log.close()
    assert [r["request_id"] for r in kept(tmp_path)[0]] == ["r0", "r1"]
    assert (log.counts.offered, log.counts.sealed, log.counts.dropped) == (5, 2, 3)
    noted = gaps(tmp_path)
    assert sum(gap["dropped"] for gap in noted) == 3
    assert noted[0]["reasons"] == {"full": 2}
    assert noted[0]["from"] == NOON.isoformat()


def test_a_segment_that_cannot_be_written_is_a_gap_and_the_next_one_begins_anew(
    tmp_path, monkeypatch
):
    """A full disk costs the open segment alone, leaves no file of it, and is noted."""
    write, full = OpenSegment.write, []

    def failing(self, records):
        if not full:
            full.append(1)
            raise OSError(28, "No space left on device")
        write(self, records)

    monkeypatch.setattr(OpenSegment, "write", failing)
    log = ServedLog(tmp_path, LogSettings(write_bytes=1, write_after=0.01))
    for number in range(3):
        before = log.counts.offered
        log.offer(record(f"r{number}"))
        assert log.counts.offered == before + 1
        while log._held:
            threading.Event().wait(0.005)
    log.close()
    assert [r["request_id"] for r in kept(tmp_path)[0]] == ["r2"]
    assert log.counts.dropped == 2
    assert gaps(tmp_path)[0]["reasons"] == {"not written": 2}
    assert not list(tmp_path.glob("*/.*"))


def test_an_unsealed_segment_is_invisible(tmp_path):
    """A process that is killed leaves nothing that a reader would take for a segment."""
    segment = OpenSegment(made_log(tmp_path), "one", [record()], (1.0, 1.0))
    with pytest.raises(InputError, match="holds no segment"):
        sealed_segments(tmp_path)
    segment.seal()
    assert len(sealed_segments(tmp_path)) == 1


def test_rows_of_other_columns_go_to_a_segment_of_their_own(tmp_path):
    """Two rankers with other features share a log; each segment names its columns by a hash."""
    other = About("feed", "games", ("customer",), ("sku",), (), (), ("click",))
    log = ServedLog(tmp_path)
    log.offer(record("r1"))
    log.offer(record("r2", about=other))
    log.offer(record("r3"))
    log.close()
    segments = sealed_segments(tmp_path)
    assert {s.about.ranker: len(s.request_rows()) for s in segments} == {"toys": 2, "games": 1}


def test_segments_are_sealed_by_size_while_the_service_runs(tmp_path):
    """A segment that has reached its size is visible before the log is closed."""
    log = ServedLog(tmp_path, LogSettings(write_bytes=1, write_after=0.01, segment_bytes=1))
    log.offer(record())
    for _ in range(1000):
        if log.counts.sealed:
            break
        threading.Event().wait(0.01)
    assert len(kept(tmp_path)[0]) == 1
    log.close()


@given(st.lists(st.text(min_size=1), unique=True), st.floats(0, 1), st.floats(0, 1))
def test_sampling_is_by_request_and_a_larger_share_holds_the_smaller_one(ids, a, b):
    """A request is kept by its id alone, whatever else was asked, and shares are nested."""
    less, more = sorted((a, b))
    few = {i for i in ids if share_of(i) < less}
    assert few <= {i for i in ids if share_of(i) < more}


def test_the_sampled_share_is_the_share_that_was_asked_for(tmp_path):
    """Of 4,000 ids about a quarter is kept where a quarter is sampled, and rows say so."""
    log = ServedLog(tmp_path, LogSettings(sample=0.25))
    chosen = [i for i in range(4_000) if log.samples(f"r{i}")]
    assert 900 < len(chosen) < 1_100
    log.offer(record())
    log.close()
    assert kept(tmp_path)[0][0]["p"] == 0.25


def test_values_are_kept_of_a_share_of_the_requests_alone(small_feed, tmp_path):
    """Every request has keys, fields and ranks; those of the share have every feature, in segments
    of their own."""
    small_feed.log(tmp_path, values=0.25)
    segments = {s.has_values: s for s in sealed_segments(tmp_path)}
    valued, bare = (segments[has].request_rows() for has in (True, False))
    assert len(valued) + len(bare) == len(small_feed.shown)
    assert all(share_of(i) < 0.25 for i in valued["request_id"].to_pylist())
    assert all(share_of(i) >= 0.25 for i in bare["request_id"].to_pylist())
    assert {"user.customer_id", "request.device", "p_values"} <= set(bare.column_names)
    assert not [n for n in bare.column_names if n.startswith("feature.")]
    assert set(valued["p_values"].to_pylist()) == {0.25}
    assert served_skew(tmp_path, small_feed.repo).requests == len(valued)
    click = Target("click", timedelta(minutes=30), "click")
    events = outcomes(small_feed.labels)
    every, _ = served_dataset(tmp_path, events, [click])
    some, _ = served_dataset(
        tmp_path, events, [click], settings=DatasetSettings(logged_values=True)
    )
    ids = set(some["request_id"].to_pylist())
    assert ids <= set(valued["request_id"].to_pylist())
    assert ids < set(every["request_id"].to_pylist())
    assert set(some["sample_weight"].to_pylist()) == {4.0}


def test_a_row_of_twenty_numbers_takes_140_bytes_at_most(tmp_path):
    """Of numbers that nothing compresses, with the requests' own rows."""
    chance, names = np.random.default_rng(0), [f"stock__n{n}" for n in range(20)]
    about = replace(ABOUT_TOYS, features=tuple((name, "Float32") for name in names))
    log = ServedLog(tmp_path)
    for number in range(40):
        skus = pa.array(chance.integers(0, 100_000, 500))
        values = {name: pa.array(chance.random(500, np.float32)) for name in names}
        one = replace(
            record(f"{number:032x}", prices=chance.random(500), about=about),
            each=pa.table({"sku": skus, **values}),
            score=chance.random(500),
            tasks={"click": chance.random(500)},
        )
        assert log.offer(one)
    log.close()
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    assert size / (40 * 500) < 140


def test_a_damaged_a_lonely_and_a_newer_segment_are_refused(tmp_path):
    """Each is named with what to do, and no row of the log is read."""
    log = ServedLog(tmp_path)
    log.offer(record())
    log.close()
    (path,) = (tmp_path / "requests").glob("*.parquet")
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[ABOUT])
    newer = table.replace_schema_metadata({ABOUT: json.dumps(about | {"format": 99}).encode()})
    pq.write_table(newer, path)
    with pytest.raises(NewerFormatError):
        sealed_segments(tmp_path)
    pq.write_table(table.drop_columns(["pair"]), path)
    with pytest.raises(ArtifactError, match="columns that they were written with"):
        sealed_segments(tmp_path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="cannot be read"):
        sealed_segments(tmp_path)
    (tmp_path / "candidates" / path.name).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        sealed_segments(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    """A file in its place is told before any request is taken."""
    (tmp_path / "log").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        ServedLog(tmp_path / "log")
    for wrong in (0.0, 1.5):
        with pytest.raises(InputError, match="expected"):
            LogSettings(sample=wrong)


def test_the_service_logs_what_it_answered_under_the_id_of_the_request(small_feed, tmp_path):
    """POST /rank answers a request id, the client's or its own, and the log has score, rank and
    the values of both sides."""
    log = ServedLog(tmp_path)
    service = Service(small_feed.bundle, ServiceSettings(), clock=lambda: NOON, served=log)
    one = small_feed.shown[0]
    asked = {name: one[name] for name in ("user", "items", "request")}
    with TestClient(application(service)) as client:
        own = client.post("/rank", json=asked | {"request_id": "mine", "k": 2}).json()
        made = client.post("/rank", json=asked).json()
        refused = client.post("/rank", json=asked | {"user": {"who": "x"}})
        ready, metrics = client.get("/readyz").json(), client.get("/metrics").text
    assert own["request_id"] == "mine"
    assert len(made["request_id"]) == 32
    assert refused.status_code == 422
    assert ready["served_log"] == {"offered": 2, "sealed": 0, "dropped": 0}
    assert 'adc_served_log_requests_total{outcome="offered"} 2.0' in metrics
    requests, candidates = kept(tmp_path)
    assert [r["request_id"] for r in requests] == ["mine", made["request_id"]]
    assert requests[0]["answered"] == 2
    assert requests[0]["request.device"] == one["request"]["device"]
    assert requests[0]["received"] == NOON
    assert requests[0]["feature.profile__segment"] is not None
    best = min((c for c in candidates if c["request_id"] == "mine"), key=lambda c: c["rank"])
    assert best["item.sku"] == own["items"][0]["sku"]
    assert best["score"] == pytest.approx(own["items"][0]["score"])
    assert best["feature.shelf__worth"] == 2 * best["feature.stock__quality"]
    assert len(candidates) == 2 * len(one["items"])
    assert gaps(tmp_path) == []


def test_without_a_log_an_answer_has_the_id_that_was_sent_and_no_other(small_feed):
    """A service that keeps nothing makes up no id, and gives back the client's."""
    service = Service(small_feed.bundle, ServiceSettings(), clock=lambda: NOON)
    one = small_feed.shown[0]
    asked = {name: one[name] for name in ("user", "items", "request")}
    with TestClient(application(service)) as client:
        assert "request_id" not in client.post("/rank", json=asked).json()
        sent = client.post("/rank", json=asked | {"request_id": "mine"}).json()
    assert sent["request_id"] == "mine"
