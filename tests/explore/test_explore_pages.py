"""What the pages say of a catalogue that can be counted by hand. Reads: adc_features.explore."""

import shutil

import numpy as np
import pytest
from explore_world import EARLY, LATE, RENAMED, sids
from store_world import SPEC, day, generation

from adc_features import store
from adc_features.codes.churn import churn_report
from adc_features.codes.quality import code_usage
from adc_features.errors import InputError, RequestError
from adc_features.explore import changes as changes_module
from adc_features.explore.building import ensure_index
from adc_features.explore.index import Index, is_current
from adc_features.explore.pages import address, commands_of, facts_of, parsed
from adc_features.explore.place import place_of


def test_items_are_found_by_the_beginnings_of_words_the_most_popular_first(explorer):
    """All words must be there, the last may be cut short; an id is found before all."""

    def found(words):
        return [one["id"] for one in facts_of(explorer, "find", {"q": words})["items"]]

    assert found("") == ["a", "b", "c", "d", "e", "f"]
    assert found("green") == ["a", "b", "f"]
    assert found("te") == ["a", "c", "e"]
    assert found("tea green") == ["a"]
    assert found("e") == ["e"]
    assert found('"green* NOT') == []
    assert found("nothing") == []


def test_an_item_shows_what_the_library_says_of_it(explorer, explored):
    """Codes, weights and reliability of every snapshot are those of the published timeline."""
    facts = facts_of(explorer, "item", {"id": "b", "generation": "g1"})
    assert [one["as_of"] for one in facts["timeline"]] == [day(10), day(20), day(20)]
    timeline = store.published_timeline(explored[0], "g1")
    for told, at in zip(facts["timeline"], (day(11), day(21)), strict=False):
        sid, weight, reliability = timeline.gather(
            np.array(["b"]), np.array([at.replace(tzinfo=None)], "datetime64[us]")
        )
        assert told["sid"] == sid[0].tolist()
        assert told["sid_weight"] == weight[0].tolist()
        assert told["reliability"] == reliability[0]
    assert (facts["title"], facts["events"], facts["label_rate"]) == ("Green soap", 6, 0.5)
    assert [one["events"] for one in facts["timeline"]] == [6, 6, 6]
    assert facts["timeline"][0]["servable_at"] == day(10.25)


def test_a_code_of_an_item_is_explained_by_the_heaviest_items_that_share_it(explorer):
    """Of three items with code 4 the other two are named, the larger weight first."""
    last = facts_of(explorer, "item", {"id": "b", "generation": "g1"})["codes"][2]
    assert (last["code"], last["items"]) == (4, 3)
    assert [one["id"] for one in last["top"]] == ["a", "f"]


def test_neighbours_are_those_that_share_the_most_codes(explorer):
    """a and f share all three codes with b, no other item shares any."""
    near = facts_of(explorer, "item", {"id": "b", "generation": "g1"})["sharing"]
    assert [(one["id"], one["positions"]) for one in near] == [("a", [0, 1, 2]), ("f", [0, 1, 2])]


def test_a_code_lists_its_items_by_weight_and_counts_them(explorer):
    """Code 4 of the last position: a, f, b by weight; 16 events, 8 labels; none on day 10."""
    facts = facts_of(explorer, "code", {"generation": "g1", "position": "2", "code": "4"})
    told = [(one["id"], pytest.approx(one["weight"])) for one in facts["titles"]]
    assert told == [("a", 0.9), ("f", 0.7), ("b", 0.5)]
    assert (facts["items"], facts["events"], facts["label_rate"]) == (3, 16, 0.5)
    assert facts["mean_weight"] == pytest.approx(0.7)
    assert [one["items"] for one in facts["timeline"]] == [0, 3]
    (first, second) = facts["together"]
    assert (first["codes"][0]["code"], first["codes"][0]["share"]) == (1, 1.0)
    assert first["codes"][0]["lift"] == 2.0
    assert second["codes"][0]["code"] == 1


def test_the_map_of_a_code_book_equals_the_quality_of_its_codes(explorer):
    """Counts of every code, entropy, dead and crowded ones; three items share all their codes."""
    facts = facts_of(explorer, "codes", {"generation": "g1"})
    codes = np.array(list(LATE.values()))
    for book in facts["books"]:
        own = codes[:, book["position"]]
        assert book["items"] == np.bincount(own[own >= 0], minlength=10).tolist()
        for name, value in code_usage(own, codebook_size=10).items():
            assert book[name] == value
    assert [b["items"] for b in facts["buckets"]] == [3, 0, 3, 0, 0, 0]
    (crowded,) = facts["crowded"]
    assert crowded["sid"] == [1, 1, 4]
    assert [one["id"] for one in crowded["rows"]] == ["a", "b", "f"]


