"""A process that takes events may die at any moment. Reads: benchmarks."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_what_was_acknowledged_survives_kills_and_counts_once(tmp_path, monkeypatch):
    """Twelve kills at random moments, every event sent until it is acknowledged."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    live = pytest.importorskip("_live")
    views = live.make_shop(tmp_path / "shop")
    found = live.survive(tmp_path / "shop", views, kills=12)
    assert found["sent"] == found["acknowledged"] == 13 * 60
    assert (found["lost"], found["doubled"], found["different"]) == (0, 0, 0)
    sys.modules.pop("_live")
