"""Items in files, and the generation that encodes them."""

from pathlib import Path

import pytest
from encoding_world import catalogue, write
from items_world import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a fitted generation and a repository that has its codes as of day 0."""
    directory = tmp_path_factory.mktemp("encoding")
    make_run(directory)
    return directory


@pytest.fixture(scope="session")
def generation(run: Path) -> Path:
    """The directory of the generation."""
    return run / "generation" / "generation"


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """The catalogue's files."""
    return write(catalogue(), tmp_path / "items")


@pytest.fixture
def packed(run: Path) -> Path:
    """The published snapshot as of day 0."""
    (file,) = (run / "feature_repo").glob("data/item_sid_g1/packed/*.sids")
    return file
