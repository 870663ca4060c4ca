"""What a ranker leans on and why it ranked so, by the commands, where the truth is known."""

import json
import shutil
from datetime import timedelta

import pytest
from feed_world import START, make_feed
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.serving.workspace import report_path

NOW = "2026-02-11T00:00:00Z"


def adc(*words: object) -> dict:
    """What a command writes as JSON."""
    done = CliRunner().invoke(application(), [*map(str, words), "--json", "-"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    """Applied, materialized, trained by one round and promoted: half of a test's five seconds go
    into the import of Feast."""
    from feast import Entity, FeatureService, FeatureStore, FeatureView

    made = make_feed(tmp_path_factory.mktemp("feed"))
    defined = {"__file__": str(made.folder / "definitions.py")}
    exec((made.folder / "definitions.py").read_text(encoding="utf-8"), defined)
    store = FeatureStore(repo_path=str(made.folder))
    kinds = (Entity, FeatureService, FeatureView)
    store.apply([thing for thing in defined.values() if isinstance(thing, kinds)])
    store.materialize(START - timedelta(days=1), made.end)
    adc("train", "--repo", made.folder, "--labels", made.labels, "--quick")
    return made


@pytest.fixture(scope="module")
def promoted(feed):
    """What `adc promote` without a name said, then of the ranker `feed` alone."""
    chosen = adc("promote", "--repo", feed.folder)
    adc("promote", "--repo", feed.folder, "--ranker", "feed")
    return chosen


def test_quality_matters_most_and_position_is_not_named(feed):
    """`adc explain` finds the input that the truth has the labels depend on most."""
    asked = ("explain", "--repo", feed.folder, "--ranker", "feed", "--labels", feed.labels)
    found = adc(*asked, "--permutations", 2)
    assert (found["window"], found["task"]) == ("validation", "click")
    assert next(iter(found["inputs"])) == "stock__quality"
    assert found["inputs"]["stock__quality"]["drop"]["request_gauc"]["low"] > 0.01
    assert "position" not in found["inputs"]
    assert next(iter(found["groups"])) == "item"
    assert set(found["groups"]) == {"user", "item", "pair", "request"}


def test_a_ranker_is_named_where_there_are_several(feed):
    """Without a name the refusal lists those that are trained."""
    words = ["explain", "--repo", str(feed.folder), "--labels", str(feed.labels)]
    done = CliRunner().invoke(application(), words)
    assert done.exit_code != 0
    assert "trained in" in str(done.exception)
    assert "feed, plain" in str(done.exception)


def test_an_unknown_task_is_refused_before_the_log_is_read(feed):
    """The log that is named is not even there."""
    words = ["explain", "--repo", str(feed.folder), "--ranker", "feed", "--labels", "none.parquet"]
    done = CliRunner().invoke(application(), [*words, "--task", "like"])
    assert "no task 'like'; the ranker's are click, purchase" in str(done.exception)


def test_the_report_names_the_ranker_that_is_promoted(feed, promoted):
    """The page, written by training, says what `adc promote` does and why."""
    page = report_path(feed.folder).read_text(encoding="utf-8")
    assert f"takes <strong>{promoted['ranker']}</strong>" in page
    assert promoted["why"] in page.replace("&#39;", "'")


def test_an_evaluation_without_importance_says_nothing_of_it(feed, promoted):
    """With --no-importance the scores are those of the same ranker, and the page is shorter."""
    asked = ("--repo", feed.folder, "--labels", feed.labels, "--ranker", "plain")
    found = adc("evaluate", *asked, "--no-importance")
    assert found["about"]["plain"]["importance"] is None
    assert found["tasks"]["click"]["rankers"]["plain"]["auc"]["mean"] > 0.5
    assert "What do they lean on?" not in report_path(feed.folder).read_text(encoding="utf-8")


def test_an_evaluation_leaves_a_report_and_what_promote_chooses_from(feed, promoted):
    """After a ranker was judged alone it is the only one to choose, and its importance is shown."""
    asked = ("--repo", feed.folder, "--labels", feed.labels, "--ranker", "plain")
    found = adc("evaluate", *asked)
    assert found["choice"]["name"] == "plain"
    assert list(found["about"]) == ["plain"]
    shares = found["about"]["plain"]["inputs"]["stock__price"]
    assert shares["judged"] == {"absent": 0.0, "unknown": 0.0}
    counts = found["about"]["plain"]["labels"]["train"]["purchase"]
    assert counts["unripe"] > 0
    assert counts["used"] + counts["unripe"] + counts["not_given"] == counts["rows"]
    assert "What do they lean on?" in report_path(feed.folder).read_text(encoding="utf-8")


def test_the_winner_is_explained(feed, promoted):
    """`adc rank --explain` tells what was served of the best candidate, and what each group of
    inputs contributed; the scores are those without it."""
    asked = ("rank", "c0001", 1003, 1004, 1005, 99, "--repo", feed.folder, "--ranker", "feed")
    asked += ("--field", "device=phone", "--now", NOW)
    plain, found = adc(*asked), adc(*asked, "--explain")
    assert plain["items"] == found["items"]
    assert "explained" not in plain
    told, best = found["explained"], found["items"][0]
    assert (told["sku"], told["score"]) == (best["sku"], pytest.approx(best["score"], abs=1e-6))
    assert set(told["groups"]) == {"user", "item", "pair", "request"}
    assert told["inputs"]["device"]["values"] == {"device": "phone"}
    assert told["inputs"]["sku"]["values"] == {"sku": best["sku"]}
    assert "position" not in told["inputs"]
    unknown = adc(*asked[:2], 99, *asked[6:], "--explain")["explained"]
    assert unknown["inputs"]["stock__price"]["state"] == "absent"
    assert unknown["inputs"]["sku"]["state"] == "unknown"


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_a_ranker_is_not_judged_on_rows_that_it_was_trained_on(feed, command):
    """Windows that begin before its training ended are refused, and nothing is written."""
    evaluation = feed.folder / "rankers" / "evaluation.json"
    before = evaluation.read_bytes()
    begin, test = (f"{START + timedelta(days=d):%Y-%m-%dT%H:%M:%SZ}" for d in (20, 30))
    words = [command, "--repo", feed.folder, "--ranker", "feed", "--labels", feed.labels]
    words += ["--validation-start", begin, "--test-start", test]
    done = CliRunner().invoke(application(), [str(word) for word in words])
    assert done.exit_code != 0
    assert "it has seen rows of it" in str(done.exception) + done.output
    assert evaluation.read_bytes() == before


def test_the_version_that_was_judged_is_promoted_and_not_a_newer_one(feed):
    """`adc promote` without a name serves what its reason speaks of."""
    directory = feed.folder / "rankers"
    judged = json.loads((directory / "evaluation.json").read_text())["versions"]
    newest = {name: directory / name / "20990101T000000000000Z" for name in judged}
    for name, place in newest.items():
        shutil.copytree(directory / name / judged[name], place)
    try:
        found = adc("promote", "--repo", feed.folder)
    finally:
        for place in newest.values():
            shutil.rmtree(place)
    assert found["version"] == judged[found["ranker"]]
