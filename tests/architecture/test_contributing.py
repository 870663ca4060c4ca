"""CONTRIBUTING describes the tree that there is. Reads: CONTRIBUTING.md, the source tree, the
Makefile, the workflow, pyproject.toml.
"""

import ast
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def rows(header: str) -> list[list[str]]:
    """The cells of the table under that header."""
    table = TEXT.split(header)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def packages(top: str) -> set[str]:
    """The folders directly below a package that hold code."""
    return {f"{top}/{p.parent.name}" for p in (ROOT / top).glob("*/__init__.py")}


def test_the_tree_is_described_whole():
    """Every folder of the library, of training and of the tests stands in the table, no other."""
    named = {name for row in rows("| Folder | What") for name in re.findall(r"`([\w/]+)`", row[0])}
    assert named - {"tests"} == packages("adc_features") | packages("training")


def defined(folder: str) -> set[str]:
    """Names of the functions and classes of a folder."""
    return {
        node.name
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def test_each_question_leads_to_code():
    """The folder and the names of each answer exist."""
    answers = rows("| Question |")
    assert len(answers) == 5
    for question, folder, names in answers:
        lacking = set(re.findall(r"`(\w+)`", names)) - defined(folder.strip("`"))
        assert lacking == set(), question


def test_every_make_target_is_described():
    """CONTRIBUTING names the targets of the Makefile that check something, and they exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    told = set(re.findall(r"^ {4}make ([a-z-]+)", TEXT, re.MULTILINE))
    assert told <= targets
    assert {"test", "test-all", "check", "coverage", "audit"} <= told


def listed(name: str) -> list[str]:
    """The versions of one axis of the workflow's matrix."""
    return re.findall(r'"([\d.]+)"', re.search(rf"^ +{name}: \[(.*)\]$", WORKFLOW, re.MULTILINE)[1])


def test_the_workflow_tests_what_is_claimed():
    """Python from the lowest version that installs to 3.13, and Feast at the pinned version."""
    assert listed("python") == ["3.11", "3.12", "3.13"]
    claimed = SpecifierSet(PROJECT["requires-python"])
    assert [v for v in ("3.10", *listed("python")) if claimed.contains(v)] == listed("python")
    feast = next(
        r for r in map(Requirement, PROJECT["dependencies"]) if r.name.lower() == "feast"
    ).specifier
    pinned = re.search(
        r"^feast==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )[1]
    assert pinned in listed("feast")
    assert [v for v in listed("feast") if not feast.contains(v)] == []
    minor = {v.rsplit(".", 1)[0] for v in listed("feast")}
    untested = [f"0.{n}" for n in range(60, 80) if f"0.{n}" not in minor]
    assert [v for v in untested if feast.contains(f"{v}.0")] == []


def test_the_workflow_names_no_package_index():
    """Packages come from wherever the machine's own settings say."""
    assert re.findall(r"://|--index|INDEX_URL", WORKFLOW) == []
