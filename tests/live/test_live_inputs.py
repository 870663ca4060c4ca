"""How a ranker reads live views. Reads: a shop's views. Writes: nothing."""

import json
from datetime import timedelta

from live_world import make_shop
from typer.testing import CliRunner

from adc_features.aggregates.declaration import (
    TIME,
    AggregateView,
    EventStream,
    Grid,
    last,
    last_distinct,
    last_time,
)
from adc_features.cli.main import application
from adc_features.store.live_views import tags_of

STREAM = EventStream(
    "clicks",
    keys={"customer": "int64", "sku": "string"},
    attributes=("brand",),
    values={"label": Grid(20, 1.0), "rating": Grid(20, 10.0, optional=True)},
)


def tags(**features):
    """Feature -> its tags, without their prefix."""
    declared = features if "newest" in features else {**features, "newest": last_time()}
    view = AggregateView("activity", STREAM, ("customer",), declared)
    return {
        name: {tag.removeprefix("adc."): value for tag, value in tags_of(view, name).items()}
        for name in features
    }


def test_lists_of_the_newest_events_are_one_history():
    """Their items, times and labels; a value that some events lack does not fit the others."""
    ours = {"kind": "history", "group": "items", "order": "newest_last"}
    assert tags(
        items=last(20, "sku"),
        times=last(20, TIME),
        labels=last(20, "label"),
        ratings=last(20, "rating"),
    ) == {
        "items": {**ours, "role": "ids"},
        "times": {**ours, "role": "times"},
        "labels": {**ours, "role": "labels"},
        "ratings": {"kind": "skip"},
    }


def test_lists_of_other_events_are_apart():
    """Of another number of events, of a window, of an attribute, without items."""
    day = timedelta(days=1)
    assert tags(
        items=last(20, "sku"),
        labels=last(5, "label"),
        times=last(20, TIME, window=day, hop=day),
        brands=last_distinct(3, "brand"),
        newest=last_time(),
    ) == {
        "items": {"kind": "history", "group": "items", "order": "newest_last", "role": "ids"},
        "labels": {"kind": "skip"},
        "times": {"kind": "skip"},
        "brands": {"order": "newest_last"},
        "newest": {"kind": "time"},
    }


def test_a_ranker_reads_them_so(tmp_path):
    """By rule, without a declaration."""
    repo = make_shop(tmp_path / "shop")
    words = ["inputs", "--repo", str(repo), "--service", "feed", "--user", "customer_id"]
    result = CliRunner().invoke(application(), [*words, "--item", "sku", "--json", "-"])
    assert result.exit_code == 0, result.output
    kinds = {one["input"]: one["kind"] for one in json.loads(result.stdout)["inputs"]}
    assert kinds["customer_activity__customer_recent"] == "history"
    assert kinds["customer_activity__customer_last_time"] == "time"
