"""A service whose online store is lost, emptied or fresh: not ready, and no scores. Reads:
adc_features.serving.service, adc_features.serving.scoring.
"""

import os
import shutil

import pytest
from serving_world import NOW
from starlette.testclient import TestClient

from adc_features import store
from adc_features.errors import ArtifactError
from adc_features.serving.app import application
from adc_features.serving.opening import open_bundle
from adc_features.serving.service import Service, ServiceSettings
from adc_features.store.lmdb.environment import environment

ASKED = {"user": "u01", "items": ["i01", "i02"]}


@pytest.fixture
def online(shop, tmp_path):
    """The shop's online store, put back as it was afterwards."""
    directory = shop.repository / "data" / "online_lmdb"
    ours = environment(os.path.realpath(directory), map_size=1 << 26)
    ours.close()
    shutil.copytree(directory, tmp_path / "kept")
    yield directory
    ours.close()
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(tmp_path / "kept", directory)


def lose(directory):
    shutil.rmtree(directory)


def empty(directory):
    ours = environment(os.path.realpath(directory), map_size=1 << 26)
    ours.drop(ours.tables())


def cut(directory):
    os.truncate(directory / "data.mdb", 12_288)


@pytest.mark.parametrize("loss", [lose, empty, cut])
def test_a_service_that_loses_its_store_answers_503(shop, online, loss):
    """Readiness, rankings and lookups say so at once, health goes on, and all is as before when the
    store is back.
    """
    with TestClient(
        application(
            Service(open_bundle(shop.pair("codes_weights")), ServiceSettings(), clock=lambda: NOW)
        )
    ) as client:
        before = client.post("/rank", json=ASKED).json()
        assert client.get("/readyz").status_code == 200
        loss(online)
        for answer in (
            client.get("/readyz"),
            client.post("/rank", json=ASKED),
            client.post("/lookup", json={"items": ["i01"]}),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                503,
                "ArtifactError",
            ), answer.text
        assert client.get("/healthz").status_code == 200
        shutil.rmtree(online, ignore_errors=True)
        store.materialize(shop.repository, now=NOW)
        assert client.get("/readyz").status_code == 200
        assert client.post("/rank", json=ASKED).json() == before


def test_a_service_on_a_fresh_store_starts_and_is_not_ready(shop, online):
    """A new volume: the process stands, is not ready and ranks nothing until the store is
    loaded.
    """
    lose(online)
    environment(os.path.realpath(online), map_size=1 << 26)._was_there = False
    bundle = open_bundle(shop.pair("codes_weights"))
    for use in (bundle.check_online, lambda: bundle.score("u01", ["i01"], now=NOW)):
        with pytest.raises(ArtifactError, match="holds no row of view"):
            use()
    store.materialize(shop.repository, now=NOW)
    bundle.check_online()


def test_known_means_found_online(shop, online):
    """An item that has a code and no row online is coded and not known."""
    bundle = open_bundle(shop.pair("codes_weights"))
    ours = environment(os.path.realpath(online), map_size=1 << 26)
    ours.write("shop/item_profile", lambda txn: txn.delete(b"si01"))
    ranking = bundle.score("u01", ["i01", "i02"], now=NOW)
    assert (ranking.known.tolist(), ranking.coded.tolist()) == ([False, True], [True, True])
