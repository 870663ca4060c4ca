"""A repository without a run: what is like an item, what is unknown online and in the served log,
and what is shown before codes are published. Reads: adc_features.explore.
"""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from coded_feed import LATER, feast_apply, make_coded_feed, materialize
from explore_world import sids
from feed_world import START
from served_world import END
from starlette.testclient import TestClient
from store_world import generation

from adc_features import store
from adc_features.artifact import seal
from adc_features.codes.drift import DriftThresholds, drift, traffic_profile
from adc_features.encoders.behavior_state import BehaviorState, write_state
from adc_features.errors import InputError
from adc_features.explore import health
from adc_features.explore.app import application
from adc_features.explore.building import ensure_index
from adc_features.explore.deciding import Deciding
from adc_features.explore.index import Index
from adc_features.explore.online_rows import unknown_online
from adc_features.explore.pages import Explorer, commands_of, facts_of
from adc_features.explore.place import place_of
from adc_features.parquet_files import write_table
from adc_features.store.repository import ItemKey, declare_code_views

AS_OF = LATER - timedelta(days=5)
KEY = ItemKey("product", "sku", "Int64")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop of 40 products with vectors, applied and without codes; and a table of titles."""
    folder = tmp_path_factory.mktemp("shop")
    feed = make_coded_feed(folder / "repo", rows=800, products=40)
    feast_apply(feed.folder)
    skus = np.unique(pq.read_table(feed.folder / "looks.parquet")["sku"].to_numpy())
    titles = pa.table({"sku": skus, "title": [f"thing {n}" for n in skus]})
    write_table(titles, folder / "items.parquet")
    return feed.folder, folder / "items.parquet", skus


@pytest.fixture
def opened(tmp_path):
    """Open explorers of places."""
    made = []

    def of(served_log=None, **place):
        where = place_of(**place)
        index = Index(ensure_index(where, tmp_path / f"cache{len(made)}"), where)
        made.append(index)
        return Explorer(index, served_log)

    yield of
    for index in made:
        index.close()


def coded(shop, tmp_path, *, record=None):
    """A copy of the shop whose products all have the codes 1, 1, 4; record: what its tokenizer was
    fitted on.
    """
    repo = shutil.copytree(shop[0], tmp_path / "repo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explore_world.LAST_WEIGHT", dict.fromkeys(shop[2].tolist(), 0.5))
        table = sids(dict.fromkeys(shop[2].tolist(), (1, 1, 4)), 10)
    store.publish(
        repo,
        generation("g1", trained_through=START),
        [replace(table, as_of=AS_OF)],
        servable_at=[AS_OF],
        computed_at=datetime(2026, 6, 1, tzinfo=UTC),
        key=KEY,
    )
    if record is not None:
        place = repo / "tokenizers" / "g1"
        state = BehaviorState(
            AS_OF,
            shop[2],
            np.arange(2 * len(shop[2]), dtype=np.float32).reshape(-1, 2),
            np.ones(len(shop[2]), np.int64),
            {},
        )
        write_state(place / "behavior" / "20260101.npz", state)
        seal(place, {"asked": {"sources": {"vectors": record, "text": []}}})
    return repo


def cosines(shop, sku, *, column="vector", before=AS_OF):
    """The nearest products, by a full comparison of what was known before a time."""
    rows = pq.read_table(shop[0] / "looks.parquet").to_pylist()
    newest = {}
    for row in sorted(rows, key=lambda row: row["event_timestamp"]):
        if row["event_timestamp"] < before:
            newest[row["sku"]] = np.array(row[column])
    own = newest.pop(sku)
    of = {n: v @ own / np.linalg.norm(v) / np.linalg.norm(own) for n, v in newest.items()}
    return sorted(of.items(), key=lambda one: -one[1])


def near(explorer, sku, modality):
    found = facts_of(explorer, "item", {"id": str(sku)})["near"][modality]["items"]
    return [one["id"] for one in found], [one["cosine"] for one in found]


@pytest.mark.parametrize("record", [None, ["looks__vector"], ["./vectors.parquet"]])
def test_what_is_like_an_item_follows_from_the_vectors_of_the_repository(
    shop, tmp_path, opened, record
):
    """Those of the tokenizer's record, else those declared, as of the newest snapshot: not the rows
    that came later."""
    repo, sku = coded(shop, tmp_path, record=record), int(shop[2][-1])
    looks = pq.read_table(shop[0] / "looks.parquet", columns=["sku", "event_timestamp", "vector"])
    write_table(looks, repo / "vectors.parquet")
    explorer = opened(repo=repo)
    declared = {"looks__vector": "looks__vector", "looks__wide": "looks__wide"}
    named = {"./vectors.parquet": {"vector": "vectors.parquet"}, "looks__vector": {}}
    named["looks__vector"] = {"looks__vector": "looks__vector"}
    wanted = declared if record is None else named[record[0]] | {"behavior": "20260101.npz"}
    assert explorer.index.vectors_of == wanted
    ids, values = near(explorer, sku, next(iter(wanted)))
    expected = cosines(shop, sku)[: len(ids)]
    assert ids == [one for one, _ in expected]
    np.testing.assert_allclose(values, [value for _, value in expected], atol=2e-3)
    later = cosines(shop, sku, before=END + timedelta(days=1))
    assert ids != [one for one, _ in later[: len(ids)]]


def test_vectors_that_are_named_come_before_those_of_the_record(shop, tmp_path, opened):
    """By a feature or a file; the command of a page names them again, and what is no vector of the
    items is refused."""
    repo, sku = coded(shop, tmp_path, record=["looks__vector"]), int(shop[2][0])
    explorer = opened(repo=repo, items=shop[1], vectors=["looks__wide"])
    assert explorer.index.vectors_of == {"looks__wide": "looks__wide"}
    ids, _ = near(explorer, sku, "looks__wide")
    assert ids == [one for one, _ in cosines(shop, sku, column="wide")][: len(ids)]
    facts = facts_of(explorer, "item", {"id": str(sku)})
    (command,) = commands_of(explorer, "item", {"id": str(sku)}, facts)
    assert f"--items {shop[1]} --vectors looks__wide" in command
    texts = pa.table({"sku": ["1000"], "vector": [[1.0, 2.0]]})
    write_table(texts, tmp_path / "texts.parquet")
    refused = {
        "looks__title": "Array",
        str(shop[1]): "lists of floating",
        str(tmp_path / "texts.parquet"): "never meet",
    }
    for wrong, words in refused.items():
        with pytest.raises(InputError, match=words):
            opened(repo=repo, vectors=[wrong])
    with pytest.raises(InputError, match="no file"):
        place_of(repo=repo, vectors=["nowhere.parquet"])


def test_a_page_says_why_nothing_is_like_an_item(shop, tmp_path, opened, explorer):
    """A record whose files are gone, a repository that declares no vector; and by which option
    vectors are named."""
    repo = coded(shop, tmp_path, record=["./gone.parquet"])
    with TestClient(application(opened(repo=repo))) as client:
        page = client.get(f"/item?id={shop[2][0]}").text
    assert "gone.parquet does not exist" in page
    assert "--vectors VIEW__FEATURE" in page
    facts = facts_of(explorer, "item", {"id": "a"})
    assert facts["near"] == {}
    assert "neither a tokenizer" in facts["no_vectors"]


def test_a_repository_without_codes_shows_its_items_and_says_how_to_publish(shop, opened):
    """Items, what is like them, decisions and health; pages of codes name the command."""
    explorer = opened(repo=shop[0], items=shop[1])
    assert facts_of(explorer, "find", {"q": "thing"})["catalogue"] == 40
    sku = int(shop[2][0])
    ids, _ = near(explorer, sku, "looks__vector")
    before = datetime.now(UTC)
    assert ids == [one for one, _ in cosines(shop, sku, before=before)][: len(ids)]
    facts = facts_of(explorer, "health", {"wait": "1"})
    assert (facts["coverage"], facts["use"], facts["errors"]) == ([], {}, {})
    with TestClient(application(explorer)) as client:
        for page in ("codes", "code", "changes", "collisions"):
            answer = client.get(f"/{page}")
            assert answer.status_code == 200
            assert "adc tokenize --repo" in answer.text
            assert client.get(f"/{page}?format=json").json()["missing"]
        for page in ("", f"item?id={sku}", "decision", "health?wait=1"):
            assert client.get(f"/{page}").status_code == 200
        assert "No codes are published" in client.get(f"/item?id={sku}").text
        assert client.get("/item?id=1").status_code == 422


def test_a_repository_of_which_nothing_is_known_opens(shop, opened):
    """Without codes and without a table of items no item is listed, and a table is asked for."""
    explorer = opened(repo=shop[0])
    with TestClient(application(explorer)) as client:
        assert "--items FILE" in client.get("/").text
        assert "--items FILE" in client.get("/health?wait=1").text


def test_items_that_the_online_store_lacks_are_counted(shop, tmp_path, opened):
    """All before the first materialization, none of those with a row after it; other codes online
    than those that are served are counted too."""
    repo = coded(shop, tmp_path)
    explorer = opened(repo=repo, items=shop[1])
    told = {one["view"]: one for one in unknown_online(explorer.index, END)}
    assert {one["unknown_popular"] for one in told.values()} == {1.0}
    declare_code_views(repo)
    feast_apply(repo)
    materialize(repo, END)
    told = {one["view"]: one for one in unknown_online(explorer.index, END)}
    assert (told["looks"]["unknown_popular"], told["looks"]["popular"]) == (0.0, 40)
    assert (told["item_sid_g1"]["unknown_popular"], told["item_sid_g1"]["other_codes"]) == (0, 0)
    assert told["looks"]["other_codes"] is None


@pytest.mark.slow
def test_what_was_unknown_when_it_was_served_is_told_by_the_log(own, opened):
    """The end of the log beside its beginning, each counted anew from the requests."""
    feed, log = own
    explorer = opened(served_log=log, repo=feed.repo)
    facts = facts_of(explorer, "health", {"wait": "1"})["served"]
    times = [one["at"] for one in feed.shown]
    half = (max(times) - min(times) + timedelta(microseconds=1)) / 2
    first = [one for one in feed.shown if one["at"] < min(times) + half]
    last = [one for one in feed.shown if one["at"] > max(times) - half]
    for side, requests in (("baseline", first), ("now", last)):
        assert facts[side]["requests"] == len(requests)
        assert facts[side]["impressions"] == sum(len(one["items"]) for one in requests)
        assert facts[side]["unknown_online"] == 0.0
    assert facts["drift"]["unknown_online"] == {"value": 0.0, "limit": 0.05, "beyond": False}
    assert (facts["generation"], "coverage" in facts["now"]) == (None, False)
    with TestClient(application(explorer)) as client:
        assert "The end of the log beside its beginning" in client.get("/health").text
    assert "--log" in commands_of(explorer, "health", {}, {})[-1]


@pytest.mark.slow
def test_codes_of_what_was_served_move_from_the_beginning_to_the_end(own, tmp_path, opened):
    """As `drift` says of the requests of both windows: every product had the code 1 at first, and
    half of them had another later. Of a ranker without codes the newest ones are told."""
    feed, log = own
    repo = shutil.copytree(feed.repo, tmp_path / "repo")
    skus = sorted({item for one in feed.shown for item in one["items"]})
    times = sorted(one["at"] for one in feed.shown)
    moved = times[len(times) // 2]
    changed = {sku: (1 + sku % 2, 1, 4) for sku in skus}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explore_world.LAST_WEIGHT", dict.fromkeys(skus, 0.5))
        tables = [sids(dict.fromkeys(skus, (1, 1, 4)), 10), sids(changed, 20)]
    cuts = [times[0] - timedelta(days=1), moved]
    store.publish(
        repo,
        generation("g1", trained_through=START),
        [replace(table, as_of=cut) for table, cut in zip(tables, cuts, strict=True)],
        servable_at=cuts,
        computed_at=datetime(2026, 6, 1, tzinfo=UTC),
        key=KEY,
    )
    facts = facts_of(opened(served_log=log, repo=repo), "health", {"wait": "1"})["served"]
    timeline, profiles = store.published_timeline(repo, "g1"), []
    for side in ("baseline", "now"):
        inside = [one for one in feed.shown if facts[side]["from"] <= one["at"]]
        of = [one for one in inside if one["at"] <= facts[side]["to"]]
        at = [one["at"].replace(tzinfo=None) for one in of for _ in one["items"]]
        profiles.append(
            traffic_profile(
                np.array([item for one in of for item in one["items"]]),
                np.array(at, "datetime64[us]"),
                timeline,
                codebook_size=10,
                codebook_hash="11",
                catalogue=np.array(skus),
            )
        )
    found = drift(*profiles, DriftThresholds())
    assert {name: facts["drift"][name] for name in found} == found
    assert found["usage"]["value"] > 0.1
    assert (facts["generation"], facts["now"]["coverage"], facts["now"]["unknown"]) == ("g1", 1, 0)


@pytest.mark.slow
def test_a_log_that_holds_nothing_hides_nothing_else(own, tmp_path):
    """Its error stands among the others of the page."""
    feed, _ = own
    place = place_of(repo=feed.repo)
    index = Index(ensure_index(place, tmp_path / "cache"), place)
    facts = health.Health(index, Deciding(place, tmp_path / "empty")).look()
    assert "holds no segment" in facts["errors"]["served"]
    assert facts["findings"]
    index.close()
