"""A promotion runs reference rows through the offline and the online store."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trained_feed import NOW, feature_gone

from adc_features.errors import ParityError
from adc_features.ranking.multitask.trained import REFERENCE, REFERENCE_ROWS
from adc_features.serving.both_paths import check_both_paths
from adc_features.serving.workspace import Workspace
from adc_features.store.services.parity import as_requests
from training.ranker.workflow import promote_ranker


def test_the_newest_rows_are_kept_and_agree(trained_feed):
    """A ranker keeps the newest 50 rows of its log; with equal stores it is promoted without a
    warning."""
    kept = pq.read_table(trained_feed.versions["full"] / REFERENCE)
    newest = trained_feed.joined.log.table["row_id"].to_pylist()[-REFERENCE_ROWS:]
    assert kept["row_id"].to_pylist() == newest
    facts = promote_ranker(trained_feed.repo, "full", at=NOW)
    assert facts["warnings"] == []
    assert Workspace(trained_feed.repo, "full").promotion.is_file()


def test_a_feature_that_differs_online_is_refused_by_view_and_name(trained_feed):
    """Nothing is promoted where the online store lacks a feature; the message shows both values."""
    place = Workspace(trained_feed.repo, "trees").promotion
    with feature_gone(trained_feed.repo, "stock", "price"), pytest.raises(ParityError) as refused:
        promote_ranker(trained_feed.repo, "trees", at=NOW)
    assert "1 of its features differ" in str(refused.value)
    assert "stock__price (view stock): 50 of 50 rows differ" in str(refused.value)
    assert "online None" in str(refused.value)
    assert refused.value.first_differences[0]["feature"] == "stock__price"
    assert not place.exists()


def test_rows_that_came_after_the_last_materialization_are_late_and_not_wrong(trained_feed):
    """A newer price offline is not online yet; a price that was never offline is refused."""
    bundle, path = trained_feed.bundle("full"), trained_feed.repo / "stock.parquet"
    before = pq.read_table(path)
    try:
        pq.write_table(_changed(before, datetime(2026, 2, 11, tzinfo=UTC)), path)
        assert check_both_paths(bundle, at=NOW) == ()
        pq.write_table(_changed(before, datetime(2026, 1, 2, tzinfo=UTC)), path)
        with pytest.raises(ParityError, match="stock__price"):
            check_both_paths(bundle, at=NOW)
    finally:
        pq.write_table(before, path)


def _changed(rows, at):
    """With another price of everything from this time on."""
    price, when = (rows.column_names.index(n) for n in ("price", "event_timestamp"))
    later = rows.set_column(price, "price", pa.array(np.full(len(rows), 3, np.float32)))
    kind = rows["event_timestamp"].type
    return pa.concat_tables(
        [rows, later.set_column(when, "event_timestamp", pa.array([at] * len(rows), kind))]
    )


def test_scores_that_differ_on_equal_features_are_refused(trained_feed, monkeypatch):
    """A candidate that scores otherwise alone than among others is named."""
    bundle = trained_feed.bundle("full")
    plain = type(bundle.trained).served

    def wrong(self, encoded):
        score, tasks = plain(self, encoded)
        return score + 1e-5 * (len(score) == 1), tasks

    monkeypatch.setattr(type(bundle.trained), "served", wrong)
    with pytest.raises(ParityError, match=r"scores .*'customer_id'.* with .*'sku'.* apart"):
        check_both_paths(bundle, at=NOW)


def test_rows_become_the_requests_that_would_ask_for_them():
    """Rows of one user and one request are asked together, in their order."""
    rows = pa.table({"user": ["a", "b", "a", "a"], "sku": [1, 2, 3, 4], "tv": [True] * 3 + [False]})
    asked = list(as_requests(rows, user=["user"], item=["sku"], request=["tv", "other"]))
    assert [a.members.tolist() for a in asked] == [[0, 2], [1], [3]]
    assert asked[0].user == {"user": "a"}
    assert asked[0].items == {"sku": [1, 3]}
    assert asked[0].request == {"tv": True}
    assert asked[0].take(1).items == {"sku": [1]}
