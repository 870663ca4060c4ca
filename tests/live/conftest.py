"""A shop for the tests of live views."""

import pytest
from live_world import emptied, make_shop


@pytest.fixture(scope="session")
def made_shop(tmp_path_factory):
    """An applied repository without events; not to be written."""
    return make_shop(tmp_path_factory.mktemp("live") / "shop")


@pytest.fixture
def shop(made_shop):
    """The repository, without events."""
    return emptied(made_shop)
