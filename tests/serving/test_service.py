"""The service over HTTP: a real server on a free port."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import psutil
import pytest
from ranking_world import day
from serving_world import NOW

from adc_features import store
from adc_features.errors import InputError
from adc_features.serving.app import server
from adc_features.serving.opening import open_bundle
from adc_features.serving.promotion import promote
from adc_features.serving.service import Answer, Service, ServiceSettings

ITEMS = ["i07", "i00", "i31", "i59"]


class Client(NamedTuple):
    port: int
    service: Service

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def post(self, path: str, value: Any, **headers: str) -> tuple[int, Any]:
        status, _, body = self.send(
            "POST",
            path,
            value if isinstance(value, bytes) else json.dumps(value).encode(),
            **headers,
        )
        return status, json.loads(body)

    def metrics(self) -> dict[str, float]:
        lines = [
            line.rsplit(" ", 1)
            for line in self.send("GET", "/metrics")[2].decode().splitlines()
            if not line.startswith("#")
        ]
        return {name: float(value) for name, value in lines}


@contextmanager
def serving(shop, *, promotion_file=None, name="codes_weights", **settings):
    service = Service(
        open_bundle(shop.pair(name)),
        ServiceSettings(**{"timeout": 30, "poll": 0.05, **settings}),
        clock=lambda: NOW,
        promotion_file=promotion_file,
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = server(service)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: running.started)
            yield Client(listening.getsockname()[1], service)
        finally:
            running.should_exit = True
            thread.join()


def until(true, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def client(shop):
    with serving(shop, max_items=50, max_body=4096) as opened:
        yield opened


def test_candidates_are_ranked_best_first_and_the_answer_names_what_ranked_them(client, shop):
    """Scores of the bundle, descending; user, time, pair and what was unknown stand beside them."""
    status, answer = client.post("/rank", {"user": "u3", "items": [*ITEMS, "nothing", "i07"]})
    assert status == 200
    rows = answer.pop("items")
    assert answer == {
        "pair": shop.pair("codes_weights").name,
        "generation": "g1",
        "recipe": "codes_weights",
        "user": "u3",
        "user_known": True,
        "now": NOW.isoformat().replace("+00:00", "Z"),
        "unknown_items": 1,
        "repeated_items": 1,
    }
    expected = dict(
        zip(
            [*ITEMS, "nothing"],
            client.service.bundle.score("u3", [*ITEMS, "nothing"], now=NOW).score.tolist(),
            strict=True,
        )
    )
    assert [row["item_id"] for row in rows] == sorted(expected, key=lambda item: -expected[item])
    assert {row["item_id"]: row["score"] for row in rows} == pytest.approx(expected, abs=1e-6)
    assert [row["item_id"] for row in rows if not row["known"]] == ["nothing"]
    assert (
        client.post("/rank", {"user": "u3", "items": ITEMS, "k": 2})[1]["items"]
        == [row for row in rows if row["item_id"] in ITEMS][:2]
    )
    assert client.post("/rank", {"user": "nobody", "items": ITEMS})[1]["user_known"] is False


def test_a_request_may_name_its_time(client):
    """Features age until the request's own now; a time before them is refused."""
    later = client.post("/rank", {"user": "u3", "items": ITEMS, "now": "2024-09-01T00:00:00Z"})[1]
    assert later["now"] == "2024-09-01T00:00:00Z"
    assert later["items"] != client.post("/rank", {"user": "u3", "items": ITEMS})[1]["items"]
    status, refused = client.post(
        "/rank", {"user": "u3", "items": ITEMS, "now": "2024-02-01T00:00:00Z"}
    )
    assert (status, refused["error"]["code"]) == (422, "refused")
    assert "hold later events" in refused["error"]["message"]


