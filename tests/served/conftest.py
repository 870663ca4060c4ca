"""Fixtures of served logs."""

import pytest


@pytest.fixture(scope="session")
def small_feed(tmp_path_factory):
    """A shop with a ranker that serves; tests read it."""
    from served_world import open_small_feed

    return open_small_feed(tmp_path_factory.mktemp("served") / "repo")
