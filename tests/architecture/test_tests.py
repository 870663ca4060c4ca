"""Tests say what they show, and show it. Reads: the tests."""

import ast
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))
CHECKS = ("raises", "warns", "fail")


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    """Every function, inner ones and those of classes included."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]


def called(node: ast.AST) -> set[str]:
    """The last names of what is called."""
    return {
        n.func.attr if isinstance(n.func, ast.Attribute) else getattr(n.func, "id", "")
        for n in ast.walk(node)
        if isinstance(n, ast.Call)
    }


def checks(node: ast.AST, helpers: frozenset[str] = frozenset()) -> bool:
    """Whether something in it can fail: an assert, `pytest.raises`, a subprocess whose exit
    code is checked, or a helper that has one of them.
    """
    names = called(node)
    return (
        any(isinstance(n, ast.Assert) for n in ast.walk(node))
        or bool(names & {*CHECKS, *helpers})
        or any(name.startswith("assert_") for name in names)
        or any(ast.unparse(n) == "check=True" for n in ast.walk(node) if isinstance(n, ast.keyword))
    )


def every_test() -> list[tuple[str, ast.FunctionDef, frozenset[str]]]:
    """(file, test, names of the functions of its file that check something)."""
    found = []
    for path in FILES:
        inside = functions(ast.parse(path.read_text(encoding="utf-8")))
        helpers = frozenset(f.name for f in inside if checks(f))
        found += [
            (path.relative_to(ROOT).as_posix(), f, helpers)
            for f in inside
            if f.name.startswith("test_")
        ]
    return found


def test_every_test_asserts_something():
    """A test that only runs code passes whatever the code does."""
    found = every_test()
    assert len(found) > 500
    assert [f"{where}:{test.name}" for where, test, h in found if not checks(test, h)] == []


def test_every_test_says_in_a_sentence_what_holds():
    """The docstring is the statement that the test proves."""
    assert [
        f"{where}:{test.name}"
        for where, test, _ in every_test()
        if not (ast.get_docstring(test) or "").rstrip().endswith(".")
    ] == []


def test_markers_are_registered_and_the_long_way_runs_them_all():
    """`make test` leaves out what `.ci/run` runs: both read the markers of pyproject.toml."""
    pytest_settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "pytest"
    ]["ini_options"]
    registered = {line.partition(":")[0] for line in pytest_settings["markers"]}
    used = {
        n.attr
        for path in FILES
        for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "pytest.mark"
    }
    assert used - registered - {"parametrize", "skipif", "filterwarnings", "usefixtures"} == set()
    assert "make test-all" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_no_two_test_modules_share_a_name():
    """pytest imports them by their names alone, and leaves the second one out."""
    counts = Counter(path.name for path in FILES if path.name.startswith("test_"))
    assert [name for name, count in counts.items() if count > 1] == []
