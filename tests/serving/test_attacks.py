"""The service under clients that are silent, slow, greedy or damaged: a real server on a free port,
raw sockets against it.
"""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_service import ITEMS, Client, serving, until
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import ArtifactError, GenerationMismatch, InputError, RequestError
from adc_features.serving.promotion import promote
from adc_features.serving.protocol import (
    SMALL_BODY,
    HttpError,
    RankRequest,
    ServiceSettings,
    brief,
    http_error_of,
    parsed,
    without_paths,
)

GOOD = {"user": "u3", "items": ITEMS}
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def client(shop):
    with serving(shop, patience=0.5, timeout=2) as opened:
        yield opened


def opened(client: Client, sent: bytes = b"") -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", client.port), timeout=20)
    raw.sendall(sent)
    return raw


def received(raw: socket.socket) -> bytes:
    """All that the service sends until it closes; a reset counts as an end."""
    parts = []
    try:
        while part := raw.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def post(path: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    )
    return head.encode() + b"\r\n\r\n" + body


# ---- connections


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"GET",
        b"GET /healthz HTTP/1.1\r\nHost",
        b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    ],
    ids=["silent", "empty line", "first bytes", "half a head", "half a body"],
)
def test_a_connection_without_a_whole_request_ends(client, sent):
    """Whoever sends nothing, or stops anywhere in a request, is closed within seconds; silence has
    no answer.
    """
    began = time.monotonic()
    with opened(client, sent) as raw:
        answer = received(raw)
    assert time.monotonic() - began < 10
    assert answer == b"" if not sent else answer[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 503")


def test_a_trickle_does_not_keep_a_connection_open(client):
    """One byte of a head at a time: the deadline is that of the whole request."""
    began = time.monotonic()
    with (
        opened(client, b"GET /healthz HTTP/1.1\r\nX: ") as raw,
        pytest.raises(ConnectionError),
    ):
        while time.monotonic() < began + 10:
            raw.sendall(b"a")
            time.sleep(0.05)
    assert time.monotonic() - began < 5


def test_a_body_that_trickles_after_its_answer_ends(client):
    """A request that is answered before its body has come may not use that to stay."""
    began = time.monotonic()
    with (
        opened(
            client, b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        ) as raw,
        pytest.raises(ConnectionError),
    ):
        while time.monotonic() < began + 15:
            raw.sendall(b"a")
            time.sleep(0.05)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("bound", ["max_connections", "max_per_peer"])
def test_silent_connections_over_the_bound_give_way(shop, bound):
    """300 silent connections where 40 are allowed: health and ranking are answered, old ones
    closed, newer ones not.
    """
    with serving(shop, name="no_sid", patience=60, **{bound: 40}) as client, ExitStack() as stack:
        silent = [stack.enter_context(opened(client)) for _ in range(300)]
        assert client.send("GET", "/healthz")[0] == 200
        assert [client.post("/rank", GOOD)[0] for _ in range(10)] == [200] * 10
        assert received(silent[0]) == b""
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)
        assert client.metrics()['adc_closed_connections_total{reason="crowded_out"}'] >= 260


def test_a_request_that_is_worked_on_does_not_give_way(shop, monkeypatch):
    """While others crowd in, the answer that is being made still goes out."""
    with serving(shop, name="no_sid", max_connections=20) as client, ExitStack() as stack:
        release, ranked = threading.Event(), client.service.rank
        monkeypatch.setattr(
            client.service, "rank", lambda bundle, body: (release.wait(20), ranked(bundle, body))[1]
        )
        raw = stack.enter_context(
            opened(client, post("/rank", json.dumps(GOOD).encode(), "Connection: close"))
        )
        until(lambda: client.service._waiting == 1)
        for _ in range(60):
            stack.enter_context(opened(client))
        assert client.send("GET", "/healthz")[0] == 200
        release.set()
        assert received(raw).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"a" * 200_000,
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n" * 50_000,
        b"POST /rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 100_000,
        b"POST /rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 20_000,
    ],
    ids=[
        "no end",
        "one header",
        "many headers",
        "url",
        "empty lines",
        "chunk extension",
        "trailers",
    ],
)
def test_heads_are_bounded(client, sent):
    """More than 64 KiB around a body, in whatever part of the protocol, is not read on."""
    with opened(client) as raw:
        raw.sendall(sent)
        answer = received(raw)
    assert b"chunked" in sent or answer.startswith(b"HTTP/1.1 431")
    assert b" 200 " not in answer
    assert client.send("GET", "/healthz")[0] == 200


