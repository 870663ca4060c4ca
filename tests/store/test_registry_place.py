"""Where a repository's registry is, from any process and any folder. Reads: the generated
feature_store.yaml, Feast.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from store_world import published_world

from adc_features.store.repository import check_repository, create_repository, registry_beside

READ = """
import sys
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
print(sorted(view.name for view in store.list_feature_views()))
"""
VIEWS = "['item_profile', 'item_sid_g1', 'item_sid_g2', 'user_activity']\n"


def read_by_feast(repo: Path | str, folder: Path) -> str:
    """The views that a fresh process in another folder sees through Feast alone."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(repo)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow  # starts processes that import feast, one after another
def test_every_folder_sees_the_same_registry(tmp_path):
    """Feast opened from elsewhere, by an absolute or a relative path, before and after the
    repository moved, sees what is declared and leaves no file.
    """
    repo = published_world(tmp_path / "repo")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    assert read_by_feast(repo, elsewhere) == VIEWS
    assert read_by_feast("../repo", elsewhere) == VIEWS
    assert read_by_feast(".", repo) == VIEWS
    shutil.move(repo, tmp_path / "moved")
    assert read_by_feast(tmp_path / "moved", elsewhere) == VIEWS
    assert list((elsewhere / "data").iterdir()) == []
    assert check_repository(tmp_path / "moved") == []


@pytest.mark.slow  # starts processes that import feast
def test_the_feast_command_works_from_any_folder(tmp_path):
    """`feast -c REPO` lists the same views."""
    repo = published_world(tmp_path / "repo")
    command = [
        str(Path(sys.executable).with_name("feast")),
        "-c",
        str(repo),
        "feature-views",
        "list",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(
        name in done.stdout
        for name in ("item_profile", "item_sid_g1", "item_sid_g2", "user_activity")
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("location", "wanted"),
    [
        ("sqlite:///data/registry.db", "sqlite:////repo/data/registry.db"),
        ("sqlite:///registry.db", "sqlite:////repo/registry.db"),
        (
            "sqlite:///./data/../registry.db?timeout=5",
            "sqlite:////repo/./data/../registry.db?timeout=5",
        ),
        ("sqlite+pysqlite:///data/registry.db", "sqlite+pysqlite:////repo/data/registry.db"),
        *(
            (same, same)
            for same in (
                "sqlite:////srv/registry.db",
                "sqlite:///:memory:",
                "sqlite://",
                "postgresql+psycopg://u@host/db",
                "data/registry.db",
                "",
            )
        ),
    ],
)
def test_a_relative_registry_lies_in_the_repository(location, wanted):
    """Relative SQLite files only; absolute ones, memory,
    other databases and Feast's file registry stay.
    """
    got = registry_beside(location, Path("/repo"))
    assert os.path.normpath(got) == os.path.normpath(wanted)


def test_doctor_names_the_line_where_feast_alone_would_look_elsewhere(tmp_path):
    """With none of our classes in feature_store.yaml nobody resolves a relative registry: the line,
    and what to write instead.
    """
    create_repository(tmp_path, project="world")
    path = tmp_path / "feature_store.yaml"
    config = yaml.safe_load(path.read_text())
    foreign = {
        "online_store": {"type": "sqlite", "path": "o.db"},
        "offline_store": {"type": "duckdb"},
        "batch_engine": {"type": "local"},
    }
    path.write_text(yaml.safe_dump({**config, **foreign}))
    (problem,) = check_repository(tmp_path)
    assert "`path: sqlite:///data/registry.db`" in problem
    assert f"`path: sqlite:///{tmp_path.resolve()}/data/registry.db`" in problem
    path.write_text(
        path.read_text().replace("sqlite:///data", f"sqlite:///{tmp_path.resolve()}/data")
    )
    assert check_repository(tmp_path) == []
