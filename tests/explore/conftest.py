"""A small repository that the explorer opens."""

import pytest
from explore_world import explored_repository
from served_world import open_small_feed
from starlette.testclient import TestClient

from adc_features.explore.app import application
from adc_features.explore.building import ensure_index
from adc_features.explore.index import Index
from adc_features.explore.pages import Explorer
from adc_features.explore.place import place_of
from adc_features.serving.promotion import promote
from adc_features.serving.workspace import Workspace


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """The repository and its table of titles, made once; tests read them."""
    return explored_repository(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="session")
def explorer(explored):
    """An open explorer of the repository."""
    repo, titles = explored
    place = place_of(repo=repo, items=titles)
    made = Explorer(Index(ensure_index(place), place))
    yield made
    made.index.close()


@pytest.fixture(scope="session")
def client(explorer):
    """A client of the explorer without a token."""
    with TestClient(application(explorer)) as client:
        yield client


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A small repository of its own features whose ranker serves, and the log of its requests."""
    folder = tmp_path_factory.mktemp("own")
    feed = open_small_feed(folder / "repo", rows=600)
    promote(Workspace(feed.repo, "small").promotion, feed.bundle.promotion)
    return feed, feed.log(folder / "log")