def test_endless_headers_take_no_memory(client):
    """300 MB of headers are cut off early; neither memory nor other requests feel them."""
    before, sent = psutil.Process().memory_info().rss, 0
    with (
        opened(client, b"GET /healthz HTTP/1.1\r\n") as raw,
        pytest.raises(ConnectionError),
    ):
        while sent < 300_000_000:
            raw.sendall(b"X: " + b"a" * 65_000 + b"\r\n")
            sent += 65_000
    assert psutil.Process().memory_info().rss - before < 64 << 20
    assert client.post("/rank", GOOD)[0] == 200


def test_a_body_in_small_chunks_is_read(client):
    """A head bound that counts chunk sizes as well leaves a body of one-byte chunks alone."""
    body = json.dumps(GOOD).encode() + b" " * 20_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with opened(
        client,
        b"POST /rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + chunks
        + b"0\r\n\r\n",
    ) as raw:
        assert received(raw).startswith(b"HTTP/1.1 200")


def test_a_half_closed_socket_is_answered(client):
    """A client that closes its side after a whole request gets its answer, each one where it sent
    several.
    """
    request = post("/rank", json.dumps(GOOD).encode())
    for several in (1, 3):
        with opened(client, request * several) as raw:
            raw.shutdown(socket.SHUT_WR)
            answer = received(raw)
        assert answer.count(b"HTTP/1.1 200") == several
        assert answer.count(b'"user_known":true') == several


def test_pipelined_requests_are_bounded(client):
    """Some requests ahead of their answers are served; a flood of them in one connection is not
    kept.
    """
    with opened(client, b"GET /healthz HTTP/1.1\r\n\r\n" * 20) as raw:
        raw.shutdown(socket.SHUT_WR)
        assert received(raw).count(b"HTTP/1.1 200") == 20
    with opened(client, b"GET /healthz HTTP/1.1\r\n\r\n" * 5_000) as raw:
        assert received(raw).count(b"HTTP/1.1 200") < 200


def test_an_answer_that_nobody_reads_is_given_up(shop):
    """A client that asks on and on without reading is closed, so that answers do not pile up."""
    with serving(shop, name="no_sid", patience=0.3, keep_alive=1) as client, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", client.port))
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < began + 20:
                raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
                time.sleep(0.01)
        until(
            lambda: client.metrics().get('adc_closed_connections_total{reason="not_read"}', 0) >= 1
        )


def test_what_is_no_http_is_refused(client):
    """Bytes of another protocol get one short answer in the form of the others; an upgrade does not
    leave HTTP.
    """
    with opened(client, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100) as raw:
        assert received(raw).startswith(b"HTTP/1.1 400")
    upgrade = (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection:"
        b" Upgrade\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with opened(client, upgrade) as raw:
        assert b" 101 " not in received(raw)[:20]
    assert client.send("GET", "/healthz")[0] == 200


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"GET /healthz HTTP/1.1\r\n",
            b"POST /rank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]
    ),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_answered_or_closed_and_the_service_goes_on(client, noise, before):
    """Whatever comes in: an answer below 500, or an end, and health right after."""
    with opened(client, before + noise) as raw:
        raw.shutdown(socket.SHUT_WR)
        answer = received(raw)
    assert not answer or answer[:10] in (b"HTTP/1.1 2", b"HTTP/1.1 4")
    assert client.send("GET", "/healthz")[0] == 200


# ---- bodies