def test_a_lookup_answers_in_the_order_asked_with_the_unknown_marked(client):
    """Codes and weights as published, repeats kept; an unknown item has no code, weight 0, and null
    features.
    """
    status, answer = client.post(
        "/lookup",
        {"items": ["i05", "nothing", "i05"], "features": ["item_brand", "item_event_count"]},
    )
    assert (status, answer["generation"]) == (200, "g1")
    known, unknown, again = answer["items"]
    assert known == again
    assert (known["found"], known["sid"], known["item_brand"]) == (True, [1, 5, 7], "b5")
    assert unknown == {
        "item_id": "nothing",
        "found": False,
        "sid": [-1] * 3,
        "sid_weight": [0] * 3,
        "reliability": 0,
        "is_cold": True,
    } | {
        "item_brand": None,
        "item_event_count": None,
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/rank", b"", 400, "not_json"),
        ("/rank", b"{", 400, "not_json"),
        ("/rank", b'{"user": "u3", "items": ["\xff\xfe"]}', 400, "not_json"),
        ("/rank", b'{"user": "u3", "items": ["\\ud800"]}', 400, "not_json"),
        ("/rank", {"user": "u3", "items": []}, 422, "no_items"),
        ("/rank", {"user": "u3", "items": [f"i{n}" for n in range(51)]}, 422, "too_many_items"),
        ("/rank", {"user": "u3", "items": ["i"] * 100_000}, 413, "too_large"),
        ("/lookup", {"items": [f"i{n}" for n in range(51)]}, 422, "too_many_items"),
        ("/rank", {"user": "u3", "items": [1, 2]}, 422, "refused"),
        ("/rank", {"user": 3, "items": ITEMS}, 422, "refused"),
        ("/rank", {"user": "u3", "items": [1e30]}, 422, "invalid"),
        ("/rank", {"user": "u3", "items": [10**30]}, 422, "refused"),
        ("/rank", {"user": "u3", "items": [None]}, 422, "invalid"),
        ("/rank", {"user": "u3", "items": [True]}, 422, "invalid"),
        ("/rank", {"user": "u3", "items": "i00"}, 422, "invalid"),
        ("/rank", {"user": "u3"}, 422, "invalid"),
        ("/rank", {"user": "u3", "items": ITEMS, "k": 0}, 422, "invalid"),
        ("/rank", {"user": "u3", "items": ITEMS, "price": 3}, 422, "invalid"),
        ("/rank", {"user": "u3", "items": ITEMS, "now": "2024-09-01T00:00:00"}, 422, "invalid"),
        ("/rank", [1], 422, "invalid"),
        ("/lookup", {"items": ITEMS, "features": ["item_price"]}, 422, "unknown_feature"),
        ("/nowhere", {}, 404, "no_such_route"),
    ],
)
def test_bad_input_is_refused_with_a_code_and_a_sentence(client, path, body, status, code):
    """One short JSON error each; nothing of the body comes back, no trace of the code goes out."""
    got, answer = client.post(path, body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert 10 < len(answer["error"]["message"]) < 600
    assert "Traceback" not in str(answer)


def test_wrong_methods_and_endless_bodies_are_refused(client):
    """GET on a POST route, a body whose length is not declared, and one that declares a length that
    is none.
    """
    assert client.send("GET", "/rank")[0] == 405
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(
            b"POST /rank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1000\r\n"
            + b"x" * 0x1000
            + b"\r\n"
            + b"10\r\n"
            + b"x" * 16
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")
    assert client.send("POST", "/rank", b"{}", **{"Content-Length": "-5"})[0] == 400


def test_a_client_that_goes_away_is_no_fault_of_ours(client):
    """Half a body and a closed connection: counted as such, not as a failure."""
    counted = 'adc_request_seconds_count{route="/rank",status="499"}'
    before = client.metrics().get(counted, 0)
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
        raw.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
    until(lambda: client.metrics().get(counted, 0) > before)  # what another test left may come late


def test_metrics_say_what_was_asked_and_what_serves(client, shop):
    """Candidates, unknown ones, those with codes, latency by route, the pair in use."""
    before = client.metrics()
    client.post("/rank", {"user": "nobody", "items": [*ITEMS, "nothing"]})
    grown = {name: value - before.get(name, 0) for name, value in client.metrics().items()}
    assert (
        grown["adc_ranked_items_total"],
        grown["adc_coded_items_total"],
        grown["adc_unknown_items_total"],
        grown["adc_unknown_users_total"],
    ) == (5, 4, 1, 1)
    assert grown['adc_request_seconds_count{route="/rank",status="200"}'] == 1
    assert [
        name
        for name, value in client.metrics().items()
        if name.startswith("adc_serving") and value == 1 and shop.pair("codes_weights").name in name
    ]


def test_health_and_readiness_say_what_serves(client, shop):
    """Healthy is alive, ready names the pair."""
    assert json.loads(client.send("GET", "/healthz")[2]) == {"status": "ok"}
    ready = json.loads(client.send("GET", "/readyz")[2])
    assert (ready["status"], ready["pair"], ready["refused"]) == (
        "ready",
        shop.pair("codes_weights").name,
        None,
    )


def test_a_fault_of_ours_is_one_sentence(client, monkeypatch, caplog):
    """An unexpected error is a 500 without details; the log has them."""
    monkeypatch.setattr(type(client.service.bundle), "score", lambda *_, **__: 1 / 0)
    status, answer = client.post("/rank", {"user": "u3", "items": ITEMS})
    assert (status, answer) == (
        500,
        {"error": {"code": "internal", "message": "the service failed; its log says how"}},
    )
    assert "ZeroDivisionError" in caplog.text


def test_a_token_guards_all_but_health(shop):
    """Without the token, or with another, nothing is ranked and no metric shown."""
    token = "0123456789abcdef"
    with serving(shop, token=token, name="no_sid") as client:
        body = json.dumps({"user": "u3", "items": ITEMS}).encode()
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": token},
            {"Authorization": "Bearer 0123456789abcdéf"},
        ):
            status, sent, _ = client.send("POST", "/rank", body, **headers)
            assert (status, sent["www-authenticate"]) == (401, "Bearer")
        assert client.send("POST", "/rank", body, Authorization=f"Bearer {token}")[0] == 200
        assert [client.send("GET", path)[0] for path in ("/healthz", "/readyz", "/metrics")] == [
            200,
            200,
            401,
        ]
    with pytest.raises(InputError, match="shorter than 16"):
        ServiceSettings(token="secret")


def test_a_slow_or_crowded_service_says_so_instead_of_hanging(shop, monkeypatch):
    """A request that takes too long, one that never sends its body, and one too many waiting: 503,
    and the service goes on.
    """
    with serving(shop, timeout=0.3, max_waiting=1, name="no_sid") as client:
        release = threading.Event()
        slow = lambda bundle, body: (release.wait(20), Answer(b"{}", {}))[1]  # noqa: E731
        monkeypatch.setattr(client.service, "lookup", slow)
        first = threading.Thread(target=client.post, args=("/lookup", {}))
        first.start()
        until(lambda: client.service._waiting == 1)
        status, sent, body = client.send("POST", "/lookup", b"{}")
        assert (status, sent["retry-after"], json.loads(body)["error"]["code"]) == (
            503,
            "1",
            "busy",
        )
        first.join()
        status, answer = client.post("/rank", {"user": "u3", "items": ITEMS})
        assert (status, answer["error"]["code"]) == (503, "timeout")
        release.set()
        until(lambda: client.post("/rank", {"user": "u3", "items": ITEMS})[0] == 200)
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
            raw.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            assert raw.recv(4096).startswith(b"HTTP/1.1 503")


@pytest.mark.slow  # load on a service of its own
def test_a_promotion_is_taken_over_and_every_answer_is_of_one_pair(shop, tmp_path):
    """While requests run, another generation is promoted: each answer's scores are those of the
    pair that it names, and none fails.
    """
    path = tmp_path / "promotion.json"
    pairs = {name: shop.pair(name, at=day(n)) for n, name in enumerate(("codes_weights", "second"))}
    expected = {
        pair.name: open_bundle(pair).score("u3", ITEMS, now=NOW).score.tolist()
        for pair in pairs.values()
    }
    promote(path, pairs["codes_weights"])
    with serving(shop, promotion_file=path) as client:
        answers, stop = [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answers.append(client.post("/rank", {"user": "u3", "items": ITEMS}))

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for thread in askers:
            thread.start()
        for name in ("second", "codes_weights", "second"):
            promote(path, pairs[name])
            until(lambda name=name: client.service.bundle.promotion == pairs[name])
        stop.set()
        for thread in askers:
            thread.join()
        assert {status for status, _ in answers} == {200}
        for _, answer in answers:
            scores = {row["item_id"]: row["score"] for row in answer["items"]}
            assert [scores[item] for item in ITEMS] == pytest.approx(
                expected[answer["pair"]], abs=1e-6
            )
        assert {answer["pair"] for _, answer in answers} == set(expected)
        assert client.metrics()['adc_promotions_total{outcome="served"}'] >= 3


def test_a_promoted_pair_is_opened_in_the_gaps_between_requests(shop, tmp_path, monkeypatch):
    """The thread that opens it stops while a request is answered; the others never do."""
    path, stops = tmp_path / "promotion.json", []
    promote(path, shop.pair("codes_weights"))

    def opened(pair):
        with client.service._answering.one():
            monkeypatch.setattr(client.service._answering, "wait", stops.append)
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                sys.getprofile()
        return open_bundle(pair)

    with serving(shop, promotion_file=path) as client:
        monkeypatch.setattr("adc_features.serving.service.open_bundle", opened)
        promote(path, shop.pair("second"))
        until(lambda: client.service.bundle.promotion == shop.pair("second"))
        assert stops
        assert client.post("/rank", {"user": "u3", "items": ITEMS})[0] == 200


def test_materializing_refuses_no_request(client, shop):
    """While every view is written anew, requests are answered with the same scores."""
    writing = threading.Thread(
        target=store.materialize, args=(shop.repository,), kwargs={"now": NOW}
    )
    expected = client.post("/rank", {"user": "u3", "items": ITEMS})
    writing.start()
    answers = []
    while writing.is_alive():
        answers.append(client.post("/rank", {"user": "u3", "items": ITEMS}))
    writing.join()
    assert answers
    assert all(answer == expected for answer in answers)


def test_a_pair_that_cannot_serve_leaves_the_old_one_serving(shop, tmp_path):
    """A broken promotion is counted and named by /readyz; requests go on, and the next good one is
    taken over.
    """
    path = tmp_path / "promotion.json"
    path.write_text("{}")
    with serving(shop, promotion_file=path) as client:
        until(lambda: client.service.refused is not None)
        assert "is not a promotion" in json.loads(client.send("GET", "/readyz")[2])["refused"]
        assert (
            client.post("/rank", {"user": "u3", "items": ITEMS})[1]["pair"]
            == shop.pair("codes_weights").name
        )
        assert client.metrics()['adc_promotions_total{outcome="refused"}'] == 1
        promote(path, shop.pair("no_sid"))
        until(lambda: client.service.bundle.promotion == shop.pair("no_sid"))
        until(lambda: client.service.refused is None)


@pytest.mark.slow  # starts processes one after another
def test_several_processes_serve_on_one_socket(shop, tmp_path):
    """`adc serve --workers 2`: metrics are added up, each process follows a promotion, one that is
    killed is replaced, and no answer mixes pairs.
    """
    path, told = tmp_path / "promotion.json", tmp_path / "told.json"
    pairs = [shop.pair(name, at=day(n)) for n, name in enumerate(("codes_weights", "second"))]
    expected = {
        pair.name: open_bundle(pair).score("u3", ITEMS, now=NOW).score.tolist() for pair in pairs
    }
    promote(path, pairs[0])
    command = [
        sys.executable,
        "-c",
        "from adc_features.cli.main import main; main()",
        "serve",
        "--promotion",
        str(path),
        "--port",
        "0",
        "--workers",
        "2",
    ]
    with subprocess.Popen([*command, "--now", NOW.isoformat(), "--json", str(told)]) as parent:
        try:
            until(lambda: told.exists() and told.stat().st_size > 0, seconds=120)
            client = Client(int(json.loads(told.read_text())["url"].rpartition(":")[2]), None)

            def others() -> list[psutil.Process]:
                found = []
                for process in psutil.Process(parent.pid).children():
                    with suppress(psutil.NoSuchProcess):  # it ended since it was listed
                        if process.status() != psutil.STATUS_ZOMBIE and "spawn_main" in str(
                            process.cmdline()
                        ):
                            found.append(process)
                return found

            def all_serve(pair) -> bool:
                answers = [client.post("/rank", {"user": "u3", "items": ITEMS}) for _ in range(20)]
                assert {status for status, _ in answers} == {200}
                for _, answer in answers:
                    scores = {row["item_id"]: row["score"] for row in answer["items"]}
                    assert [scores[item] for item in ITEMS] == pytest.approx(
                        expected[answer["pair"]], abs=1e-6
                    )
                serving = {
                    name
                    for name, value in client.metrics().items()
                    if name.startswith("adc_serving") and value
                }
                return {answer["pair"] for _, answer in answers} == {pair.name} and all(
                    pair.name in name for name in serving
                )

            for pair in pairs[::-1]:
                promote(path, pair)
                until(partial(all_serve, pair), seconds=120)
            (before,) = others()
            before.kill()
            until(lambda: others() and others() != [before], seconds=60)
            promote(path, pairs[1])
            until(partial(all_serve, pairs[1]), seconds=120)
            asked = sum(
                value
                for name, value in client.metrics().items()
                if name == 'adc_request_seconds_count{route="/rank",status="200"}'
            )
            assert asked >= 60
        finally:
            parent.terminate()
        assert parent.wait(60) == 0
