"""Fresh environments that hold the wheel of this tree."""

import os
import sys

import pytest
from fresh_environments import ROOT


def pytest_configure(config):
    config.addinivalue_line("markers", "wheel: installs the wheel into a fresh environment")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this tree."""
    if os.environ.get("ADC_WHEEL_TESTS") != "1":
        pytest.skip("installs from the package index for minutes; set ADC_WHEEL_TESTS=1 to run it")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import footprint

    return footprint.built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def environment(wheel, tmp_path_factory):
    """`environment("[serve]")` is the folder of a fresh environment with that extra."""
    import footprint

    def made(extra):
        place = tmp_path_factory.mktemp("environment") / "venv"
        footprint.installed(place, wheel, extra)
        return place

    return made
