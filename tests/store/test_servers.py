"""The same repository on PostgreSQL and Redis, by another feature_store.yaml and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import psycopg
import pytest
from store_world import ITEMS, USERS, day, published_world

from adc_features import store

SERVERS = Path(__file__).parents[2] / "docs" / "servers"
import start  # noqa: E402

NOW = day(30)
pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def variables():
    """Private servers; without them the tests are left out, with the reason."""
    if start.postgres_binaries() is None or shutil.which("redis-server") is None:
        pytest.skip("needs PostgreSQL and Redis servers (apt-get install postgresql redis-server)")
    with start.postgres() as first, start.redis() as second:
        yield first | second


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Path:
    repo = published_world(tmp_path_factory.mktemp("embedded"))
    store.materialize(repo, now=NOW)
    return repo


@pytest.mark.parametrize("settings", ["postgres", "redis", "delegate"])
def test_a_repository_on_servers_answers_as_the_embedded_one(
    variables, embedded, tmp_path, monkeypatch, settings
):
    """Apply, materialize, look up, join and compare: the codes, the features, the unknown."""
    host, port, user = (variables[f"ADC_POSTGRES_{name}"] for name in ("HOST", "PORT", "USER"))
    with psycopg.connect(
        f"host={host} port={port} user={user} dbname={start.DATABASE}", autocommit=True
    ) as connection:
        # a registry of its own: Feast keeps versions of views beyond a teardown
        connection.execute(f"CREATE DATABASE test_{settings}")
    for name, value in {**variables, "ADC_POSTGRES_DATABASE": f"test_{settings}"}.items():
        monkeypatch.setenv(name, value)
    text = (
        (SERVERS / f"{settings}.yaml")
        .read_text()
        .replace("project: adc_features", "project: world")
    )
    (tmp_path / "feature_store.yaml").write_text(text)
    repo = published_world(tmp_path)
    try:
        store.materialize(repo, now=NOW)
        items, users = np.array([*ITEMS, "nobody", "a"]), np.array([*USERS, "nobody", "u", "v"])
        for generation in ("g1", "g2"):
            assert (
                store.lookup(repo, generation, items)
                .to_arrow()
                .equals(store.lookup(embedded, generation, items).to_arrow())
            )
        asked = {"service": "ranker_g1", "item_ids": items, "user_ids": users}
        assert store.online_features(repo, **asked).equals(store.online_features(embedded, **asked))
        store.require_parity(
            store.parity(repo, service="ranker_g1", item_ids=items, user_ids=users, now=NOW)
        )
        assert store.registry_problems(repo) == []
    finally:
        store.registry.open_store(repo).teardown()
