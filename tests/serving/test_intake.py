"""POST /events: what is answered is durable, and what is refused is named."""

import json
from datetime import timedelta

import pytest
from live_world import START, Clock, click, emptied, make_shop, online, opened
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from adc_features.errors import AdcError, ArtifactError
from adc_features.live.writer import BusyError, Writer
from adc_features.serving.event_sink import MAX_EVENTS, WriterSink
from adc_features.serving.intake import Intake
from adc_features.serving.protocol import ServiceSettings, error_answer, http_error_of
from adc_features.serving.sink_process import ProcessSink, reachable


@pytest.fixture(scope="module")
def made_shop(tmp_path_factory):
    """An applied repository without events."""
    return make_shop(tmp_path_factory.mktemp("intake") / "shop")


@pytest.fixture
def sink(made_shop):
    """What commits, on an empty live directory."""
    live = opened(emptied(made_shop), Clock(START + timedelta(minutes=1)))
    return WriterSink(Writer(live.ledger, live.histories).__enter__())


@pytest.fixture(params=["here", "apart"])
def intake(sink, tmp_path, request):
    """What answers, in the process that commits or over its socket."""
    if request.param == "here":
        found = Intake(sink, ServiceSettings())
        yield found
        found.close()
        return
    address = str(tmp_path / "events")
    with reachable(sink, address):
        found = Intake(ProcessSink(address, sink.streams).wait(), ServiceSettings())
        yield found
        found.close()
        sink.close()


@pytest.fixture
def client(intake):
    """A client of the route alone."""

    async def endpoint(request):
        try:
            return await intake.answer(request)
        except AdcError as error:
            return error_answer(http_error_of(error))

    paths = ("/events", "/events/{stream}")
    routes = [Route(path, endpoint, methods=["POST"]) for path in paths]
    return TestClient(Starlette(routes=routes))


def test_what_is_answered_is_online(client, made_shop):
    """The answer counts each event once and explains those that were refused."""
    answer = client.post("/events", json=[click(0, 0), click(0, 0), {"event_id": "x"}])
    told = answer.json()
    assert (answer.status_code, told["accepted"], told["duplicates"], told["refused"]) == (
        200,
        1,
        1,
        1,
    )
    assert told["reasons"] == [
        {
            "place": 2,
            "reason": "event_time is absent; expected RFC 3339 text with a zone, or whole"
            " microseconds since 1970 UTC",
        }
    ]
    assert online(made_shop, ["product_profile:product_events"], sku=["s0"])["product_events"] == [
        1
    ]
    assert client.post("/events/clicks", json={"events": [click(0, 0)]}).json()["duplicates"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/events", b"{", 422, "refused"),
        ("/events", b'{"event": 1}', 422, "refused"),
        ("/events/orders", b"[]", 404, "no_such_stream"),
        ("/events", json.dumps([1] * (MAX_EVENTS + 1)).encode(), 422, "too_many_events"),
        ("/events", b"[" + b"{}," * 300_000 + b"{}]", 422, "too_many_events"),
        ("/events", b"[" + b" " * (1 << 20) + b"]", 413, "too_large"),
    ],
)
def test_a_request_that_is_no_list_of_events_is_refused_whole(client, path, body, status, code):
    """Before anything of it is kept."""
    answer = client.post(path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_full_disk_is_told_and_the_events_count_once_later(client, sink, monkeypatch):
    """507 acknowledges nothing; the same request later is accepted."""

    def full(requests, **how):
        raise ArtifactError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(sink.writer.ledger, "commit", full)
        answer = client.post("/events", json=[click(0, 0)])
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "not_kept")
    assert client.post("/events", json=[click(0, 0)]).json()["accepted"] == 1


def test_metrics_count_what_became_of_events(client, intake):
    """By stream and outcome, with the age of the watermark and the rows online."""
    client.post("/events", json=[click(0, 0), click(0, 0), {"event_id": "x"}])
    page = intake.sink.page().decode()
    assert 'adc_live_events_total{outcome="accepted",stream="clicks"} 1.0' in page
    assert 'adc_live_events_total{outcome="unreadable",stream="clicks"} 1.0' in page
    assert 'adc_live_watermark_age_seconds{stream="clicks"} 660.0' in page
    assert 'adc_live_rows{view="product_profile"} 1.0' in page
    # the event is of a minute ago: its row is online since now
    assert 'adc_live_freshness_seconds_bucket{le="30.0",stream="clicks"} 0.0' in page
    assert 'adc_live_freshness_seconds_bucket{le="60.0",stream="clicks"} 1.0' in page
    assert 'adc_live_freshness_seconds_sum{stream="clicks"} 60.0' in page
    assert 'adc_live_row_age_seconds{view="product_profile"} 0.0' in page
    facts = intake.sink.facts()
    assert facts["watermarks"] == {"clicks": "2024-05-01T11:50:00+00:00"}
    assert facts["newest"]["product_profile"] == "2024-05-01T12:01:00+00:00"
    assert (facts["counts"]["clicks"]["duplicate"], facts["counts"]["clicks"]["unreadable"]) == (
        1,
        1,
    )


def test_who_takes_events_may_be_killed(sink, tmp_path):
    """A request that has no answer is told to come again, and the next process answers it."""
    address = str(tmp_path / "events")
    away = ProcessSink(address, sink.streams)
    with pytest.raises(BusyError, match="send the events again"):
        away.take("clicks", json.dumps([click(0, 0)]).encode()).result(10)
    assert away.facts() == {"away": True}
    with reachable(sink, address):
        away.wait()
        assert away.take("clicks", json.dumps([click(0, 0)]).encode()).result(10).accepted == 1
    away.close()
    sink.close()
