"""The leak audit, on frames of ours and of others."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_world import DAY, day, frame, published_world, times
from typer.testing import CliRunner

from adc_features import store
from adc_features.cli.main import application
from adc_features.errors import ArtifactError, InputError, LeakError
from adc_features.pipeline.audit import audit


def written(path, **columns):
    pq.write_table(pa.table(columns), path / "frame.parquet", row_group_size=2)
    return path / "frame.parquet"


def test_ages_misses_and_features_at_the_label_are_counted(tmp_path):
    """By hand: ages of one day, of zero, a miss and half an hour, over two row groups."""
    known = [day(1), day(3), None, day(4) - timedelta(minutes=30)]
    path = written(
        tmp_path, event_timestamp=times([day(2), day(3), day(3), day(4)]), v_event_time=times(known)
    )
    found = audit(path).views["v"]
    assert (found.rows, found.none, found.future, found.at_label) == (4, 1, 0, 1)
    assert {name: n for name, n in found.ages.items() if n} == {"0": 1, "1h": 1, "1d": 1}
    assert (found.youngest_s, found.oldest_s, found.mean_s) == (0, 86_400, (86_400 + 1_800) / 3)
    assert audit(path, close=timedelta(hours=1)).views["v"].at_label == 2
    audit(path).require_clean()


def test_a_feature_from_the_future_fails(tmp_path):
    """One microsecond is enough; view, column and first row are named. Frames of others name their
    columns; integers are microseconds.
    """
    late = int((day(3) + timedelta(microseconds=1)).timestamp() * 1e6)
    path = written(tmp_path, at=times([day(1), day(2), day(3)]), seen=pa.array([0, -1, late + 0]))
    found = audit(path, row_time="at", feature_times={"user": "seen"})
    assert (found.views["user"].none, found.views["user"].ages["future"]) == (1, 1)
    with pytest.raises(
        LeakError, match=r"1 of 3 rows read user from the future \(column seen, first: row 2"
    ):
        found.require_clean()
    ran = CliRunner().invoke(
        application(),
        ["audit", str(path), "--row-time", "at", "--feature-time", "user=seen", "--json", "-"],
    )
    assert isinstance(ran.exception, LeakError)  # run_app turns it into exit code 1
    assert '"future": 1' in ran.output


def test_the_label_has_a_time_of_its_own(tmp_path):
    """A feature is suspicious when it became valid just before the label, not just before
    the row.
    """
    path = written(
        tmp_path, at=times([day(5)]), label_at=times([day(5) + DAY]), seen=times([day(5)])
    )
    assert (
        audit(path, row_time="at", feature_times={"v": "seen"}, label_time="label_at")
        .views["v"]
        .at_label
        == 0
    )
    assert (
        audit(path, row_time="at", feature_times={"v": "seen"}, label_time="label_at", close=DAY)
        .views["v"]
        .at_label
        == 1
    )


def test_what_cannot_be_audited_is_refused(tmp_path):
    """Not Parquet, no feature times, missing columns, other types."""
    path = written(tmp_path, event_timestamp=times([day(1)]), text=["x"])
    with pytest.raises(InputError, match="--feature-time"):
        audit(path)
    with pytest.raises(InputError, match="no column seen"):
        audit(path, feature_times={"v": "seen"})
    with pytest.raises(InputError, match="text is of type string"):
        audit(path, feature_times={"v": "text"})
    with pytest.raises(ArtifactError, match="no file"):
        audit(tmp_path / "absent.parquet")


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return published_world(tmp_path_factory.mktemp("audit") / "repo")


def test_joined_frames_carry_the_time_of_what_they_read(repo, tmp_path):
    """With event_times each view says when the row it read became valid; the audit of such a frame
    is clean and counts the join's misses.
    """
    rows = frame([("u", "a", day(16)), ("v", "c", day(10)), ("u", "nobody", day(30))])
    joined = store.training_features(repo, rows, service="ranker_g1", event_times=True)
    assert joined["item_profile_event_time"].to_pylist() == [day(15), None, None]
    assert joined["user_activity_event_time"].to_pylist() == [day(15), None, day(15)]
    assert joined["item_sid_g1_event_time"].to_pylist() == [day(10.25), None, None]
    plain = store.training_features(repo, rows, service="ranker_g1")
    assert joined.select(plain.column_names).equals(plain)
    pq.write_table(joined, tmp_path / "frame.parquet")
    found = audit(tmp_path / "frame.parquet")
    assert {
        view: found.views[view].none for view in store.join_facts(joined).unmatched
    } == store.join_facts(joined).unmatched
    found.require_clean()
