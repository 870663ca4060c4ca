"""New items over HTTP: POST /items, DELETE /items/ID, and what /rank and /lookup say then."""

import asyncio
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from number_encoder import Encoder
from serving_world import NOW
from starlette.testclient import TestClient

from adc_features import store
from adc_features.errors import ArtifactError, InputError
from adc_features.live.items import Items
from adc_features.serving.app import application
from adc_features.serving.items import ItemIntake
from adc_features.serving.opening import open_bundle
from adc_features.serving.promotion import promote
from adc_features.serving.protocol import ServiceSettings
from adc_features.serving.service import Service

SETTINGS = ServiceSettings(poll=3600)
"""Promotions are looked at by tests, and by nobody beside them."""


@pytest.fixture
def pair(shop, tmp_path):
    """Promotions of rankers on a repository of the test's own."""
    repo = shutil.copytree(shop.repository, tmp_path / "repository")
    shutil.rmtree(repo / "data/live", ignore_errors=True)
    store.apply(repo)
    return lambda name: replace(shop.pair(name), repository=repo)


@pytest.fixture
def service(pair, tmp_path):
    """A service whose clock stands still, and takes items."""
    first = pair("codes_weights")

    def opened(promotion):
        if promotion.generation is None:
            raise InputError("the promoted ranker reads no codes")
        encoder = Encoder(promotion.repository, promotion.generation)
        return Items(promotion.repository, encoder, clock=lambda: NOW)

    items = ItemIntake(opened(first), SETTINGS, opened=opened)
    path = tmp_path / "promotion.json"
    return Service(
        open_bundle(first), SETTINGS, clock=lambda: NOW, items=items, promotion_file=path
    )


def ranked(client, items, **more):
    answer = client.post("/rank", json={"user": "u3", "items": items, **more}).json()
    return {row["item_id"]: row for row in answer["items"]}


def test_an_item_is_ranked_when_its_request_is_answered(service):
    """It is known and has codes, its score is that of its codes; another of the request that is
    wrong is named with every reason, and an earlier time knows nothing of it.
    """
    with TestClient(application(service)) as client:
        before = ranked(client, ["new", "i00"])
        assert (before["new"]["known"], before["new"]["coded"]) == (False, False)
        asked = [
            {"id": "new", "vectors": {"title": [3, 1]}},
            {"id": 4, "vectors": {"title": [1]}},
        ]
        answer = client.post("/items", json=asked)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["added"], told["refused"]) == (1, 1)
        assert len(told["reasons"][0]["reasons"]) == 2
        after = ranked(client, ["new", "i00"])
        assert (after["new"]["known"], after["new"]["coded"]) == (True, True)
        assert after["new"]["score"] != before["new"]["score"]
        assert after["i00"] == before["i00"]
        row = client.post("/lookup", json={"items": ["new", "other"]}).json()["items"]
        assert [one["found"] for one in row] == [True, False]
        assert row[0]["sid"] == told["items"][0]["sid"] == [3, 3, -1]
        earlier = (NOW - timedelta(hours=1)).isoformat()
        assert not ranked(client, ["new"], now=earlier)["new"]["known"]


def test_a_removed_item_is_unknown(service):
    """Though its statistics are still online; adding it again brings it back."""
    with TestClient(application(service)) as client:
        assert ranked(client, ["i00"])["i00"]["known"]
        assert client.delete("/items/i00").json()["removed"] == 1
        row = ranked(client, ["i00", "i04"])
        assert (row["i00"]["known"], row["i00"]["coded"]) == (False, False)
        assert row["i04"]["known"]
        assert not client.post("/lookup", json={"items": ["i00"]}).json()["items"][0]["found"]
        client.post("/items", json={"id": "i00", "vectors": {"title": [5, 0]}})
        assert ranked(client, ["i00"], now=(NOW + timedelta(hours=1)).isoformat())["i00"]["known"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"[", 422, "no JSON"),
        (b'"x"', 422, "expected an item"),
        (b'{"items": [], "x": 1}', 422, "unknown field 'x'"),
        (b"[" + b",".join([b"1"] * 501) + b"]", 422, "501 items, at most 500"),
        (b" " * ((1 << 20) + 1), 413, "larger than"),
    ],
)
def test_a_request_that_is_no_list_of_items_is_refused(service, body, status, told):
    """Whole, and nothing of it is kept."""
    with TestClient(application(service)) as client:
        answer = client.post("/items", content=body)
        assert answer.status_code == status, answer.text
        assert told in answer.text


def test_a_directory_that_cannot_be_written_is_told(service, monkeypatch):
    """507, and the next request may succeed; files and the online store follow when they can."""

    def full(*_):
        raise ArtifactError("no space left")

    with TestClient(application(service)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(service.items.items.environment, "write_tables", full)
            answer = client.post("/items", json={"id": "new", "vectors": {"title": [3, 1]}})
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "not_kept")
        with monkeypatch.context() as patch:
            patch.setattr(service.items.items, "put_online", full)
            answer = client.post("/items", json={"id": "new", "vectors": {"title": [3, 1]}})
            assert answer.json()["added"] == 1
            assert service.items.error == "no space left"
    assert service.items.error is None


def test_a_body_that_does_not_arrive_in_time_is_told(service):
    """As a timeout, not as a fault of what the service reads."""

    class Slow:
        async def body(self, request, most):
            await asyncio.sleep(60)

    service.items._settings = ServiceSettings(timeout=0.01)
    service.items._bodies = Slow()
    with TestClient(application(service)) as client:
        answer = client.post("/items", json=[])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")


def test_a_token_guards_items(service):
    """Both ways."""
    guarded = ServiceSettings(token="s" * 20)
    service.settings = service.items._settings = guarded
    with TestClient(application(service)) as client:
        assert client.post("/items", json=[]).status_code == 401
        assert client.delete("/items/i00").status_code == 401


def test_new_items_follow_a_promotion(service, pair):
    """To the codes of the generation that serves then; refused, with the reason in the answer and
    at /readyz, while the promoted ranker reads no codes.
    """
    item = {"id": "new", "vectors": {"title": [3, 1]}}
    later = (NOW + timedelta(hours=1)).isoformat()
    with TestClient(application(service)) as client:
        sent = client.post("/items", json=item).json()["items"]
        assert client.post("/lookup", json={"items": ["new"]}).json()["generation"] == "g1"
        promote(service.promotion_file, pair("second"))
        service.take_over()
        assert client.post("/lookup", json={"items": ["new"]}).json()["generation"] == "g2"
        assert ranked(client, ["new"], now=later)["new"]["coded"]
        assert client.post("/items", json=item).json()["items"] == sent
        promote(service.promotion_file, pair("no_sid"))
        service.take_over()
        for answer in (client.post("/items", json=item), client.delete("/items/i00")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "other_generation")
            assert "reads no codes" in answer.text
        assert "reads no codes" in client.get("/readyz").json()["items"]["refused"]
        promote(service.promotion_file, pair("codes_weights"))
        service.take_over()
        assert client.post("/items", json=item).json()["added"] == 1
        facts = {"generation": "g1", "refused": None, "behind": None}
        assert client.get("/readyz").json()["items"] == facts
