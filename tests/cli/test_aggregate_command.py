"""`adc aggregate` over a directory of event files. Reads: adc_features.cli.aggregates."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from adc_features.aggregates.batch import batch_rows
from adc_features.aggregates.events import Events
from adc_features.cli.main import application
from adc_features.live.repository import declared_view

VIEWS = """\
from adc_features.aggregates.declaration import (
    AggregateView, EventStream, Grid, count, last, last_time, smoothed_mean,
)

clicks = EventStream(
    "clicks", keys={"user_id": "int64", "sku": "string"}, values={"label": Grid(20, 1.0)}
)
activity = AggregateView(
    "activity",
    clicks,
    ("user_id",),
    {
        "events": count(),
        "mean": smoothed_mean("label"),
        "recent": last(3, "sku"),
        "last_time": last_time(),
    },
)
"""
MORE = """\
profile = AggregateView("profile", clicks, ("sku",), {"last_time": last_time()})
"""


def adc(*words) -> tuple[int, str]:
    found = CliRunner().invoke(application(), ["aggregate", *map(str, words)])
    return found.exit_code, str(found.exception or "") + found.output


@pytest.fixture
def shop(tmp_path):
    """A repository that declares a view, and its events in two files."""
    repo, events = tmp_path / "repo", tmp_path / "events"
    (repo / "data").mkdir(parents=True)
    events.mkdir()
    (repo / "feature_store.yaml").write_text("project: shop\nprovider: local\n", encoding="utf-8")
    (repo / "views.py").write_text(VIEWS, encoding="utf-8")
    number = np.arange(60)
    table = pa.table(
        {
            "user_id": number % 7,
            "sku": [f"s{n % 5}" for n in number],
            "label": (number % 2).astype(float),
            "time": pa.array(number * 1_000_000).cast(pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table.slice(0, 25), events / "2026-01.parquet")
    pq.write_table(table.slice(25), events / "2026-02.parquet")
    return repo, events, table


def test_a_directory_of_events_becomes_the_rows_of_all_of_them(shop, tmp_path):
    """The files' events in the order of their names, aggregated as one history, once."""
    repo, events, table = shop
    words = ("--repo", repo, "--events", events, "--out", tmp_path / "out")
    code, said = adc(*words, "--json", tmp_path / "said.json")
    assert code == 0, said
    facts = json.loads((tmp_path / "said.json").read_text())
    rows = pq.read_table(facts["directory"])
    view = declared_view(repo, None)
    order = [("event_timestamp", "ascending"), ("user_id", "ascending")]
    expected = batch_rows(view, Events.of(view.stream, table)).sort_by(order)
    assert rows.sort_by(order).equals(expected)
    assert (facts["view"], facts["rows"]) == ("activity", 60)
    made = (tmp_path / "out/manifest.json").stat().st_mtime_ns
    assert adc(*words)[0] == 0
    assert (tmp_path / "out/manifest.json").stat().st_mtime_ns == made


def test_what_cannot_be_aggregated_is_said(shop, tmp_path):
    """A view that is not named or not there, a directory without files, and one of a table."""
    repo, events, _ = shop
    out = ("--repo", repo, "--out", tmp_path / "out")
    code, said = adc(*out, "--events", tmp_path / "repo")
    assert code != 0
    assert "holds no Parquet files" in said
    (tmp_path / "table/_delta_log").mkdir(parents=True)
    assert "is a Delta table" in adc(*out, "--events", tmp_path / "table")[1]
    (repo / "views.py").write_text(VIEWS + MORE, encoding="utf-8")
    assert "declare activity, profile; name one" in adc(*out, "--events", events)[1]
    assert "AggregateView nothing" in adc(*out, "--events", events, "--view", "nothing")[1]
    assert adc(*out, "--events", events, "--view", "profile")[0] == 0
