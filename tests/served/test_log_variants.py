"""Variants compared on what they served. Reads: logs, events."""

import json
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from log_world import NOON, events, logged, minutes, record
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError
from adc_features.served.dataset_settings import DatasetSettings
from adc_features.served.outcomes import Target
from adc_features.serving.promotion import Promotion, pair_facts, write_promotion
from adc_features.serving.variants import Deployment, Variant
from training.ranker.served_variants import compare_served

CLICK = Target("click", timedelta(minutes=30), "click")
DECLARED = """
from adc_features.inputs import Ranker, Task, infer

toys = Ranker(name="toys", service="feed", tasks=[Task("click", delay="10min")], user=["customer"],
              item=["sku"], inputs=infer())
"""
LATER = DatasetSettings(until=NOON + timedelta(days=1))
CLICKS = events(
    ("early", 1, "click", minutes(-59)),
    ("r1", 1, "click", minutes(1)),
    ("r2", 2, "click", minutes(2)),
    ("r4", 1, "click", minutes(4)),
    ("r4", 2, "click", minutes(5)),
    ("late", 1, "click", minutes(61)),
)


def requests(**of_variant):
    """Two users of the pair and two of the variant "new" at one time, the pair before and after;
    each sees item 1, then item 2.
    """
    new = {"variant": "new", **of_variant}
    return (
        record("early", received=minutes(-60), user="p1"),
        record("r1", received=minutes(0), user="n1", **new),
        record("r2", received=minutes(1), user="p1"),
        record("r3", received=minutes(2), user="p2"),
        record("r4", received=minutes(3), user="n2", **new),
        record("late", received=minutes(60), user="p2"),
    )


@pytest.mark.parametrize("ranker", ["toys", "games"])
def test_a_variant_is_compared_with_the_pair_over_its_own_time(tmp_path, ranker):
    """Three of four rows clicked against one of four, by hand; n1 was ranked rightly, p1 wrongly,
    the others have one label. A variant may be of another ranker.
    """
    log = logged(tmp_path, *requests(ranker=ranker))
    pair = Promotion(Path("r"), "ab" * 32, Path("f"), None, None, NOON)
    serving = Deployment(pair, (Variant("new", pair, share=0.4, salt="s"),))
    found = compare_served(log, CLICKS, [CLICK], settings=LATER, deployment=serving, draws=50)
    assert found["ranker"] == "toys"
    one = found["tasks"]["click"]["new"]
    assert (one["since"], one["until"]) == (minutes(0).isoformat(), minutes(3).isoformat())
    assert one["stated_share"] == 0.4
    told = {
        side: [one[side][of] for of in ("pairs", "requests", "users", "rows", "share")]
        for side in ("variant", "promoted")
    }
    counted = [2, 2, 4, 0.5]
    assert told == {"variant": [["new@none"], *counted], "promoted": [["v1@none"], *counted]}
    means = {
        side: [one[side][of]["mean"] for of in ("label", "gauc")]
        for side in ("variant", "promoted", "difference")
    }
    assert means == {"variant": [0.75, 1], "promoted": [0.25, 0], "difference": [0.5, 1]}


def test_what_cannot_be_compared_is_told(tmp_path):
    """No variant served; a task whose windows are not over; two rankers that are promoted."""
    alone = logged(tmp_path / "alone", record("r1"))
    with pytest.raises(InputError, match=r"no variant of 'toys' served .* --as NAME --share"):
        compare_served(alone, CLICKS, [CLICK], settings=LATER)
    log = logged(tmp_path / "log", *requests())
    slow = Target("buy", timedelta(days=7), "buy")
    found = compare_served(log, CLICKS, [CLICK, slow], settings=LATER, draws=9)
    assert found["tasks"]["buy"] == {}
    assert "expected rows of the promoted pair" in found["not_compared"]["buy"]["new"]
    two = logged(tmp_path / "two", *requests(), record("other", ranker="games"))
    with pytest.raises(InputError, match="promoted rankers games, toys; name one, --ranker"):
        compare_served(two, CLICKS, [CLICK], settings=LATER)
    found = compare_served(two, CLICKS, [CLICK], ranker="toys", settings=LATER, draws=9)
    assert list(found["tasks"]["click"]) == ["new"]


def test_the_command_prints_a_table_and_writes_json_and_a_page(tmp_path):
    """`adc evaluate --from-log` exits with 0, and with 1 where no variant served."""
    log = logged(tmp_path / "log", *requests())
    pq.write_table(CLICKS, tmp_path / "clicks.parquet")
    asked = ["evaluate", "--from-log", log, "--labels", tmp_path / "clicks.parquet"]
    asked += ["--task", "click", "--until", (NOON + timedelta(days=1)).isoformat()]
    shown = CliRunner().invoke(application(), [str(word) for word in asked])
    assert shown.exit_code == 0, shown.output
    assert "0.7500 [" in shown.output
    assert "click: the mean label of new" in shown.output
    told, page = tmp_path / "told.json", tmp_path / "page.html"
    written = CliRunner().invoke(
        application(), [str(word) for word in (*asked, "--json", told, "--page", page)]
    )
    assert written.exit_code == 0, written.output
    facts = json.loads(told.read_text())
    assert facts["tasks"]["click"]["new"]["difference"]["label"]["mean"] == 0.5
    assert "Variants of toys" in page.read_text()
    alone = logged(tmp_path / "alone", record("r1"))
    asked[2] = alone
    refused = CliRunner().invoke(application(), [str(word) for word in asked])
    assert isinstance(refused.exception, InputError)


@pytest.mark.parametrize(
    "words",
    [
        ["--from-log", "x", "--labels", "y", "--run", "z"],
        ["--run", "z", "--window", "click=1h"],
        ["--run", "z", "--negatives", "all"],
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words):
    """Exit code 2, before anything is read."""
    assert CliRunner().invoke(application(), ["evaluate", *words]).exit_code == 2


def test_a_repository_names_the_tasks_and_the_stated_share(tmp_path):
    """Of `--ranker`, from its declaration and its promotion file."""
    repo = tmp_path / "repo"
    (repo / "rankers/toys").mkdir(parents=True)
    (repo / "declared.py").write_text(DECLARED, encoding="utf-8")
    (repo / "feature_store.yaml").write_text("project: toys\n", encoding="utf-8")
    pair = Promotion(repo / "r", "ab" * 32, repo, None, None, NOON)
    variant = {"name": "new", "share": 0.4, "start": 0.0, "salt": "s", "sampled": 0.0}
    path = repo / "rankers/toys/promotion.json"
    write_promotion(path, pair, [{**variant, **pair_facts(pair, path.parent)}])
    log = logged(tmp_path / "log", *requests())
    pq.write_table(CLICKS, tmp_path / "clicks.parquet")
    asked = ["evaluate", "--repo", repo, "--from-log", log, "--labels", tmp_path / "clicks.parquet"]
    asked += ["--ranker", "toys", "--json", tmp_path / "told.json"]
    shown = CliRunner().invoke(application(), [str(word) for word in asked])
    assert shown.exit_code == 0, shown.output
    facts = json.loads((tmp_path / "told.json").read_text())
    assert facts["tasks"]["click"]["new"]["stated_share"] == 0.4
    assert facts["log"]["tasks"]["click"]["window"] == 600.0
