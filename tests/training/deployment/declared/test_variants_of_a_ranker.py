"""`adc promote` with a variant: started, ended, made the promotion."""

import json

import pytest
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError
from adc_features.serving.promoted import promotions
from adc_features.serving.variants import read_deployment
from adc_features.serving.workspace import Workspace
from training.ranker.variants import end_ranker_variant, make_variant_whole, start_ranker_variant


def run(*arguments):
    return CliRunner().invoke(application(), [str(a) for a in arguments])


def test_a_variant_serves_a_share_then_all_users(feed, tmp_path):
    """The file names the newest version beside the promoted one; `--whole` makes it the promotion,
    on record, and it is a variant no more; `--end` leaves the promotion as it was."""
    place = feed.folder / "rankers/feed"
    before = read_deployment(place / "promotion.json")
    told = tmp_path / "told.json"
    asked = ["promote", "--repo", feed.folder, "--ranker", "feed", "--json", told]
    started = run(*asked, "--share", 0.1, "--as", "new")
    assert started.exit_code == 0, started.output
    facts = json.loads(told.read_text())
    assert (facts["variant"], facts["share"], facts["beside"]) == ("new", 0.1, "feed")
    assert run(*asked, "--shadow", "--as", "dark").exit_code == 0
    served = read_deployment(place / "promotion.json")
    assert served.promotion == before.promotion
    assert [(v.name, v.share, v.sampled) for v in served.variants] == [
        ("new", 0.1, 0.0),
        ("dark", 0.0, 0.1),
    ]
    assert run("promote", "--repo", feed.folder, "--end", "new").exit_code == 0
    whole = make_variant_whole(feed.folder, "feed", "dark", at=feed.at)
    assert (whole["number"], whole["share"], "shadow" in whole) == (2, 1.0, False)
    after = read_deployment(place / "promotion.json")
    assert (after.promotion.promoted_at, after.variants) == (feed.at, ())
    record = promotions(Workspace(feed.folder, "feed"))
    assert [p.number for p in record] == [1, 2]
    assert record[-1].why == "variant dark, now for all users"
    with pytest.raises(InputError, match="does not serve; those that do: none"):
        end_ranker_variant(feed.folder, "feed", "dark")


def test_a_variant_of_another_ranker_is_not_made_the_promotion_of_this_one(feed):
    """It may serve beside it; for all users it has a promotion of its own."""
    (feed.folder / "rankers/feed").rename(feed.folder / "rankers/older")
    (version,) = (p for p in (feed.folder / "rankers/older").iterdir() if p.is_dir())
    place = feed.folder / "rankers/feed"
    place.mkdir()
    version.rename(place / version.name)
    promotion = feed.folder / "rankers/older/promotion.json"
    facts = json.loads(promotion.read_text())
    facts.pop("check")
    promotion.write_text(json.dumps(facts | {"ranker": str(place / version.name)}))
    start_ranker_variant(feed.folder, "older", "feed", name="new", share=0.5, at=feed.at)
    with pytest.raises(InputError, match=r"is a version of ranker 'feed'.*then end the variant"):
        make_variant_whole(feed.folder, "older", "new", at=feed.at)


@pytest.mark.parametrize(
    "options",
    [
        ["--as", "new"],
        ["--share", 0.1],
        ["--as", "new", "--share", 0.1, "--shadow"],
        ["--as", "new", "--share", 0.1, "--sample", 0.1],
        ["--end", "a", "--whole", "b"],
        ["--end", "a", "--ranker", "feed"],
        ["--as", "new", "--share", 2],
    ],
)
def test_options_of_a_variant_that_do_not_go_together_are_refused(options, tmp_path):
    """Before anything is read: the repository does not exist."""
    asked = run("promote", "--repo", tmp_path / "none", *options)
    assert asked.exit_code == 2, asked.output
