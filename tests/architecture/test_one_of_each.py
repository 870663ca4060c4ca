"""What is made in one place stays there. Reads: the source tree, docs/api.md, pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("what", "text", "places"),
    [
        ("a lock on a file", r"\bfcntl\b", {"file_lock.py"}),
        ("an environment of templates", r"jinja2\.Environment\(", {"html_page.py"}),
        # a served log keeps its segments open for minutes, and syncs them itself
        ("what is synced to the disk", r"\bos\.fsync\(", {"artifact.py", "served/segments.py"}),
        ("a file of lines that grows", r"\.open\(\"a", {"artifact.py"}),
        ("a hash of a file's bytes", r"def file_hash\(", {"artifact.py"}),
    ],
)
def test_there_is_one_of_each(what, text, places):
    """Locks, templates, atomic writes and appended lines have one implementation."""
    found = {
        path.relative_to(ROOT).as_posix().removeprefix("adc_features/")
        for top in ("adc_features", "training")
        for path in (ROOT / top).rglob("*.py")
        if re.search(text, path.read_text(encoding="utf-8"))
    }
    assert found == places, what


def extras() -> dict[str, list[str]]:
    """Extra -> what it requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"]


def test_the_page_lists_every_extra_and_what_all_of_them_hold():
    """docs/api.md names each extra but `dev`, and those that `[all]` installs."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("## Extras", 1)[1]
    rows = dict(re.findall(r"^\| (`.+`) \| (.+) \|$", text, re.MULTILINE))
    named = {name for cell in rows for name in re.findall(r"`([\w-]+)`", cell)}
    assert named == set(extras()) - {"dev"}
    (held,) = (re.search(r"\[(.*)\]", line)[1].split(",") for line in extras()["all"])
    assert re.findall(r"`([\w-]+)`", rows["`all`"]) == held
