"""What `adc doctor` finds in a directory. Reads: adc_features.pipeline.checkup."""

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from adc_features.artifact import MANIFEST
from adc_features.data.dataset import dataset_from_tables, read_table, write_dataset
from adc_features.data.synthetic import synthetic
from adc_features.errors import InputError
from adc_features.pipeline.checkup import checkup
from adc_features.pipeline.run import Run, RunSettings, Stage


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
    """Two Parquet files without a manifest are a user's own tables:
    every finding on both is listed.
    """
    pq.write_table(
        pa.concat_tables([made.items, made.items.slice(0, 2)]), tmp_path / "items.parquet"
    )
    naive = made.interactions["time"].cast(pa.timestamp("us"))
    pq.write_table(
        made.interactions.set_column(2, "time", naive), tmp_path / "interactions.parquet"
    )
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
    """Each complete stage is verified;
    an altered file of one is named; an empty run says what to do.
    """
    run = Run.start(tmp_path / "run", RunSettings("synthetic"))
    assert [str(f) for f in checkup(tmp_path / "run")] == [
        f"{tmp_path / 'run'}: no stage is complete yet; run `adc run`"
    ]
    for name in ("one", "two"):
        run.ensure(
            Stage(name, (), (), lambda run, directory: (directory / "x").write_text("1") and {})
        )
    assert [f.level for f in checkup(tmp_path / "run")] == ["fact", "fact"]
    (tmp_path / "run" / "two" / "x").write_text("2")
    assert [e for e in errors(tmp_path / "run") if "two/x has sha256" in e]


def test_other_directories_are_refused(tmp_path):
    """A directory of no known kind, or a file, is refused with the kinds that are known."""
    with pytest.raises(
        InputError, match=r"holds no run.json, feature_store.yaml, manifest.json or items.parquet"
    ):
        checkup(tmp_path)
    with pytest.raises(InputError, match="is not a directory"):
        checkup(tmp_path / "nowhere")


def test_a_stranger_s_manifest_is_a_finding(tmp_path):
    """A manifest.json of some web page is not ours, and is said to be."""
    (tmp_path / MANIFEST).write_text(json.dumps({"name": "a web page"}))
    assert "was not written by this library" in errors(tmp_path)[0]


def test_the_dask_store_is_refused(tmp_path):
    """A Feast repository on the default offline store is an error that says why."""
    (tmp_path / "feature_store.yaml").write_text(
        "project: shop\nregistry: data/registry.db\nprovider: local\n"
    )
    assert any("dask" in e and "AsofOfflineStore" in e for e in errors(tmp_path)), checkup(tmp_path)


def test_the_windows_of_raw_tables_are_described(made, tmp_path):
    """Split dates, rows, new users and items and the base of GAUC stand in the facts; the same
    tables as CSV say the same.
    """
    items, events = made.items.select(["item_id", "category"]), made.interactions
    said = []
    for form in ("parquet", "csv"):
        directory = tmp_path / form
        directory.mkdir()
        for name, table in (("items", items), ("interactions", events)):
            if form == "parquet":
                pq.write_table(table, directory / f"{name}.parquet")
            else:
                csv.write_csv(table, directory / f"{name}.csv")
        said.append([str(f) for f in checkup(directory)])
    assert said[0] == said[1]
    start = dataset_from_tables("x", items, events).windows.test_start
    test = next(s for s in said[0] if s.startswith("windows.test"))
    rows = events.filter(
        pc.greater_equal(events["time"], pa.scalar(start, events["time"].type))
    ).to_pylist()
    classes = {
        u: {r["label"] for r in rows if r["user_id"] == u} for u in {r["user_id"] for r in rows}
    }
    both = [u for u, labels in classes.items() if len(labels) == 2]
    assert f"{len(rows)} rows from {start.isoformat()} to the end" in test
    assert (
        f"GAUC rests on {len(both)} users with both classes and their"
        f" {sum(r['user_id'] in both for r in rows)} rows" in test
    )
    assert "users are new" in test
    assert "items are new" in test
    assert any("item_path from column category" in s for s in said[0])


def test_too_little_time_names_the_options(made, tmp_path):
    """Data of one day is an error that names the options of the windows."""
    pq.write_table(made.items, tmp_path / "items.parquet")
    day = made.interactions["time"][0].as_py().replace(hour=0)
    times = pa.array(
        [day + timedelta(seconds=n) for n in range(len(made.interactions))],
        pa.timestamp("us", tz="UTC"),
    )
    pq.write_table(
        made.interactions.set_column(2, "time", times), tmp_path / "interactions.parquet"
    )
    assert "--validation-start TIME --test-start TIME" in errors(tmp_path)[0]


def test_ids_of_a_csv_file_keep_their_zeros(tmp_path):
    """A field of an id column is text: 007 stays 007, and an empty one is null."""
    (tmp_path / "items.csv").write_text("item_id,price\n007,1.5\n,2\n")
    assert read_table(str(tmp_path / "items.csv")).to_pylist() == [
        {"item_id": "007", "price": 1.5},
        {"item_id": None, "price": 2.0},
    ]
    (tmp_path / "bad.csv").write_text("item_id,price\n1,2,3\n")
    with pytest.raises(InputError, match="is not readable as CSV"):
        read_table(str(tmp_path / "bad.csv"))
