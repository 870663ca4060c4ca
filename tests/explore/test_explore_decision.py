"""Decisions, health and exports of the explorer. Reads: adc_features.explore."""

import json
import re
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from served_world import END
from serving_world import NOW
from store_world import day

from adc_features.errors import InputError, RequestError
from adc_features.explore import health, static_search
from adc_features.explore.building import ensure_index
from adc_features.explore.deciding import Deciding
from adc_features.explore.decision import decision
from adc_features.explore.export import export_site
from adc_features.explore.index import Index
from adc_features.explore.pages import Explorer, commands_of, facts_of
from adc_features.explore.place import Place, place_of
from adc_features.serving import open_bundle
from adc_features.serving.promoted import promote_on_record
from adc_features.serving.promotion import PROMOTION, promote
from adc_features.serving.workspace import Workspace


def test_without_a_ranker_the_page_asks_for_one(explorer):
    """The form is there, nothing is ranked, and an unknown ranker is named."""
    facts = facts_of(explorer, "decision", {"user": "u", "items": "a\nb"})
    assert (facts["rankers"], facts["sides"], facts["items"]) == ([], [], ["a", "b"])
    with pytest.raises(RequestError, match="train one"):
        explorer.deciding.opened("codes")


def test_a_logged_request_needs_a_log(explorer):
    """Its option is named."""
    with pytest.raises(InputError, match="--log DIR"):
        facts_of(explorer, "decision", {"request": "r1"})


def test_health_says_what_share_of_items_has_a_code(explorer):
    """Five of six items on day 10, all of them on day 20; nothing was put online or promoted."""
    assert facts_of(explorer, "health", {})["at_work"] in (True, False)
    facts = facts_of(explorer, "health", {"wait": "1"})
    told = [(one["generation"], one["as_of"], one["coverage"]) for one in facts["coverage"]]
    assert told == [("g1", day(10), 5 / 6), ("g1", day(20), 1.0), ("g2", day(20), 1.0)]
    assert (facts["views"], facts["promotions"], facts["traffic"]) == ([], [], None)
    assert facts["findings"]
    assert facts["use"]["g1"][0]["by_position"] == [0.0, 0.0, 0.0]
    assert commands_of(explorer, "health", {}, facts)[0].startswith("adc doctor ")


def test_an_export_is_a_site_of_its_own(explorer, tmp_path):
    """Every link and picture leads to a file of it, and its JSON is that of the service."""
    site = tmp_path / "site"
    told = export_site(explorer, site, items=2)
    pages = sorted(site.glob("*.html"))
    assert told["pages"] == len(pages)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert 'http-equiv="Content-Security-Policy"' in text
        for to in re.findall(r'(?:href|src)="([^"#]+)"', text):
            assert to.startswith("data:") or (site / to).is_file(), (page.name, to)
        assert (site / re.findall(r'<form action="([^"]+)"', text)[0]).is_file()
        assert "<select" not in text  # nobody answers a form there
    items = [json.loads(p.read_text(encoding="utf-8")) for p in site.glob("item-*.json")]
    assert {one["id"] for one in items} == {"a", "b"}
    piece = (site / "items-0.js").read_text(encoding="ascii")
    listed = json.loads(piece.removeprefix("adcItems(").removesuffix(");\n"))
    assert [one[:2] for one in listed] == [["a", "Green tea"], ["b", "Green soap"]]
    assert all((site / one[3]).is_file() for one in listed)
    with pytest.raises(InputError, match="exists"):
        export_site(explorer, site, items=1)


def test_a_large_export_is_searched_in_pieces(explorer, tmp_path, monkeypatch):
    """Of a bounded number of items each, together all of them, in their order."""
    monkeypatch.setattr(static_search, "PIECE", 4)
    assert static_search.write_pieces(explorer.index, tmp_path, 6, lambda one: None) == 2
    texts = [(tmp_path / f"items-{n}.js").read_text(encoding="ascii") for n in range(2)]
    listed = [json.loads(t.removeprefix("adcItems(").removesuffix(");\n")) for t in texts]
    assert [[one[0] for one in piece] for piece in listed] == [["a", "b", "c", "d"], ["e", "f"]]


@pytest.mark.slow
def test_a_decision_is_what_the_service_answers(shop, tmp_path):
    """Scores, their order and the contributions of `explain` are those of the promoted ranker."""
    promotion = tmp_path / "promotion.json"
    promote(promotion, shop.pair("codes_weights"))
    place = place_of(promotion=promotion)
    explorer = Explorer(Index(ensure_index(place, tmp_path / "cache"), place))
    asked = {"user": "u1", "items": "i00\ni01\ni02", "now": NOW.isoformat()}
    facts = facts_of(explorer, "decision", asked)
    (side,) = facts["sides"]
    expected = open_bundle(shop.pair("codes_weights")).score(
        "u1", ["i00", "i01", "i02"], now=NOW, explain=True
    )
    scores = [row["score"] for row in side["rows"]]
    np.testing.assert_array_equal(np.float32(scores), expected.score)
    assert side["of"] == f"i0{int(np.argmax(expected.score))}"
    assert [row["rank"] for row in side["rows"]] == (
        np.argsort(np.argsort(-np.array(scores))) + 1
    ).tolist()
    told = {one["group"]: one["score"] for one in side["groups"]}
    wanted = {name: one["score"] for name, one in expected.explained["groups"].items()}
    assert told == pytest.approx(wanted, abs=1e-6)
    other = facts_of(explorer, "decision", {**asked, "of": side["rows"][0]["item"]})
    assert other["sides"][0]["of"] == "i00"
    explorer.index.close()


