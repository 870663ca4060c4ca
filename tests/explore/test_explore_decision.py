"""Decisions, health and exports of the explorer. Reads: adc_features.explore."""

import json
import re

import numpy as np
import pytest
from serving_world import NOW
from store_world import day

from adc_features.errors import InputError, RequestError
from adc_features.explore.building import ensure_index
from adc_features.explore.export import export_site
from adc_features.explore.index import Index
from adc_features.explore.pages import Explorer, commands_of, facts_of
from adc_features.explore.place import place_of
from adc_features.serving import open_bundle
from adc_features.serving.promotion import promote


def test_without_a_ranker_the_page_asks_for_one(explorer):
    """The form is there, nothing is ranked, and an unknown ranker is named."""
    facts = facts_of(explorer, "decision", {"user": "u", "items": "a\nb"})
    assert (facts["rankers"], facts["sides"], facts["items"]) == ([], [], ["a", "b"])
    with pytest.raises(RequestError, match="train one"):
        explorer.deciding.bundle("codes")


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
    items = [json.loads(p.read_text(encoding="utf-8")) for p in site.glob("item-*.json")]
    assert {one["id"] for one in items} == {"a", "b"}
    with pytest.raises(InputError, match="exists"):
        export_site(explorer, site, items=1)


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
