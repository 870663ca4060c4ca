"""Fixtures that several files share."""

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)  # on a shared machine an example may be slow
settings.load_profile("busy")


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Published, materialized and trained once; tests read it."""
    from serving_world import open_shop

    return open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def trained_feed(tmp_path_factory):
    """A repository with a known truth and its trained rankers, made once; tests read it."""
    from trained_feed import open_trained_feed

    return open_trained_feed(tmp_path_factory.mktemp("feed") / "repo")
