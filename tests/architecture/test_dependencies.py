"""What may be installed beside us. Reads: pyproject.toml, constraints.txt."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
VULNERABLE = {
    "jinja2": ("3.1.5", "CVE-2025-27516: a template breaks out of the sandbox"),
    "starlette": (
        "1.0.0",
        "CVE-2025-62727 (Range), CVE-2026-48710 (Host), CVE-2026-54283 (limits of forms)",
    ),
    "h11": ("0.14.0", "CVE-2025-43859: request smuggling through chunked bodies"),
    "torch": ("2.7.1", "CVE-2025-32434: torch.load with weights_only; CVE-2025-3730"),
    "pyarrow": (
        "23.0.0",
        "CVE-2023-47248: code in IPC and Parquet files; CVE-2026-25087: use after free",
    ),
    "scikit-learn": ("1.4.2", "CVE-2024-5206: training text in an attribute"),
    "pydantic": ("2.3.0", "CVE-2024-3772: slow patterns for addresses"),
    "transformers": ("4.52.4", "CVE-2025-6638 and others: slow patterns"),
}
"""The last version known to be vulnerable, and why."""


def requirements() -> dict[str, Requirement]:
    """Every requirement of the project and of its extras, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    return {r.name.lower(): r for r in map(Requirement, listed)}


@pytest.mark.parametrize("name", VULNERABLE)
def test_a_lower_bound_excludes_versions_that_are_known_to_be_vulnerable(name):
    """The last vulnerable version may not be installed."""
    assert not requirements()[name].specifier.contains(VULNERABLE[name][0]), VULNERABLE[name][1]


def test_the_pinned_versions_are_within_the_bounds():
    """constraints.txt names a version that pyproject.toml allows."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(
        line.lower().split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.+-]+", line)
    )
    assert [
        str(r)
        for name, r in requirements().items()
        if name in pinned and not r.specifier.contains(pinned[name])
    ] == []
    assert len(pinned) > 80
