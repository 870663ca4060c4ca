"""Served values against history. Reads: logs, a repository. Writes: reports."""

import shutil
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served_world import apply_views, at, definitions

from adc_features.served.audit import EXAMPLES, served_skew
from adc_features.served.log import LogSettings, ServedLog
from adc_features.served.page import write_page


@pytest.fixture(scope="module")
def log(small_feed, tmp_path_factory):
    """Every request of the shop, served as of its time."""
    return small_feed.log(tmp_path_factory.mktemp("audited"))


@pytest.fixture
def copy(small_feed, tmp_path):
    """A copy of the repository, to break."""
    shutil.copytree(small_feed.repo, tmp_path / "repo")
    return tmp_path / "repo"


def differing(report):
    return {name for name, one in report.features.items() if one.different + one.one_absent}


def test_what_our_own_stack_served_is_what_history_says(small_feed, log):
    """No value of any feature differs in any bit, on-demand features and lists included."""
    report = served_skew(log, small_feed.repo)
    assert report.different == 0
    assert report.gone == []
    assert report.requests == len(small_feed.shown)
    assert set(report.features) == set(small_feed.bundle.trained.features)
    assert report.features["shelf__worth"].n == report.candidates
    assert report.features["profile__segment"].n == report.requests
    assert report.features["affinity__visits"].both_absent > 0
    assert all(one.examples == [] for one in report.features.values())


def test_a_feature_that_was_served_stale_is_named(copy, log):
    """Prices rose halfway and were never materialized: the requests since then read old ones."""
    source = copy / "stock.parquet"
    old = pq.read_table(source)
    raised = pa.array(np.asarray(old["price"]) + np.float32(1))
    new = old.set_column(old.column_names.index("price"), "price", raised)
    times = pa.array([at(20)] * len(old), pa.timestamp("us", "UTC"))
    new = new.set_column(old.column_names.index("event_timestamp"), "event_timestamp", times)
    pq.write_table(pa.concat_tables([old, new]), source)
    (copy / "definitions.py").write_text(definitions())
    apply_views(copy)
    report = served_skew(log, copy)
    assert differing(report) == {"stock__price"}
    found = report.features["stock__price"]
    assert 0 < found.different < found.n
    assert found.max_difference == pytest.approx(1, abs=1e-3)
    assert len(found.examples) == EXAMPLES
    first = found.examples[0]
    assert first["event_timestamp"] >= at(20)
    assert {"customer_id", "sku", "request_id", "pair", "served", "joined"} <= set(first)


def test_a_transform_that_changed_is_named(copy, log):
    """An on-demand view that computes otherwise today is the feature that differs."""
    (copy / "definitions.py").write_text(definitions(factor=3.0))
    apply_views(copy)
    assert differing(served_skew(log, copy)) == {"shelf__worth"}


def test_a_value_that_one_side_lacks_is_a_difference(copy, log):
    """A view whose history lost its rows has values on the served side alone."""
    source = copy / "affinity.parquet"
    pq.write_table(pq.read_table(source).slice(0, 1), source)
    apply_views(copy)
    report = served_skew(log, copy)
    assert differing(report) == {"affinity__visits"}
    found = report.features["affinity__visits"]
    assert found.one_absent > 0
    assert found.different == 0


def test_a_sample_is_of_whole_requests_and_the_page_shows_what_was_found(small_feed, log, tmp_path):
    """Ten requests have ten times eight candidates; the page names every feature."""
    report = served_skew(log, small_feed.repo, sample=10)
    assert (report.requests, report.candidates) == (10, 80)
    write_page(tmp_path / "skew.html", report)
    page = (tmp_path / "skew.html").read_text()
    assert "Every served value is what history says" in page
    assert "stock__price" in page


def test_values_are_compared_as_of_the_publish_time_that_was_read(small_feed, copy, tmp_path):
    """Where the log knows served_as_of, a row of history after it was not to be read, although
    the request's now is later."""
    from dataclasses import replace

    log = ServedLog(tmp_path / "log", LogSettings())
    one = small_feed.shown[-1]
    records = []

    class Kept:
        samples = keeps_values = staticmethod(lambda request_id: True)
        offer = staticmethod(records.append)

    small_feed.serve(Kept(), [one])
    log.offer(replace(records[0], served_as_of=one["at"] - timedelta(hours=1)))
    log.close()
    source = copy / "stock.parquet"
    old = pq.read_table(source)
    later = pa.array([one["at"] - timedelta(minutes=1)] * len(old), pa.timestamp("us", "UTC"))
    place = old.column_names.index("event_timestamp")
    price = pa.array(np.asarray(old["price"]) + np.float32(1))
    new = old.set_column(place, "event_timestamp", later)
    new = new.set_column(old.column_names.index("price"), "price", price)
    pq.write_table(pa.concat_tables([old, new]), source)
    (copy / "definitions.py").write_text(definitions())
    apply_views(copy)
    assert served_skew(tmp_path / "log", copy).different == 0
