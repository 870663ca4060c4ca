"""The dataset stage's retrieval manifest, and its proof, over a published repository."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_world import day, published_world, times

from adc_features.artifact import write_json
from adc_features.errors import ArtifactError
from training import stages


def test_the_dataset_is_proved_equal_or_its_differences_are_named(tmp_path, monkeypatch):
    """Rows on disk and joined anew equal the manifest; a changed file is named by its column,
    changed data by the join.
    """
    repo = published_world(tmp_path / "repo")
    log = pa.table(
        {
            "user_id": ["u", "v"],
            "item_id": ["a", "b"],
            "time": times([day(16), day(21)]),
            "label": [1.0, 0.0],
        }
    )
    monkeypatch.setattr(stages, "repository_of", lambda run: repo)
    monkeypatch.setattr(stages, "known_interactions", lambda run: log)
    run = SimpleNamespace(
        settings=SimpleNamespace(generation="g1", refresh=None), output=lambda stage: tmp_path
    )
    joined = stages.joined_rows(run)
    manifest = stages._retrieved(joined)
    pq.write_table(joined, tmp_path / stages.FRAME, row_group_size=1)
    write_json(tmp_path / "retrieval.json", manifest)
    assert set(manifest["views"]) == {"item_sid_g1", "item_profile", "user_activity"}
    assert stages.verify_dataset(run) == {"rows": 2, "content_hash": manifest["content_hash"]}
    monkeypatch.setattr(
        stages, "known_interactions", lambda run: log.set_column(3, "label", pa.array([0.0, 1.0]))
    )
    with pytest.raises(ArtifactError, match="the join: column label"):
        stages.verify_dataset(run)
