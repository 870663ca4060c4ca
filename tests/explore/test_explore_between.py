"""Items that came or went after the newest snapshot. Reads: adc_features.explore."""

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from starlette.testclient import TestClient

from adc_features.codes.sids import SidTable
from adc_features.errors import RequestError
from adc_features.explore.app import application
from adc_features.explore.building import ensure_index
from adc_features.explore.index import Index
from adc_features.explore.pages import Explorer, facts_of
from adc_features.explore.place import place_of
from adc_features.live.items import Items
from adc_features.live.items_incoming import ItemChange

CAME = datetime(2026, 5, 1, tzinfo=UTC)
CODES = {"new": (7, 1, -1), "<b>": (7, 2, -1), "c": (8, 3, -1), "d": (-1, -1, -1)}


class Encoder:
    """Gives each item the codes above."""

    def __init__(self, live):
        self.live = live

    def described(self, changes):
        return [dict(one.vectors) for one in changes], {}

    def encode(self, changes, vectors, as_of):
        ids, n = np.array([one.id for one in changes]), len(changes)
        sid = np.array([CODES[one.id] for one in changes], np.int32)
        found = np.array([not one.removed for one in changes])
        weight = (sid >= 0).astype(np.float32)
        zeros, ones = np.zeros(n, np.float32), np.ones(n, np.int32)
        return SidTable(ids, sid, weight, zeros, zeros, found, ones, found, "g2", 10, as_of)


@pytest.fixture
def changed(explored, tmp_path):
    """An open explorer, in whose repository items come and go."""
    repo = shutil.copytree(explored[0], tmp_path / "repo")
    place = place_of(repo=repo, items=explored[1])
    explorer = Explorer(Index(ensure_index(place), place))
    live = next(one for one in place.generations() if one.id == "g2")
    items = Items(repo, Encoder(live), clock=lambda: CAME)

    def commit(*changes):
        items.commit(
            [
                ItemChange(id, {}, {}, {"title": title} if title else {}, removed=title is None)
                for id, title in changes
            ]
        )

    yield explorer, commit
    explorer.index.close()


def test_an_item_that_came_is_found_and_shown_at_once(changed):
    """By its words and its id, with the codes that are served and what they mean."""
    explorer, commit = changed
    assert facts_of(explorer, "find", {})["came"] == []
    commit(("new", "Violet lamp"))
    for words in ("", "violet", "vio", "lamp violet", "new"):
        (one,) = facts_of(explorer, "find", {"q": words})["came"]
        assert (one["id"], one["title"], one["sid"]) == ("new", "Violet lamp", [7, 1, -1])
        assert one["came"] == {"id": "new", "since": CAME, "removed": False}
    assert facts_of(explorer, "find", {"q": "green"})["came"] == []
    facts = facts_of(explorer, "item", {"id": "new"})
    assert [one["code"] for one in facts["codes"]] == [7, 1, -1]
    assert [one["id"] for one in facts["codes"][0]["top"]] == ["a", "b", "f"]
    assert [one["id"] for one in facts["sharing"]] == ["a", "b", "f"]
    assert [(one["between"], one["found"]) for one in facts["timeline"]] == [
        (False, False),
        (False, False),
        (False, False),
        (True, True),
    ]
    assert facts["timeline"][-1]["servable_at"] == CAME
    with pytest.raises(RequestError, match="no item has the id"):
        facts_of(explorer, "item", {"id": "newer"})


def test_an_item_that_was_described_anew_or_removed_says_so(changed):
    """c has other codes than its snapshot has; d is removed, and its page tells since when."""
    explorer, commit = changed
    before = {one["id"]: one["sid"] for one in facts_of(explorer, "find", {})["items"]}
    commit(("c", "White tea"), ("d", None))
    listed = {one["id"]: one for one in facts_of(explorer, "find", {})["items"]}
    assert (before["c"], listed["c"]["sid"]) == ([8, 2, 5], [8, 3, -1])
    assert listed["d"]["came"]["removed"]
    assert listed["a"]["came"] is None
    facts = facts_of(explorer, "item", {"id": "c"})
    assert (facts["title"], facts["timeline"][-1]["sid"]) == ("White tea", [8, 3, -1])
    gone = facts_of(explorer, "item", {"id": "d"})
    assert (gone["title"], gone["came"]["removed"]) == ("Kettle", True)
    assert not gone["timeline"][-1]["found"]
    with TestClient(application(explorer)) as client:
        assert "It was removed" in client.get("/item?id=d").text
        assert "removed</td>" in client.get("/").text


def test_pictures_of_an_item_are_drawn_anew_when_it_came_again(changed):
    """And texts of an item that came are text."""
    explorer, commit = changed
    commit(("<b>", "<script>alert(1)</script>"))
    with TestClient(application(explorer)) as client:
        for path in ("/", "/item?id=%3Cb%3E"):
            page = client.get(path)
            assert page.status_code == 200
            assert "&lt;script&gt;" in page.text
            assert "<script>alert" not in page.text
    state = explorer.index.state()
    commit(("<b>", "Lamp"))
    assert explorer.index.state() != state
    assert facts_of(explorer, "find", {"q": "lamp"})["came"][0]["id"] == "<b>"


def test_only_what_was_sent_counts_as_having_come(changed):
    """Not an item whose codes are those of its snapshot, nor what a snapshot alone says."""
    explorer, commit = changed
    commit(("c", "White tea"))
    between = explorer.index.codes("g2").between
    unchanged, sent = between.came(between.served(), ["a", "c"])
    assert (unchanged, sent.id, sent.since) == (None, "c", CAME)
    assert between.came(explorer.index.codes("g2").timeline.snapshots[-1], ["c"]) == [None]