def test_collisions_of_every_snapshot_lead_to_the_items_inside(explorer):
    """On day 10 all five items are alone; on day 20 a, b and f share all their codes."""
    early = facts_of(explorer, "codes", {"generation": "g1", "snapshot": "0"})
    assert [b["items"] for b in early["buckets"]] == [5, 0, 0, 0, 0, 0]
    assert early["crowded"] == []
    told = {}
    for snapshot, codes in (("0", EARLY), ("1", LATE)):
        asked = {"generation": "g1", "snapshot": snapshot}
        for bucket in range(6):
            facts = facts_of(explorer, "collisions", {**asked, "bucket": str(bucket)})
            assert facts["count"] == facts["buckets"][bucket]["items"]
            for one in facts["items"]:
                told[snapshot, one["id"]] = one["sharing"]
                assert one["sid"] == list(codes[one["id"]])
    wanted = {("0", item): 1 for item in EARLY} | {("1", item): 1 for item in LATE}
    assert told == wanted | {("1", item): 3 for item in "abf"}
    alone = facts_of(explorer, "collisions", {"generation": "g1", "sid": "1,1,4"})
    assert [one["id"] for one in alone["items"]] == ["a", "b", "f"]
    assert facts_of(explorer, "collisions", {"generation": "g1", "sid": "9,9,-1"})["count"] == 0
    for wrong in ("1,1", "1,1,x", "-1,-1,-1"):
        with pytest.raises(RequestError, match="3 codes"):
            facts_of(explorer, "collisions", {"generation": "g1", "sid": wrong})


def test_two_snapshots_differ_as_the_churn_report_says(explorer):
    """Shares over all positions and by position are those of `churn_report`."""
    facts = facts_of(explorer, "changes", {"before": "g1@0", "after": "g1@1"})
    report = churn_report(sids(EARLY, 10), sids(LATE, 20), np.zeros(6, np.int64), spec=SPEC)
    assert facts["changed"] == report["changed"] == 1 / 12
    assert [p["changed"] for p in facts["by_position"]] == report["by_position"]
    assert (facts["appeared"], facts["disappeared"], facts["both"]) == (1, 0, 5)
    assert [(e["id"], e["before"], e["after"]) for e in facts["examples"]] == [
        ("b", [1, 2, -1], [1, 1, 4])
    ]


def test_codes_that_another_generation_names_otherwise_are_renamed(explorer):
    """From g1 to g2 the first position's 1 became 7 and 2 became 8, and nothing else."""
    facts = facts_of(explorer, "changes", {"before": "g1@1", "after": "g2@0"})
    names = [[(r["before"], r["after"]) for r in p["renamed"]] for p in facts["by_position"]]
    assert names == [[(1, 7), (2, 8)], [], []]
    changed = np.mean([LATE[item][0] != RENAMED[item][0] for item in LATE])
    assert facts["by_position"][0]["changed"] == changed


def test_renames_count_the_items_of_both_snapshots_alone(explorer):
    """f comes with the new name: it neither made a rename nor hides one."""
    facts = facts_of(explorer, "changes", {"before": "g1@0", "after": "g2@0"})
    first = facts["by_position"][0]
    assert (facts["appeared"], first["both"], first["changed"]) == (1, 5, 4 / 5)
    told = [(r["before"], r["after"], r["items"], r["share"]) for r in first["renamed"]]
    assert told == [(1, 7, 2, 1.0), (2, 8, 2, 1.0)]


def test_renames_of_a_code_book_too_large_for_one_table_are_the_same(explorer, monkeypatch):
    """Counted by sorting: a table of all pairs of 65,536 codes would hold 34 GB."""
    asked = {"before": "g1@0", "after": "g2@0"}
    counted = facts_of(explorer, "changes", asked)["by_position"]
    monkeypatch.setattr(changes_module, "DENSE", 0)
    assert facts_of(explorer, "changes", asked)["by_position"] == counted


def test_parameters_that_mean_nothing_are_refused_in_words(explorer):
    """Unknown ids, generations, positions, codes and snapshots are named."""
    for page, asked, words in (
        ("item", {"id": "nobody"}, "no item has the id"),
        ("item", {"id": "\ud800"}, "no item has the id"),
        ("codes", {"generation": "g9"}, "published are g1, g2"),
        ("code", {"position": "3"}, "0 to 2"),
        ("code", {"code": "-1"}, "0 to 9"),
        ("changes", {"before": "g1@7"}, "one of g1@0"),
        ("find", {"from": "x"}, "whole number"),
    ):
        with pytest.raises(RequestError, match=words):
            facts_of(explorer, page, asked)


def test_an_index_is_made_once_and_anew_when_more_is_published(explored, tmp_path):
    """The second start finds it; after a publication an open one says that it is old."""
    repo = shutil.copytree(explored[0], tmp_path / "repo")
    place = place_of(repo=repo)
    first = ensure_index(place)
    made = (first / "manifest.json").stat().st_mtime_ns
    assert ensure_index(place) == first
    assert (first / "manifest.json").stat().st_mtime_ns == made
    index = Index(first, place)
    assert is_current(index)
    store.publish(
        repo,
        generation("g1", trained_through=day(20)),
        [sids(LATE, 25)],
        servable_at=[day(26)],
        computed_at=day(30),
    )
    assert not is_current(index)
    index.close()
    assert ensure_index(place) != first
    assert not first.exists()


def test_a_place_is_named_by_exactly_one_option(tmp_path):
    """None, two, and directories that are not what they are said to be are refused."""
    for given in ({}, {"run": tmp_path, "repo": tmp_path}, {"run": tmp_path}, {"repo": tmp_path}):
        with pytest.raises(InputError, match=r"give|run\.json"):
            place_of(**given)


def test_every_page_names_the_command_that_prints_it(explorer):
    """The address in the command leads back to the page and its parameters."""
    asked = {"id": "a b'c", "generation": "g1"}
    (command,) = commands_of(explorer, "item", asked, {"id": "a b'c"})
    assert command.startswith("adc explore --repo ")
    assert parsed(address("item", asked)) == ("item", asked)
    assert parsed("/") == ("find", {})
    with pytest.raises(InputError, match="is no page"):
        parsed("/nowhere?id=1")