HEAVY = {
    "empty objects as items": b'{"user":"u3","items":[' + b",".join([b"{}"] * 340_000) + b"]}",
    "nulls as items": b'{"user":"u3","items":[' + b",".join([b"null"] * 200_000) + b"]}",
    "faulty items within the bound": b'{"user":"u3","items":[' + b",".join([b"{}"] * 2_000) + b"]}",
    "unknown fields": b"{" + b",".join(b'"a%d":1' % n for n in range(80_000)) + b"}",
    "deep nesting": b"[" * 500_000,
    "digits": b'{"user":' + b"9" * 1_000_000 + b',"items":["i00"]}',
    "a long user": b'{"user":"' + b"u" * 1_000_000 + b'","items":["i00"]}',
    "a long field": b'{"' + b"u" * 1_000_000 + b'":1}',
    "one field again and again": b"{" + b",".join([b'"user":"u3"'] * 80_000) + b"}",
    "escapes": b'{"user":"' + b"\\u0000" * 170_000 + b'","items":["i00"]}',
    "long time": b'{"user":"u3","items":["i00"],"now":"' + b"2" * 1_000_000 + b'"}',
    "features as objects": b'{"items":["i00"],"features":[' + b",".join([b"{}"] * 340_000) + b"]}",
    "one feature 3,000 times": (
        json.dumps({"items": ["i00"] * 2_000, "features": ["item_brand"] * 3_000}).encode()
    ),
    "unknown features": json.dumps({"items": ["i00"], "features": ["x" * 1_000] * 1_000}).encode(),
    "a long feature": json.dumps({"items": ["i00"], "features": ["x" * 1_000_000]}).encode(),
    "a lookup of long items": json.dumps({"items": ["x" * 500] * 2_000}).encode(),
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_body_costs_little_and_is_told_in_few_words(client, name):
    """Bodies of up to 1 MiB with as many faults as fit: refused at the first, and none is
    repeated.
    """
    path = "/lookup" if "feature" in name or "lookup" in name else "/rank"
    before, began = time.process_time(), time.monotonic()
    status, answer = client.post(path, HEAVY[name])
    assert (
        status in (400, 422),
        time.monotonic() - began < 1,
        time.process_time() - before < 0.5,
    ) == (True, True, True)
    message = answer["error"]["message"]
    assert all(run * 201 not in message for run in "u9x2")
    assert len(message) < 900


def test_large_bodies_share_a_budget(shop):
    """When bodies that are being read hold the budget, another large one is told so; small ones are
    served.
    """
    with (
        serving(shop, name="no_sid", max_waiting=1, max_body=200_000, timeout=20) as client,
        ExitStack() as stack,
    ):
        for _ in range(2):
            raw = stack.enter_context(
                opened(
                    client,
                    b"POST /rank HTTP/1.1\r\nContent-Length: 190000\r\n\r\n" + b" " * 189_000,
                )
            )
        until(lambda: client.service._bodies.left < 150_000)
        raw.settimeout(5)
        assert client.post("/rank", GOOD)[0] == 200
        status, answer = client.post("/rank", json.dumps(GOOD).encode() + b" " * 180_000)
        assert (status, answer["error"]["code"]) == (503, "busy")
    assert client.service._bodies.left == 200_000


def test_large_bodies_let_others_in_between(client, monkeypatch):
    """Three large bodies are read one at a time, and a small request that comes while the first is
    read is answered second.
    """
    served, order, reading, go_on = client.service, [], threading.Event(), threading.Event()
    ranked = served.rank

    def rank(bundle, body):
        order.append("large" if len(body) > SMALL_BODY else "small")
        if len(order) == 1:
            reading.set()
            go_on.wait(5)
        return ranked(bundle, body)

    monkeypatch.setattr(served, "rank", rank)
    small = json.dumps(GOOD).encode()
    asked = [post("/rank", small + b" " * (2 * SMALL_BODY), "Connection: close")] * 3 + [
        post("/rank", small, "Connection: close")
    ]
    with ExitStack() as stack:
        raws = []
        for sent in asked:
            raws.append(stack.enter_context(opened(client, sent)))
            assert reading.wait(5)
        until(lambda: served._waiting == len(asked))
        go_on.set()
        assert all(received(raw).startswith(b"HTTP/1.1 200") for raw in raws)
    assert order == ["large", "small", "large", "large"]


@pytest.mark.parametrize(
    ("features", "code"),
    [
        (["item_brand", "item_brand"], "repeated_feature"),
        (["item_brand"] * 1_000, "too_many_features"),
        (["item_brand", "nothing"], "unknown_feature"),
    ],
)
def test_features_of_a_lookup_are_known_and_distinct(client, features, code):
    """A name twice, more names than there are, an unknown name."""
    status, answer = client.post("/lookup", {"items": ITEMS, "features": features})
    assert (status, answer["error"]["code"]) == (422, code)


def test_items_times_features_are_bounded(shop):
    """The answer's size is bounded, not only each list's."""
    with serving(shop, name="no_sid", max_values=10) as client:
        assert (
            client.post(
                "/lookup", {"items": ["i00"] * 5, "features": ["item_brand", "item_event_count"]}
            )[0]
            == 200
        )
        status, answer = client.post(
            "/lookup", {"items": ["i00"] * 6, "features": ["item_brand", "item_event_count"]}
        )
        assert (status, answer["error"]["code"]) == (422, "too_many_values")


def test_a_large_request_may_hold_keys_and_fields():
    """2,000 candidates of two keys with fields of the request, a list among them, are taken in,
    however large the body."""
    items = [{"sku": n, "shop": "s" * 40} for n in range(2_000)]
    asked = {"user": {"customer": "c"}, "items": items, "request": {"device": "tv", "seen": [1, 2]}}
    body = json.dumps(asked).encode()
    assert len(body) > SMALL_BODY
    assert parsed(RankRequest, body, ServiceSettings()).items == items


@pytest.mark.parametrize(
    "now",
    [
        *(
            "0001-01-01T00:00:00+01:00",
            "0001-01-01T00:00:00Z",
            "0001-01-02T00:00:00-23:59",
            "9999-12-31T23:59:59.999999Z",
            "9999-12-31T23:59:59-01:00",
        ),
        *(
            "9999-12-30T00:00:00Z",
            "1677-09-21T00:00:00Z",
            "2262-04-12T00:00:00Z",
            "1970-01-01T00:00:00Z",
            -62135596800,
            253402300799,
            10**18,
            -(10**18),
        ),
    ],
)
@pytest.mark.parametrize("user", ["u3", "nobody"])
def test_now_at_the_ends_of_time_is_no_fault_of_ours(client, now, user):
    """Any time is answered, or refused as the client's; years 1 and 9999 are refused."""
    for items in (ITEMS, ["nothing"]):
        status, _ = client.post("/rank", {"user": user, "items": items, "now": now})
        assert status in (200, 422)
    if str(now).startswith(("0001", "9999")):
        assert status == 422


# ---- faults of ours


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InputError("/srv/run/repository has no item_profile"), 503, "InputError"),
        (ArtifactError("/srv/run/x.parquet is damaged"), 503, "ArtifactError"),
        (GenerationMismatch("/srv/run: other codes"), 503, "GenerationMismatch"),
        (OSError(5, "Input/output error", "/srv/run/data.mdb"), 503, "ArtifactError"),
        (PermissionError(13, "Permission denied", "/srv/run/data.mdb"), 503, "ArtifactError"),
        (RequestError("item_id holds int; read in /srv/run/x"), 422, "refused"),
        (KeyError("/srv/run"), 500, "internal"),
    ],
)
def test_our_faults_are_not_the_clients(client, monkeypatch, error, status, code):
    """What the service reads and cannot use is a 503 under the fault's name, without the place of a
    file.
    """

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(type(client.service.bundle), "score", fail)
    got, answer = client.post("/rank", GOOD)
    assert (got, answer["error"]["code"]) == (status, code)
    assert "/srv" not in str(answer)


