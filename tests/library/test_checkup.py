"""What `adc doctor` finds in a directory. Reads: adc_features.checkup."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adc_features.artifact import MANIFEST
from adc_features.checkup import checkup
from adc_features.dataset import write_dataset
from adc_features.errors import InputError
from adc_features.run import Run, RunSettings, Stage
from adc_features.synthetic import synthetic


@pytest.fixture(scope="module")
def made():
    return synthetic(seed=0, items=120, users=100, interactions=900).dataset


def errors(directory):
    return [str(f) for f in checkup(directory) if f.level == "error"]


def test_a_dataset_directory_is_examined(made, tmp_path):
    """Its tables are examined, and a file that was exchanged is named."""
    write_dataset(made, tmp_path)
    assert errors(tmp_path) == []
    assert any("labels" in f.where or "label" in f.where for f in checkup(tmp_path))
    pq.write_table(made.items.slice(1), tmp_path / "items.parquet")
    assert "items.parquet has sha256" in errors(tmp_path)[0]


def test_raw_tables_are_examined(made, tmp_path):
    """Two Parquet files without a manifest are a user's own tables: every finding on both is listed."""
    pq.write_table(pa.concat_tables([made.items, made.items.slice(0, 2)]), tmp_path / "items.parquet")
    naive = made.interactions["time"].cast(pa.timestamp("us"))
    pq.write_table(made.interactions.set_column(2, "time", naive), tmp_path / "interactions.parquet")
    assert [e.split(";")[0] for e in errors(tmp_path)] == [
        "items.item_id: 2 rows repeat an item id (first i000000)",
        "interactions.time: times have no time zone",
    ]


@pytest.mark.parametrize("name", ["items.parquet", "interactions.parquet"])
def test_a_missing_or_broken_table_is_a_finding(made, tmp_path, name):
    """The doctor says what is wrong with a file instead of failing on it."""
    for table in ("items", "interactions"):
        pq.write_table(getattr(made, table), tmp_path / f"{table}.parquet")
    (tmp_path / name).write_bytes(b"PAR1 and then nothing")
    assert f"{name} is not readable as Parquet" in errors(tmp_path)[0]


def test_a_run_is_examined_stage_by_stage(tmp_path):
    """Each complete stage is verified; an altered file of one is named; an empty run says what to do."""
    run = Run.start(tmp_path / "run", RunSettings("synthetic"))
    assert [str(f) for f in checkup(tmp_path / "run")] == [f"{tmp_path / 'run'}: no stage is complete yet; run `adc run`"]
    for name in ("one", "two"):
        run.ensure(Stage(name, (), (), lambda run, directory: (directory / "x").write_text("1") and {}))
    assert [f.level for f in checkup(tmp_path / "run")] == ["fact", "fact"]
    (tmp_path / "run" / "two" / "x").write_text("2")
    assert [e for e in errors(tmp_path / "run") if "two/x has sha256" in e]


def test_other_directories_are_refused(tmp_path):
    """A directory of no known kind, or a file, is refused with the kinds that are known."""
    with pytest.raises(InputError, match=r"holds no run.json, feature_store.yaml, manifest.json or items.parquet"):
        checkup(tmp_path)
    with pytest.raises(InputError, match="is not a directory"):
        checkup(tmp_path / "nowhere")


def test_a_stranger_s_manifest_is_a_finding(tmp_path):
    """A manifest.json of some web page is not ours, and is said to be."""
    (tmp_path / MANIFEST).write_text(json.dumps({"name": "a web page"}))
    assert "was not written by this library" in errors(tmp_path)[0]


def test_the_dask_store_is_refused(tmp_path):
    """A Feast repository on the default offline store is an error that says why."""
    (tmp_path / "feature_store.yaml").write_text("project: shop\nregistry: data/registry.db\nprovider: local\n")
    assert any("dask" in e and "AsofOfflineStore" in e for e in errors(tmp_path)), checkup(tmp_path)
