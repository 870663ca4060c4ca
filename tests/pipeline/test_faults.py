"""The quick version of benchmarks/faults.py. Reads: benchmarks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = ["killed_publishes", "full_disk", "two_writers", "read_only_directory", "clock_steps_back"]


@pytest.mark.slow
def test_publishing_survives_kills_full_disks_and_rivals(tmp_path):
    """A few kills, full disks, two writers, a read-only directory and a jumping clock: every state
    is the one before or after, none is lost.
    """
    report = tmp_path / "faults.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "faults.py"),
        "--kills",
        "3",
        "--only",
        *QUICK,
        "--json",
        str(report),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(report.read_text())
    assert facts["lost"] == 0
    assert set(facts["faults"]) == set(QUICK)
    assert facts["tried"] > 10
