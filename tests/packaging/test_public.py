"""The public names. Reads: docs/api.md, the packages' `__all__`, the packages."""

import ast
import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from adc_features import extras
from adc_features.errors import AdcError, MissingExtraError

ROOT = Path(__file__).parents[2]
MODULES = ("adc_features.tokenizer.fit", "adc_features.tokenizer.encode")
"""Their names are those of functions, so the package cannot offer both."""


def documented() -> dict[str, set[str]]:
    """Of each package the names that docs/api.md lists, with a sentence each."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `([\w.]+)`", line):
            names = found.setdefault(heading[1], set())
        elif line.startswith("## "):  # what follows lists no names
            names = set()
        elif row := re.fullmatch(r"\| `(\w+)` \| \S.{9,} \|", line):
            assert row[1] not in names
            names.add(row[1])
    return found


def called(kind: type) -> str:
    """The lower-case name under which a declaration makes a kind of input."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


PUBLIC = documented()
NAMES = [(package, name) for package, names in PUBLIC.items() for name in sorted(names)]


@pytest.mark.parametrize("package", [p for p in PUBLIC if p not in MODULES])
def test_the_page_lists_what_the_package_exports(package):
    """`__all__` of a package is what docs/api.md lists for it."""
    assert sorted(importlib.import_module(package).__all__) == sorted(PUBLIC[package])


def test_the_page_lists_every_package_that_exports_names():
    """No room of the library declares names that the page leaves out; packages within one may."""
    exporting = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "adc_features").glob("*/__init__.py")
        if re.search(r"^__all__ = \[\s*\S", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert exporting - {"adc_features"} == {p for p in PUBLIC if p not in MODULES} - {
        "adc_features.errors"
    }


def test_the_site_has_a_page_for_every_package():
    """Each package of docs/api.md stands among the generated pages of the site."""
    hooks = ast.parse((ROOT / "docs" / "_hooks.py").read_text(encoding="utf-8"))
    (pages,) = (
        ast.literal_eval(node.value)
        for node in hooks.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "PACKAGES"
    )
    listed = {package.split(".")[1] for package in PUBLIC} - {"errors"}  # it has a page of its own
    assert listed <= set(pages)


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_is_there_and_says_what_it_is(package, name):
    """Each listed name can be imported from its package and has a docstring."""
    value = getattr(importlib.import_module(package), name)
    if not isinstance(value, type | types.FunctionType):
        return  # a constant: the page says what it is
    assert name in (value.__name__, called(value))
    assert value.__module__.startswith(package)
    assert len(value.__doc__) > 20


@pytest.mark.parametrize(
    "package", ["codes", "data", "encoders", "inputs", "loader", "ranking", "serving"]
)
def test_types_and_values_come_from_the_same_modules(package):
    """What type checkers read under TYPE_CHECKING names the modules that the names come from."""
    text = (ROOT / "adc_features" / package / "__init__.py").read_text(encoding="utf-8")
    typed = {
        alias.name: node.module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module or "").startswith(f"adc_features.{package}.")
    }
    values = ast.literal_eval(re.search(r"__name__,\s*(\{.*?\})", text, re.DOTALL)[1])
    assert typed == {n: f"adc_features.{package}.{module}" for n, module in values.items()}


def test_packages_import_nothing_before_a_name_is_read():
    """Importing the packages with lazy names imports neither NumPy nor pyarrow."""
    code = (
        "import sys;"
        "from adc_features import codes, data, encoders, inputs, loader, ranking, serving;"
        "from adc_features.inputs import Ranker, infer, number;"
        "print(*[m for m in ('numpy', 'pyarrow', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_a_name_that_is_not_there_is_an_attribute_error():
    """A misspelled name fails as in any module."""
    from adc_features import codes

    with pytest.raises(AttributeError, match=r"'adc_features\.codes' has no attribute 'SidTabel'"):
        _ = codes.SidTabel


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch):
    """Without torch the loader of tensors says what to install; the error is an ImportError too."""
    from adc_features import loader

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "adc_features.loader.torch_batches", raising=False)
    with pytest.raises(MissingExtraError, match=r'pip install "adc-features\[train\]"') as caught:
        _ = loader.TrainingLoader
    assert caught.value.extra == "train"
    assert isinstance(caught.value, AdcError)
    assert isinstance(caught.value, ImportError)


def test_required_packages_are_asked_for_before_work(monkeypatch):
    """`require` passes for what is installed and refuses the first package that is not."""
    extras.require("numpy", "pyarrow")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'altair'.*adc-features\[report\]"):
        extras.require("altair")


def test_a_missing_package_of_no_extra_stays_what_it_is():
    """A package that no extra installs is not explained by us."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), extras.extra_modules():
        import no_such_package  # noqa: F401


def test_every_extra_that_an_error_names_is_declared():
    """The extras of the table are extras of pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.EXTRAS.values()) <= set(project["optional-dependencies"])


@pytest.mark.slow  # runs mypy on a cold cache
def test_a_users_program_is_type_checked(tmp_path):
    """mypy sees the types of public names through the lazy packages, and a wrong argument."""
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from adc_features.codes import SidTable, open_generation\n"
        "from adc_features.ranking import load_trained\n"
        "from adc_features.store import lookup\n"
        "\n"
        "generation = open_generation(Path('g1'))\n"
        "identity: str = generation.id\n"
        "trained = load_trained(Path('ranker'), generation=identity)\n"
        "rounds: str = trained.rounds\n"
        "from adc_features.codes import SidTabel\n"
        "from adc_features.inputs import Ranker, Task, infer, number\n"
        "inputs = infer() | {'price': number(log=True)}\n"
        "feed = Ranker('feed_v3', [Task('click')], inputs=inputs)\n"
        "price = number(logarithm=True)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports"),
            *("--config-file=", f"--cache-dir={tmp_path / 'cache'}"),
            *("--follow-imports=silent", program.name),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
    )
    errors = [line.split(": error: ")[1] for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 3, done.stdout + done.stderr
    assert errors[0].startswith("Incompatible types in assignment")
    assert 'has no attribute "SidTabel"' in errors[1]
    assert 'Unexpected keyword argument "logarithm"' in errors[2]


def test_the_commands_help_waits_for_no_library():
    """`adc --help` imports neither NumPy nor pyarrow, so that it answers at once."""
    code = (
        "import sys; from adc_features.cli.main import application; application();"
        "print(*[m for m in ('numpy', 'pyarrow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.split() == []