def test_a_damaged_file_under_the_store_is_a_fault_of_ours(shop, client):
    """An error out of the store's own code is 503, whatever type it has."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        client.service.bundle.reader.columns({"item_brand"}, key="item_id", ids=object())
    assert http_error_of(caught.value).status == 503


def test_error_texts_are_short_and_without_paths():
    """The middle of a long text is left out; an absolute path keeps its last name."""
    assert len(brief("x" * 10**6)) == 200 or len(brief("x" * 10**6)) < 200
    assert brief("short") == "short"
    told = without_paths("/srv/run one/two is no directory, use POST /rank or '/var/lib/x.db'")
    assert told.endswith("use POST /rank or 'x.db'")
    assert "/var" not in told


def test_the_bearer_scheme_may_be_written_in_any_case(shop):
    """`bearer TOKEN` is what `Bearer TOKEN` is; another scheme is none."""
    with serving(shop, token=TOKEN, name="no_sid") as client:
        body = json.dumps(GOOD).encode()
        asked = {
            scheme: client.send("POST", "/rank", body, Authorization=f"{scheme}{TOKEN}")[0]
            for scheme in ("bearer ", "BEARER ", "Bearer  ", "Basic ", "")
        }
    assert asked == {"bearer ": 200, "BEARER ": 200, "Bearer  ": 200, "Basic ": 401, "": 401}


# ---- the watch over promotions


def test_the_watch_survives_a_directory_that_cannot_be_read(shop, tmp_path, monkeypatch):
    """Two kinds of failed looks: counted, shown, and the next promotion is taken over all
    the same.
    """
    path = tmp_path / "promotion.json"
    promote(path, shop.pair("codes_weights"))
    with serving(shop, promotion_file=path) as client:
        for error in (
            PermissionError(13, "Permission denied", str(path)),
            OSError(5, "Input/output error", str(path)),
            RuntimeError("no thread"),
        ):
            with monkeypatch.context() as patched:

                def fail(*_, error=error, **__):
                    raise error

                patched.setattr(
                    (
                        "adc_features.serving.service.read_deployment"
                        if isinstance(error, OSError)
                        else "adc_features.serving.service.Service.take_over"
                    ),
                    fail,
                )
                before = client.metrics()["adc_promotion_watch_errors_total"]
                until(
                    lambda before=before: (
                        client.metrics()["adc_promotion_watch_errors_total"] > before
                    )
                )
                shown = json.loads(client.send("GET", "/readyz")[2])["watch_error"]
                assert type(error).__name__ in shown
                assert str(tmp_path) not in shown
                assert client.post("/rank", GOOD)[0] == 200
        until(lambda: client.service.watch_error is None)
        promote(path, shop.pair("second"))
        until(lambda: client.service.bundle.promotion == shop.pair("second"))


# ---- metrics of several processes


METRICS = """
import os, sys
from pathlib import Path
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from adc_features.serving.metrics import Metrics
metrics = Metrics(sys.argv[1])
metrics.items.inc(3)
exec(sys.argv[2])
metrics.items.inc(2)
metrics.requests.labels("/rank", "200").observe(0.1)
metrics.parts.labels("new part").observe(0.1)
page = metrics.page().decode()
assert "adc_ranked_items_total 5.0" in page, page
print([line for line in page.splitlines() if line.startswith("adc_metrics_errors_total")])
"""

DAMAGE = {
    "none": "",
    "own files cut": "[os.truncate(p, 0) for p in Path(sys.argv[1]).iterdir()]",
    "own files overwritten": (
        "[p.write_bytes(b'\\xff' * 70000) for p in Path(sys.argv[1]).iterdir()]"
    ),
    "own files gone": "[p.unlink() for p in Path(sys.argv[1]).iterdir()]",
    "directory gone": "import shutil; shutil.rmtree(sys.argv[1])",
    "another's file is noise": (
        "(Path(sys.argv[1]) / 'counter_99.db').write_bytes(os.urandom(5000))"
    ),
    "another's file is empty": "(Path(sys.argv[1]) / 'histogram_99.db').write_bytes(b'')",
    "another's file has a negative length": (
        "(Path(sys.argv[1]) / 'counter_99.db').write_bytes(__import__('struct').pack('iii', 60, 0,"
        " -20) + b' ' * 60)"
    ),
    "a directory as a file": "(Path(sys.argv[1]) / 'counter_99.db').mkdir()",
    "full disk": (
        "import errno\ndef full(*_): raise OSError(errno.ENOSPC, 'No space left on device')\nwrite,"
        " os.pwrite = os.pwrite, full\nmetrics.items.inc(0);"
        " metrics.parts.labels('more').observe(1); os.pwrite = write"
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_full_metrics_directory_ends_no_process(tmp_path, name):
    """Files cut, overwritten, deleted or not writable, own ones and others': counts stand in
    memory, and the page goes on.
    """
    command = [sys.executable, "-c", METRICS, str(tmp_path / "metrics"), DAMAGE[name]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    others = "another" in name or "directory as" in name or name == "full disk"
    assert (float(ended.stdout.split()[-1].strip("']")) > 0) == others


def test_the_files_of_metrics_are_those_that_prometheus_client_reads(tmp_path):
    """prometheus_client by itself reads the files of two processes, and adds them up."""
    directory = tmp_path / "metrics"
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", METRICS.replace("5.0", ""), str(directory), ""],
            capture_output=True,
            check=True,
        )
    from prometheus_client import CollectorRegistry
    from prometheus_client.mmap_dict import MmapedDict
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))
    assert registry.get_sample_value("adc_ranked_items_total") == 10
    assert (
        registry.get_sample_value("adc_request_seconds_count", {"route": "/rank", "status": "200"})
        == 2
    )
    keys = [
        key
        for path in directory.glob("counter_*.db")
        for key, *_ in MmapedDict.read_all_values_from_file(str(path))
    ]
    assert len(keys) == 2 * len(set(keys))


@pytest.mark.parametrize("tail", [b'"', b'\\"', b"{}", b'"a",', b"[", b"\\"])
def test_a_large_body_is_parsed_or_refused_in_words_whatever_its_texts_hold(tail: bytes) -> None:
    """Bodies over the small size are looked at before they are parsed, unfinished texts and escapes
    included.
    """
    with pytest.raises(HttpError):
        parsed(
            RankRequest,
            b'{"user": "u", "items": ["i", ' + tail * (SMALL_BODY + 1),
            ServiceSettings(),
        )


def test_marks_within_ids_are_no_structure() -> None:
    """Braces, brackets, commas and quotes within ids of a large body are taken for what they
    are.
    """
    ids = [f'{n} {{"[,],}}\\' + "{" * 100 for n in range(1_000)]
    body = json.dumps({"user": "u", "items": ids}).encode()
    assert len(body) > SMALL_BODY
    assert parsed(RankRequest, body, ServiceSettings()).items == ids


# ---- the command


def serve_command(*options: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from adc_features.cli.main import main; main()",
        "serve",
        *options,
    ]


@pytest.mark.slow  # starts and stops services
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_service_answers_what_is_in_flight_and_leaves_silent_connections(
    shop, tmp_path, workers
):
    """`adc serve`, told its bounds: silent connections over them are closed; SIGTERM ends it with
    the request in flight answered.
    """
    path, told = tmp_path / "promotion.json", tmp_path / "told.json"
    promote(path, shop.pair("no_sid"))
    options = {
        "--promotion": path,
        "--port": 0,
        "--json": told,
        "--workers": workers,
        "--max-connections": 40,
        "--max-per-peer": 30,
    }
    body = json.dumps(GOOD).encode()
    with (
        subprocess.Popen(
            serve_command(*(str(word) for pair in options.items() for word in pair))
        ) as process,
        ExitStack() as stack,
    ):
        try:
            until(lambda: told.exists() and told.stat().st_size > 0, seconds=120)
            client = Client(int(json.loads(told.read_text())["url"].rpartition(":")[2]), None)
            until(lambda: client.send("GET", "/healthz")[0] == 200)
            silent = [stack.enter_context(opened(client)) for _ in range(31 * workers)]
            until(lambda: any(closed(raw) for raw in silent))
            flying = stack.enter_context(opened(client, post("/rank", body)[:-1]))
            time.sleep(0.5)
            began = time.monotonic()
            process.terminate()
            time.sleep(0.2)
            flying.sendall(body[-1:])
            assert received(flying).startswith(b"HTTP/1.1 200")
            assert process.wait(30) in (0, -signal.SIGTERM)
            assert time.monotonic() - began < 10
            assert all(closed(raw) for raw in silent)
        finally:
            process.kill()


def closed(raw: socket.socket) -> bool:
    """Whether the service has closed a connection on which it said nothing."""
    raw.settimeout(0.01)
    try:
        return raw.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "option", ["--max-connections", "--max-per-peer", "--max-items", "--workers"]
)
def test_a_bound_of_none_is_refused_in_words(option):
    """A service that may hold no connection, rank no item or have no process is a mistake, told
    before anything is opened.
    """
    told = CliRunner().invoke(application(), ["serve", "--run", "nowhere", option, "0"])
    assert told.exit_code == 2
    words = " ".join(told.output.replace("│", " ").split())
    assert f"Invalid value for {option}" in words.replace("'", "")
    # in one version of typer or another
    assert "greater than or equal to 1" in words or "x>=1" in words
