"""The quick version of benchmarks/own_features.py. Reads: benchmarks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "own_features.py"
SMALL = {
    "users": 60,
    "items": 300,
    "rows": 1_600,
    "candidates": 50,
    "rate": 10,
    "seconds": 1,
    "repeats": 1,
    "encoded-rows": 2_000,
    "parity-rows": 80,
    "ids": 50_000,
}


def run(folder, *parts):
    """The report of these parts, as small as possible."""
    report = folder / "report.json"
    sizes = [word for name, size in SMALL.items() for word in (f"--{name}", str(size))]
    command = [sys.executable, str(BENCHMARK), *sizes, "--only", *parts, "--json", str(report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text())


def test_a_vocabulary_is_measured_in_a_process_of_its_own(tmp_path):
    """The report has the load time and the peak memory of that process."""
    found = run(tmp_path, "vocabulary")["vocabulary"]
    assert found["ids"] == 50_000
    assert 0 < found["load_s"] < 60
    assert found["peak_rss_bytes"] > 10_000_000
    assert found["text"]["fit_peak_rss_bytes"] > found["text"]["fit_added_rss_bytes"] >= 0


@pytest.mark.slow
def test_every_part_of_a_feed_is_measured(tmp_path):
    """A small feed is trained, promoted and served; both stores score as the join does."""
    report = run(tmp_path, "rank", "stores", "inputs", "parity")
    assert sum(report["features"].values()) == 40
    assert report["rank"]["failed"] == 0
    assert report["rank"]["p50_ms"] > 0
    assert set(report["stores"]) == set(report["parity"]) == {"lmdb", "sqlite"}
    assert report["inputs"]["values_per_cpu_s"] > 0
    for store in report["parity"].values():
        assert store["rows"] == 80
        assert store["max_difference"] <= 1e-6