@pytest.mark.slow
def test_a_ranker_of_own_features_tells_values_ages_and_groups(own, explorer):
    """As `explain` of the service does; a row is as old as Feast's online store says."""
    feed, _ = own
    shown = feed.shown[-1]
    deciding = Deciding(Place("--repo", str(feed.repo), feed.repo))
    assert deciding.names() == ["small"]
    assert deciding.by("small") == ["--ranker", "small"]
    asked = {
        "user": shown["user"],
        "items": "\n".join(str(one) for one in shown["items"]),
        "fields": f"device={shown['request']['device']}",
        "now": END.isoformat(),
    }
    (side,) = decision(explorer.index, deciding, asked)["sides"]
    assert {one["group"] for one in side["groups"]} >= {"user", "item"}
    read = {one["view"]: one for one in side["read"]}
    from feast import FeatureStore

    store, keys = FeatureStore(str(feed.repo)), {"customer_id": shown["user"]}
    answer = store.get_online_features(["profile:segment"], [keys]).proto
    stamp = answer.results[-1].event_timestamps[0].seconds
    assert read["profile"]["row_time"].timestamp() == stamp
    assert read["profile"]["age_seconds"] == END.timestamp() - stamp
    values = {v["column"]: v for one in side["inputs"] for v in one["values"]}
    segment = values["profile__segment"]
    assert segment["row_age_seconds"] == read["profile"]["age_seconds"]
    assert segment["value"] in ("new", "loyal", "deal")


@pytest.mark.slow
def test_a_logged_request_is_ranked_again_as_of_its_own_time(own, explorer):
    """Scores are those that were served, as nothing was materialized since; an unknown id is
    refused in words.
    """
    feed, log = own
    deciding = Deciding(Place("--repo", str(feed.repo), feed.repo), log)
    request = feed.shown[3]
    facts = decision(explorer.index, deciding, {"request": request["request_id"]})
    (side,) = facts["sides"]
    assert facts["now"] == facts["logged"]["now"] == request["at"]
    assert {row["item"] for row in side["rows"]} == {str(one) for one in request["items"]}
    for row in side["rows"]:
        assert row["score"] == pytest.approx(facts["logged"]["scores"][row["item"]], abs=1e-6)
    with pytest.raises(RequestError, match="no request 'nobody'"):
        decision(explorer.index, deciding, {"request": "nobody"})


@pytest.mark.slow
def test_promotions_of_a_repository_are_those_on_record(own):
    """Each ranker's, the oldest first; the last one serves, and the others are retired."""
    feed, _ = own
    place, pair = Workspace(feed.repo, "small"), feed.bundle.promotion
    later = replace(pair, promoted_at=END + timedelta(days=1))
    promote_on_record(place, later, why="named")
    told = health._promotions(Place("--repo", str(feed.repo), feed.repo))
    assert [(one["name"], one["promoted_at"], one["state"]) for one in told] == [
        ("small", pair.promoted_at, "retired"),
        ("small", later.promoted_at, "serving"),
    ]


@pytest.mark.slow
def test_two_generations_are_asked_why_of_the_same_candidate(shop, tmp_path):
    """The ranker on g1 beside one on g2, of a run that promoted one and retrained the other; a
    promotion file in a run stands for the run.
    """
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "feature_repo").symlink_to(shop.repository)
    promote(run / PROMOTION, shop.pair("codes_weights"))
    shutil.copytree(shop.rankers["second"][0], run / "retrains" / "later" / "ranker" / "model")
    place = place_of(promotion=run / PROMOTION)
    assert place.run == run
    deciding = Deciding(place)
    assert deciding.names() == ["promoted", "later"]
    assert [deciding.by(name) for name in deciding.names()] == [[], None]
    index = Index(ensure_index(place, tmp_path / "cache"), place)
    asked = {"user": "u1", "items": "i00\ni01\ni02", "now": NOW.isoformat(), "beside": "later"}
    facts = decision(index, deciding, asked)
    first, second = facts["sides"]
    assert (first["generation"], second["generation"]) == ("g1", "g2")
    assert first["of"] == second["of"]
    expected = open_bundle(shop.pair("second")).score("u1", ["i00", "i01", "i02"], now=NOW)
    scores = [row["score"] for row in second["rows"]]
    np.testing.assert_array_equal(np.float32(scores), expected.score)
    times = {one["view"]: one["row_time"] for one in first["read"]}
    codes = index.codes("g1").timeline.snapshots
    assert times["item_sid_g1"] == max(s.servable_at for s in codes if s.servable_at <= NOW)
    assert times["item_profile"] is not None
    assert first["history"]
    assert first["history"] != second["history"]
    index.close()
