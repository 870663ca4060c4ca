"""The commands that keep a ranker of a feature service up to date, and their exit codes."""

import json
from datetime import UTC, datetime

import pytest
from declared_feed import with_new_customers
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError, LeakError
from adc_features.serving.promotion import read_promotion
from training.cli.ranker_deployment import served_ranker
from training.deployment.declared.audit import audit_ranker, require_clean
from training.deployment.declared.monitor import monitor_ranker
from training.deployment.declared.promotions import rollback_ranker


def run(*arguments):
    return CliRunner().invoke(application(), [str(a) for a in arguments])


def test_retraining_exits_by_what_became_of_it(feed, tmp_path):
    """10 where no reason asks, with the reasons; 20 for rows that do not suffice."""
    asked = ["retrain", "--repo", feed.folder, "--labels", feed.labels, "--window-days", 7]
    (tmp_path / "calm.toml").write_text(
        "[retrain]\nmax_uncoded = 1.0\nmax_gauc_drop = 1.0\nmax_usage_drift = 1.0\n"
    )
    kept = run(*asked, "--settings", tmp_path / "calm.toml", "--json", tmp_path / "kept.json")
    assert kept.exit_code == 10, kept.output
    assert json.loads((tmp_path / "kept.json").read_text())["decision"] == "kept"
    few = run(*asked, "--min-rows", 100_000)
    assert few.exit_code == 20
    assert "expected at least 100000" in few.output
    gone = run("retrain", "--repo", feed.folder, "--labels", tmp_path / "no.parquet")
    assert gone.exit_code == 20


def test_versions_and_rollback_say_what_serves(served_feed):
    """The one version serves; there is nothing before it to go back to."""
    found = run("versions", "--repo", served_feed)
    assert found.exit_code == 0, found.output
    assert "* " in found.output
    assert "rolled" not in found.output
    with pytest.raises(InputError, match="no earlier version to go back to"):
        rollback_ranker(served_feed, "feed", at=None)


def test_monitoring_tells_new_ids_from_known_ones(feed):
    """On the rows that it was trained on nothing moved; where a tenth of the customers are new, the
    input is named, and so are the features that they lack."""
    at = read_promotion(feed.folder / "rankers/feed/promotion.json").promoted_at
    then = monitor_ranker(feed.folder, "feed", feed.labels, as_of=at, days=19)
    assert then["beyond"] == []
    now = monitor_ranker(feed.folder, "feed", with_new_customers(feed.folder), days=10)
    assert {"customer_id", "profile__segment"} <= set(now["beyond"])
    assert now["inputs"]["customer_id"]["unknown"] > 0.05
    assert now["inputs"]["profile__segment"]["absent"] == pytest.approx(0.1, abs=0.03)
    assert not {"device", "stock__price"} & set(now["beyond"])
    with pytest.raises(InputError, match="no rows in this period"):
        monitor_ranker(feed.folder, "feed", feed.labels, days=10, as_of=at.replace(year=2025))


def test_an_audit_finds_every_value_in_its_source(served_feed):
    """The ages of each view's rows; nothing is from the future, and what is online is compared."""
    found = audit_ranker(
        served_feed, "feed", served_feed / "events.parquet", at=datetime(2026, 3, 1, tzinfo=UTC)
    )
    assert found["rows"] == 8_000
    assert set(found["views"]) == {"profile", "stock", "affinity"}
    assert all(not v["future"] and not v["different"] for v in found["views"].values())
    assert found["views"]["stock"]["youngest_s"] >= 86_400
    # nothing was materialized: the store lacks what training saw
    assert found["online"]["different"]["stock__quality"] == found["online"]["rows"]
    with pytest.raises(InputError, match="materialize up to now"):
        require_clean(found)
    require_clean({**found, "online": None})
    early = {**found["views"]["stock"], "future": 3, "first": "stock__quality of sku 1001"}
    with pytest.raises(LeakError, match="3 of 8000 rows read view stock from the future"):
        require_clean({**found, "views": {"stock": early}})


def test_the_ranker_is_named_where_there_is_a_choice(served_feed, tmp_path):
    """The only one that serves needs no name; without one there is nothing to name."""
    assert served_ranker(served_feed, None) == "feed"
    assert served_ranker(served_feed, "other") == "other"
    with pytest.raises(InputError, match="serves yet"):
        served_ranker(tmp_path, None)
