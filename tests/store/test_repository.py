"""Repositories on disk: creation, settings, what the doctor says."""

import subprocess
import sys
from pathlib import Path

import pytest
from store_world import day, generation, snapshot

from adc_features import store
from adc_features.errors import ArtifactError, InputError
from adc_features.store.repository import read_config, settings

COMMITTED = Path(__file__).parents[2] / "feature_repo"
OURS = "type: adc_features.store.offline_store.AsofOfflineStore"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    store.create_repository(tmp_path, project="world")
    return tmp_path


def edit(repo: Path, old: str, new: str) -> None:
    path = repo / "feature_store.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_committed_repository_is_what_we_write(tmp_path):
    """feature_repo/ in the tree equals a freshly created repository."""
    store.create_repository(tmp_path, project="adc_features")
    written = {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()}
    assert written == {name: (COMMITTED / name).read_text() for name in written}


def test_creating_twice_keeps_what_the_user_changed(repo):
    """A second create_repository changes no file; one for another project is refused."""
    edit(repo, "join_rows: 100000", "join_rows: 7")
    store.create_repository(repo, project="world")
    assert settings(repo).join_rows == 7
    with pytest.raises(InputError, match="belongs to project 'world'"):
        store.create_repository(repo, project="other")


@pytest.mark.parametrize("project", ["", "_x", "a b", "é"])
def test_a_project_name_that_feast_refuses_is_refused_at_once(tmp_path, project):
    """Nothing is written for a bad project name."""
    with pytest.raises(InputError, match="expected letters"):
        store.create_repository(tmp_path / "new", project=project)
    assert not (tmp_path / "new").exists()


def test_a_fresh_repository_is_healthy(repo):
    """The doctor finds nothing in what create_repository wrote."""
    assert store.check_repository(repo) == []


@pytest.mark.parametrize(("old", "new"), [(OURS, "type: dask"), (OURS, "type: file")])
def test_the_dask_store_is_refused_with_a_reason(repo, old, new):
    """The doctor names the store that loses rows, and a join does not even start."""
    edit(repo, old, new)
    (problem,) = store.check_repository(repo)
    assert "9,309 of 10,000" in problem
    assert "AsofOfflineStore" in problem


def test_no_offline_store_means_dask(repo):
    """Leaving the offline store out falls to Feast's default, which is the refused one."""
    path = repo / "feature_store.yaml"
    path.write_text(
        "\n".join(
            line
            for line in path.read_text().splitlines()
            if "AsofOfflineStore" not in line and "offline_store" not in line
        )
    )
    assert "Feast's default" in store.check_repository(repo)[0]


@pytest.mark.parametrize("block", ["join_rows: 0", "join_rows: many", "join_row: 5"])
def test_our_settings_are_validated(repo, block):
    """A wrong value or an unknown name in the adc_features block is named."""
    edit(repo, "join_rows: 100000", block)
    with pytest.raises(InputError, match="join_row"):
        settings(repo)
    assert len(store.check_repository(repo)) == 1


def test_missing_and_broken_files_are_named(repo, tmp_path):
    """No yaml, yaml that is none, a missing declaration file, slow materialization: each is one
    plain sentence.
    """
    assert "is missing" in store.check_repository(tmp_path / "nowhere")[0]
    with pytest.raises(ArtifactError, match="create_repository"):
        read_config(tmp_path / "nowhere")
    (repo / "item_sids.py").unlink()
    edit(repo, "pull_latest_features: true", "pull_latest_features: false")
    assert [p.split()[0] for p in store.check_repository(repo)] == [
        "materialization.pull_latest_features",
        "item_sids.py",
    ]
    (repo / "feature_store.yaml").write_text("a: [")
    assert "is not YAML" in store.check_repository(repo)[0]


def test_a_repository_of_one_s_own_needs_none_of_our_files(tmp_path):
    """With any views, live ones too, and without a materialization block; a store that loses rows
    is a fault there as well.
    """
    yaml = tmp_path / "feature_store.yaml"
    ours = "adc_features.store.offline_store.AsofOfflineStore"
    yaml.write_text(f"project: own\nprovider: local\noffline_store: {{type: {ours}}}\n")
    assert store.check_repository(tmp_path) == []
    yaml.write_text("project: own\nprovider: local\n")
    assert "Feast's default" in store.check_repository(tmp_path)[0]


def test_a_live_generation_without_its_rows_is_found(repo):
    """The doctor opens every publication: a missing one and an altered file are named."""
    store.publish(
        repo, generation(), [snapshot(day(10), 1)], servable_at=[day(10)], computed_at=day(30)
    )
    assert store.check_repository(repo) == []
    (rows,) = (repo / "data/item_sid_g1/rows").iterdir()
    rows.write_bytes(rows.read_bytes() + b"x")
    assert "was altered" in store.check_repository(repo)[0]
    (repo / "data/item_sid_g1").rename(repo / "elsewhere")
    assert "g1 is live, but" in store.check_repository(repo)[0]


def test_publishing_needs_no_feast():
    """The store package and its file work stay light: importing it brings neither feast nor torch
    nor pandas.
    """
    code = (
        "import adc_features.store, sys; print([m for m in ('feast', 'torch', 'pandas') if m in"
        " sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
